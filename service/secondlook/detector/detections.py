"""The detections of one image."""

from collections.abc import Sequence
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
CONTRAST_IOU = 0.5
"""IoU above which boxes of two classes of one contrast group are one object, as when detections are
matched with true boxes. Between 0.4 and 0.8 mAP hardly depends on it."""
_CLIP = 1e-6
"""Scores this near to 0 and 1 are taken as that: a logit has no end."""


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


def calibrated(
    found: Detections, calibration: Sequence[tuple[float, float]]
) -> NDArray[np.float32]:
    """(N,) the probability that each detection is right, [0, 1].

    ``calibration`` has slope and intercept of each class, as a student's manifest.
    """
    pairs = np.asarray(calibration, np.float64).reshape(-1, 2)[found.classes]
    scores = np.clip(found.scores.astype(np.float64), _CLIP, 1 - _CLIP)
    logits = np.clip(pairs[:, 0] * np.log(scores / (1 - scores)) + pairs[:, 1], -60, 60)
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def resolve_contrasts(
    found: Detections, probabilities: NDArray[np.floating], groups: Sequence[str]
) -> Detections:
    """The detections without those that contradict a more probable one.

    ``groups`` has the contrast group of each class, empty where it stands alone: an object is of
    at most one class of a group, so of its boxes that overlap by more than ``CONTRAST_IOU`` only
    the one with the highest of ``probabilities``, (N,), is kept; of equal ones the better score.
    Probabilities and not scores are compared, because 0.4 may be much for one class and little for
    another.
    """
    numbers = np.array([groups.index(group) if group else -1 for group in groups], dtype=np.int64)
    number = numbers[found.classes]
    rows = np.flatnonzero(number >= 0)
    if len(rows) < 2:
        return found
    kept = number < 0
    given = (probabilities[rows], CONTRAST_IOU, number[rows], found.classes[rows])
    best = nms(found.boxes[rows], *given)
    kept[rows[best]] = True
    return found.take(kept)


def _has_area(boxes: Boxes) -> NDArray[np.bool_]:
    """(N,) whether both sides are longer than 0."""
    return np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
