"""How an object looks, as a histogram of its colours: enough to know it again some seconds later.

Two views of one object are compared by the Bhattacharyya coefficient of their histograms, as in
Comaniciu et al., "Kernel-based object tracking" (2003). It needs no model, and takes 0.1 ms a box.
"""

import numpy as np
from numpy.typing import NDArray

from secondlook.core.boxes import Xyxy
from secondlook.core.types import Boxes, Pixels

BINS = 2 * 8**3
"""Eight steps of each colour, for the upper half of a box and for the lower one."""
SIDE_MARGIN, END_MARGIN = 0.2, 0.05
"""Shares of a box's width and height that are left out on each side: mostly background."""
MAX_SAMPLES = 64
"""Rows and columns of a box that are looked at; a larger one is thinned out."""


def appearances(pixels: Pixels, boxes: Boxes) -> NDArray[np.float32]:
    """(N, BINS) of N boxes: square roots of shares, so that the coefficient is a dot product.

    1 is the same colours, 0 none in common. A box outside the image has nothing but zeros.
    """
    height, width = pixels.shape[:2]
    found = np.zeros((len(boxes), BINS), np.float32)
    for row, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        aside, above = SIDE_MARGIN * (x2 - x1), END_MARGIN * (y2 - y1)
        left, top = max(int(x1 + aside), 0), max(int(y1 + above), 0)
        right, bottom = min(int(x2 - aside), width) + 1, min(int(y2 - above), height) + 1
        inside = pixels[top:bottom, left:right]
        thin = (max(1, side // MAX_SAMPLES) for side in inside.shape[:2])
        found[row] = _histogram(inside[:: next(thin), :: next(thin)])
    return found


def sharpness(pixels: Pixels, box: Xyxy) -> float:
    """How sharp the middle of a box is, ≥ 0: the variance of its Laplacian (Pech-Pacheco et al.,
    "Diatom autofocusing in brightfield microscopy", 2000). 0 for a box of less than three pixels.
    """
    height, width = pixels.shape[:2]
    across, down = ((box[at] + box[at + 2]) / 2 for at in (0, 1))
    wide, tall = (min((box[at + 2] - box[at]) / 2, MAX_SAMPLES) for at in (0, 1))
    left, top = max(int(across - wide), 0), max(int(down - tall), 0)
    right, bottom = min(int(across + wide) + 1, width), min(int(down + tall) + 1, height)
    grey = pixels[top:bottom, left:right].mean(axis=2, dtype=np.float32)
    if min(grey.shape) < 3:
        return 0.0
    inner = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((4 * inner - around).var())


def _histogram(inside: Pixels) -> NDArray[np.float32]:
    steps = (inside >> 5).astype(np.int64)
    colours = steps[..., 0] * 64 + steps[..., 1] * 8 + steps[..., 2]
    halves = [half.ravel() for half in np.array_split(colours, 2)]
    counts = [np.bincount(half, minlength=512) / max(2 * half.size, 1) for half in halves]
    return np.sqrt(np.concatenate(counts)).astype(np.float32)


def alike(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The coefficient, in [0, 1], of two sums of appearances; 0 where one has no colour."""
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else 0.0
