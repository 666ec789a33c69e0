"""Identities: which figure each canvas pixel shows, and which figures are visible enough."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image

from secondlook.demo.canvas import (
    FACE,
    GLASSES,
    HELMET,
    PARTS,
    SUPERSAMPLE,
    extent,
    paint_identities,
)
from secondlook.demo.staging import Figure, head_inside, share_inside

# A thing that is less visible than this is removed from the scene: its truth would be a guess.
_LEAST_VISIBLE = 0.35
_LEAST_FACE_VISIBLE = 0.75
_LEAST_WORN_VISIBLE = 0.6
# Least extents in pixels of an image of size 320; they grow with the size.
_LEAST_PERSON_HEIGHT = 40.0
_LEAST_SIDE = 8.0


def first_identity(order: int) -> int:
    """The identity of part 0 of figure number `order` in the drawing order; 0 is clutter."""
    return 1 + order * PARTS


def rasterise(figures: list[Figure], canvas: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The identity buffer, (H, W) uint8, and each identity's pixels before anything hid it, (256,).

    Figure k, farthest first, has the identities first_identity(k) + part.
    """
    buffer = Image.new("L", canvas, 0)
    unhidden = np.zeros(256, dtype=np.int64)
    for order, figure in enumerate(figures):
        first = first_identity(order)
        paint_identities(buffer, figure.primitives, first)
        if figure.noun is not None:
            window = _window(figure, canvas)
            if window is not None:
                counts = np.bincount(np.asarray(buffer.crop(window)).ravel(), minlength=256)
                unhidden[first : first + PARTS] = counts[first : first + PARTS]
    return np.asarray(buffer), unhidden


def _window(figure: Figure, canvas: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The figure's extent cut to the canvas, in whole pixels; None when it lies outside."""
    x0, y0, x1, y1 = extent(s for s in figure.primitives if s.part >= 0)
    box = (
        max(int(x0) - 2, 0),
        max(int(y0) - 2, 0),
        min(int(x1) + 3, canvas[0]),
        min(int(y1) + 3, canvas[1]),
    )
    return box if box[0] < box[2] and box[1] < box[3] else None


def recognisable(
    figures: list[Figure], canvas: tuple[int, int], unit: float
) -> tuple[list[Figure], np.ndarray]:
    """The figures that can be recognised, and their identity buffer.

    Those too hidden, too small or too far outside are removed. Removing a figure only makes others
    more visible, so one pass is enough.
    """
    ids, unhidden = rasterise(figures, canvas)
    visible = np.bincount(ids.ravel(), minlength=256)
    kept = [
        figure
        for order, figure in enumerate(figures)
        if figure.noun is None or _is_recognisable(figure, order, ids, unhidden, visible, unit)
    ]
    if len(kept) < len(figures):
        ids, _ = rasterise(kept, canvas)
    return kept, ids


def _is_recognisable(
    figure: Figure,
    order: int,
    ids: np.ndarray,
    unhidden: np.ndarray,
    visible: np.ndarray,
    unit: float,
) -> bool:
    first = first_identity(order)
    height, width = ids.shape
    own, left = unhidden[first : first + PARTS], visible[first : first + PARTS]
    if (
        own.sum() == 0
        or left.sum() < _LEAST_VISIBLE * own.sum()
        or share_inside(figure, width, height) < 0.5
    ):
        return False
    box = visible_box(figure, first, range(PARTS), ids)
    if figure.noun != "person":
        return max(box[2] - box[0], box[3] - box[1]) >= _LEAST_SIDE * unit
    if box[3] - box[1] < _LEAST_PERSON_HEIGHT * unit or not head_inside(figure, width, height):
        return False
    if left[FACE] < _LEAST_FACE_VISIBLE * own[FACE]:
        return False
    for part in (GLASSES, HELMET):
        if own[part] and left[part] < _LEAST_WORN_VISIBLE * own[part]:
            return False
    worn = visible_box(figure, first, (GLASSES,), ids) if own[GLASSES] else None
    return worn is None or worn[2] - worn[0] >= _LEAST_SIDE * unit


def visible_box(
    figure: Figure, first: int, parts: Iterable[int], ids: np.ndarray
) -> tuple[float, float, float, float]:
    """The xyxy image pixels that hold every visible canvas pixel of some parts of a figure."""
    window = _window(figure, (ids.shape[1], ids.shape[0]))
    assert window is not None
    x0, y0, x1, y1 = window
    wanted = np.zeros(256, dtype=bool)
    wanted[[first + part for part in parts]] = True
    mask = wanted[ids[y0:y1, x0:x1]]
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return (
        float(x0 + columns[0]) / SUPERSAMPLE,
        float(y0 + rows[0]) / SUPERSAMPLE,
        float(x0 + columns[-1] + 1) / SUPERSAMPLE,
        float(y0 + rows[-1] + 1) / SUPERSAMPLE,
    )
