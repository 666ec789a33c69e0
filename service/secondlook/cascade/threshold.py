"""From where on a student is certain: what it expects of its labels, and what came of that.

A student's probabilities are calibrated on the images held out of its training, and another
camera has others: where it expects an agreement of 0.95 it may reach 0.8, or the reverse. But what
it expects still tells its better images from its worse. So the bound is learnt on the stream
itself, from every image that the teachers have labelled, too, and moves with it.
"""

from collections import deque

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

REMEMBERED = 400
"""Comparisons: of old ones the newest say what is true now."""
LEAST = 30
"""Comparisons before the student is certain of anything."""
LEAST_ABOVE = 10
"""Of them at or above a bound, so that it does not stand on a few lucky ones."""
POOREST = 0.2
"""By which images at the bound itself may fall short: a mean alone would let good images pay
for hopeless ones."""
MARGIN = 0.03
"""By which the images above the bound agree better than asked: at the bound itself trust, which
tests the same with new images, would hardly ever be won."""


class Certainty:
    """The lowest expectation above which labels agree as wanted. Not thread-safe."""

    def __init__(self, wanted: float) -> None:
        """``wanted``: the mean agreement with the teachers, (0, 1)."""
        self._wanted = min(wanted + MARGIN, (wanted + 1) / 2)
        self._heard: deque[tuple[float, float, float]] = deque(maxlen=REMEMBERED)
        self._bound: float | None = None
        self._is_new = False

    def hear(self, expected: float, agreement: float, weight: float = 1.0) -> None:
        """What the student expected of an image and what it came to, both [0, 1].

        ``weight``: how many images it stands for, > 0; a sample stands for those left out.
        """
        self._heard.append((expected, agreement, weight))
        self._is_new = True

    @property
    def bound(self) -> float | None:
        """The lowest expectation of which the student is certain; None: of nothing."""
        if self._is_new:
            self._bound, self._is_new = self._found(), False
        return self._bound

    def holds(self, expected: float) -> bool:
        """Whether the student is certain of an image of which it expects this."""
        return self.bound is not None and expected >= self.bound

    def _found(self) -> float | None:
        if len(self._heard) < LEAST:
            return None
        expected, agreement, weight = np.array(self._heard).T
        levels, of_level, counts = np.unique(-expected, return_inverse=True, return_counts=True)
        weights = np.bincount(of_level, weight).astype(np.float64)
        sums = np.bincount(of_level, agreement * weight)
        good = np.cumsum(sums) / np.cumsum(weights) >= self._wanted
        good &= _falling(sums / weights, weights) >= self._wanted - POOREST
        good &= np.cumsum(counts) >= LEAST_ABOVE
        return float(-levels[good][-1]) if good.any() else None


def _falling(values: Numbers, weights: Numbers) -> Numbers:
    """(N,) the nearest numbers that never rise: neighbours that do are pooled until none do
    (isotonic regression)."""
    pools: list[tuple[float, float, int]] = []  # of each: mean, weight, count
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        pool = value, weight, 1
        while pools and pools[-1][0] <= pool[0]:
            mean, heavy, count = pools.pop()
            total = heavy + pool[1]
            pool = (mean * heavy + pool[0] * pool[1]) / total, total, count + pool[2]
        pools.append(pool)
    return np.repeat([mean for mean, _, _ in pools], [count for _, _, count in pools])
