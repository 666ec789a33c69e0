"""Colours: the six named ones of the truth, and variations that keep their name."""

from __future__ import annotations

import numpy as np

Colour = tuple[int, ...]
"""RGB, or RGB and opacity, each 0 to 255."""

COLOURS = ("red", "blue", "green", "yellow", "white", "black")
"""The named colours of cars, balls and helmets."""

_PAINTS: dict[str, Colour] = {
    "red": (206, 40, 38),
    "blue": (40, 84, 204),
    "green": (40, 146, 66),
    "yellow": (240, 204, 44),
    "white": (236, 236, 234),
    "black": (36, 36, 40),
}


def tint(rng: np.random.Generator, colour: str) -> Colour:
    """A random RGB variant of a named colour, still clearly of that name."""
    base = np.array(_PAINTS[colour]) * rng.uniform(0.86, 1.06) + rng.uniform(-12, 12, 3)
    return tuple(int(c) for c in np.clip(base, 12, 252))


def pick(rng: np.random.Generator, colours: tuple[Colour, ...], spread: float = 12.0) -> Colour:
    """One of `colours`, each channel moved by up to `spread`."""
    base = np.array(colours[rng.integers(len(colours))][:3])
    return tuple(int(c) for c in np.clip(base + rng.uniform(-spread, spread, 3), 4, 251))


def shade(colour: Colour, factor: float) -> Colour:
    """The RGB colour darkened (`factor` from 0 to 1) or lightened (from 1 to 2)."""
    if factor <= 1:
        return tuple(int(c * factor) for c in colour[:3])
    return tuple(int(255 - (255 - c) * (2 - factor)) for c in colour[:3])


def luminance(colour: Colour) -> float:
    """Perceived brightness of an RGB colour, 0 to 255 (the weights of ITU-R BT.601)."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
