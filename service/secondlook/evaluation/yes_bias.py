"""How often a verifier says yes where the answer is known to be no, and whether that has risen.

Counts of decoys (``labeling.decoys``) in, shares with exact intervals out; no truth is needed.

The share of decoys answered with yes is 0 only for a verifier without any bias and decoys without
any error, so a share is worth most beside an earlier one of the same verifier. ``compare`` tests
the alternative "says yes more often than before" against "not more often", stratum by stratum,
where a stratum is a class and a kind: given how many decoys of a stratum each side asked, and how
many of both were answered with yes, the yes-answers of the later side follow a hypergeometric
distribution if nothing has changed, whatever the share is. Their sum over the strata is compared
with its exact distribution, the convolution of those (the conditional test of Mantel and Haenszel,
1959, without its normal approximation). So another mix of classes or kinds is no alarm, and the
false alarms of one comparison are at most ``LEVEL`` with any number of decoys. Decoys count as
independent: many from one scene, such as frames of a fixed camera, say less than they seem to.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.core.types import DecoyCounts, DecoyKind, DecoyReply

CONFIDENCE = 0.95
"""Of the intervals."""
LEVEL = 0.05
"""Probability of an alarm in a comparison at most, where the verifier says yes no more often."""

Strata = Mapping[tuple[DecoyKind, str], tuple[int, int]]
"""(answered, of those with yes) by kind and class."""


@dataclass(frozen=True)
class YesShare:
    """How a verifier answered some decoys."""

    yes: int
    answered: int
    """With yes or no."""
    abstained: int = 0
    failed: int = 0

    @property
    def asked(self) -> int:
        """All of them."""
        return self.answered + self.abstained + self.failed

    @property
    def share(self) -> float | None:
        """Of those answered, the yes-answers; None where none was answered."""
        return self.yes / self.answered if self.answered else None

    @property
    def interval(self) -> tuple[float, float]:
        """Exact limits of the share at ``CONFIDENCE``: (0, 1) where nothing was answered."""
        return exact_interval(self.yes, self.answered, CONFIDENCE)


@dataclass(frozen=True)
class YesBias:
    """The shares of one run."""

    total: YesShare
    kinds: Mapping[DecoyKind, YesShare]
    classes: Mapping[str, YesShare]
    strata: Strata

    @classmethod
    def of(cls, counts: DecoyCounts) -> "YesBias":
        """From the counts of a run."""
        answered: dict[tuple[DecoyKind, str], tuple[int, int]] = {}
        for (kind, name, reply), count in counts.items():
            if reply in (DecoyReply.YES, DecoyReply.NO):
                before, yes = answered.get((kind, name), (0, 0))
                yes += count * (reply is DecoyReply.YES)
                answered[kind, name] = (before + count, yes)
        kinds = [kind for kind in DecoyKind if any(key[0] is kind for key in counts)]
        names = sorted({name for _, name, _ in counts})
        return cls(
            _share(counts, kinds, names),
            {kind: _share(counts, [kind], names) for kind in kinds},
            {name: _share(counts, kinds, [name]) for name in names},
            answered,
        )


@dataclass(frozen=True)
class BiasChange:
    """A run's decoys against earlier ones."""

    strata: int
    """Kinds of a class that both have answers to; nothing else is compared."""
    answered: tuple[int, int]
    """Decoys in these, before and after."""
    before: float
    """Share answered with yes, each stratum weighted by what was asked after."""
    after: float
    p_value: float
    """Probability of as many yes-answers or more, if the verifier says yes no more often."""

    @property
    def risen(self) -> bool:
        """Whether it says yes more often now."""
        return self.p_value <= LEVEL

    @property
    def difference(self) -> float:
        """By how much the share has risen, [-1, 1]."""
        return self.after - self.before


def compare(before: Strata, after: Strata) -> BiasChange:
    """Whether yes is said more often in ``after``: see the module.

    With no stratum in common nothing is known: the p-value is 1.
    """
    shared = [key for key in after if after[key][0] and before.get(key, (0, 0))[0]]
    asked = np.array([(before[key][0], after[key][0]) for key in shared]).reshape(-1, 2)
    yes = np.array([(before[key][1], after[key][1]) for key in shared]).reshape(-1, 2)
    totals = asked.sum(axis=0)
    weights = asked[:, 1] / max(totals[1], 1)
    distribution = np.ones(1)
    for (earlier, later), both in zip(asked.tolist(), yes.sum(axis=1).tolist(), strict=True):
        distribution = np.convolve(distribution, _hypergeometric(earlier, later, both))
    return BiasChange(
        len(shared),
        (int(totals[0]), int(totals[1])),
        float((weights * yes[:, 0] / asked[:, 0]).sum()),
        float((weights * yes[:, 1] / asked[:, 1]).sum()),
        min(float(distribution[int(yes[:, 1].sum()) :].sum()), 1.0),
    )


def exact_interval(hits: int, trials: int, confidence: float) -> tuple[float, float]:
    """Limits of a probability of which ``hits`` of ``trials`` are known (Clopper, Pearson 1934).

    Each side is missed with a probability of at most (1 - confidence) / 2.
    """
    tail = (1 - confidence) / 2
    low = 0.0 if not hits else _root(lambda p: 1 - _at_most(hits - 1, trials, p), tail)
    high = 1.0 if hits == trials else _root(lambda p: 1 - _at_most(hits, trials, p), 1 - tail)
    return low, high


def _root(rising: Callable[[float], float], value: float) -> float:
    """Where a function on [0, 1] that rises reaches ``value``."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return (low + high) / 2


def _at_most(hits: int, trials: int, probability: float) -> float:
    """Of a binomial distribution."""
    if probability in (0.0, 1.0):
        return float(probability == 0.0 or hits >= trials)
    k = np.arange(hits + 1)
    odds = k * math.log(probability) + (trials - k) * math.log1p(-probability)
    return float(np.exp(_log_choose(trials, k) + odds).sum())


def _hypergeometric(earlier: int, later: int, yes: int) -> NDArray[np.float64]:
    """(later + 1,) probability that 0, 1, ... of ``yes`` answers are among the later ones."""
    chances = np.zeros(later + 1)
    k = np.arange(max(0, yes - earlier), min(later, yes) + 1)
    log = _log_choose(later, k) + _log_choose(earlier, yes - k)
    chances[k] = np.exp(log - _log_choose(earlier + later, np.array([yes])))
    return chances


def _log_choose(n: int, k: NDArray[np.intp]) -> NDArray[np.float64]:
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    return np.asarray(factorials[n] - factorials[k] - factorials[n - k], dtype=np.float64)


def _share(counts: DecoyCounts, kinds: Collection[DecoyKind], names: Collection[str]) -> YesShare:
    found: Counter[DecoyReply] = Counter()
    for (kind, name, reply), count in counts.items():
        if kind in kinds and name in names:
            found[reply] += count
    yes = found[DecoyReply.YES]
    return YesShare(
        yes, yes + found[DecoyReply.NO], found[DecoyReply.ABSTAINED], found[DecoyReply.FAILED]
    )
