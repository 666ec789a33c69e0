"""Heads: skin, eyes, brows, mouth and hair, some of them easily mistaken for glasses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secondlook.demo.canvas import BODY, FACE, Pen, arc
from secondlook.demo.palette import Colour, pick, shade

_HAIR = (
    (44, 32, 26),
    (84, 54, 32),
    (150, 100, 50),
    (214, 176, 104),
    (150, 64, 34),
    (160, 160, 164),
    (24, 22, 26),
)
_IRISES = ((40, 28, 20), (40, 70, 120), (50, 90, 50), (20, 20, 22))
_MAKE_UP = ((40, 30, 40), (60, 50, 80), (30, 30, 34))
_LIPS = ((150, 60, 60), (120, 50, 46), (190, 70, 80))


@dataclass(frozen=True)
class Head:
    """A head in figure units, centred on (`x`, `y`).

    turn: how far the features are moved sideways by turning, as a share of the width.
    """

    x: float
    y: float
    wide: float
    tall: float
    turn: float
    skin: Colour
    hair: Colour

    def pen(self, pen: Pen) -> Pen:
        """A pen at the centre of the head: x in widths of the head, y in heights of it."""
        return pen.local((self.x, self.y), self.wide, self.tall)


def hair_colour(rng: np.random.Generator) -> Colour:
    """A hair colour."""
    return pick(rng, _HAIR)


def long_hair(pen: Pen, head: Head, rng: np.random.Generator) -> None:
    """Hair that falls behind the head and shoulders; to be added before the body."""
    end = -0.4 + rng.uniform(0.75, 1.15)
    head.pen(pen).rect((-0.58, -0.4, 0.58, end), shade(head.hair, 0.85), BODY, corner=0.35)


def face(pen: Pen, head: Head, rng: np.random.Generator) -> None:
    """Ears, skin, eyes, brows, nose, mouth and beard."""
    local = head.pen(pen)
    for side in (-1, 1):
        local.ellipse((side * 0.5, 0.06), (0.08, 0.1), shade(head.skin, 0.9), FACE)
    local.ellipse((0, 0), (0.5, 0.5), head.skin, FACE)
    if rng.random() < 0.5:
        cheek = [arc((0, 0), (0.5, 0.5), -60, 70), arc((0, 0), (0.34, 0.5), 70, -60)]
        local.polygon(np.concatenate(cheek), (0, 0, 0, 26), FACE)
    _eyes(local, head, rng)
    _brows(local, head, rng)
    nose = [(head.turn, 0.09), (head.turn + 0.05, 0.2), (head.turn - 0.02, 0.21)]
    local.stroke(nose, 0.035, shade(head.skin, 0.78), FACE)
    _mouth(local, head, rng)


def _eyes(local: Pen, head: Head, rng: np.random.Generator) -> None:
    kind = rng.choice(("dots", "open", "big", "made up", "closed"), p=(0.3, 0.3, 0.14, 0.16, 0.1))
    iris = pick(rng, _IRISES)
    size = 0.12 if kind == "big" else 0.075
    for side in (-1, 1):
        at = (head.turn + side * 0.2, 0.03)
        if kind == "made up":
            # Dark and round as sunglasses, but without bridge, rims or arms.
            local.ellipse(at, (size * 1.75, size * 1.4), pick(rng, _MAKE_UP), FACE)
        if kind == "closed":
            lid = arc((at[0], at[1] - size * 0.25), (size, size * 0.6), 20, 160)
            local.stroke(lid, 0.035, (40, 28, 24), FACE)
            continue
        if kind != "dots":
            local.ellipse(at, (size, size * 0.83), (246, 246, 244), FACE)
        local.ellipse(at, (size * 0.55, size * 0.54), iris, FACE)


def _brows(local: Pen, head: Head, rng: np.random.Generator) -> None:
    """Two brows; a quarter of them heavy enough to be mistaken for the rim of glasses."""
    heavy = rng.random() < 0.25
    thick = 0.08 if heavy else 0.037
    y, tilt = 0.03 - rng.uniform(0.12, 0.15), rng.uniform(-0.03, 0.03)
    colour = (30, 24, 22) if heavy else shade(head.hair, 0.8)
    for side in (-1, 1):
        inner, outer = side * (0.04 if heavy else 0.1), side * 0.31
        line = [(head.turn + inner, y + tilt), (head.turn + outer, y - tilt)]
        local.stroke(line, thick, colour, FACE)


def _mouth(local: Pen, head: Head, rng: np.random.Generator) -> None:
    x, y = head.turn * 0.8, 0.29
    lips = pick(rng, _LIPS)
    kind = rng.integers(3)
    if kind == 0:
        local.stroke(arc((x, y - 0.06), (0.17, 0.08), 20, 160), 0.04, lips, FACE)
    elif kind == 1:
        local.stroke([(x - 0.12, y), (x + 0.12, y)], 0.045, lips, FACE)
    else:
        local.polygon(arc((x, y - 0.03), (0.16, 0.1), 0, 180), (110, 30, 36), FACE)
    if rng.random() < 0.13:
        beard = [arc((0, 0), (0.5, 0.52), 15, 165), arc((x, y - 0.02), (0.24, 0.1), 180, 0)]
        local.polygon(np.concatenate(beard), head.hair, FACE)


def hair(pen: Pen, head: Head, rng: np.random.Generator, covered: bool) -> None:
    """The hair in front: none, cropped, full or with a fringe; `covered` keeps it under a hat."""
    local = head.pen(pen)
    kind = str(rng.choice(("bald", "cropped", "full", "fringe"), p=(0.1, 0.3, 0.35, 0.25)))
    if kind == "bald" and not covered:
        return
    rise = 1.0 if covered or kind == "cropped" else rng.uniform(1.05, 1.16)
    line = {"bald": -0.3, "cropped": -0.3, "full": -0.24, "fringe": -0.17}[kind]
    outer = arc((0, 0), (0.53 * min(rise, 1.06), 0.5 * rise), 172, 368)
    parting = (rng.uniform(-0.25, 0.25), line * rng.uniform(0.9, 1.2))
    inner = np.array([(0.47, line * 0.4), parting, (-0.47, line * 0.4)])
    local.polygon(np.concatenate([outer, inner]), head.hair, FACE)
    if kind == "full" and rng.random() < 0.3 and not covered:
        local.ellipse((0, -0.56), (0.2, 0.12), head.hair, FACE)
