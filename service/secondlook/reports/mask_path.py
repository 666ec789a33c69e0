"""Masks as SVG paths that are small enough for a page with many of them."""

import numpy as np

from secondlook.core.masks import Polygon, mask_rings, simplified
from secondlook_client.errors import InvalidInput
from secondlook_client.masks import Mask

SHOWN_SIDE = 1280
"""Pixels of the longest side of an image as a page shows it."""
FINEST = 1.0
"""Pixels that a path may be off: with less every step of a sloping edge would stay."""
MAX_CHARACTERS = 6_000
"""Of one path; a finer one is simplified further."""
_ROUNDS = 5


def mask_path(mask: Mask) -> str:
    """The ``d`` of a path to be filled by the even-odd rule, in whole pixels of the image.

    It is off by less than a page shows. Empty for an empty mask, and for what has no outline: noise
    and damaged codes.
    """
    tolerance = max(FINEST, max(mask.width, mask.height) / SHOWN_SIDE)
    try:
        rings = mask_rings(mask)
        for _ in range(_ROUNDS):
            path = "".join(_closed(simplified(ring, tolerance)) for ring in rings)
            if len(path) <= MAX_CHARACTERS:
                return path
            tolerance *= 2
            rings = [ring for ring in rings if _extent(ring) > 2 * tolerance]
    except InvalidInput:
        pass
    return ""


def _closed(ring: Polygon) -> str:
    """Relative steps: a number and its sign, which separates it too where it is a minus."""
    steps = np.diff(ring, axis=0).ravel().tolist()
    text = "".join(f"{step}" if step < 0 else f" {step}" for step in steps)
    return f"M{ring[0][0]} {ring[0][1]}l{text.lstrip()}z"


def _extent(ring: Polygon) -> int:
    return int(np.ptp(ring, axis=0).max())
