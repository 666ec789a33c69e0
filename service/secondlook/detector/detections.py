"""The detections of one image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.core.boxes import clip, nms
from secondlook.core.types import Boxes

MAX_DETECTIONS = 100
"""Detections kept of an image: as many as COCO's metrics count."""
NMS_CANDIDATES = 2 * MAX_DETECTIONS
"""Detections of an image that are compared with each other: the best ones."""
NMS_IOU = 0.7
"""IoU above which two boxes of one class are one object. Students (DETR family) should predict a
set, but after minutes of training one still finds every fifth object twice. Between 0.5 and 0.8
mAP and F1 hardly depend on the number (docs/decisions/0017)."""


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects found on one image, best first. A box may appear once for each class."""

    boxes: Boxes
    """(N, 4) float32, pixel xyxy in the original image, cut to it, each with an area."""
    scores: NDArray[np.float32]
    """(N,) the student's raw scores, [0, 1]."""
    classes: NDArray[np.int64]
    """(N,) index into the student's classes."""

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.shape != (count, 4):
            raise ValueError(f"expected boxes of shape (N, 4), got {self.boxes.shape}")
        if self.scores.shape != (count,) or self.classes.shape != (count,):
            raise ValueError(
                f"expected {count} scores and classes, got {self.scores.shape} "
                f"and {self.classes.shape}"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "Detections":
        """The same detections, only ``rows``, in that order."""
        return Detections(self.boxes[rows], self.scores[rows], self.classes[rows])


def select_detections(
    scores: NDArray[np.float32], boxes: NDArray[np.float32], width: int, height: int, floor: float
) -> Detections:
    """The detections of one image from a student's output.

    ``scores``: (queries, classes) in [0, 1]; ``boxes``: (queries, 4) xyxy relative to the image,
    whose size ``width`` × ``height`` is in pixels. Kept are the ``MAX_DETECTIONS`` best pairs of
    query and class with a score of at least ``floor``, after non-maximum suppression within each
    class at ``NMS_IOU``; equal scores keep the order of the queries.
    """
    pixel = clip(boxes * np.array([width, height, width, height], np.float32), width, height)
    queries, classes = np.nonzero((scores >= floor) & _has_area(pixel)[:, None])
    found = scores[queries, classes]
    best = np.argsort(-found, kind="stable")[:NMS_CANDIDATES]
    every = Detections(
        pixel[queries[best]],
        found[best].astype(np.float32, copy=False),
        classes[best].astype(np.int64, copy=False),
    )
    return every.take(nms(every.boxes, every.scores, NMS_IOU, every.classes)[:MAX_DETECTIONS])


def _has_area(boxes: Boxes) -> NDArray[np.bool_]:
    """(N,) whether both sides are longer than 0."""
    return np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
