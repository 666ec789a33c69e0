"""Masks as datasets have them: COCO's run-length codes and polygons, and the outlines of YOLO.

The outline of a box is no mask: programs write one where they have nothing better, ours too. The
functions raise ``ValueError`` with what was expected; who calls them knows the file and the entry,
and keeps the box.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from secondlook.core.boxes import Xyxy
from secondlook.core.masks import MAX_CORNERS, mask_from_polygons, plain_mask
from secondlook.datasets.readers.fields import shown, side, whole_number
from secondlook_client.errors import InvalidInput
from secondlook_client.masks import MAX_COUNTS, Mask

ROUNDED = 0.011
"""Pixels by which the corners of a box's outline may differ from the box."""


def coco_mask(segmentation: Any, size: tuple[int, int], box: Xyxy) -> Mask | None:
    """The mask in a ``segmentation`` of an image of ``size`` (width, height); None for none.

    ``box`` is that of the annotation. Raises ``ValueError`` for what cannot be read, is of an image
    of another size, or covers no pixel.
    """
    if not segmentation:
        return None
    try:
        if isinstance(segmentation, dict):
            mask = _of_code(segmentation, size)
        elif isinstance(segmentation, list):
            polygons = _polygons(segmentation)
            if len(polygons) == 1 and _is_outline(polygons[0], box):
                return None
            mask = mask_from_polygons(polygons, *size)
        else:
            raise ValueError(f"expected a run-length code or polygons, got {shown(segmentation)}")
        return _with_pixels(mask)
    except InvalidInput as cause:
        raise ValueError(str(cause)) from None


def outline_mask(values: Sequence[float], size: tuple[int, int]) -> Mask | None:
    """The mask of an outline, x and y in turn as shares of the sides; None for that of a box.

    Raises ``ValueError`` as ``coco_mask`` does.
    """
    corners = np.clip(np.array(values).reshape(-1, 2), 0, 1)
    (x1, y1), (x2, y2) = corners.min(axis=0), corners.max(axis=0)
    if corners.tolist() == [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]:
        return None
    try:
        return _with_pixels(mask_from_polygons([corners * np.array(size)], *size))
    except InvalidInput as cause:
        raise ValueError(str(cause)) from None


def _with_pixels(mask: Mask) -> Mask:
    if not mask.area:
        raise ValueError("its mask covers no pixel")
    return mask


def _of_code(code: dict[str, Any], size: tuple[int, int]) -> Mask:
    width, height = size
    stated, counts = code.get("size"), code.get("counts")
    if not isinstance(stated, list) or [side(value) for value in stated] != [height, width]:
        raise ValueError(
            f"its mask is of [height, width] {shown(stated)} and the image has {[height, width]}"
        )
    if isinstance(counts, str):
        return plain_mask(width, height, Mask(width, height, counts).runs.tolist())
    if not isinstance(counts, list):
        raise ValueError(f"expected counts as a text or a list of runs, got {shown(counts)}")
    if len(counts) > MAX_COUNTS:
        raise ValueError(f"its mask has {len(counts):,} runs; at most {MAX_COUNTS:,}")
    return plain_mask(width, height, [whole_number(count) for count in counts])


def _polygons(segmentation: list[Any]) -> list[np.ndarray]:
    """Those with three corners and more; others have no pixel."""
    lists = segmentation if isinstance(segmentation[0], list) else [segmentation]
    if not all(isinstance(one, list) and len(one) % 2 == 0 for one in lists):
        raise ValueError("its segmentation is not a list of x and y")
    if (corners := sum(map(len, lists)) // 2) > MAX_CORNERS:
        raise ValueError(f"its polygons have {corners:,} corners; at most {MAX_CORNERS:,}")
    try:
        return [np.array(one, np.float64).reshape(-1, 2) for one in lists if len(one) >= 6]
    except (ValueError, TypeError, OverflowError):
        raise ValueError("its segmentation has corners that are no numbers") from None


def _is_outline(polygon: np.ndarray, box: Xyxy) -> bool:
    """Whether it is a box as our own exports have it: clockwise from the upper left corner."""
    x1, y1, x2, y2 = box
    corners = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
    return polygon.shape == corners.shape and bool((np.abs(polygon - corners) <= ROUNDED).all())
