"""Which detections are right at IoU 0.5, and which boxes were found: one matching for thresholds,
calibration and the report.

Greedy by score, one to one, class by class, as ``evaluation.matching`` and COCO do it. What a
detection is matched to depends on better ones alone, so one matching of all detections holds at
every threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.core import boxes as box_ops
from secondlook.datasets.samples import Sample
from secondlook.detector.detections import Detections
from secondlook.evaluation import matching

MIN_IOU = 0.5


@dataclass(frozen=True, eq=False)
class Matching:
    """The detections of one image against its labels."""

    truth: NDArray[np.int64]
    """(N,) the sample's box that each detection is matched to, -1 for none."""
    ignored: NDArray[np.bool_]
    """(N,) matched to nothing but in a region to ignore: neither right nor wrong."""

    def found(self, boxes: int, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(boxes,) which of the sample's boxes a ``kept`` (N,) detection is matched to."""
        reached = np.zeros(boxes, dtype=bool)
        reached[self.truth[kept & (self.truth >= 0)]] = True
        return reached


@dataclass(frozen=True, eq=False)
class Judged:
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

    def at(self, threshold: float) -> matching.Counts:
        """What the detections from ``threshold`` on come to."""
        kept = self.scores >= threshold
        right = int(self.right[kept].sum())
        ignored = int((self.ignored >= threshold).sum())
        return matching.Counts(right, int(kept.sum()) - right, self.boxes - right, ignored)


def match_detections(sample: Sample, seen: Detections) -> Matching:
    """Match one image's detections to its boxes."""
    truth = np.full(len(seen.scores), -1, dtype=np.int64)
    for place in np.intersect1d(seen.classes, sample.classes):
        rows, real = np.flatnonzero(seen.classes == place), np.flatnonzero(sample.classes == place)
        scores = seen.scores[rows].astype(np.float64)
        matched = matching.match(seen.boxes[rows], scores, sample.boxes[real], MIN_IOU)
        truth[rows] = np.where(matched >= 0, real[matched], -1)
    inside = box_ops.share_inside(seen.boxes, sample.ignore) >= MIN_IOU
    inside &= ignores(sample, seen.classes[:, None])
    return Matching(truth, (truth < 0) & inside.any(axis=1))


def ignores(sample: Sample, places: NDArray[np.int64] | np.int64) -> NDArray[np.bool_]:
    """Which of the sample's M regions say nothing of the classes ``places``: (M,) for one class,
    (N, M) for an (N, 1) column of them."""
    return (sample.ignore_classes == places) | (sample.ignore_classes < 0)


def judge_classes(
    samples: Sequence[Sample], found: Sequence[Detections], classes: int
) -> list[Judged]:
    """The detections of each class over all images, ``found[i]`` on ``samples[i]``."""
    matchings = [match_detections(s, f) for s, f in zip(samples, found, strict=True)]
    folds = _folds(samples)
    scores = _joined([f.scores for f in found], np.float64)
    places = _joined([f.classes for f in found], np.int64)
    right = _joined([m.truth >= 0 for m in matchings], np.bool_)
    ignored = _joined([m.ignored for m in matchings], np.bool_)
    fold = np.repeat(folds, [len(f.scores) for f in found]) if found else folds
    boxes = np.bincount(_joined([s.classes for s in samples], np.int64), minlength=classes)
    best_first = np.argsort(-scores, kind="stable")
    judged = []
    for place in range(classes):
        rows = best_first[(places == place)[best_first]]
        out = ignored[rows]
        kept = rows[~out]
        judged.append(
            Judged(scores[kept], right[kept], fold[kept], int(boxes[place]), scores[rows[out]])
        )
    return judged


def _folds(samples: Sequence[Sample]) -> NDArray[np.int64]:
    """(images,) 0 or 1, alternating over the groups: no group is on both sides."""
    known: dict[str, int] = {}
    keys = (sample.group or f"image {place}" for place, sample in enumerate(samples))
    return np.array([known.setdefault(key, len(known)) % 2 for key in keys], dtype=np.int64)


def _joined(parts: Sequence[NDArray], kind: type) -> NDArray:
    return np.concatenate([np.zeros(0, kind), *parts]).astype(kind)
