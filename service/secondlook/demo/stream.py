"""A fixed camera in the demo world: one street, in which people and things come and go slowly.

Trees and clutter stay; people, dogs and cars walk and drive through, or stand for a while; balls
and helmets lie about. The truth of each frame is as exact as a scene's. The place may change from
one frame to the next: another street, light and season.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np

from secondlook.demo.canvas import SUPERSAMPLE, Primitive, paint
from secondlook.demo.identity import recognisable
from secondlook.demo.light import Daylight
from secondlook.demo.scenery import backdrop
from secondlook.demo.staging import Figure, Spot, place, set_stage
from secondlook.demo.world import Scene, nouns_of, truth_of

ASPECT = 4 / 3
DRIFT_FRAMES = 1500
"""Frames in one period of the light's drift."""
_NOUNS = ("person", "car", "dog", "ball", "helmet")
_SHARES = (0.52, 0.16, 0.14, 0.12, 0.06)
_SPEEDS = {"person": (0.8, 2.4), "car": (2.5, 5.0), "dog": (1.2, 3.0)}
"""Canvas pixels a frame, of what moves."""
_STANDING = 0.35
"""Share of people, cars and dogs that stand for a while instead of moving."""
_STAY_FRAMES = 400
_ARRIVAL = 0.05
"""Chance per frame that something arrives while there is room."""


@dataclass
class _Resident:
    """Something that is in the street for a while."""

    spot: Spot
    figures: list[Figure]
    x: float
    """Where it is now; its figures are built at the spot's."""
    speed: float
    leaves: int
    """The frame at which one that stands disappears."""
    number: int
    """From 0, in the order of arrival."""


def frames(
    seed: int, count: int, size: int = 320, changes: Collection[int] = ()
) -> Iterator[Scene]:
    """Frames 0 to `count` − 1 of the camera `seed`, `size` pixels wide; the sides are 4 to 3.

    At each frame whose number is in `changes` the camera moves to another place. The same
    arguments give the same frames, and a smaller count the first of them. Raises ValueError for a
    size below 64.
    """
    return (frame.scene for frame in tracked_frames(seed, count, size, changes))


@dataclass(frozen=True)
class TrackedScene:
    """A frame, and which object each of its things is."""

    scene: Scene
    objects: tuple[int, ...]
    """Of each of the scene's things a number, from 1, the same in every frame; what a person wears
    is an object too."""


def tracked_frames(
    seed: int, count: int, size: int = 320, changes: Collection[int] = (), every: int = 1
) -> Iterator[TrackedScene]:
    """``frames`` with the identity of each thing; of ``every`` frames only the first is rendered.

    What is too hidden to be recognised is left out of a frame, as everywhere in this world, and
    comes back as the same object.
    """
    if size < 64:
        raise ValueError(f"a frame needs a size of at least 64 pixels, got {size}")
    number = 0
    numbers: dict[tuple[int, int, str], int] = {}
    place = _Place(seed, number, size)
    for frame in range(count):
        if frame in changes:
            number += 1
            place = _Place(seed, number, size)
        for skipped in range(every - 1 if frame else 0):
            place.advance(every * (frame - 1) + 1 + skipped)
        scene, owners = place.frame(every * frame)
        objects = (
            numbers.setdefault((number, owner, thing.noun), len(numbers) + 1)
            for owner, thing in zip(owners, scene.things, strict=True)
        )
        yield TrackedScene(scene, tuple(objects))


