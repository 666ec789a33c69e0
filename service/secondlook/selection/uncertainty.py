"""How uncertain a box is, by what is known of it: one number in [0, 1] for each judgement or box.

A box that was judged for several classes of a contrast group shows one of them or nothing: the
probabilities are turned into odds, nothing has the odds 1, and together they are a distribution.
For a single class it is that class's own probability and its complement.
"""

import numpy as np
from numpy.typing import NDArray

from secondlook.selection.choices import Measure

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
SURE = 1e-6
"""Probabilities are kept so far from 0 and 1."""


def readings_uncertainty(probabilities: Floats, boxes: Rows, measure: Measure) -> Floats:
    """(B,) the uncertainty of B boxes, [0, 1], from (J,) probabilities of the judgements on them.

    ``boxes`` (J,) are numbers from 0 to B - 1, each there at least once. ``measure`` is one of
    the first three.
    """
    count = int(boxes.max(initial=-1)) + 1
    p = np.clip(probabilities.astype(np.float64), SURE, 1 - SURE)
    odds = np.concatenate([p / (1 - p), np.ones(count)])
    of = np.concatenate([boxes, np.arange(count)])
    shares = odds / np.bincount(of, odds, minlength=count)[of]
    if measure is Measure.ENTROPY:
        bits = np.bincount(of, -shares * np.log2(shares), minlength=count)
        return np.minimum(bits, 1)
    order = np.lexsort((-shares, of))
    firsts = np.searchsorted(of[order], np.arange(count))
    first, second = shares[order[firsts]], shares[order[firsts + 1]]  # there are two at least
    if measure is Measure.MARGIN:
        return 1 - (first - second)
    return np.minimum(2 * (1 - first), 1)
