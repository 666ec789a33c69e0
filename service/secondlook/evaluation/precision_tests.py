"""Exact tests of a claim about precision, from random answers.

Two claims, and for each the chance of seeing so few errors if it were false (a p-value).

*Of these boxes, at most so many are wrong.* The boxes, sorted by probability, are cut into slices
of (nearly) equal size, and one box of each slice, each as likely as the others, is asked about. If
W boxes are wrong, the number of errors seen is a sum of independent draws, one a slice, with mean
W ÷ size. Which boxes are wrong may depend on each other in any way: chance is in the sample alone.
Few errors are likeliest when the wrong boxes are spread evenly over the slices (Hoeffding, "On the
distribution of the number of successes in independent trials", Annals of Mathematical Statistics
27, 1956; Gleser, Annals of Probability 3, 1975: the chance of at most k successes is
Schur-concave where their mean is at least k + 2), so that is what the p-value assumes. With slices
of one box everything is known, and the p-value is 0 or 1.

*Of the boxes in scenes like these, at most a share is wrong.* Here a scene is one observation,
however many boxes it has, because a scene that fools the models can fool them with all of its
boxes. Of each scene at most one answer counts, about any of its boxes with equal chance; those
answers are independent. But a crowded scene has one answer for many boxes, and may be worse than
others. Let a scene have n boxes that the claim is about, a share q of them wrong, and x boxes by
which it counts as crowded, and let φ be the chance that it gives an answer. The share of wrong
boxes is E[n q] ÷ E[n], the share of wrong answers E[φ q] ÷ E[φ]. The assumption: a box in a scene
that is m times as crowded is at most m times as likely to be wrong, so q ÷ x does not grow with x.
Where n ÷ φ does not fall with x, E[φ q] ÷ E[φ x] ≥ E[n q] ÷ E[n x] (Chebyshev's inequality for
monotone functions), so the share of wrong answers is at least that of wrong boxes times

    E[n] E[φ x] ÷ (E[n x] E[φ])

(``crowding_factor``, at most 1), and the p-value is a binomial tail at that share. Where few scenes
are asked about, in proportion to their boxes, the factor is 1 and nothing is assumed. Where all
are, the answers count as many as their "effective sample size" by Kish's formula. Without any
assumption the most crowded scene would take the place of E[n x] ÷ E[n], and a few hundred scenes
would hardly ever be enough.
"""

import math

import numpy as np
from numpy.typing import NDArray

_FEW = 30
"""Errors below which a plain loop cannot lose its first term: e^-700 leaves nothing to lose."""


def answers_without_error(target: float, confidence: float) -> int:
    """The fewest independent answers that can show a precision of ``target``: all of them right."""
    return math.ceil(math.log1p(-confidence) / math.log(target) - 1e-9)


def boxes_p_value(wrong: int, slices: int, size: int, wrong_boxes: int) -> float:
    """The greatest chance of at most ``wrong`` errors if at least ``wrong_boxes`` are wrong.

    ``slices`` answers, one of each slice of at most ``size`` boxes.
    """
    if size <= 1:
        return float(wrong_boxes <= wrong)
    if wrong_boxes > slices * size:
        return 0.0
    if wrong and wrong > wrong_boxes / size - 2:
        return 1.0  # above what is proven, and far from any confidence
    of_each, more = divmod(wrong_boxes, slices)
    some = _at_most(wrong, slices - more, of_each / size)
    others = _at_most(wrong, more, (of_each + 1) / size)
    return float(min(np.convolve(some, others)[: wrong + 1].sum(), 1.0))


def binomial_tail(wrong: int, answers: int, share: float) -> float:
    """The chance of at most ``wrong`` errors in independent answers, each wrong with ``share``."""
    if wrong >= _FEW or not 0 < share < 1:
        return float(min(_at_most(wrong, answers, share).sum(), 1.0))
    term = total = math.exp(answers * math.log1p(-share))  # ten times as fast for a few errors
    for number in range(1, min(wrong, answers) + 1):
        term *= (answers - number + 1) / number * share / (1 - share)
        total += term
    return min(total, 1.0)


def answers_with_errors(wrong: int, share: float, level: float, most: int) -> int:
    """The fewest independent answers of which so many may be wrong: their p-value is at most
    ``level``. ``most`` + 1 where it takes more than ``most``."""
    low, high = wrong, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_tail(wrong, middle, share) <= level:
            high = middle
        else:
            low = middle
    return high


def allowed_errors(answers: int, share: float, level: float) -> int:
    """The most errors in independent answers whose p-value is at most ``level``; -1 for none."""
    pmf = _at_most(answers, answers, share)
    return int(np.searchsorted(np.cumsum(pmf), level, side="right")) - 1


def boxes_bound(wrong: int, slices: int, size: int, boxes: int, level: float) -> float:
    """The precision of ``boxes`` boxes that is exceeded with a chance of 1 - ``level``, [0, 1]."""
    low, high = wrong, boxes + 1  # the least number of wrong boxes that can be excluded
    while high - low > 1:
        middle = (low + high) // 2
        if boxes_p_value(wrong, slices, size, middle) <= level:
            high = middle
        else:
            low = middle
    return 1 - (high - 1) / boxes


def binomial_bound(wrong: int, answers: int, level: float) -> float:
    """The share of right answers that is exceeded with a chance of 1 - ``level``, [0, 1].

    Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 26, 1934.
    """
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if binomial_tail(wrong, answers, 1 - middle) <= level:
            low = middle
        else:
            high = middle
    return low


def crowding_factor(
    boxes: NDArray[np.intp], crowds: NDArray[np.intp], chances: NDArray[np.float64]
) -> float:
    """How far the share of wrong answers may be below that of wrong boxes, in (0, 1].

    ``boxes`` n, ``crowds`` x and ``chances`` φ (S,) of each scene, as in the module.
    """
    pairs = np.sum(boxes * crowds.astype(np.float64)) * chances.sum()
    return float(min(boxes.sum() * np.sum(crowds * chances) / pairs, 1.0))


def _at_most(most: int, draws: int, chance: float) -> NDArray[np.float64]:
    """(most + 1,) probabilities of 0 to ``most`` successes in independent draws."""
    found = np.zeros(most + 1)
    if draws <= 0 or chance <= 0:
        found[0] = 1.0
    elif chance >= 1:
        if draws <= most:
            found[draws] = 1.0
    else:
        numbers = np.arange(1, min(most, draws) + 1)
        steps = np.log(draws - numbers + 1) - np.log(numbers)
        odds = math.log(chance) - math.log1p(-chance)
        logs = np.concatenate([[0.0], np.cumsum(steps + odds)]) + draws * math.log1p(-chance)
        found[: len(logs)] = np.exp(logs)
    return found
