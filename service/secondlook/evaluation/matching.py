"""Matching detections to true boxes, and what the matches come to: precision and recall by class.

One matching for ``secondlook demo`` and ``secondlook evaluate``, for a student's thresholds and
calibration, and for its report. In each image and class the detections, best score first, each take
the unmatched true box that they overlap most, if that IoU is high enough; one true box is matched
at most once. A detection that matches nothing but lies in an *ignore* region (COCO's ``iscrowd``)
counts neither for nor against. What a detection is matched to depends on better ones alone, so one
matching of all detections holds at every score threshold.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.core.boxes import Xyxy, iou, share_inside
from secondlook.core.types import Boxes
from secondlook.datasets.samples import Sample
from secondlook.detector.detections import Detections
from secondlook_client.masks import Mask

MIN_IOU = 0.5
"""The usual overlap from which a box is found."""

ClassedBoxes = tuple[Boxes, NDArray[np.int64]]
"""(N, 4) boxes, pixel xyxy, and the class of each, (N,)."""


@dataclass(frozen=True)
class ScoredBox:
    """One box that somebody says is there."""

    class_name: str
    box: Xyxy
    score: float = 1.0
    """For the order of matching and for average precision; any finite scale."""


@dataclass(frozen=True)
class TrueBox:
    """One box that is there, or a region where anything may be (``ignore``)."""

    class_name: str
    box: Xyxy
    ignore: bool = False
    mask: Mask | None = None
    """Where masks were asked for, and there is one."""


ScoredImage = tuple[Sequence[ScoredBox], Sequence[TrueBox]]
"""What was said of one image, and what is true of it."""


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


@dataclass(frozen=True, eq=False)
class Matching:
    """The detections of one image against its true boxes."""

    truth: NDArray[np.int64]
    """(N,) the true box that each detection is matched to, -1 for none."""
    ignored: NDArray[np.bool_]
    """(N,) matched to nothing but in an ignore region: neither right nor wrong."""

    def found(self, boxes: int, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(boxes,) which of the true boxes a ``kept`` (N,) detection is matched to."""
        reached = np.zeros(boxes, dtype=bool)
        reached[self.truth[kept & (self.truth >= 0)]] = True
        return reached


@dataclass(frozen=True, eq=False)
class JudgedDetections:
    """All detections of one class that are right or wrong (not ignored), best score first."""

    scores: NDArray[np.float64]
    """(N,) as the student gave them, [0, 1]."""
    right: NDArray[np.bool_]
    fold: NDArray[np.int64]
    """(N,) 0 or 1: which half of the groups the image is in."""
    boxes: int
    """True boxes of the class."""
    ignored: NDArray[np.float64]
    """Scores of the detections that count neither way."""

    def at(self, threshold: float) -> Counts:
        """What the detections from ``threshold`` on come to."""
        kept = self.scores >= threshold
        right = int(self.right[kept].sum())
        ignored = int((self.ignored >= threshold).sum())
        return Counts(right, int(kept.sum()) - right, self.boxes - right, ignored)


def evaluate(
    images: Iterable[ScoredImage], classes: Sequence[str], min_iou: float = MIN_IOU
) -> Quality:
    """Match every image and add up.

    ``images`` yields the detections and the true boxes of one image at a time, so any number
    fits in memory. Only ``classes`` are looked at. ``min_iou`` in (0, 1].
    """
    if not 0 < min_iou <= 1:
        raise ValueError(f"expected min_iou in (0, 1], got {min_iou}")
    places = {name: place for place, name in enumerate(classes)}
    counts = np.zeros((4, len(places)), dtype=np.int64)
    for detections, truth in images:
        scored = [d for d in detections if d.class_name in places]
        known = [t for t in truth if t.class_name in places]
        if not scored and not known:
            continue
        found, real, regions = (
            _arrays(boxes, places)
            for boxes in (
                scored,
                [t for t in known if not t.ignore],
                [t for t in known if t.ignore],
            )
        )
        matching = match_boxes(found, [d.score for d in scored], real, regions, min_iou)
        right = np.bincount(found[1][matching.truth >= 0], minlength=len(places))
        ignored = np.bincount(found[1][matching.ignored], minlength=len(places))
        counts[0] += right
        counts[1] += np.bincount(found[1], minlength=len(places)) - right - ignored
        counts[2] += np.bincount(real[1], minlength=len(places)) - right
        counts[3] += ignored
    return Quality({name: Counts(*counts[:, place].tolist()) for name, place in places.items()})


