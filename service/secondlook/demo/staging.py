"""Where figures stand in a scene: things and clutter in depth, the nearer ones lower and larger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secondlook.demo import headwear, objects, scenery
from secondlook.demo.canvas import FACE, GLASSES, HELMET, SUPERSAMPLE, Pen, Primitive, extent
from secondlook.demo.palette import COLOURS
from secondlook.demo.people import Wear, person, sample_wear

_OTHERS = ("car", "tree", "ball", "dog", "helmet")
_OTHER_SHARES = (0.24, 0.2, 0.25, 0.19, 0.12)
_ATTEMPTS = 14


@dataclass(frozen=True)
class Figure:
    """A thing, or clutter (`noun` None); `ground` is the canvas row that it stands on."""

    noun: str | None
    colour: str | None
    wear: Wear
    ground: float
    primitives: tuple[Primitive, ...]


@dataclass(frozen=True)
class Spot:
    """An occupied place: where it is, the height of a person there, and the boxes to keep clear."""

    x: float
    ground: float
    scale: float
    box: tuple[float, float, float, float]
    head: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class Stage:
    """The ground of a scene in canvas pixels, and the sizes of people at its far and near ends."""

    width: int
    height: int
    horizon: float
    far: float
    near: float

    def person_height(self, depth: float) -> float:
        """Canvas pixels of a person at `depth`, 0 far to 1 near."""
        return float(self.far * (self.near / self.far) ** depth)

    def ground(self, depth: float) -> float:
        """The row at which things at `depth` stand; the nearest, below the border."""
        return float(self.horizon + (self.height - self.horizon) * (0.1 + 1.0 * depth**0.85))


def set_stage(rng: np.random.Generator, width: int, height: int, size: int) -> Stage:
    """Choose horizon and scale for a canvas of `width` by `height`, for an image of `size`."""
    unit = SUPERSAMPLE * size / 320
    far = rng.uniform(42, 72) * unit
    near = max(rng.uniform(0.5, 0.85) * height, far * 1.2)
    return Stage(width, height, height * rng.uniform(0.28, 0.48), far, near)


def populate(rng: np.random.Generator, stage: Stage) -> list[Figure]:
    """Every figure of a scene, farthest first. About 3 % of scenes hold clutter alone."""
    figures: list[Figure] = []
    spots: list[Spot] = []
    if rng.random() >= 0.03:
        crowd = rng.random() < 0.08
        people = (
            int(rng.integers(6, 11))
            if crowd
            else int(rng.choice(7, p=(0.06, 0.16, 0.22, 0.22, 0.16, 0.11, 0.07)))
        )
        for _ in range(people):
            _add(rng, stage, spots, figures, "person", 0.55 if crowd else 1.0)
        for _ in range(int(rng.integers(2, 7))):
            _add(rng, stage, spots, figures, str(rng.choice(_OTHERS, p=_OTHER_SHARES)), 1.0)
    for _ in range(int(rng.integers(0, 5))):
        _add(rng, stage, spots, figures, None, 0.8)
    return sorted(figures, key=lambda figure: figure.ground)


def _add(
    rng: np.random.Generator,
    stage: Stage,
    spots: list[Spot],
    figures: list[Figure],
    noun: str | None,
    deepest: float,
) -> None:
    found = place(rng, stage, noun, spots, deepest)
    if found is not None:
        spots.append(found[0])
        figures.extend(found[1])


def place(
    rng: np.random.Generator,
    stage: Stage,
    noun: str | None,
    taken: Sequence[Spot],
    deepest: float = 1.0,
) -> tuple[Spot, list[Figure]] | None:
    """Find room for one figure among the taken spots and build it; None after some attempts.

    `noun` None is clutter; `deepest` in (0, 1] is how near it may stand.
    """
    reach = {"person": (0.22, 1.0), "car": (1.2, 0.95), "dog": (0.4, 0.5), "tree": (0.5, 2.0)}.get(
        noun or "", (0.2, 0.4)
    )
    for _ in range(_ATTEMPTS):
        spot = _try_spot(rng, stage, noun, reach, deepest)
        if all(_clear(spot, other) for other in taken):
            return spot, _build(rng, spot, noun)
    return None


def _try_spot(
    rng: np.random.Generator,
    stage: Stage,
    noun: str | None,
    reach: tuple[float, float],
    deepest: float,
) -> Spot:
    depth = rng.uniform(0, deepest)
    scale = stage.person_height(depth) * (rng.uniform(0.86, 1.06) if noun == "person" else 1.0)
    scale = max(scale, stage.far * 0.97)
    ground = max(stage.ground(depth), scale * 1.04 + 6) if noun == "person" else stage.ground(depth)
    if noun in ("ball", "helmet", "dog"):
        ground = min(ground, stage.height - 4.0)
    if noun == "car":
        ground = min(ground, stage.height + 0.2 * scale)
    margin = 0.19 * scale if noun == "person" else 0.1 * scale
    x = float(rng.uniform(margin, stage.width - margin))
    half, tall = reach[0] * scale, reach[1] * scale
    head = (
        (x - 0.19 * scale, ground - scale, x + 0.19 * scale, ground - 0.66 * scale)
        if noun == "person"
        else None
    )
    return Spot(x, ground, scale, (x - half, ground - tall, x + half, ground), head)


def _clear(spot: Spot, other: Spot) -> bool:
    """Whether neither hides the other's head nor most of the other, judged by boxes."""
    near, far = (spot, other) if spot.ground > other.ground else (other, spot)
    if far.head is not None and _covered(far.head, near.box) > 0.1:
        return False
    return _covered(far.box, near.box) < 0.5


