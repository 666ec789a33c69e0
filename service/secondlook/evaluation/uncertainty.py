"""Uncertainty of a student's detections, from three sources, and of an image.

A student's own score is no judge of itself: one that has learnt few images by heart is as sure of
its errors as of the rest. Asked again on other views (*Monte-Carlo*), it has to find the same thing
once more; other models (*committee*) have to agree; and how it spreads each edge of a box over its
bins (*distribution*) says how sure it is of the outline. ``python -m bench uncertainty`` compares
them: the committee finds most wrong labels, then the views; the distribution alone finds fewer than
the score.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.core.boxes import iou
from secondlook.core.types import Boxes
from secondlook.detector.detections import Detections
from secondlook.detector.views import DetectedAgain
from secondlook.evaluation.matching import MIN_IOU
from secondlook_client.values import Outcome

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sightings:
    """N detections of an image, and what V views of it said of them, the image itself first."""

    scores: Floats
    """(V, N) of the detection of the same class at the same place, [0, 1]; 0 where there is none,
    NaN where the view does not show the place."""
    overlaps: Floats
    """(V, N) IoU of that detection with the first one, likewise."""

    @property
    def confidence(self) -> Floats:
        """(N,) mean score × IoU over the views that show the box, [0, 1]."""
        return np.asarray(np.nanmean(self.scores * self.overlaps, axis=0))

    @property
    def score_spread(self) -> Floats:
        """(N,) standard deviation of the score over the views."""
        return np.asarray(np.nanstd(self.scores, axis=0))

    @property
    def box_spread(self) -> Floats:
        """(N,) mean of 1 - IoU over the views, [0, 1]; a view that finds nothing counts as 1."""
        return 1 - np.asarray(np.nanmean(self.overlaps, axis=0))


def sightings(first: Detections, again: Sequence[DetectedAgain]) -> Sightings:
    """Where other views show the N detections of an image.

    Of the detections of a view that have the same class and an IoU of at least 0.5, the one with
    the highest score × IoU counts.
    """
    scores, overlaps = [first.scores.astype(np.float64)], [np.ones(len(first))]
    for view in again:
        same = view.found.classes == first.classes[:, None]
        there = _partners(first.boxes, view.found.boxes, np.where(same, view.found.scores, 0))
        scores.append(np.where(view.shown, there.take(view.found.scores[None]), np.nan))
        overlaps.append(np.where(view.shown, there.overlaps, np.nan))
    return Sightings(np.stack(scores), np.stack(overlaps))


def committee_opinions(
    found: Detections, boxes: Boxes, scores: NDArray[np.floating], p_yes: NDArray[np.floating]
) -> Floats:
    """(3, N) what student, proposer and verifier give each of N detections of an image, [0, 1].

    ``boxes`` (M, 4) are the proposer's, with its ``scores`` (M, C) for the student's classes and
    the verifier's ``p_yes`` (M, C), NaN where it gave no answer. Of the boxes with an IoU of at
    least 0.5 the one with the highest score × IoU counts; without one, or without an answer, the
    opinion is 0. The mean of the three is a confidence.
    """
    own = scores.T[found.classes]
    there = _partners(found.boxes, boxes, own)
    answers = np.nan_to_num(p_yes.T[found.classes])
    return np.stack([found.scores, there.take(own), there.take(answers)]).astype(np.float64)


def decision_uncertainty(outcome: Outcome, confidence: float) -> float:
    """How far the confidence that a label is right, [0, 1], speaks against a decision, [0, 1].

    What is missing to 1 against an accepted label, all of it against a rejected one; the smaller of
    the two against an unsure one, which is nearest to either decision where it is 0.
    """
    if outcome is Outcome.ACCEPT:
        return 1 - confidence
    return confidence if outcome is Outcome.REJECT else min(confidence, 1 - confidence)


def confirmations(first: Detections, found: Detections) -> "Confirmations":
    """Which detection of a student is of the same class and at the same place as each of N boxes.

    As in ``sightings``: an IoU of at least 0.5, the highest score × IoU.
    """
    same = found.classes == first.classes[:, None]
    there = _partners(first.boxes, found.boxes, np.where(same, found.scores, 0))
    return Confirmations(there.rows, there.take(found.scores[None]), there.overlaps)


@dataclass(frozen=True, eq=False)
class Confirmations:
    """For each of N boxes the detection of a student that confirms it."""

    rows: NDArray[np.intp]
    """(N,) of the student's detections; -1 where none does."""
    scores: Floats
    """(N,) of that detection, [0, 1]; 0 where there is none."""
    overlaps: Floats
    """(N,) IoU with it, likewise."""


def edge_uncertainty(
    bins: NDArray[np.floating], distances: NDArray[np.floating]
) -> tuple[Floats, Floats]:
    """(N, 4) entropy and (N, 4) width of the edges of N boxes: left, top, right, bottom.

    ``bins`` (N, 4, K) are the probabilities of the K ``distances``, (K,), by which a student may
    move each edge, in sides of the box. The entropy is a share of the largest there can be, [0, 1];
    the width is the standard deviation of the distance.
    """
    p = bins.astype(np.float64)
    entropy = -(p * np.log(np.maximum(p, np.finfo(np.float64).tiny))).sum(axis=2)
    mean = p @ distances
    variance = (p * (distances - mean[..., None]) ** 2).sum(axis=2)
    return entropy / np.log(p.shape[2]), np.sqrt(variance)


def expected_wrong(confidence: NDArray[np.floating]) -> float:
    """How many of an image's labels are wrong, were the confidences, (N,), probabilities.

    The uncertainty of the image: the more, the sooner a person should look at it.
    """
    return float((1 - confidence).sum())


@dataclass(frozen=True, eq=False)
class _Partners:
    """For each of N boxes the one of M others that counts for it."""

    rows: NDArray[np.intp]
    """(N,) -1 where there is none."""
    overlaps: Floats
    """(N,) IoU with it, 0 where there is none."""

    def take(self, values: NDArray[np.floating]) -> Floats:
        """(N,) the partner's value of (N, M) or (1, M) values, 0 where there is none."""
        taken = np.zeros(len(self.rows))
        found = np.flatnonzero(self.rows >= 0)
        taken[found] = np.broadcast_to(values, (len(self.rows), values.shape[1]))[
            found, self.rows[found]
        ]
        return taken


def _partners(boxes: Boxes, others: Boxes, values: NDArray[np.floating]) -> _Partners:
    """Of the others that overlap a box enough, the one with the highest of ``values`` (N, M) × IoU,
    if that is above 0."""
    overlaps = iou(boxes, others).astype(np.float64)
    worth = np.where(overlaps >= MIN_IOU, overlaps * values, 0.0)
    if not len(others):
        return _Partners(np.full(len(boxes), -1), np.zeros(len(boxes)))
    rows = worth.argmax(axis=1)
    there = worth.max(axis=1) > 0
    best = overlaps[np.arange(len(boxes)), rows]
    return _Partners(np.where(there, rows, -1), np.where(there, best, 0.0))
