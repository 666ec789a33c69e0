"""Empty streets: sky, walls, ground, and clutter that belongs to no class."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops

from secondlook.demo.canvas import CLUTTER, Pen, Primitive, arc, paint
from secondlook.demo.objects import shadow
from secondlook.demo.palette import pick, shade

_SKIES = ((126, 178, 226), (168, 200, 226), (196, 200, 206), (226, 178, 150), (150, 164, 190))
_WALLS = (
    (178, 110, 86),
    (204, 180, 146),
    (150, 152, 158),
    (222, 210, 190),
    (136, 98, 84),
    (170, 186, 176),
)
_ROADS = ((92, 94, 98), (112, 112, 112), (74, 76, 82))
_PAVINGS = ((178, 174, 166), (160, 158, 158), (196, 184, 164))
_LAWNS = ((104, 146, 72), (124, 152, 84), (88, 128, 66))


def backdrop(rng: np.random.Generator, width: int, height: int, horizon: float) -> Image.Image:
    """An RGB street of `width` by `height` canvas pixels; its ground begins at row `horizon`."""
    rows = np.zeros((height, 3), dtype=np.float32)
    sky = np.array(pick(rng, _SKIES), dtype=np.float32)
    top = int(horizon)
    rows[:top] = (
        sky
        + (np.array((245, 240, 235)) - sky) * np.linspace(0, rng.uniform(0.2, 0.7), top)[:, None]
    )
    _ground(rng, rows, top)
    grain = rng.integers(-9, 10, (max(height // 12, 1), max(width // 12, 1)))
    grain[: top // 12] //= 3
    mottle = Image.fromarray((grain + 128).astype(np.uint8)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    base = Image.fromarray(np.clip(rows, 0, 255).astype(np.uint8)[:, None]).resize((width, height))
    image = ImageChops.add(base, Image.merge("RGB", [mottle] * 3), 1.0, -128)
    paint(image, _far(rng, width, horizon))
    paint(image, _markings(rng, width, height, horizon))
    return image


def _ground(rng: np.random.Generator, rows: np.ndarray, top: int) -> None:
    """Fill the rows below `top` with two to four bands of ground, nearer ones a little darker."""
    height = len(rows)
    edges = np.sort(rng.uniform(0.15, 0.95, rng.integers(1, 4))) * (height - top) + top
    bounds = [top, *(int(e) for e in edges), height]
    last = -1
    for start, stop in itertools.pairwise(bounds):
        kind = int(rng.integers(3))
        kind = (kind + 1) % 3 if kind == last else kind
        last = kind
        base = np.array(pick(rng, (_PAVINGS, _ROADS, _LAWNS)[kind]), dtype=np.float32)
        rows[start:stop] = base * np.linspace(1.06, 0.94, stop - start)[:, None]
        if kind == 0 and stop - start > 6:
            rows[start : start + 4] *= 0.75


def _far(rng: np.random.Generator, width: int, horizon: float) -> list[Primitive]:
    """Clouds and what stands along the horizon: houses, a hedge or hills."""
    pen = Pen((0.0, 0.0), 1.0)
    for _ in range(rng.integers(0, 4)):
        x, y, r = (
            rng.uniform(0, width),
            horizon * rng.uniform(0.05, 0.5),
            width * rng.uniform(0.03, 0.08),
        )
        for shift in (-0.9, 0.0, 0.8):
            pen.ellipse(
                (x + shift * r, y + abs(shift) * r * 0.25),
                (r, r * 0.5),
                (250, 250, 250, 150),
                CLUTTER,
            )
    kind = rng.random()
    if kind < 0.6:
        x = -width * rng.uniform(0, 0.2)
        while x < width:
            wide = width * rng.uniform(0.18, 0.5)
            _house(pen, rng, (x, horizon * rng.uniform(-0.1, 0.6), x + wide, horizon))
            x += wide + (width * rng.uniform(0, 0.2) if rng.random() < 0.3 else 0)
    elif kind < 0.8:
        _hedge(pen, rng, width, horizon)
    else:
        for _ in range(3):
            at = (rng.uniform(0, width), horizon)
            pen.polygon(
                arc(at, (width * rng.uniform(0.3, 0.6), horizon * rng.uniform(0.2, 0.6)), 180, 360),
                pick(rng, ((130, 150, 140), (110, 140, 110), (150, 156, 170))),
                CLUTTER,
            )
    return pen.primitives


def _house(pen: Pen, rng: np.random.Generator, box: tuple[float, float, float, float]) -> None:
    x0, y0, x1, y1 = box
    wall = pick(rng, _WALLS)
    pen.rect(box, wall, CLUTTER)
    if rng.random() < 0.4:
        pen.polygon(
            [(x0, y0), ((x0 + x1) / 2, y0 - (x1 - x0) * 0.3), (x1, y0)], shade(wall, 0.6), CLUTTER
        )
    columns, storeys = int(rng.integers(2, 5)), int(rng.integers(1, 4))
    step_x, step_y = (x1 - x0) / columns, (y1 - y0) / storeys
    glass = pick(rng, ((70, 90, 110), (150, 180, 200), (240, 220, 140), (50, 56, 66)))
    for i in range(columns):
        for j in range(storeys):
            x, y = x0 + step_x * (i + 0.28), y0 + step_y * (j + 0.22)
            pen.rect(
                (x - 3, y - 3, x + step_x * 0.44 + 3, y + step_y * 0.5 + 3),
                shade(wall, 1.3),
                CLUTTER,
            )
            pen.rect((x, y, x + step_x * 0.44, y + step_y * 0.5), glass, CLUTTER)


def _hedge(pen: Pen, rng: np.random.Generator, width: int, horizon: float) -> None:
    leaf = pick(rng, _LAWNS)
    for x in np.linspace(0, width, 22):
        r = horizon * rng.uniform(0.12, 0.24)
        pen.ellipse(
            (float(x), horizon - r * 0.5),
            (width * 0.05, r),
            shade(leaf, rng.uniform(0.62, 0.95)),
            CLUTTER,
        )


def _markings(rng: np.random.Generator, width: int, height: int, horizon: float) -> list[Primitive]:
    """Joints, dashes and stains on the ground."""
    pen = Pen((0.0, 0.0), 1.0)
    for _ in range(rng.integers(0, 3)):
        y = rng.uniform(horizon, height)
        thick = 2 + (y - horizon) / 40
        for x in np.arange(-rng.uniform(0, 60), width, 110.0):
            pen.stroke([(x, y), (x + 55, y)], thick, (226, 224, 214, 170), CLUTTER)
    for _ in range(rng.integers(0, 6)):
        at = (rng.uniform(0, width), rng.uniform(horizon, height))
        pen.ellipse(
            at,
            (rng.uniform(8, 40), rng.uniform(3, 9)),
            (30, 30, 30, int(rng.integers(20, 60))),
            CLUTTER,
        )
    return pen.primitives


def lamp(pen: Pen, rng: np.random.Generator) -> None:
    """A lamp post, about twice as high as a person."""
    high, iron = rng.uniform(1.5, 2.1), pick(rng, ((50, 52, 56), (70, 90, 80), (90, 90, 92)))
    pen.stroke([(0, 0), (0, -high)], 0.05, iron, CLUTTER)
    pen.stroke([(0, -high), (0.25, -high - 0.05)], 0.04, iron, CLUTTER)
    pen.ellipse((0.3, -high - 0.02), (0.11, 0.05), (250, 236, 180), CLUTTER)


def sign(pen: Pen, rng: np.random.Generator) -> None:
    """A traffic sign or a notice on a pole."""
    high = rng.uniform(0.9, 1.4)
    pen.stroke([(0, 0), (0, -high)], 0.035, (120, 122, 126), CLUTTER)
    plate = pick(
        rng, ((200, 40, 40), (40, 80, 180), (240, 200, 50), (240, 240, 240), (40, 120, 70))
    )
    if rng.random() < 0.5:
        pen.polygon(
            [(-0.16, -high + 0.14), (0.16, -high + 0.14), (0, -high - 0.15)], plate, CLUTTER
        )
        pen.polygon(
            [(-0.09, -high + 0.1), (0.09, -high + 0.1), (0, -high - 0.07)], (245, 245, 240), CLUTTER
        )
    else:
        pen.rect((-0.17, -high - 0.12, 0.17, -high + 0.12), plate, CLUTTER, corner=0.02)
        for dy in (-0.05, 0.03):
            pen.stroke(
                [(-0.11, -high + dy), (0.11, -high + dy)],
                0.03,
                (250, 250, 246) if sum(plate) < 600 else (30, 30, 30),
                CLUTTER,
            )


def bush(pen: Pen, rng: np.random.Generator) -> None:
    """A bush: leaves without a trunk."""
    leaf, wide = pick(rng, _LAWNS), rng.uniform(0.2, 0.4)
    for _ in range(7):
        at = (wide * rng.uniform(-0.7, 0.7), -wide * rng.uniform(0.15, 0.5))
        pen.ellipse(at, (wide * 0.4, wide * 0.34), shade(leaf, rng.uniform(0.65, 1.1)), CLUTTER)


def bin_(pen: Pen, rng: np.random.Generator) -> None:
    """A litter bin."""
    body = pick(rng, ((60, 90, 70), (70, 74, 80), (50, 70, 110), (120, 60, 50)))
    pen.polygon([(-0.11, 0), (-0.14, -0.4), (0.14, -0.4), (0.11, 0)], body, CLUTTER)
    pen.rect((-0.155, -0.45, 0.155, -0.39), shade(body, 0.7), CLUTTER)
    for x in (-0.06, 0.0, 0.06):
        pen.stroke([(x, -0.05), (x * 1.15, -0.36)], 0.012, shade(body, 0.7), CLUTTER)


BENCH_SEAT = 0.25
"""Height of a bench's seat in units of a person's height."""


def bench(pen: Pen, rng: np.random.Generator) -> None:
    """A bench seen from the front."""
    wood = pick(rng, ((150, 104, 62), (110, 78, 50), (120, 124, 120)))
    shadow(pen, 0.5)
    for x in (-0.4, 0.4):
        pen.stroke([(x, 0), (x, -0.5)], 0.04, (50, 50, 54), CLUTTER)
    for y in (-0.5, -0.41, -0.32):
        pen.rect((-0.5, y, 0.5, y + 0.06), wood, CLUTTER)
    pen.rect((-0.54, -BENCH_SEAT, 0.54, -BENCH_SEAT + 0.06), shade(wood, 0.85), CLUTTER)


CLUTTERS: tuple[Callable[[Pen, np.random.Generator], None], ...] = (lamp, sign, bush, bin_, bench)
