"""Random shapes with random textures, so that the segmenter learns what an outline is, not what a
dog is.

Shapes and textures come in two families each: those of the training, and others that are kept
for the figures on what was never seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

Rng = np.random.Generator
Outline = np.ndarray
"""(N, 2) points around the origin; the farthest is about 1 away."""
SMOOTH = 3
"""Canvas pixels along one side of an image pixel."""


@dataclass(frozen=True)
class Family:
    """Shapes, each a function to polygons (the even ones add, a negative hole cuts), and textures,
    each a function of (height, width) to (H, W, 3) float32, 0 to 255."""

    shapes: tuple[Callable[[Rng], list[tuple[Outline, bool]]], ...]
    textures: tuple[Callable[[Rng, int, int], np.ndarray], ...]


def paste(
    image: np.ndarray, masks: list[np.ndarray], family: Family, rng: Rng, least: float, most: float
) -> None:
    """Put one textured shape onto ``image``, (H, W, 3) uint8, in place.

    Its mask, (H, W) bool, is added to ``masks``, and what it hides is taken from the others.
    ``least`` and ``most``: the radius in pixels, chosen log-uniformly.
    """
    height, width = image.shape[:2]
    radius = math.exp(rng.uniform(math.log(least), math.log(most)))
    centre = rng.uniform(0.05, 0.95, 2) * (width, height)
    stretch = math.exp(rng.uniform(-0.5, 0.5))
    angle = rng.uniform(0, 2 * math.pi)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    turn = turn * (radius * np.array([stretch, 1 / stretch]))
    parts = 1 if rng.random() < 0.7 else int(rng.integers(2, 4))
    whole = np.zeros((height, width), bool)
    for part in range(parts):
        shift = rng.uniform(-0.6, 0.6, 2) if part else np.zeros(2)
        scale = rng.uniform(0.4, 0.9) if part else 1.0
        outline = family.shapes[rng.integers(len(family.shapes))](rng)
        placed = [((points * scale + shift) @ turn.T + centre, adds) for points, adds in outline]
        whole |= _fill(image, placed, family, rng)
    for mask in masks:
        mask &= ~whole
    masks.append(whole)


def _fill(
    image: np.ndarray, outline: Sequence[tuple[Outline, bool]], family: Family, rng: Rng
) -> np.ndarray:
    """Fill polygons in image pixels with one texture; returns what they cover, (H, W) bool."""
    height, width = image.shape[:2]
    points = np.concatenate([p for p, adds in outline if adds])
    x0, y0 = np.clip(np.floor(points.min(0)).astype(int) - 1, 0, (width - 1, height - 1))
    x1, y1 = np.clip(np.ceil(points.max(0)).astype(int) + 2, (x0 + 1, y0 + 1), (width, height))
    canvas = Image.new("L", (int(x1 - x0) * SMOOTH, int(y1 - y0) * SMOOTH), 0)
    draw = ImageDraw.Draw(canvas)
    for polygon, adds in outline:
        flat = ((polygon - (x0, y0)) * SMOOTH).ravel().tolist()
        draw.polygon(flat, fill=255 if adds else 0)
    share = np.asarray(canvas.reduce(SMOOTH), np.float32)[..., None] / 255
    texture = family.textures[rng.integers(len(family.textures))](rng, y1 - y0, x1 - x0)
    window = image[y0:y1, x0:x1]
    window[:] = np.clip(window * (1 - share) + texture * share, 0, 255).astype(np.uint8)
    covered = np.zeros((height, width), bool)
    covered[y0:y1, x0:x1] = share[..., 0] >= 0.5
    return covered


def _circle(count: int = 40) -> Outline:
    angles = np.linspace(0, 2 * math.pi, count, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _ellipse(rng: Rng) -> list[tuple[Outline, bool]]:
    return [(_circle() * (1, rng.uniform(0.4, 1)), True)]


def _blob(rng: Rng) -> list[tuple[Outline, bool]]:
    circle = _circle(64)
    angles = np.arctan2(circle[:, 1], circle[:, 0])
    reach = np.ones(64)
    for wave in range(2, 7):
        reach += rng.normal(0, 0.5 / wave) * np.cos(wave * angles + rng.uniform(0, 6.3))
    return [(circle * np.clip(reach, 0.15, 2)[:, None] / reach.max(), True)]


def _rectangle(rng: Rng) -> list[tuple[Outline, bool]]:
    tall = rng.uniform(0.25, 1)
    return [(np.array([(-1, -tall), (1, -tall), (1, tall), (-1, tall)]) * 0.8, True)]


def _polygon(rng: Rng) -> list[tuple[Outline, bool]]:
    count = int(rng.integers(3, 9))
    angles = np.sort(rng.uniform(0, 2 * math.pi, count))
    reach = rng.uniform(0.45, 1, count)
    return [(np.stack([np.cos(angles), np.sin(angles)], 1) * reach[:, None], True)]


def _stroke(rng: Rng) -> list[tuple[Outline, bool]]:
    """A thick curved line, as a chain of quadrilaterals and discs."""
    count = int(rng.integers(3, 6))
    knots = np.cumsum(rng.normal(0, 1, (count, 2)), 0)
    t = np.linspace(0, 1, 14)
    path = np.zeros((14, 2))
    for k in range(count):  # a Bézier curve
        weight = math.comb(count - 1, k) * t**k * (1 - t) ** (count - 1 - k)
        path += weight[:, None] * knots[k]
    path -= path.mean(0)
    path /= max(float(np.abs(path).max()), 1e-3)
    width = rng.uniform(0.1, 0.3)
    pieces: list[tuple[Outline, bool]] = [(_circle(12) * width + at, True) for at in path]
    for a, b in pairwise(path):
        along = (b - a) / max(float(np.hypot(*(b - a))), 1e-6)
        side = np.array([-along[1], along[0]]) * width
        pieces.append((np.array([a + side, b + side, b - side, a - side]), True))
    return pieces


def _frame(rng: Rng) -> list[tuple[Outline, bool]]:
    """A rectangle with a rectangular hole."""
    ((outer, _),) = _rectangle(rng)
    return [(outer, True), (outer * rng.uniform(0.35, 0.7), False)]


def _ring(rng: Rng) -> list[tuple[Outline, bool]]:
    outer = _circle() * (1, rng.uniform(0.6, 1))
    return [(outer, True), (outer * rng.uniform(0.4, 0.75), False)]


def _star(rng: Rng) -> list[tuple[Outline, bool]]:
    points = 2 * int(rng.integers(4, 9))
    reach = np.where(np.arange(points) % 2, rng.uniform(0.35, 0.6), 1.0)
    return [(_circle(points) * reach[:, None], True)]


def _crescent(rng: Rng) -> list[tuple[Outline, bool]]:
    return [(_circle(), True), (_circle() * 0.8 + (rng.uniform(0.35, 0.6), 0), False)]


def _cross(rng: Rng) -> list[tuple[Outline, bool]]:
    w = rng.uniform(0.2, 0.4)
    bar = np.array([(-1, -w), (1, -w), (1, w), (-1, w)])
    return [(bar, True), (bar[:, ::-1], True)]


def _arrow(rng: Rng) -> list[tuple[Outline, bool]]:
    w, head = rng.uniform(0.12, 0.3), rng.uniform(0.0, 0.4)
    half = [(-1, w), (head, w), (head, 0.7), (1, 0)]
    return [(np.array(half + [(x, -y) for x, y in half[-2::-1]]), True)]


def _heart(rng: Rng) -> list[tuple[Outline, bool]]:
    t = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [(np.stack([16 * np.sin(t) ** 3, -y], 1) / 17, True)]


def _colour(rng: Rng) -> np.ndarray:
    return rng.uniform(15, 240, 3).astype(np.float32)


def _two_colours(rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """A colour, and one that differs from it a little or much."""
    first = _colour(rng)
    if rng.random() < 0.4:
        return first, _colour(rng)
    return first, first + rng.normal(0, 30, 3).astype(np.float32)


def _mixed(rng: Rng, share: np.ndarray) -> np.ndarray:
    first, second = _two_colours(rng)
    return first + share[..., None].astype(np.float32) * (second - first)


def _grid(height: int, width: int, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Two turned coordinates of each pixel."""
    angle = rng.uniform(0, math.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def _flat(rng: Rng, height: int, width: int) -> np.ndarray:
    return np.broadcast_to(_colour(rng), (height, width, 3))


def _gradient(rng: Rng, height: int, width: int) -> np.ndarray:
    along, _ = _grid(height, width, rng)
    low, high = float(along.min()), float(along.max())
    return _mixed(rng, (along - low) / max(high - low, 1))


def _stripes(rng: Rng, height: int, width: int) -> np.ndarray:
    along, _ = _grid(height, width, rng)
    wave = np.sin(along * (2 * math.pi / rng.uniform(4, 24)))
    return _mixed(rng, np.clip(wave * 3 + 0.5, 0, 1))


def _clouds(rng: Rng, height: int, width: int) -> np.ndarray:
    cell = int(rng.integers(3, 24))
    coarse = rng.random((height // cell + 2, width // cell + 2), dtype=np.float32)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return _mixed(rng, np.asarray(smooth))


def _speckle(rng: Rng, height: int, width: int) -> np.ndarray:
    return _mixed(rng, (rng.random((height, width)) < rng.uniform(0.1, 0.5)).astype(np.float32))


def _checks(rng: Rng, height: int, width: int) -> np.ndarray:
    along, across = _grid(height, width, rng)
    cell = rng.uniform(4, 14)
    return _mixed(rng, (along // cell + across // cell) % 2)


def _dots(rng: Rng, height: int, width: int) -> np.ndarray:
    along, across = _grid(height, width, rng)
    cell = rng.uniform(6, 16)
    near = np.hypot(along % cell - cell / 2, across % cell - cell / 2)
    return _mixed(rng, near < cell * rng.uniform(0.2, 0.4))


def _rings(rng: Rng, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    away = np.hypot(y - rng.uniform(0, height), x - rng.uniform(0, width))
    return _mixed(rng, np.sin(away * (2 * math.pi / rng.uniform(6, 24))) / 2 + 0.5)


def _patchwork(rng: Rng, height: int, width: int) -> np.ndarray:
    """Cells of the nearest of a few points, in shades of one colour."""
    sites = rng.uniform(0, 1, (int(rng.integers(4, 16)), 2)) * (height, width)
    y, x = np.mgrid[:height, :width]
    away = np.hypot(y[..., None] - sites[:, 0], x[..., None] - sites[:, 1])
    return _mixed(rng, rng.random(len(sites)).astype(np.float32)[away.argmin(-1)])


TRAINING = Family(
    (_ellipse, _blob, _rectangle, _polygon, _stroke, _frame),
    (_flat, _gradient, _stripes, _clouds, _speckle),
)
UNSEEN = Family(
    (_ring, _star, _crescent, _cross, _arrow, _heart), (_checks, _dots, _rings, _patchwork)
)


def backdrop(rng: Rng, height: int, width: int) -> np.ndarray:
    """A textured background of the training family, (H, W, 3) uint8."""
    texture = TRAINING.textures[rng.integers(len(TRAINING.textures))](rng, height, width)
    return np.clip(texture, 0, 255).astype(np.uint8)
