"""Box arithmetic on numpy arrays. All boxes are (N, 4) float32 pixel xyxy."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from secondlook.core.types import Boxes

Xyxy = tuple[float, float, float, float]
"""One box as plain numbers, pixel xyxy."""
PAIRS_AT_ONCE = 1_000_000
"""Pairs of boxes that are compared in one step."""


def area(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(...) areas of boxes (..., 4) in square pixels; a box with no extent has area 0."""
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def iou(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """(N, M) intersection over union, in [0, 1]; 0 where both boxes have no area."""
    return pair_iou(a[:, None], b[None])


def pair_iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """(...) IoU of boxes (..., 4) that are broadcast together."""
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., 2:], b[..., 2:])
    sides = np.maximum(high - low, 0)
    shared = sides[..., 0] * sides[..., 1]
    union = area(a) + area(b) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def pairs_within(
    keys: NDArray[np.intp],
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Indices (first, second), first < second, of every pair with equal ``keys``.

    ``keys`` (N,) ascend. The pairs come sorted, in pieces of about ``PAIRS_AT_ONCE``, so that
    images with very many boxes do not fill the memory.
    """
    ends = np.searchsorted(keys, keys, side="right")
    behind = ends - np.arange(len(keys)) - 1
    cuts = np.arange(PAIRS_AT_ONCE, behind.sum(), PAIRS_AT_ONCE)
    bounds = np.searchsorted(np.cumsum(behind), cuts)
    for these in np.split(np.arange(len(keys)), np.unique(bounds)):
        amounts = behind[these]
        first = np.repeat(these, amounts)
        steps = np.arange(len(first)) - np.repeat(np.cumsum(amounts) - amounts, amounts)
        yield first, first + steps + 1


def share_inside(boxes: Boxes, regions: Boxes) -> NDArray[np.float32]:
    """(N, M) share of each box's own area that lies in each region, [0, 1]."""
    low = np.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    own = np.broadcast_to(area(boxes)[:, None], shared.shape)
    return np.divide(shared, own, out=np.zeros_like(shared), where=own > 0)


def nms(
    boxes: Boxes,
    scores: NDArray[np.float32],
    threshold: float,
    groups: NDArray[np.int64] | None = None,
    classes: NDArray[np.int64] | None = None,
) -> NDArray[np.intp]:
    """Rows kept by greedy non-maximum suppression, best score first.

    A box is dropped when its IoU with a better kept one is above ``threshold``: where ``groups``
    are given, one of its own group; where ``classes`` are given, one of another class. Equal scores
    keep their order, so the result does not depend on the platform's sort.
    """
    order = np.argsort(-scores, kind="stable")
    best_first = boxes[order]
    pairs = np.ones((len(boxes), len(boxes)), dtype=bool)
    if groups is not None:
        pairs = groups[order][:, None] == groups[order]
    if classes is not None:
        pairs &= classes[order][:, None] != classes[order]
    better, worse = np.nonzero(np.triu(pairs, 1))
    same = pair_iou(best_first[better], best_first[worse]) > threshold
    alive = np.ones(len(boxes), dtype=bool)
    for one, other in zip(better[same].tolist(), worse[same].tolist(), strict=True):
        if alive[one]:
            alive[other] = False
    return order[alive]


def clip(boxes: Boxes, width: int, height: int) -> Boxes:
    """Boxes cut to the image; those wholly outside come back with no area."""
    limits = np.array([width, height, width, height], dtype=np.float32)
    return np.clip(boxes, 0, limits).astype(np.float32)


def from_cxcywh(boxes: NDArray[np.floating], width: float, height: float) -> Boxes:
    """Relative centre-and-size boxes (as DETR models give them) to pixel xyxy."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    relative = np.concatenate([centre - half, centre + half], axis=1)
    scale = np.array([width, height, width, height], dtype=np.float32)
    return (relative * scale).astype(np.float32)


def to_xywh(box: Xyxy) -> tuple[float, float, float, float]:
    """One pixel xyxy box as COCO's x, y, width, height."""
    x1, y1, x2, y2 = box
    return x1, y1, x2 - x1, y2 - y1


def padded_window(box: Xyxy, margin: float, width: int, height: int) -> tuple[int, int, int, int]:
    """Whole-pixel window around ``box`` with ``margin`` (a share of its sides) on each side.

    Cut to the image and never empty: at least one pixel, whatever the box.
    """
    x1, y1, x2, y2 = box
    dx, dy = (x2 - x1) * margin, (y2 - y1) * margin
    left = min(max(int(np.floor(x1 - dx)), 0), width - 1)
    top = min(max(int(np.floor(y1 - dy)), 0), height - 1)
    right = max(min(int(np.ceil(x2 + dx)), width), left + 1)
    bottom = max(min(int(np.ceil(y2 + dy)), height), top + 1)
    return left, top, right, bottom
