"""From which expected agreement on a student labels alone, learnt from the stream itself.

This is selective classification: answer where a confidence score is high enough, and choose the
threshold from examples so that the accepted ones are as good as asked (Geifman and El-Yaniv,
"Selective Classification for Deep Neural Networks", NeurIPS 2017). The score is the agreement
that the student expects of its labels (``student``), the examples are the images that the teachers
have labelled, too. A student's probabilities are calibrated on the images held out of its
training, and another camera has others: where it expects 0.95 it may reach 0.8, or the reverse.
But the score still ranks its better images above its worse, which is all that is used here.

Two conditions hold at the threshold: the weighted mean agreement of everything above it, and a
bound on the agreement *at* it, estimated by isotonic regression (pool adjacent violators; Ayer et
al., Annals of Mathematical Statistics 26, 1955). Both are plain estimates without a confidence
bound: whether they hold is what ``trust`` tests on audits that follow.
"""

from collections import deque

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WINDOW = 400
"""Newest comparisons used: the scene and the student change."""
MIN_COMPARISONS = 30
"""Comparisons before there is a threshold at all."""
MIN_ABOVE = 10
"""Comparisons at or above a threshold, so that it does not rest on a few lucky ones."""
MAX_SHORTFALL = 0.2
"""How far images at the threshold itself may fall below the target: with the mean alone, good
images would compensate for hopeless ones."""
MARGIN = 0.03
"""How far the mean above the threshold must exceed the target: exactly at the target, the test in
``trust``, which sees new images, would hardly ever be passed."""


class AdaptiveThreshold:
    """The lowest expected agreement above which labels agree as asked. Not thread-safe."""

    def __init__(self, target: float) -> None:
        """``target``: the mean agreement with the teachers, (0, 1)."""
        self._target = min(target + MARGIN, (target + 1) / 2)
        self._comparisons: deque[tuple[float, float, float]] = deque(maxlen=WINDOW)
        self._value: float | None = None
        self._is_stale = False

    def update(self, expected: float, agreement: float, weight: float = 1.0) -> None:
        """Add a comparison: what the student expected of an image and what it reached, [0, 1].

        ``weight``: how many images it stands for, > 0; a sampled audit stands for those not drawn.
        """
        self._comparisons.append((expected, agreement, weight))
        self._is_stale = True

    @property
    def value(self) -> float | None:
        """The threshold; None where nothing is certain enough."""
        if self._is_stale:
            self._value, self._is_stale = self._estimate(), False
        return self._value

    def accepts(self, expected: float) -> bool:
        """Whether an image with this expected agreement reaches the threshold."""
        return self.value is not None and expected >= self.value

    def _estimate(self) -> float | None:
        if len(self._comparisons) < MIN_COMPARISONS:
            return None
        expected, agreement, weight = np.array(self._comparisons).T
        levels, of_level, counts = np.unique(-expected, return_inverse=True, return_counts=True)
        weights = np.bincount(of_level, weight).astype(np.float64)
        sums = np.bincount(of_level, agreement * weight)
        good = np.cumsum(sums) / np.cumsum(weights) >= self._target
        good &= _decreasing_fit(sums / weights, weights) >= self._target - MAX_SHORTFALL
        good &= np.cumsum(counts) >= MIN_ABOVE
        return float(-levels[good][-1]) if good.any() else None


def _decreasing_fit(values: Floats, weights: Floats) -> Floats:
    """(N,) isotonic regression, not increasing: pool adjacent violators."""
    pools: list[tuple[float, float, int]] = []  # of each: mean, weight, count
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        pool = value, weight, 1
        while pools and pools[-1][0] <= pool[0]:
            mean, heavy, count = pools.pop()
            total = heavy + pool[1]
            pool = (mean * heavy + pool[0] * pool[1]) / total, total, count + pool[2]
        pools.append(pool)
    return np.repeat([mean for mean, _, _ in pools], [count for _, _, count in pools])
