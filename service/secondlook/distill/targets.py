"""A sample as the loss wants it: boxes normalised, several classes an object."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secondlook import boxes as box_ops
from secondlook.labels import Boxes

SAME = 0.95
"""IoU from which two labels of different classes are one object."""


def targets_of(
    size: tuple[int, int],
    boxes: Boxes,
    classes: NDArray[np.int64],
    ignore: Boxes,
    ignore_classes: NDArray[np.int64],
    negatives: Boxes,
    negative_classes: NDArray[np.int64],
    count: int,
) -> dict[str, Tensor]:
    """What one picture of ``size`` (width, height) teaches about ``count`` classes.

    Boxes are pixel xyxy. ``class_labels`` (N,) and ``boxes`` (N, 4) cxcywh in [0, 1] are what the
    models ask for, N objects; ``hot`` (N, count) has every class of an object, ``ignore`` (M, 4)
    and ``negatives`` (K, 4), xyxy in [0, 1], come with the classes they speak of; -1 is each class.
    """
    objects, hot = _merged(boxes, classes, count)
    scale = np.array([*size, *size], np.float32)
    corners = boxes[objects] / scale
    low, high = corners[:, :2], corners[:, 2:]
    return {
        "class_labels": torch.from_numpy(classes[objects].astype(np.int64)),
        "boxes": torch.from_numpy(np.concatenate([(low + high) / 2, high - low], 1)).float(),
        "hot": torch.from_numpy(hot),
        "ignore": torch.from_numpy(ignore / scale).float(),
        "ignore_hot": torch.from_numpy(_one_hot(ignore_classes, count)),
        "negatives": torch.from_numpy(negatives / scale).float(),
        "negative_hot": torch.from_numpy(_one_hot(negative_classes, count)),
    }


def _merged(
    boxes: Boxes, classes: NDArray[np.int64], count: int
) -> tuple[list[int], NDArray[np.float32]]:
    """One row an object, the first of its labels standing for it, and all its classes."""
    alike = box_ops.iou(boxes, boxes) >= SAME if len(boxes) else np.zeros((0, 0), bool)
    objects: list[int] = []
    hot: list[NDArray[np.float32]] = []
    for row in range(len(boxes)):
        for place, first in enumerate(objects):
            if alike[first, row] and not hot[place][classes[row]]:
                hot[place][classes[row]] = 1
                break
        else:
            objects.append(row)
            hot.append(_one_hot(classes[row : row + 1], count)[0])
    return objects, np.stack(hot) if hot else np.zeros((0, count), np.float32)


def _one_hot(classes: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    """(N, count); a row of ones for class -1."""
    eye = np.vstack([np.eye(count, dtype=np.float32), np.ones((1, count), np.float32)])
    return eye[classes]
