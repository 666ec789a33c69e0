"""How good labels are, against the truth: precision and recall by class.

One arithmetic for ``secondlook demo`` and ``secondlook evaluate``. In each image and class the
detections, best score first, each take the unmatched true box that they overlap most, if that
IoU is high enough; one true box is matched at most once. A detection that matches nothing but
lies in an *ignore* region (COCO's ``iscrowd``) counts neither for nor against.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.core import boxes as box_ops
from secondlook.core.types import Boxes

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Detection:
    """One box that somebody says is there."""

    class_name: str
    box: Box
    """Pixel xyxy."""
    score: float = 1.0
    """For the order of matching and for average precision; any finite scale."""


@dataclass(frozen=True)
class TrueBox:
    """One box that is there, or a region where anything may be (``ignore``)."""

    class_name: str
    box: Box
    """Pixel xyxy."""
    ignore: bool = False


@dataclass(frozen=True)
class Counts:
    """What the detections of one or more classes came to."""

    right: int = 0
    """Detections matched to a true box."""
    wrong: int = 0
    """Detections matched to nothing."""
    missed: int = 0
    """True boxes (not ignored) that no detection matched."""
    ignored: int = 0
    """Detections in an ignore region; in no figure."""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.right + other.right,
            self.wrong + other.wrong,
            self.missed + other.missed,
            self.ignored + other.ignored,
        )

    @property
    def precision(self) -> float | None:
        """Share of the detections that are right, [0, 1]; None when nothing was detected."""
        return _share(self.right, self.right + self.wrong)

    @property
    def recall(self) -> float | None:
        """Share of the true boxes that were found, [0, 1]; None when there are none."""
        return _share(self.right, self.right + self.missed)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of both, [0, 1]; None when there is neither box nor detection."""
        return _share(2 * self.right, 2 * self.right + self.wrong + self.missed)


@dataclass(frozen=True)
class Quality:
    """Counts by class, in the order of the classes asked for."""

    by_class: Mapping[str, Counts]

    def total(self, classes: Collection[str] | None = None) -> Counts:
        """The sum over ``classes``, or over all of them."""
        return sum(
            (c for name, c in self.by_class.items() if classes is None or name in classes), Counts()
        )


ScoredImage = tuple[Sequence[Detection], Sequence[TrueBox]]


def evaluate(
    images: Iterable[ScoredImage], classes: Sequence[str], min_iou: float = 0.5
) -> Quality:
    """Match every image and add up.

    ``images`` yields the detections and the true boxes of one image at a time, so any number
    fits in memory. Only ``classes`` are looked at. ``min_iou`` in (0, 1].
    """
    if not 0 < min_iou <= 1:
        raise ValueError(f"expected min_iou in (0, 1], got {min_iou}")
    counts = dict.fromkeys(classes, Counts())
    for detections, truth in images:
        present = {d.class_name for d in detections} | {t.class_name for t in truth}
        for name in present & counts.keys():
            counts[name] += match_class(
                [d for d in detections if d.class_name == name],
                [t for t in truth if t.class_name == name],
                min_iou,
            )
    return Quality(counts)


def match_class(
    detections: Sequence[Detection], truth: Sequence[TrueBox], min_iou: float = 0.5
) -> Counts:
    """Count one class on one image. Equal scores keep their order."""
    scores = np.array([d.score for d in detections], dtype=np.float64)
    matched = match(
        _stack([d.box for d in detections]),
        scores,
        _stack([t.box for t in truth if not t.ignore]),
        min_iou,
    )
    regions = _stack([t.box for t in truth if t.ignore])
    lost = _stack([d.box for d in detections])[matched < 0]
    ignored = int((box_ops.share_inside(lost, regions) >= min_iou).any(axis=1).sum())
    right = int((matched >= 0).sum())
    real = sum(not t.ignore for t in truth)
    return Counts(right, len(detections) - right - ignored, real - right, ignored)


def match(
    boxes: Boxes, scores: NDArray[np.float64], truth: Boxes, min_iou: float
) -> NDArray[np.intp]:
    """(N,) index of the true box that each box is matched to, or -1.

    ``boxes``: (N, 4), ``truth``: (M, 4), pixel xyxy; greedy, best score first, one to one.
    """
    matched = np.full(len(boxes), -1, dtype=np.intp)
    if not len(boxes) or not len(truth):
        return matched
    overlaps = box_ops.iou(boxes, truth)
    for row in np.argsort(-scores, kind="stable"):
        best = int(overlaps[row].argmax())
        if overlaps[row, best] >= min_iou:
            matched[row] = best
            overlaps[:, best] = -1
    return matched


def _stack(boxes: Sequence[Box]) -> Boxes:
    return np.array(boxes, dtype=np.float32).reshape(-1, 4)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
