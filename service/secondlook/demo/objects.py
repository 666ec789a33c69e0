"""Cars, dogs, trees and balls.

Each function takes a pen with its origin on the ground; its unit is the height of a person there.
"""

from __future__ import annotations

import numpy as np

from secondlook.demo.canvas import SHADOW, Pen, arc, ellipse
from secondlook.demo.palette import Colour, pick, shade, tint

_COATS = (
    (120, 78, 44),
    (188, 140, 84),
    (60, 48, 40),
    (224, 208, 184),
    (128, 124, 120),
    (40, 38, 40),
)
_LEAVES = (
    (48, 112, 44),
    (74, 134, 52),
    (34, 88, 52),
    (110, 142, 48),
    (196, 120, 40),
    (150, 160, 60),
)
_BARK = ((92, 66, 44), (112, 86, 64), (74, 60, 52))
_GLASS = ((150, 186, 208), (96, 118, 136), (60, 74, 90))


def shadow(pen: Pen, half_width: float, opacity: int = 70) -> None:
    """A soft shadow on the ground below a figure; it hides nothing."""
    pen.ellipse(
        (0.02, -0.01), (half_width, half_width * 0.16 + 0.01), (10, 10, 14, opacity), SHADOW
    )


def car(pen: Pen, rng: np.random.Generator, colour: str, length: float, height: float) -> None:
    """A car seen from its side, `length` by `height` units."""
    paint = tint(rng, colour)
    shadow(pen, length * 0.52)
    half, wheel = length / 2, height * rng.uniform(0.19, 0.24)
    waist, sill = -height * rng.uniform(0.52, 0.6), -wheel * 0.75
    roof = _cabin(rng, half, waist, -height)
    pen.polygon(roof, shade(paint, 0.93))
    pen.rect((-half, waist, half, sill), paint, corner=height * rng.uniform(0.08, 0.2))
    pen.rect(
        (-half * 0.98, sill - height * 0.12, half * 0.98, sill),
        shade(paint, 0.72),
        corner=height * 0.05,
    )
    _windows(pen, rng, roof, waist, paint)
    _trim(pen, rng, half, waist, sill, paint)
    for x in (-half * 0.6, half * 0.58):
        pen.ellipse((x, -wheel), (wheel, wheel), (28, 28, 30))
        pen.ellipse((x, -wheel), (wheel * 0.52, wheel * 0.52), (150, 152, 156))


def _cabin(rng: np.random.Generator, half: float, waist: float, top: float) -> np.ndarray:
    kind = rng.integers(3)
    low = waist + 0.02
    if kind == 0:  # saloon
        return np.array(
            [(-half * 0.72, low), (-half * 0.45, top), (half * 0.25, top), (half * 0.6, low)]
        )
    if kind == 1:  # van
        return np.array(
            [(-half * 0.97, low), (-half * 0.95, top), (half * 0.45, top), (half * 0.8, low)]
        )
    return np.array(
        [(-half * 0.93, low), (-half * 0.78, top), (half * 0.1, top), (half * 0.5, low)]
    )


def _windows(
    pen: Pen, rng: np.random.Generator, roof: np.ndarray, waist: float, paint: Colour
) -> None:
    glass = pick(rng, _GLASS)
    middle = roof.mean(axis=0)
    pane = middle + (roof - middle) * np.array([0.86, 0.72])
    pane[[0, 3], 1] = np.minimum(pane[[0, 3], 1], waist + 0.01)
    pen.polygon(pane, glass)
    for part in np.linspace(0.0, 1.0, rng.integers(3, 5))[1:-1]:
        x = pane[0, 0] * (1 - part) + pane[3, 0] * part
        pen.stroke([(x, roof[0, 1]), (x, roof[1, 1] + 0.01)], 0.035, shade(paint, 0.9))


