"""How good a student is on images whose labels are known.

COCO's figures come from faster-coco-eval. Thresholds, counts and calibration come from one
matching at IoU 0.5; regions to ignore count neither way in any of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.datasets.samples import Sample
from secondlook.detector.detections import Detections
from secondlook.evaluation import calibration
from secondlook.evaluation.average_precision import average_precision
from secondlook.evaluation.calibration import Fit, Reliability
from secondlook.evaluation.matching import Counts, JudgedDetections, judge_classes

DEFAULT_THRESHOLD = 0.5
"""The threshold where no detection at all is right."""
MIN_THRESHOLD = 0.05
"""A threshold is not set lower than this only because nothing lower was found."""


@dataclass(frozen=True, eq=False)
class Scores:
    """All figures of one student on one set of images; mappings are by class, in their order."""

    map: float
    """COCO's mean average precision over IoU 0.50 to 0.95, [0, 1]; 0 without any true box."""
    map50: float
    """The same at IoU 0.50."""
    map50_per_class: Mapping[str, float | None]
    """None for a class without a true box."""
    map_per_class: Mapping[str, float | None]
    curves: Mapping[str, NDArray[np.float64] | None]
    """(101,) precision at recall 0, 0.01 … 1 at IoU 0.50; None without a true box."""
    best_thresholds: Mapping[str, float]
    """On the raw score: where F1 is best. A class of which no detection is right has the one that
    is best over all classes."""
    at_thresholds: Mapping[str, Counts]
    """What comes of these thresholds: right, wrong, missed, ignored."""
    calibration: Mapping[str, Fit]
    """Slope and intercept: P(right) = sigmoid(slope · logit(score) + intercept)."""
    raw_reliability: Reliability
    """Of the scores as they are, over all classes."""
    reliability: Reliability
    """Of the calibrated probabilities, on images that the calibration had not seen."""
    images: int
    boxes: int
    """True boxes."""
    boxes_per_class: Mapping[str, int]
    ignored: int
    """Regions to ignore."""
    detections: int
    """Of any score."""


def score(samples: Sequence[Sample], found: Sequence[Detections], classes: Sequence[str]) -> Scores:
    """Score what a student found: ``found[i]`` on ``samples[i]``, raw scores, ≤ 100 an image.

    ``classes`` are the names of the class indices. Raises ``MissingExtra`` without the packages of
    ``secondlook[distill]`` and ``ValueError`` when the lists differ in length.
    """
    if len(samples) != len(found):
        raise ValueError(f"expected detections of {len(samples)} images, got {len(found)}")
    coco = average_precision(samples, found, classes)
    judged = judge_classes(samples, found, len(classes))
    by_class = dict(zip(classes, judged, strict=True))
    fits = calibration.fit_classes(judged)
    fallback = best_threshold(_pooled(judged)) or DEFAULT_THRESHOLD
    thresholds = {name: best_threshold(one) or fallback for name, one in by_class.items()}
    identity = [calibration.IDENTITY] * len(judged)
    return Scores(
        map=coco.map or 0.0,
        map50=coco.map50 or 0.0,
        map50_per_class=coco.map50_per_class,
        map_per_class=coco.map_per_class,
        curves=coco.curves,
        best_thresholds=thresholds,
        at_thresholds={name: one.at(thresholds[name]) for name, one in by_class.items()},
        calibration=dict(zip(classes, fits, strict=True)),
        raw_reliability=calibration.reliability(judged, identity),
        reliability=calibration.cross_fitted(judged),
        images=len(samples),
        boxes=sum(len(sample.boxes) for sample in samples),
        boxes_per_class={name: one.boxes for name, one in by_class.items()},
        ignored=sum(len(sample.ignore) for sample in samples),
        detections=sum(map(len, found)),
    )


def best_threshold(judged: JudgedDetections) -> float | None:
    """The score from which keeping detections gives the best F1; None when none is right.

    Halfway down to the next detection that is left out, where there is room: a threshold on the
    very score of one detection would lose the next one like it.
    """
    right = np.cumsum(judged.right)
    if not right.size or not right[-1]:
        return None
    f1 = 2 * right / (np.arange(1, len(right) + 1) + judged.boxes)
    last_of_tie = np.append(judged.scores[:-1] > judged.scores[1:], True)
    best = int(np.argmax(np.where(last_of_tie, f1, -1)))
    kept = judged.scores[best]
    left_out = judged.scores[best + 1] if best + 1 < len(right) else min(kept, MIN_THRESHOLD)
    halfway = np.float32((kept + left_out) / 2)  # devices compare float32 scores
    return float(halfway) if left_out < halfway <= kept else float(kept)


def _pooled(judged: Sequence[JudgedDetections]) -> JudgedDetections:
    """All classes as if they were one."""
    scores = np.concatenate([np.zeros(0), *(one.scores for one in judged)])
    order = np.argsort(-scores, kind="stable")
    right = np.concatenate([np.zeros(0, dtype=bool), *(one.right for one in judged)])
    fold = np.concatenate([np.zeros(0, dtype=np.int64), *(one.fold for one in judged)])
    boxes = sum(one.boxes for one in judged)
    return JudgedDetections(scores[order], right[order], fold[order], boxes, np.zeros(0))
