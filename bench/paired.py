"""Two sides of one ratio, timed in turn in one run."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A measured ratio of two sides.

    ``ours`` and ``plain`` are medians in ``unit``; ``ratio`` is the median of the ratios taken
    pair by pair, which stays honest when the machine's speed drifts.
    """

    name: str
    bar: str
    ours: float
    plain: float
    unit: str
    ratio: float
    low: float
    high: float
    rounds: int
    met: bool
    note: str = ""

    def line(self) -> str:
        """One row of the table in RESULTS.md."""
        verdict = "met" if self.met else "**missed**"
        return (
            f"| {self.name} | {self.bar} | {self.ratio:.3g} ({self.low:.3g}–{self.high:.3g}) "
            f"| {self.ours:.4g} / {self.plain:.4g} {self.unit} | {verdict}{self.note} |"
        )


def paired(
    name: str,
    ours: Callable[[], float],
    plain: Callable[[], float],
    *,
    at_least: float,
    unit: str,
    rounds: int = 5,
) -> Figure:
    """Time both sides in turn; each callable does its work and returns how many units it did.

    One uncounted round of each comes first. The order within a pair alternates, so that neither
    side always runs on a warmer machine.
    """
    _rate(ours), _rate(plain)
    pairs = []
    for index in range(rounds):
        if index % 2:
            slow, fast = _rate(plain), _rate(ours)
        else:
            fast, slow = _rate(ours), _rate(plain)
        pairs.append((fast, slow))
    ratios = [fast / slow for fast, slow in pairs]
    ratio = statistics.median(ratios)
    return Figure(
        name=name,
        bar=f"≥ {at_least:g}",
        ours=statistics.median(fast for fast, _ in pairs),
        plain=statistics.median(slow for _, slow in pairs),
        unit=unit,
        ratio=ratio,
        low=min(ratios),
        high=max(ratios),
        rounds=rounds,
        met=ratio >= at_least,
    )


def _rate(side: Callable[[], float]) -> float:
    started = time.perf_counter()
    units = side()
    return units / (time.perf_counter() - started)