def _trim(
    pen: Pen, rng: np.random.Generator, half: float, waist: float, sill: float, paint: Colour
) -> None:
    line = shade(paint, 0.6) if sum(paint) > 200 else (92, 92, 98)
    for x in (-half * 0.12, half * 0.3):
        pen.stroke([(x, waist), (x, sill)], 0.008, line)
        pen.stroke([(x - 0.1, waist + 0.05), (x - 0.05, waist + 0.05)], 0.018, line)
    lamp = (waist + sill) / 2
    pen.ellipse((half * 0.95, lamp - 0.03), (half * 0.05, 0.05), (250, 240, 190))
    pen.ellipse((-half * 0.96, lamp - 0.03), (half * 0.04, 0.05), (180, 30, 30))
    if rng.random() < 0.4:
        pen.stroke(
            [(-half * 0.9, waist + 0.03), (half * 0.8, waist + 0.03)], 0.02, shade(paint, 1.35)
        )


def dog(pen: Pen, rng: np.random.Generator, height: float) -> None:
    """A dog seen from its side, standing or sitting, `height` units to the top of its head."""
    coat = pick(rng, _COATS)
    dark = shade(coat, 0.72) if sum(coat) > 160 else shade(coat, 1.25)
    h = height
    shadow(pen, h * 0.6)
    if rng.random() < 0.65:
        _standing(pen, rng, h, coat, dark)
        neck = (h * 0.48, -h * 0.6)
    else:
        _sitting(pen, h, coat, dark)
        neck = (h * 0.12, -h * 0.6)
    _dog_head(pen, rng, neck, h, coat, dark)


def _standing(pen: Pen, rng: np.random.Generator, h: float, coat: Colour, dark: Colour) -> None:
    wag = rng.uniform(0.45, 1.05)
    pen.limb(
        [(-h * 0.48, -h * 0.55), (-h * 0.66, -h * 0.62), (-h * 0.72, -h * wag)], h * 0.08, coat
    )
    for x, fill in ((-0.3, dark), (0.3, dark), (-0.44, coat), (0.42, coat)):
        pen.limb(
            [(h * x, -h * 0.42), (h * (x + rng.uniform(-0.05, 0.05)), -h * 0.05)], h * 0.12, fill
        )
    pen.ellipse((-h * 0.02, -h * 0.5), (h * 0.54, h * 0.2), coat)
    pen.limb([(h * 0.4, -h * 0.52), (h * 0.54, -h * 0.74)], h * 0.22, coat)
    for _ in range(rng.integers(0, 4)):
        spot = (h * rng.uniform(-0.35, 0.3), -h * rng.uniform(0.45, 0.58))
        pen.ellipse(spot, (h * rng.uniform(0.05, 0.12), h * rng.uniform(0.04, 0.08)), dark)


def _sitting(pen: Pen, h: float, coat: Colour, dark: Colour) -> None:
    pen.limb([(-h * 0.3, -h * 0.08), (-h * 0.52, -h * 0.1), (-h * 0.6, -h * 0.28)], h * 0.08, coat)
    pen.polygon(
        [
            (-h * 0.4, 0),
            (-h * 0.3, -h * 0.35),
            (0, -h * 0.72),
            (h * 0.26, -h * 0.66),
            (h * 0.24, 0),
        ],
        coat,
    )
    pen.ellipse((-h * 0.16, -h * 0.16), (h * 0.26, h * 0.17), dark)
    pen.limb([(h * 0.17, -h * 0.45), (h * 0.2, -h * 0.05)], h * 0.12, shade(coat, 1.1))