def judge_classes(
    samples: Sequence[Sample], found: Sequence[Detections], classes: int
) -> list[JudgedDetections]:
    """The detections of each class over all images, ``found[i]`` on ``samples[i]``."""
    matchings = [match_detections(s, f) for s, f in zip(samples, found, strict=True)]
    folds = _folds(samples)
    scores = _concatenated([f.scores for f in found], np.float64)
    places = _concatenated([f.classes for f in found], np.int64)
    right = _concatenated([m.truth >= 0 for m in matchings], np.bool_)
    ignored = _concatenated([m.ignored for m in matchings], np.bool_)
    fold = np.repeat(folds, [len(f.scores) for f in found]) if found else folds
    boxes = np.bincount(_concatenated([s.classes for s in samples], np.int64), minlength=classes)
    best_first = np.argsort(-scores, kind="stable")
    judged = []
    for place in range(classes):
        rows = best_first[(places == place)[best_first]]
        out = ignored[rows]
        kept = rows[~out]
        judged.append(
            JudgedDetections(
                scores[kept], right[kept], fold[kept], int(boxes[place]), scores[rows[out]]
            )
        )
    return judged


def match_detections(sample: Sample, detections: Detections) -> Matching:
    """Match what a student found on an image to the image's labels, at IoU ``MIN_IOU``."""
    return match_boxes(
        (detections.boxes, detections.classes),
        detections.scores,
        (sample.boxes, sample.classes),
        (sample.ignore, sample.ignore_classes),
    )


def match_boxes(
    detections: ClassedBoxes,
    scores: NDArray[np.floating] | Sequence[float],
    truth: ClassedBoxes,
    ignore: ClassedBoxes,
    min_iou: float = MIN_IOU,
) -> Matching:
    """Match the detections of one image, with (N,) ``scores``, to its true boxes.

    The class -1 of an ignore region stands for every class. Equal scores keep their order.
    """
    boxes, classes = detections
    overlaps = iou(boxes, truth[0])
    overlaps[classes[:, None] != truth[1]] = -1
    matched = np.full(len(boxes), -1, dtype=np.int64)
    best_first = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    near = np.asarray((overlaps >= min_iou).any(axis=1))
    for row in best_first[near[best_first]]:
        best = int(overlaps[row].argmax())
        if overlaps[row, best] >= min_iou:
            matched[row] = best
            overlaps[:, best] = -1
    inside = share_inside(boxes, ignore[0]) >= min_iou
    inside &= (ignore[1] == classes[:, None]) | (ignore[1] < 0)
    return Matching(matched, (matched < 0) & inside.any(axis=1))


def _arrays(
    boxes: Sequence[ScoredBox] | Sequence[TrueBox], places: Mapping[str, int]
) -> ClassedBoxes:
    corners = np.array([b.box for b in boxes], dtype=np.float32).reshape(-1, 4)
    return corners, np.array([places[b.class_name] for b in boxes], dtype=np.int64)


def _folds(samples: Sequence[Sample]) -> NDArray[np.int64]:
    """(images,) 0 or 1, alternating over the groups: no group is on both sides."""
    known: dict[str, int] = {}
    keys = (sample.group or f"image {place}" for place, sample in enumerate(samples))
    return np.array([known.setdefault(key, len(known)) % 2 for key in keys], dtype=np.int64)


def _concatenated(parts: Sequence[NDArray], kind: type) -> NDArray:
    return np.concatenate([np.zeros(0, kind), *parts]).astype(kind)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
