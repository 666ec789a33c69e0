"""From a student's score to the probability that the detection is right, and how far probabilities
of any kind can be trusted.

Platt's method (Platt 1999, with his softened targets): P(right) = sigmoid(slope · logit(score) +
intercept). A class with few detections is pulled towards the fit of all classes together, and that
one towards the identity, so that one lucky detection makes no class certain.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.config.extras import missing_extra
from secondlook.evaluation.matching import JudgedDetections

FLOOR = 0.05
"""Lowest score that is looked at: a device reports no less, and the many hopeless detections below
would decide the fit where nobody uses it."""
PRIOR_PRECISION = 2.0
"""Of the Gaussian prior on slope and intercept; about twenty detections outweigh it."""
MIN_SLOPE = 0.1
"""A better score never means a lower probability, whatever few examples say."""
LOGIT_MARGIN = 1e-6
"""Scores are kept this far from 0 and 1 before the logit."""
BINS = 10

Fit = tuple[float, float]
"""Slope and intercept."""
IDENTITY: Fit = (1.0, 0.0)


@dataclass(frozen=True)
class Bin:
    """Detections whose probability lies in one tenth of [0, 1]."""

    low: float
    high: float
    count: int
    probability: float | None
    """Their mean probability; None of an empty bin."""
    right: float | None
    """The share of them that is right."""


@dataclass(frozen=True)
class Reliability:
    """How far a probability agrees with the share that is right."""

    bins: tuple[Bin, ...]
    error: float | None
    """Expected calibration error, [0, 1]: mean distance of both over the detections; None
    without detections."""


def probability(scores: NDArray[np.floating], fit: Fit) -> NDArray[np.float64]:
    """(N,) probabilities from (N,) raw scores in [0, 1]."""
    return _sigmoid(fit[0] * _logit(scores) + fit[1])


def fit_classes(judged: Sequence[JudgedDetections]) -> list[Fit]:
    """A fit for each class, from its detections that are right or wrong.

    Raises ``MissingExtra`` when scipy is not installed.
    """
    return _fits([_usable(one) for one in judged])


def reliability(judged: Sequence[JudgedDetections], fits: Sequence[Fit]) -> Reliability:
    """Of given fits, over the detections of all classes."""
    parts = [_usable(one) for one in judged]
    guesses = [probability(s, fit) for (s, _, _), fit in zip(parts, fits, strict=True)]
    return _reliability(guesses, [right for _, right, _ in parts])


def cross_fitted(judged: Sequence[JudgedDetections]) -> Reliability:
    """Of fits that never saw the images they are judged on: each half of the groups is
    calibrated by the other half. What new images can expect."""
    parts = [_usable(one) for one in judged]
    guesses, rights = [], []
    for fold in (0, 1):
        fits = _fits([(s[f != fold], r[f != fold], f[f != fold]) for s, r, f in parts])
        for (scores, right, folds), fit in zip(parts, fits, strict=True):
            guesses.append(probability(scores[folds == fold], fit))
            rights.append(right[folds == fold])
    return _reliability(guesses, rights)


def reliability_of(probabilities: NDArray[np.float64], right: NDArray[np.bool_]) -> Reliability:
    """Of N probabilities in [0, 1], and whether each came true."""
    return _reliability([probabilities], [right])


def auroc(scores: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """The chance that a right one scores above a wrong one, equal scores counting half.

    1 where all are right, or all wrong.
    """
    yes, no = np.sort(scores[right]), np.sort(scores[~right])
    if not len(yes) or not len(no):
        return 1.0
    below = np.searchsorted(no, yes, "left") + np.searchsorted(no, yes, "right")
    return float(below.mean() / 2 / len(no))


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """What accepting the N most certain ones costs, for every threshold, the highest first."""

    coverage: NDArray[np.float64]
    """(K,) share of all that is accepted."""
    risk: NDArray[np.float64]
    """(K,) share of these that is wrong."""
    kept: NDArray[np.float64]
    """(K,) share of all right ones that is accepted; 0 where none is right."""

    @property
    def area(self) -> float:
        """Mean risk over all coverages, [0, 1]; lower is better."""
        steps = np.diff(self.coverage, prepend=0.0)
        return float(steps @ self.risk)

    def kept_at(self, precision: float) -> float:
        """The largest share of the right ones that is accepted while the risk is at most
        1 - ``precision``, by the best threshold in hindsight."""
        return float(self.kept[self.risk <= 1 - precision + 1e-12].max(initial=0.0))


def risk_coverage(scores: NDArray[np.floating], right: NDArray[np.bool_]) -> RiskCoverage:
    """Of N scores, higher for what is more certain, and whether each is right.

    Equal scores are accepted together.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)[: len(order)]
    accepted = np.flatnonzero(last_of_tie) + 1
    hits = np.cumsum(right[order])[last_of_tie]
    return RiskCoverage(
        accepted / max(len(order), 1), 1 - hits / accepted, hits / max(int(right.sum()), 1)
    )


Part = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]
"""Scores, whether right, and the fold of some detections."""


def _usable(judged: JudgedDetections) -> Part:
    kept = judged.scores >= FLOOR
    return judged.scores[kept], judged.right[kept], judged.fold[kept]


def _fits(parts: Sequence[Part]) -> list[Fit]:
    if not parts:
        return []
    scores = np.concatenate([scores for scores, _, _ in parts])
    pooled = _fit(scores, np.concatenate([right for _, right, _ in parts]), IDENTITY)
    return [_fit(scores, right, pooled) for scores, right, _ in parts]


def _fit(scores: NDArray[np.float64], right: NDArray[np.bool_], prior: Fit) -> Fit:
    """The most probable fit around ``prior``."""
    if not len(scores):
        return prior
    try:
        from scipy.optimize import minimize
    except ImportError:
        raise missing_extra("calibrating a student", "distill") from None
    x, hits = _logit(scores), int(right.sum())
    target = np.where(right, (hits + 1) / (hits + 2), 1 / (len(right) - hits + 2))

    def loss(numbers: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z, off = numbers[0] * x + numbers[1], numbers - prior
        slack = _sigmoid(z) - target
        value = np.logaddexp(0, z).sum() - (target * z).sum() + PRIOR_PRECISION / 2 * (off**2).sum()
        return float(value), np.array([slack @ x, slack.sum()]) + PRIOR_PRECISION * off

    bounds = [(MIN_SLOPE, None), (None, None)]
    best = minimize(loss, np.array(prior), jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(best[0]), float(best[1])


def _reliability(
    guesses: Sequence[NDArray[np.float64]], rights: Sequence[NDArray[np.bool_]]
) -> Reliability:
    p = np.concatenate([np.zeros(0), *guesses])
    right = np.concatenate([np.zeros(0, dtype=bool), *rights])
    place = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    bins = tuple(_bin(number, p[place == number], right[place == number]) for number in range(BINS))
    if not len(p):
        return Reliability(bins, None)
    off = [abs(p[place == number].sum() - right[place == number].sum()) for number in range(BINS)]
    return Reliability(bins, float(sum(off) / len(p)))


def _bin(number: int, p: NDArray[np.float64], right: NDArray[np.bool_]) -> Bin:
    low, high = number / BINS, (number + 1) / BINS
    if not len(p):
        return Bin(low, high, 0, None, None)
    return Bin(low, high, len(p), float(p.mean()), float(right.mean()))


def _logit(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    inside = np.clip(scores.astype(np.float64), LOGIT_MARGIN, 1 - LOGIT_MARGIN)
    return np.log(inside) - np.log1p(-inside)


def _sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0, -z))