def _dog_head(
    pen: Pen,
    rng: np.random.Generator,
    neck: tuple[float, float],
    h: float,
    coat: Colour,
    dark: Colour,
) -> None:
    x, y = neck[0] + h * 0.1, neck[1] - h * 0.2
    pen.limb(
        [(x + h * 0.1, y + h * 0.05), (x + h * 0.3, y + h * 0.07)], h * 0.15, shade(coat, 1.08)
    )
    pen.ellipse((x, y), (h * 0.2, h * 0.19), coat)
    pen.ellipse((x + h * 0.37, y + h * 0.04), (h * 0.045, h * 0.04), (24, 20, 20))
    pen.ellipse((x + h * 0.08, y - h * 0.05), (h * 0.032, h * 0.036), (20, 16, 16))
    if rng.random() < 0.5:
        pen.ellipse((x - h * 0.12, y + h * 0.04), (h * 0.075, h * 0.17), dark)
    else:
        pen.polygon(
            [
                (x - h * 0.18, y - h * 0.08),
                (x - h * 0.12, y - h * 0.32),
                (x + h * 0.02, y - h * 0.14),
            ],
            dark,
        )
    if rng.random() < 0.4:
        pen.stroke(
            [(x - h * 0.13, y + h * 0.2), (x + h * 0.06, y + h * 0.22)], h * 0.05, (190, 40, 40)
        )


def tree(pen: Pen, rng: np.random.Generator, height: float) -> None:
    """A tree, `height` units high, round, pointed or layered."""
    bark, leaf = pick(rng, _BARK), pick(rng, _LEAVES)
    wide = height * rng.uniform(0.22, 0.32)
    shadow(pen, wide)
    trunk = height * rng.uniform(0.03, 0.05)
    pen.polygon(
        [
            (-trunk * 1.3, 0),
            (-trunk * 0.7, -height * 0.5),
            (trunk * 0.7, -height * 0.5),
            (trunk * 1.3, 0),
        ],
        bark,
    )
    if rng.random() < 0.35:
        _conifer(pen, height, wide, leaf)
        return
    crown = -height * 0.68
    for _ in range(9):
        at = (wide * rng.uniform(-0.6, 0.6), crown + height * rng.uniform(-0.17, 0.17))
        pen.ellipse(
            at,
            (wide * rng.uniform(0.4, 0.6), height * rng.uniform(0.12, 0.17)),
            shade(leaf, rng.uniform(0.72, 1.15)),
        )
    for _ in range(5):
        at = (wide * rng.uniform(-0.7, 0.7), crown + height * rng.uniform(-0.22, 0.2))
        pen.ellipse(at, (wide * 0.14, height * 0.035), shade(leaf, rng.uniform(0.6, 1.3)))


def _conifer(pen: Pen, height: float, wide: float, leaf: Colour) -> None:
    for step in range(4):
        low, top = -height * (0.2 + 0.19 * step), -height * (0.52 + 0.16 * step)
        reach = wide * (1.0 - 0.2 * step)
        pen.polygon(
            [(-reach, low), (0, max(top, -height)), (reach, low)], shade(leaf, 0.8 + 0.09 * step)
        )


def ball(pen: Pen, rng: np.random.Generator, colour: str, radius: float) -> None:
    """A ball on the ground: plain, banded, spotted or ringed, most of it in `colour`."""
    paint = tint(rng, colour)
    second = shade(paint, 0.62) if colour in ("white", "yellow") else (238, 238, 236)
    shadow(pen, radius * 1.05)
    local = pen.local((0.0, -radius), radius)
    local.ellipse((0, 0), (1, 1), paint)
    kind = rng.integers(4)
    if kind == 1:
        band = [arc((0, 0), (1, 1), -18, 18), arc((0, 0), (1, 1), 162, 198)]
        local.polygon(np.concatenate(band), second)
    elif kind == 2:
        for angle in np.radians(np.arange(5) * 72 + rng.uniform(0, 72)):
            spot = (0.66 * float(np.cos(angle)), 0.66 * float(np.sin(angle)))
            local.ellipse(spot, (0.17, 0.17), second)
    elif kind == 3:
        ring = shade(paint, 0.6) if sum(paint) > 240 else second
        local.stroke(ellipse((0, 0), (0.4, 0.96)), 0.1, ring)
    dark = [arc((0, 0), (1, 1), 10, 170), arc((0, -0.05), (0.98, 0.6), 170, 10)]
    local.polygon(np.concatenate(dark), (0, 0, 0, 46))
    local.ellipse((-0.36, -0.42), (0.2, 0.15), (255, 255, 255, 120))
