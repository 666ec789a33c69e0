"""Masks made by hand or by hypothesis."""

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from secondlook_client.masks import Mask, Segmentation
from secondlook_client.values import Judgement


def arrays_of_masks(most: int = 12) -> st.SearchStrategy[np.ndarray]:
    """(H, W) bool with parts, holes and pixels that touch by a corner."""
    sides = st.integers(1, most)
    return st.tuples(sides, sides).flatmap(lambda shape: arrays(np.bool_, shape))


def disc(width: int, height: int, box: tuple[float, float, float, float]) -> np.ndarray:
    """An ellipse in ``box`` with a hole in it, and a part of its own to the lower right."""
    x1, y1, x2, y2 = box
    y, x = np.mgrid[:height, :width] + 0.5
    across = ((x - (x1 + x2) / 2) * 2 / (x2 - x1)) ** 2
    across += ((y - (y1 + y2) / 2) * 2 / (y2 - y1)) ** 2
    pixels = (across <= 1) & (across > 0.2)
    pixels[int(y2) - 2 : int(y2), int(x2) - 2 : int(x2)] = True
    return pixels


def with_mask(judgement: Judgement, pixels: np.ndarray, quality: float = 0.9) -> Judgement:
    """The same judgement of an object of these pixels."""
    segmentation = Segmentation(Mask.from_array(pixels), quality, 0.95, "scripted@1")
    return replace(judgement, segmentation=segmentation)
