"""Clips in which one thing has a look that no shipped model knows, among others that look alike.

Of even seeds it is a tall hat with bands of two colours, of odd ones a car with a stripe and two
bars. Its look-alikes have the same shape in other colours, or the same colours in another pattern.
People and cars pass in a crowd, and the light changes more than a camera's usual drift.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from secondlook.core.types import Pixels
from secondlook.demo.canvas import BODY, FACE, HELMET, SUPERSAMPLE, Primitive, extent, paint
from secondlook.demo.identity import first_identity, rasterise, recognisable
from secondlook.demo.light import Daylight
from secondlook.demo.palette import COLOURS, Colour, tint
from secondlook.demo.people import Wear
from secondlook.demo.scenery import backdrop
from secondlook.demo.staging import Figure, Spot, place, set_stage
from secondlook.demo.world import Scene, nouns_of, truth_of

ASPECT = 4 / 3
ALIKE, OTHERS = 9, 2
"""Figures of the target's kind, and others, that are in the street at one time; many are hidden."""
TARGETS, LOOKALIKES = 2, 5
"""Of those that come and go in turn."""
PERIOD = 90
"""Frames in which the light changes from bright to dim and back."""
DIMMEST = 0.55
NEAREST = {"car": 0.3}
"""How near the camera they may come, of 1."""
LEAST_SHOWN = 0.6
"""Share of a pattern that must be visible: of less, nobody could tell whose it is."""


@dataclass(frozen=True)
class Look:
    """Two colours and how they are arranged."""

    first: str
    second: str
    banded: bool


@dataclass(frozen=True)
class LookalikeFrame:
    """A frame, and where the target is in it."""

    scene: Scene
    targets: tuple[tuple[float, float, float, float], ...]
    """xyxy pixels, tight around what is visible."""
    lookalikes: int
    """How many others are seen that look alike."""


@dataclass
class _Passer:
    figures: list[Figure]
    x: float
    start: float
    speed: float
    half: float
    look: int
    """0 is the target's, 1 to ``LOOKALIKES`` one that is alike, -1 none."""


def target_noun(seed: int) -> str:
    """What the target of a clip is, ``person`` or ``car``."""
    return "car" if seed % 2 else "person"


def lookalike_frames(seed: int, count: int, size: int = 320) -> Iterator[LookalikeFrame]:
    """Frames of a clip, ``size`` pixels wide; the sides are 4 to 3.

    The same arguments give the same frames, and a smaller count the first of them. Raises
    ValueError for a size below 64.
    """
    if size < 64:
        raise ValueError(f"a frame needs a size of at least 64 pixels, got {size}")
    street = _Street(seed, size)
    for number in range(count):
        yield street.frame(number)


class _Street:
    """One fixed camera, with the looks of its clip."""

    def __init__(self, seed: int, size: int) -> None:
        self._rng = rng = np.random.default_rng([seed, 0xA11CE])
        self._noun, self._size = target_noun(seed), size
        self._image_size = size, round(size / ASPECT) // 2 * 2
        self._canvas = (self._image_size[0] * SUPERSAMPLE, self._image_size[1] * SUPERSAMPLE)
        self._stage = set_stage(rng, *self._canvas, size)
        self._backdrop = backdrop(rng, *self._canvas, self._stage.horizon)
        self._light = Daylight(rng, *self._image_size)
        self._phase = rng.uniform(0, 2 * np.pi)
        self._looks = _looks(rng)
        self._still: list[Spot] = []
        self._fixed: list[Figure] = []
        for noun in ("tree", None, None):
            if found := place(rng, self._stage, noun, self._still):
                self._still.append(found[0])
                self._fixed += found[1]
        self._passers: list[_Passer] = []
        self._turn = 0
        while len(self._passers) < ALIKE + OTHERS:
            self._arrive(inside=True)

    def frame(self, number: int) -> LookalikeFrame:
        for passer in self._passers:
            passer.x += passer.speed
        self._passers = [p for p in self._passers if -p.half < p.x < self._canvas[0] + p.half]
        while len(self._passers) < ALIKE + OTHERS:
            self._arrive(inside=False)
        owned = [(-1, figure) for figure in self._fixed]
        for one in self._passers:
            owned += [(one.look, _moved(figure, one.x - one.start)) for figure in one.figures]
        look = {id(figure): kind for kind, figure in owned}
        figures = sorted((figure for _, figure in owned), key=lambda figure: figure.ground)
        figures, ids = self._recognisable(figures)
        image = self._backdrop.copy()
        for figure in figures:
            paint(image, figure.primitives)
        pixels = self._dimmed(self._light.expose(image.reduce(SUPERSAMPLE), 0.0, self._rng), number)
        things = truth_of(figures, ids)
        looks = [look[id(figure)] for figure in figures for _ in nouns_of(figure)]
        shown = [
            (kind, thing)
            for kind, thing in zip(looks, things, strict=True)
            if thing.noun == self._noun
        ]
        return LookalikeFrame(
            Scene(pixels, things),
            tuple(thing.box for kind, thing in shown if kind == 0),
            sum(kind > 0 for kind, _ in shown),
        )

    def _recognisable(self, figures: list[Figure]) -> tuple[list[Figure], np.ndarray]:
        """Those that can be recognised by what is seen of their pattern, and their identities."""
        unit = self._size / 320
        figures, ids = recognisable(figures, self._canvas, unit)
        shown = np.bincount(ids.ravel(), minlength=256)
        hidden = set()
        for order, figure in enumerate(figures):
            if any(s.part == HELMET for s in figure.primitives):
                alone = rasterise([figure], self._canvas)[1][first_identity(0) + HELMET]
                if shown[first_identity(order) + HELMET] < max(1, LEAST_SHOWN * alone):
                    hidden.add(order)
        if not hidden:
            return figures, ids
        kept = [figure for order, figure in enumerate(figures) if order not in hidden]
        return recognisable(kept, self._canvas, unit)

    def _dimmed(self, pixels: Pixels, number: int) -> Pixels:
        """The light of the hour: as it is, or dimmer and warmer."""
        share = (1 + np.sin(2 * np.pi * number / PERIOD + self._phase)) / 2
        gain = DIMMEST + (1 - DIMMEST) * share
        warm = 0.12 * (1 - share)
        factor = np.array([gain * (1 + warm), gain, gain * (1 - warm)], np.float32)
        return np.clip(pixels * factor, 0, 255).astype(np.uint8)

    def _arrive(self, inside: bool) -> None:
        rng, stage = self._rng, self._stage
        others = sum(p.look < 0 for p in self._passers)
        if others < OTHERS:
            look, noun = (
                -1,
                str(rng.choice([n for n in ("person", "car", "dog") if n != self._noun])),
            )
        else:
            look, noun = self._turn % (TARGETS + LOOKALIKES) - TARGETS + 1, self._noun
            look, self._turn = max(0, look), self._turn + 1
        found = None
        while found is None:
            found = place(rng, stage, noun, [], NEAREST.get(noun, 0.7))
        spot, figures = found
        if look >= 0:
            figures = [_dressed(f, self._looks[look], rng) for f in figures]
        speed = rng.uniform(4, 11) * (1 if rng.random() < 0.5 else -1) * self._size / 320
        half = (spot.box[2] - spot.box[0]) / 2
        x = spot.x if inside else -half if speed > 0 else self._canvas[0] + half
        self._passers.append(_Passer(figures, x, spot.x, speed, half + abs(speed), look))


