"""What heads wear: glasses, helmets, hats, masks; and helmets on the ground."""

from __future__ import annotations

import numpy as np

from secondlook.demo.canvas import BODY, FACE, GLASSES, HELMET, Pen, arc, ellipse, rounded
from secondlook.demo.faces import Head
from secondlook.demo.objects import shadow
from secondlook.demo.palette import Colour, luminance, pick, shade, tint

_FRAMES = (
    (24, 24, 28),
    (90, 52, 30),
    (180, 30, 40),
    (40, 70, 180),
    (30, 120, 70),
    (200, 160, 60),
    (150, 60, 150),
)
_HATS = (
    (60, 60, 70),
    (150, 40, 40),
    (40, 70, 130),
    (210, 190, 150),
    (70, 110, 60),
    (230, 230, 226),
    (200, 120, 40),
)
_MASKS = ((150, 200, 220), (240, 240, 240), (40, 40, 46), (190, 150, 190), (120, 170, 120))
_DARK_LENS = (22, 22, 28, 240)
_TINTED_LENSES = ((90, 50, 20), (30, 50, 90), (70, 20, 60))


def mask(pen: Pen, head: Head, rng: np.random.Generator) -> None:
    """A cloth over nose and mouth, with its bands."""
    local = head.pen(pen)
    cloth = pick(rng, _MASKS)
    x, y = head.turn * 0.6, 0.27
    for side in (-1, 1):
        for dy in (-0.1, 0.08):
            band = [(x + side * 0.3, y + dy), (side * 0.49, 0.06)]
            local.stroke(band, 0.025, shade(cloth, 0.8), FACE)
    local.rect((x - 0.34, y - 0.15, x + 0.34, y + 0.18), cloth, FACE, corner=0.14)
    for dy in (-0.04, 0.06):
        local.stroke([(x - 0.29, y + dy), (x + 0.29, y + dy)], 0.02, shade(cloth, 0.82), FACE)


def hat(pen: Pen, head: Head, rng: np.random.Generator) -> Colour:
    """A cap, a knitted hat, or a hat with a brim and a dark band; returns the cloth's colour."""
    cloth = pick(rng, _HATS)
    trim = shade(cloth, 0.55) if luminance(cloth) > 70 else shade(cloth, 1.4)
    # The origin is the lower edge of the hat, above the brows.
    local = pen.local((head.x, head.y - head.tall * 0.2), head.wide, head.tall)
    kind = rng.integers(3)
    if kind == 0:  # a cap, its visor to one side
        local.polygon(arc((0, 0), (0.52, 0.4), 180, 360), cloth)
        local.stroke(arc((0, 0), (0.2, 0.38), 180, 360), 0.025, trim)
        local.ellipse((0.3 if head.turn >= 0 else -0.3, 0), (0.42, 0.055), trim)
    elif kind == 1:  # knitted, with a bobble
        local.polygon(arc((0, 0.04), (0.53, 0.44), 180, 360), cloth)
        local.rect((-0.55, -0.07, 0.55, 0.06), shade(cloth, 0.8), corner=0.04)
        local.ellipse((0, -0.42), (0.12, 0.09), trim)
    else:
        local.polygon([(-0.44, 0), (-0.38, -0.4), (0.38, -0.4), (0.44, 0)], cloth)
        local.rect((-0.43, -0.13, 0.43, -0.02), trim)
        local.ellipse((0, 0), (0.78, 0.06), cloth)
    return cloth


def worn_helmet(pen: Pen, head: Head, rng: np.random.Generator, colour: str) -> None:
    """A helmet on the head, with straps down to the chin."""
    paint = tint(rng, colour)
    for side in (-1, 1):
        strap = [(side * 0.47, -0.1), (side * 0.36, 0.34), (0, 0.5)]
        head.pen(pen).stroke(strap, 0.04, (40, 40, 44), FACE)
    at = (head.x + head.turn * head.wide * 0.2, head.y - head.tall * 0.13)
    _shell(pen.local(at, head.wide * 0.62), rng, paint, HELMET)


