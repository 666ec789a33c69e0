"""A test of a claim about a mean that may be looked at after every number.

It bets against the claim (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting", arXiv 2010.09686): with a stake s, evidence against "at most m" is multiplied by
1 + s·(x − m), which on average gains nothing while the mean is at most m, whatever the distribution
and however one number depends on those before it. Restarting from 1 whenever less is left makes it
an *e-detector* of the CUSUM kind (Shin, Ramdas and Rinaldo, "E-detectors", arXiv 2203.03532), which
notices that a claim has ceased to hold: the expected count of numbers until the evidence reaches A,
should the claim be true all along, is at least A. The mean over several stakes has the same
guarantee, and is near the best of them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

STAKES = (0.1, 0.25, 0.5, 0.75, 1.0)
"""As shares of the greatest stake that cannot lose more than everything. Great ones notice a great
change soon, small ones a small change at all."""
MAX_EVIDENCE = 1e12
"""Evidence is capped here, long after every decision."""


class SequentialTest:
    """Evidence against a claim about the mean of numbers in [0, 1], valid at any time."""

    def __init__(
        self,
        mean: float,
        *,
        claim: str,
        stakes: Sequence[float] = STAKES,
        evidence: Sequence[float] = (),
    ) -> None:
        """The ``claim`` is that the mean is "at most" or "at least" ``mean``, in (0, 1).

        ``evidence`` goes on from the ``state`` of an earlier test of the same claim and stakes.
        """
        self._mean = mean
        self._sign = 1.0 if claim == "at most" else -1.0
        self._stakes = np.array(stakes) / (mean if claim == "at most" else 1 - mean)
        self._evidence: NDArray[np.float64] = np.ones_like(self._stakes)
        if evidence:
            self._evidence = np.array(evidence, dtype=np.float64)
        self.count = 0

    def update(self, x: float) -> None:
        """One more number, [0, 1]."""
        gain = 1 + self._stakes * self._sign * (x - self._mean)
        self._evidence = np.minimum(np.maximum(self._evidence, 1) * gain, MAX_EVIDENCE)
        self.count += 1

    @property
    def evidence(self) -> float:
        """The evidence now, ≥ 0; 1 before the first number."""
        return float(self._evidence.mean())

    @property
    def state(self) -> list[float]:
        """The evidence of each stake, to go on from later."""
        return [float(one) for one in self._evidence]
