"""People: one unit high, with a cartoon's large head, so that faces have enough pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secondlook.demo.canvas import BODY, Pen
from secondlook.demo.faces import Head, face, hair, hair_colour, long_hair
from secondlook.demo.headwear import glasses, hat, mask, worn_helmet
from secondlook.demo.objects import shadow
from secondlook.demo.palette import COLOURS, Colour, shade

_SKINS = (
    (250, 220, 196),
    (236, 192, 158),
    (214, 164, 124),
    (176, 122, 84),
    (132, 88, 58),
    (92, 60, 42),
)


@dataclass(frozen=True)
class Wear:
    """What a person wears on the head; `helmet` is a colour or None."""

    glasses: bool = False
    glasses_on_head: bool = False
    helmet: str | None = None
    hat: bool = False
    mask: bool = False

    @property
    def traits(self) -> frozenset[str]:
        """The names of what is worn, as the truth gives them."""
        worn = {
            "glasses": self.glasses,
            "glasses on head": self.glasses_on_head,
            "helmet": self.helmet is not None,
            "hat": self.hat,
            "mask": self.mask,
        }
        return frozenset(name for name, on in worn.items() if on)


def sample_wear(rng: np.random.Generator) -> Wear:
    """Choose at random what one person wears.

    40 % have glasses on the eyes, 16 % pushed up; 25 % a helmet, 17 % a hat; 12 % a mask.
    """
    eyewear = rng.random()
    on_head = 0.4 <= eyewear < 0.56
    top = rng.random()
    # Nobody with pushed-up glasses wears a helmet: the others do more often, for a quarter in all.
    helmeted = not on_head and top < 0.3
    return Wear(
        glasses=bool(eyewear < 0.4),
        glasses_on_head=on_head,
        helmet=str(rng.choice(COLOURS)) if helmeted else None,
        hat=bool(not helmeted and top > 0.83),
        mask=bool(rng.random() < 0.12),
    )


@dataclass(frozen=True)
class _Build:
    """Heights and half widths of a body in figure units, y downwards from the top at -1."""

    shoulder: float
    hip: float
    half: float
    limb: float


def person(pen: Pen, rng: np.random.Generator, wear: Wear) -> None:
    """A standing person with `wear`, facing the viewer or turned by up to a quarter."""
    base = np.array(_SKINS[rng.integers(len(_SKINS))]) + rng.uniform(-8, 8, 3)
    skin: Colour = tuple(int(c) for c in np.clip(base, 20, 250))
    tall = rng.uniform(0.255, 0.29)
    wide = tall * rng.uniform(0.78, 0.95)
    head = Head(
        0.0, -1.0 + tall * 0.6, wide, tall, float(rng.uniform(-0.13, 0.13)), skin, hair_colour(rng)
    )
    shoulder = head.y + tall * 0.6
    build = _Build(
        shoulder, shoulder * 0.46, wide * rng.uniform(0.5, 0.66), wide * rng.uniform(0.2, 0.28)
    )
    covered = wear.hat or wear.helmet is not None
    shadow(pen, build.half * 1.5)
    if rng.random() < 0.35:
        long_hair(pen, head, rng)
    top, bottom = _cloth(rng), _cloth(rng)
    _legs(pen, rng, build, skin, bottom)
    _torso(pen, rng, build, top, head)
    _arms(pen, rng, build, skin, top)
    face(pen, head, rng)
    hair(pen, head, rng, covered)
    if wear.mask:
        mask(pen, head, rng)
    if wear.helmet is not None:
        worn_helmet(pen, head, rng, wear.helmet)
    top_colour = hat(pen, head, rng) if wear.hat else head.hair
    if wear.glasses:
        glasses(pen, head, rng, head.skin, on_head=False)
    elif wear.glasses_on_head:
        glasses(pen, head, rng, top_colour, on_head=True)


def _cloth(rng: np.random.Generator) -> Colour:
    return tuple(int(c) for c in rng.uniform(24, 236, 3) * rng.uniform(0.6, 1.0))


def _legs(pen: Pen, rng: np.random.Generator, build: _Build, skin: Colour, cloth: Colour) -> None:
    kind = rng.choice(("trousers", "shorts", "skirt"), p=(0.55, 0.2, 0.25))
    apart = build.half * rng.uniform(0.4, 0.75)
    thick = build.limb * 1.1
    shoe = tuple(int(c) for c in rng.uniform(15, 120, 3))
    for side in (-1, 1):
        foot = (side * apart, -0.03)
        knee = (side * apart, build.hip * 0.55)
        hip = (side * build.half * 0.42, build.hip)
        pen.limb([hip, foot], thick, cloth if kind == "trousers" else skin)
        if kind == "shorts":
            pen.limb([hip, knee], thick * 1.2, cloth)
        pen.ellipse((foot[0] + side * 0.015, -0.02), (thick * 0.7, 0.024), shoe)
    if kind == "skirt":
        hem = build.hip * rng.uniform(0.3, 0.6)
        flare = build.half * rng.uniform(1.0, 1.35)
        pen.polygon(
            [
                (-build.half * 0.75, build.hip - 0.03),
                (build.half * 0.75, build.hip - 0.03),
                (flare, hem),
                (-flare, hem),
            ],
            cloth,
        )


def _torso(pen: Pen, rng: np.random.Generator, build: _Build, cloth: Colour, head: Head) -> None:
    neck = head.wide * 0.17
    pen.rect(
        (-neck, head.y + head.tall * 0.3, neck, build.shoulder + 0.03), shade(head.skin, 0.86), BODY
    )
    waist = build.half * rng.uniform(0.72, 0.95)
    y0, y1 = build.shoulder, build.hip + 0.02
    pen.polygon(
        [
            (-build.half * 0.7, y0),
            (build.half * 0.7, y0),
            (build.half, y0 + 0.04),
            (waist, y1),
            (-waist, y1),
            (-build.half, y0 + 0.04),
        ],
        cloth,
    )
    kind = rng.integers(5)
    trim = tuple(int(c) for c in rng.uniform(20, 240, 3))
    if kind == 0:
        for part in (0.3, 0.55, 0.8):
            y = y0 + (y1 - y0) * part
            pen.stroke([(-waist * 0.95, y), (waist * 0.95, y)], (y1 - y0) * 0.1, trim)
    elif kind == 1:
        pen.stroke([(0, y0), (0, y1)], 0.012, shade(cloth, 0.6))
        pen.polygon([(-neck, y0), (neck, y0), (0, y0 + 0.06)], trim)
    elif kind == 2:
        pen.ellipse((0, (y0 + y1) / 2), (waist * 0.35, waist * 0.35), trim)
    elif kind == 3:
        pen.stroke([(-build.half * 0.6, y0), (waist * 0.7, y1)], 0.022, trim)


def _arms(pen: Pen, rng: np.random.Generator, build: _Build, skin: Colour, cloth: Colour) -> None:
    sleeve = shade(cloth, 0.86)
    short = rng.random() < 0.4
    length = (build.hip - build.shoulder) * 1.15
    for side in (-1, 1):
        start = (side * build.half * 0.92, build.shoulder + 0.05)
        pose = rng.choice(("down", "hip", "out", "up"), p=(0.5, 0.2, 0.2, 0.1))
        bend = {
            "down": (0.12, 0.5, 0.16, 1.0),
            "hip": (0.42, 0.45, 0.05, 0.85),
            "out": (0.35, 0.4, 0.75, 0.6),
            "up": (0.4, 0.25, 0.62, -0.3),
        }[str(pose)]
        elbow = (start[0] + side * length * bend[0], start[1] + length * bend[1])
        hand = (start[0] + side * length * bend[2], start[1] + length * bend[3])
        pen.limb([start, elbow, hand], build.limb * 0.82, skin if short else sleeve)
        if short:
            pen.limb([start, elbow], build.limb * 0.95, sleeve)
        pen.ellipse(hand, (build.limb * 0.48, build.limb * 0.5), skin)