def loose_helmet(pen: Pen, rng: np.random.Generator, colour: str, half: float) -> None:
    """A helmet on the ground at the pen's origin, `half` its half width."""
    shadow(pen, half)
    paint = tint(rng, colour)
    local = pen.local((0, -half * 0.08), half)
    local.ellipse((0, 0), (0.9, 0.12), (30, 28, 30), BODY)
    _shell(local, rng, paint, BODY)


def _shell(local: Pen, rng: np.random.Generator, paint: Colour, part: int) -> None:
    """A hard hat or a bicycle helmet; the unit is its half width, the origin its lower edge."""
    tall = rng.uniform(1.0, 1.2)
    trim = shade(paint, 0.7) if sum(paint) > 200 else shade(paint, 1.25)
    local.polygon(arc((0, 0), (0.92, tall), 180, 360), paint, part)
    if rng.random() < 0.5:  # a hard hat: ridge and brim
        local.polygon(arc((0, 0), (0.24, tall * 1.06), 180, 360), shade(paint, 1.3), part)
        local.rect((-1, -0.16, 1, 0.06), trim, part, corner=0.1)
    else:  # for a bicycle: vents
        for x in (-0.5, 0.0, 0.5):
            local.stroke([(x * 0.7, -tall * 0.82), (x * 1.15, -tall * 0.3)], 0.16, trim, part)
        local.rect((-0.94, -0.14, 0.94, 0.05), trim, part, corner=0.1)
    local.ellipse((-0.42, -tall * 0.66), (0.14, tall * 0.12), (255, 255, 255, 150), part)


def glasses(
    pen: Pen, head: Head, rng: np.random.Generator, behind: Colour, *, on_head: bool
) -> None:
    """A pair of glasses over the eyes, or (`on_head`) pushed up; `behind` is what they lie on."""
    x, y = head.x + head.turn * head.wide, head.y + 0.03 * head.tall
    if on_head:
        x, y = head.x + head.turn * head.wide * 0.6, head.y - head.tall * rng.uniform(0.33, 0.38)
    dark = bool(rng.random() < (0.5 if on_head else 0.36))
    frame = _frame_colour(rng, behind, dark)
    lens = _lens_colour(rng, dark, on_head)
    wide = head.wide * rng.uniform(0.88, 1.0)
    thick = 0.035 if rng.random() < 0.35 else rng.uniform(0.055, 0.08)
    rx, ry = rng.uniform(0.2, 0.225), rng.uniform(0.205, 0.235)
    square = rng.random() < 0.45
    local = pen.local((x, y), wide)
    for side in (-1, 1):
        cx, cy = side * 0.26, ry * 0.08
        box = (cx - rx, cy - ry * 0.92, cx + rx, cy + ry * 0.92)
        rim = rounded(box, rx * 0.4) if square else ellipse((cx, cy), (rx, ry))
        local.polygon(rim, lens, GLASSES)
        local.stroke(np.concatenate([rim, rim[:2]]), thick, frame, GLASSES, least=2)
        if dark or on_head:
            glint = [(cx - rx * 0.5, cy + ry * 0.2), (cx + rx * 0.1, cy - ry * 0.5)]
            local.stroke(glint, thick * 0.7, (255, 255, 255, 110), GLASSES)
        ear = (head.x + side * head.wide * 0.51 - x) / wide
        local.stroke([(cx + side * rx, 0), (ear, -0.01)], thick, frame, GLASSES, least=2)
    local.stroke(arc((0, 0), (0.07, ry * 0.35), 180, 360, 5), thick, frame, GLASSES, least=2)


def _frame_colour(rng: np.random.Generator, behind: Colour, dark: bool) -> Colour:
    frame = (22, 22, 26) if dark and rng.random() < 0.6 else pick(rng, _FRAMES)
    # A dark frame on dark hair or skin could not be seen.
    if abs(luminance(frame) - luminance(behind)) < 55:
        return (232, 226, 210) if luminance(behind) < 110 else (20, 20, 24)
    return frame


def _lens_colour(rng: np.random.Generator, dark: bool, on_head: bool) -> Colour:
    if dark:
        return _DARK_LENS if rng.random() < 0.7 else (*pick(rng, _TINTED_LENSES), 215)
    return (214, 232, 244, 150 if on_head else int(rng.integers(30, 90)))