def _covered(
    box: tuple[float, float, float, float], by: tuple[float, float, float, float]
) -> float:
    wide = min(box[2], by[2]) - max(box[0], by[0])
    tall = min(box[3], by[3]) - max(box[1], by[1])
    if wide <= 0 or tall <= 0:
        return 0.0
    return wide * tall / ((box[2] - box[0]) * (box[3] - box[1]))


def _build(rng: np.random.Generator, spot: Spot, noun: str | None) -> list[Figure]:
    """The figure for a spot: one, or a bench together with the helmet that lies on it."""
    flip = bool(rng.random() < 0.5)
    tilt = float(rng.normal(0, 0.04)) if noun in ("person", "tree") else 0.0
    pen = Pen((spot.x, spot.ground), spot.scale, flip=flip, tilt=tilt)
    colour = str(rng.choice(COLOURS)) if noun in ("car", "ball", "helmet") else None
    wear = sample_wear(rng) if noun == "person" else Wear()
    if noun == "helmet" and rng.random() < 0.3:
        return _bench_with_helmet(rng, spot, colour or "")
    if noun == "person":
        person(pen, rng, wear)
    elif noun is None:
        scenery.CLUTTERS[rng.integers(len(scenery.CLUTTERS))](pen, rng)
    elif noun == "tree":
        objects.tree(pen, rng, float(rng.uniform(1.1, 2.3)))
    elif noun == "dog":
        objects.dog(pen, rng, float(rng.uniform(0.32, 0.52)))
    elif noun == "car":
        objects.car(
            pen, rng, colour or "", float(rng.uniform(1.9, 2.6)), float(rng.uniform(0.75, 1.0))
        )
    elif noun == "ball":
        objects.ball(pen, rng, colour or "", float(rng.uniform(0.1, 0.19)))
    else:
        headwear.loose_helmet(pen, rng, colour or "", float(rng.uniform(0.15, 0.2)))
    return [Figure(noun, colour, wear, spot.ground, tuple(pen.primitives))]


def _bench_with_helmet(rng: np.random.Generator, spot: Spot, colour: str) -> list[Figure]:
    seat, on_top = (
        Pen((spot.x, spot.ground), spot.scale),
        Pen((spot.x, spot.ground - scenery.BENCH_SEAT * spot.scale), spot.scale),
    )
    scenery.bench(seat, rng)
    headwear.loose_helmet(on_top, rng, colour, float(rng.uniform(0.15, 0.2)))
    return [
        Figure(None, None, Wear(), spot.ground, tuple(seat.primitives)),
        Figure("helmet", colour, Wear(), spot.ground + 0.01, tuple(on_top.primitives)),
    ]


def head_inside(figure: Figure, width: int, height: int) -> bool:
    """Whether the face and what it wears lie wholly inside a canvas of `width` by `height`."""
    x0, y0, x1, y1 = extent(s for s in figure.primitives if s.part in (FACE, GLASSES, HELMET))
    return x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height


def share_inside(figure: Figure, width: int, height: int) -> float:
    """The share of a figure's extent that lies inside a canvas of `width` by `height`, 0 to 1."""
    box = extent(s for s in figure.primitives if s.part >= 0)
    return _covered(box, (0.0, 0.0, float(width), float(height)))