class _Place:
    """One street with its light."""

    def __init__(self, seed: int, number: int, size: int) -> None:
        self._rng = rng = np.random.default_rng([seed, number, 0x5EED])
        self._size = size
        width, height = size, round(size / ASPECT)
        self._canvas = (width * SUPERSAMPLE, height * SUPERSAMPLE)
        self._stage = set_stage(rng, *self._canvas, size)
        self._backdrop = backdrop(rng, *self._canvas, self._stage.horizon)
        self._light = Daylight(rng, width, height)
        self._still: list[Spot] = []
        self._fixed: list[Figure] = []
        for noun in ("tree",) * int(rng.integers(1, 3)) + (None,) * int(rng.integers(1, 4)):
            if found := place(rng, self._stage, noun, self._still):
                self._still.append(found[0])
                self._fixed += found[1]
        self._room = int(rng.integers(4, 8))
        self._residents: list[_Resident] = []
        self._arrived = 0
        for _ in range(self._room - 1):
            self._add_resident(frame=0, inside=True)

    def advance(self, number: int) -> None:
        """Go on to frame `number` without an image of it."""
        self._advance(number)
        if len(self._residents) < self._room and self._rng.random() < _ARRIVAL:
            self._add_resident(number, inside=False)

    def frame(self, number: int) -> tuple[Scene, list[int]]:
        """The next image, as frame `number`, and to which figure each of its things belongs."""
        rng = self._rng
        self.advance(number)
        owned = [(-1 - place, figure) for place, figure in enumerate(self._fixed)]
        for one in self._residents:
            owned += [(one.number, _moved(figure, one.x - one.spot.x)) for figure in one.figures]
        owner = {id(figure): number for number, figure in owned}
        figures = sorted((figure for _, figure in owned), key=lambda figure: figure.ground)
        figures, ids = recognisable(figures, self._canvas, self._size / 320)
        image = self._backdrop.copy()
        for figure in figures:
            paint(image, figure.primitives)
        time = number / DRIFT_FRAMES
        pixels = self._light.expose(image.reduce(SUPERSAMPLE), time, rng)
        owners = [owner[id(figure)] for figure in figures for _ in nouns_of(figure)]
        return Scene(pixels, truth_of(figures, ids)), owners

    def _advance(self, number: int) -> None:
        """Move everything by one frame."""
        for resident in self._residents:
            resident.x += resident.speed
        self._residents = [r for r in self._residents if self._is_there(r, number)]

    def _is_there(self, resident: _Resident, number: int) -> bool:
        if not resident.speed:
            return number < resident.leaves
        half = (resident.spot.box[2] - resident.spot.box[0]) / 2
        return -half < resident.x < self._canvas[0] + half

    def _add_resident(self, frame: int, inside: bool) -> None:
        """Add something: anywhere if `inside`; otherwise what moves starts beyond the border."""
        rng = self._rng
        noun = str(rng.choice(_NOUNS, p=_SHARES))
        stands = noun not in _SPEEDS or rng.random() < _STANDING
        taken = [*self._still, *(r.spot for r in self._residents if not r.speed)]
        found = place(rng, self._stage, noun, taken if stands else [])
        if found is None:
            return
        spot, figures = found
        leaves = frame + int(rng.integers(_STAY_FRAMES // 2, 2 * _STAY_FRAMES))
        if stands:
            self._take(_Resident(spot, figures, spot.x, 0.0, leaves, self._arrived))
            return
        speed = rng.uniform(*_SPEEDS[noun]) * (1 if rng.random() < 0.5 else -1)
        speed *= spot.scale / self._stage.near + 0.3  # what is far away seems slower
        half = (spot.box[2] - spot.box[0]) / 2 - abs(speed)
        x = spot.x if inside else -half if speed > 0 else self._canvas[0] + half
        self._take(_Resident(spot, figures, x, speed, leaves, self._arrived))

    def _take(self, resident: _Resident) -> None:
        self._residents.append(resident)
        self._arrived += 1


def _moved(figure: Figure, by: float) -> Figure:
    """The figure `by` canvas pixels further to the right."""
    if not by:
        return figure
    shift = np.array([by, 0.0])
    primitives = tuple(
        Primitive(s.points + shift, s.fill, s.part, s.width) for s in figure.primitives
    )
    return replace(figure, primitives=primitives)