def _looks(rng: np.random.Generator) -> list[Look]:
    """The target and those that are alike: one colour is another, both are swapped, or halves."""
    a, b, c, d = (str(one) for one in rng.permutation(COLOURS)[:4])
    return [
        Look(a, b, True),
        Look(a, c, True),
        Look(d, b, True),
        Look(a, a, False),
        Look(b, b, False),
        Look(b, a, False),
    ]


def _dressed(figure: Figure, look: Look, rng: np.random.Generator) -> Figure:
    """The figure with a look on its head or its side."""
    first, second = tint(rng, look.first), tint(rng, look.second)
    add = _hat if figure.noun == "person" else _livery
    primitives = (*figure.primitives, *add(figure, first, second, look.banded))
    # The hat may hide what else is worn, so none of it is a thing of the scene.
    return replace(figure, wear=Wear(), primitives=primitives)


def _hat(figure: Figure, first: Colour, second: Colour, banded: bool) -> list[Primitive]:
    x0, y0, x1, y1 = extent(s for s in figure.primitives if s.part == FACE)
    wide, tall = 0.42 * (x1 - x0), 0.5 * (y1 - y0)
    middle, brim = (x0 + x1) / 2, y0 + 0.22 * (y1 - y0)
    parts = [_rect(middle - wide, brim - tall, middle + wide, brim, first)]
    if banded:
        for low in (0.15, 0.6):
            top = brim - tall * (low + 0.25)
            parts.append(_rect(middle - wide, top, middle + wide, brim - tall * low, second))
    else:
        parts.append(_rect(middle - wide, brim - tall, middle, brim, second))
    parts.append(_rect(middle - 1.6 * wide, brim - 2, middle + 1.6 * wide, brim + 2, first))
    return parts


def _livery(figure: Figure, first: Colour, second: Colour, banded: bool) -> list[Primitive]:
    x0, y0, x1, y1 = extent(s for s in figure.primitives if s.part == BODY)
    wide, tall = x1 - x0, y1 - y0
    left, right = x0 + 0.04 * wide, x1 - 0.04 * wide
    parts = [_rect(left, y0 + 0.5 * tall, right, y0 + 0.78 * tall, first)]
    if banded:
        parts.append(_rect(left, y0 + 0.58 * tall, right, y0 + 0.68 * tall, second))
        for at in (0.3, 0.66):
            bar = x0 + at * wide
            parts.append(_rect(bar, y0 + 0.5 * tall, bar + 0.06 * wide, y0 + 0.78 * tall, second))
    else:
        parts.append(_rect((left + right) / 2, y0 + 0.5 * tall, right, y0 + 0.78 * tall, second))
    return parts


def _rect(x0: float, y0: float, x1: float, y1: float, fill: Colour) -> Primitive:
    points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.float64)
    return Primitive(points, fill, HELMET)  # the part whose visibility counts


def _moved(figure: Figure, by: float) -> Figure:
    """The figure ``by`` canvas pixels further to the right."""
    shift = np.array([by, 0.0])
    primitives = tuple(
        Primitive(s.points + shift, s.fill, s.part, s.width) for s in figure.primitives
    )
    return replace(figure, primitives=primitives)
