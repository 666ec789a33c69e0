"""Timing of two sides in turn, in one run, and the ratio between them."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A measured ratio of two sides.

    ``ours`` and ``baseline`` are medians in ``unit``; ``ratio`` is the median of the ratios taken
    pair by pair, which stays honest when the machine's speed drifts.
    """

    name: str
    bar: str
    ours: float
    baseline: float
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
            f"| {self.ours:.4g} / {self.baseline:.4g} {self.unit} | {verdict}{self.note} |"
        )


def against(name: str, value: float, bar: float, unit: str) -> Figure:
    """A value that may not be above its bar; the ratio is of the two."""
    ratio = value / bar
    return Figure(name, f"≤ {bar:g} {unit}", value, bar, unit, ratio, ratio, ratio, 1, ratio <= 1)


def none_of(name: str, count: int) -> Figure:
    """A count of what must not be at all."""
    return Figure(name, "0", count, 0, "", count, count, count, 1, not count)


def not_above(name: str, ours: float, baseline: float, *, at_most: float, unit: str) -> Figure:
    """A ratio of two values of one run each, as of peaks of memory, which hardly vary."""
    ratio = ours / baseline
    met = ratio <= at_most
    return Figure(name, f"≤ {at_most:g}", ours, baseline, unit, ratio, ratio, ratio, 1, met)


def latency(name: str, times_ms: Sequence[float], bar_ms: float) -> Figure:
    """The 95th percentile of times, which may not be above its bar; median and longest beside."""
    times = sorted(times_ms)
    median, p95 = times[len(times) // 2], times[len(times) * 95 // 100]
    return Figure(
        name=f"{name}: p95 (median–longest) of {len(times):,}",
        bar=f"≤ {bar_ms:g} ms",
        ours=p95,
        baseline=bar_ms,
        unit="ms",
        ratio=p95,
        low=median,
        high=times[-1],
        rounds=len(times),
        met=p95 <= bar_ms,
    )


def paired(
    name: str,
    ours: Callable[[], float],
    baseline: Callable[[], float],
    *,
    at_least: float,
    unit: str,
    rounds: int = 5,
) -> Figure:
    """Time both sides in turn; each callable does its work and returns how many units it did.

    One uncounted round of each comes first. The order within a pair alternates, so that neither
    side always runs on a warmer machine.
    """
    _rate(ours), _rate(baseline)
    pairs = []
    for index in range(rounds):
        if index % 2:
            slow, fast = _rate(baseline), _rate(ours)
        else:
            fast, slow = _rate(ours), _rate(baseline)
        pairs.append((fast, slow))
    return of_pairs(name, pairs, at_least=at_least, unit=unit)


def of_pairs(
    name: str, pairs: Sequence[tuple[float, float]], *, at_least: float, unit: str
) -> Figure:
    """The figure of (ours, baseline) pairs, each measured under the same circumstances."""
    ratios = [ours / baseline for ours, baseline in pairs]
    ratio = statistics.median(ratios)
    return Figure(
        name=name,
        bar=f"≥ {at_least:g}",
        ours=statistics.median(ours for ours, _ in pairs),
        baseline=statistics.median(baseline for _, baseline in pairs),
        unit=unit,
        ratio=ratio,
        low=min(ratios),
        high=max(ratios),
        rounds=len(pairs),
        met=ratio >= at_least,
    )


def _rate(side: Callable[[], float]) -> float:
    started = time.perf_counter()
    units = side()
    return units / (time.perf_counter() - started)
