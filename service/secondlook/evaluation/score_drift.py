"""Whether scores still look like those that a guarantee was made from; costs no answer of a person.

Of each image four signals are followed: P(right), P(yes) and the proposer's score of its accepted
boxes, and which of its candidates are accepted. Each signal's distribution over the last ``WINDOW``
images or so that had it (older ones fade exponentially) is compared with that of the population by
the Kolmogorov-Smirnov distance, the largest difference of their cumulative shares, at the
population's deciles. It begins as the population's, so that the first images are no drift.

How far a signal may stray is not taken from a table, which would want independent boxes: images of
one scene are alike. The population itself is run through the same comparison, stretch by stretch,
and ``MARGIN`` times the largest distance there is the limit. Even so this is a sign, not a proof:
it misses a change that leaves the scores as they were, and sees some that harm nothing. So it may
raise the share of checks (``PrecisionMonitor.raise_trickle``) and decides nothing.

The share is raised until ``DRIFT_CHECKS`` more checks are drawn. What the scores are like then was
checked enough and becomes normal, too, so that a new scene raises nothing twice, and the share
sinks again, for ``REST_CHECKS`` at least. So drift brings at most a third of the checks. Of
simulated streams exactly at their target, 5,000 frames with 5 boxes, signals that misfire all the
time made a false alarm in 0.25 without a rest, in 0.115 after rests of 50 checks, and in 0.09 of
150.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secondlook.evaluation.precision_monitor import PrecisionMonitor
from secondlook_client.errors import InvalidInput
from secondlook_client.values import Judgement, Outcome

SIGNALS = ("P(right)", "P(yes)", "the proposer's score", "the share accepted")
"""The first three of accepted boxes."""
WINDOW = 50
"""Images after which the weight of an image has fallen to 1/e."""
FEWEST = 2 * WINDOW
"""Images in a population that says how far signals stray; with fewer there is no drift."""
MARGIN, LEAST_LIMIT = 1.25, 0.1
"""Factor on the largest distance inside the population; and the lowest limit."""
DRIFT_CHECKS = 100
"""For which the share is raised."""
REST_CHECKS = 2 * DRIFT_CHECKS
"""For which it is not raised again afterwards."""
CHECKS_RAISED, CHECKS_LOWERED = "checks raised", "checks lowered"
"""What becomes of the share."""
DECILES = np.linspace(0, 1, 11)
MOST_NORMAL = 5
"""Distributions that are no drift: that of the population, and the newest others."""
MAX_TEXT = 50_000
_BELOW = 1e-6
"""Beneath the smallest value: what lies there is new."""

Floats = NDArray[np.float64]
Values = tuple[tuple[float, ...], ...]
"""Of one image, by signal."""


@dataclass(frozen=True, eq=False)
class ScoreReference:
    """What the S signals of a population are like, compared at E edges in all."""

    sizes: NDArray[np.intp]
    """(S,) edges of each signal, at least 1."""
    edges: Floats
    """(E,) those of the first signal, then those of the second, and so on, ascending each."""
    shares: Floats
    """(E,) how much of the population's values lies up to each edge, [0, 1]."""
    weights: Floats
    """(S,) values in ``WINDOW`` images that have any."""
    limits: Floats
    """(S,) the distance above which a signal has drifted, (0, 1]."""

    @cached_property
    def starts(self) -> NDArray[np.intp]:
        """(S,) where the edges of each signal begin."""
        return np.cumsum(self.sizes) - self.sizes

    @cached_property
    def edges_of(self) -> list[Floats]:
        """The edges of each signal."""
        return np.split(self.edges, self.starts[1:])

    def counted(self, values: Values) -> Floats:
        """(E,) how many of the values lie up to each edge."""
        parts = zip(self.edges_of, values, strict=True)
        return np.concatenate([np.searchsorted(np.sort(some), of, "right") for of, some in parts])


class ScoreDrift:
    """Follows the scores of the jobs under one guarantee. Not thread-safe."""

    def __init__(self, reference: ScoreReference) -> None:
        self._reference = reference
        self._starts = reference.starts
        self._weights = reference.weights
        self._sums = reference.shares * np.repeat(reference.weights, reference.sizes)
        self._normal = [reference.shares]
        self.raised = ""
        """Why the share of checks is raised; empty while it is not."""
        self._rests_until = 0
        """Number of drawn checks up to which it is not raised."""

    def follow(self, values: Values, monitor: PrecisionMonitor) -> tuple[str, str]:
        """One more image, once its check is drawn: raises and lowers the share of ``monitor``.

        Returns what became of that and why; two empty texts where nothing did. While answers are
        suspicious nothing new becomes normal.
        """
        self.update(values)
        if self.raised and not (monitor.is_raised or monitor.is_suspicious):
            self.accept_present()
            self.raised, self._rests_until = "", monitor.drawn + REST_CHECKS
            return CHECKS_LOWERED, f"{DRIFT_CHECKS} checks were drawn since; scores are normal now"
        rests = monitor.drawn < self._rests_until
        if not (self.raised or rests) and (why := self.sentence):
            self.raised = why
            monitor.raise_trickle(DRIFT_CHECKS)
            return CHECKS_RAISED, why
        return "", ""

    def update(self, values: Values) -> None:
        """The scores of one more image, see ``values_of``."""
        counts = np.array([len(some) for some in values], dtype=np.float64)
        keep = np.where(counts > 0, 1 - 1 / WINDOW, 1.0)
        self._weights = keep * self._weights + counts
        kept = np.repeat(keep, self._reference.sizes) * self._sums
        self._sums = kept + self._reference.counted(values)

    @property
    def distances(self) -> Floats:
        """(S,) how far each signal is from the nearest of what is normal, [0, 1]."""
        now, limits = self._shares, self._reference.limits
        apart = (np.maximum.reduceat(np.abs(now - one), self._starts) for one in self._normal)
        return min(apart, key=lambda found: float((found / limits).max()))

    @property
    def sentence(self) -> str:
        """What has drifted, for a person; empty where nothing has."""
        distances, limits = self.distances, self._reference.limits
        worst = int(np.argmax(distances / limits))
        if distances[worst] <= limits[worst]:
            return ""
        return (
            f"{SIGNALS[worst]} is not distributed as in the run of the guarantee: it differs by "
            f"{distances[worst]:.2f} (Kolmogorov-Smirnov), and up to {limits[worst]:.2f} is usual"
        )

    def accept_present(self) -> None:
        """What the scores are like now is normal, too."""
        self._normal = [self._normal[0], *[*self._normal[1:], self._shares][1 - MOST_NORMAL :]]

    @property
    def _shares(self) -> Floats:
        """(E,) of the running distribution."""
        whole = np.repeat(self._weights, self._reference.sizes)
        return np.divide(self._sums, whole, out=np.zeros_like(whole), where=whole > 0)

    def to_json(self) -> str:
        """Everything, some thousand characters."""
        reference = self._reference
        arrays = {name: getattr(reference, name) for name in ScoreReference.__annotations__}
        arrays |= {"running_weights": self._weights, "sums": self._sums}
        lists = {name: array.tolist() for name, array in arrays.items()}
        normal = [one.tolist() for one in self._normal]
        told = {**lists, "normal": normal, "raised": self.raised, "rests": self._rests_until}
        return json.dumps(told, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "ScoreDrift":
        """The inverse of ``to_json``. Raises ``InvalidInput`` for anything else."""
        try:
            told = json.loads(text) if len(text) <= MAX_TEXT else None
            if not isinstance(told, dict):
                raise ValueError("not an object, or too long")
            sizes = _array(told["sizes"], len(SIGNALS), 1, 1000).astype(np.intp)
            signals, edges = len(SIGNALS), int(sizes.sum())
            made = cls(
                ScoreReference(
                    sizes,
                    _array(told["edges"], edges, -np.inf, np.inf),
                    _array(told["shares"], edges, 0, 1),
                    _array(told["weights"], signals, 0, np.inf),
                    _array(told["limits"], signals, 1e-9, 1),
                )
            )
            made._weights = _array(told["running_weights"], signals, 0, np.inf)
            made._sums = _array(told["sums"], edges, 0, np.inf)
            made._normal = [_array(one, edges, 0, 1 + 1e-6) for one in told["normal"]]
            made.raised, made._rests_until = str(told["raised"]), int(told["rests"])
            if not 1 <= len(made._normal) <= MOST_NORMAL:
                raise ValueError("what is normal is missing")
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as cause:
            raise InvalidInput(f"this is not the state of a drift ({cause!s:.100})") from None
        return made


def values_of(judgements: Iterable[Judgement]) -> Values:
    """The signals of one image that was decided under a guarantee."""
    possible = [
        one
        for one in judgements
        if one.decision.outcome is not Outcome.REJECT and not one.whole_image
    ]
    accepted = [one for one in possible if one.decision.outcome is Outcome.ACCEPT]
    p_yes = (one.verdict.answer.p_yes for one in accepted if one.verdict)
    return (
        tuple(one.decision.probability for one in accepted),
        tuple(p for p in p_yes if p is not None),
        tuple(one.score for one in accepted),
        tuple(float(one.decision.outcome is Outcome.ACCEPT) for one in possible),
    )


def reference_of(stretches: Sequence[Sequence[Values]]) -> ScoreReference | None:
    """The reference of a population, given as ``values_of`` its images in the order of the run, in
    one or several stretches; None where fewer than ``FEWEST`` images have a value."""
    images = [image for stretch in stretches for image in stretch if any(image)]
    if len(images) < FEWEST:
        return None
    pooled = [np.array([v for image in images for v in image[n]]) for n in range(len(SIGNALS))]
    having = [sum(bool(image[n]) for image in images) for n in range(len(SIGNALS))]
    counts = np.array([len(values) for values in pooled], dtype=np.float64)
    edges = [_edges(values) for values in pooled]
    sizes = np.array([len(some) for some in edges], dtype=np.intp)
    nothing = np.zeros(int(sizes.sum()))
    free = ScoreReference(
        sizes, np.concatenate(edges), nothing, WINDOW * counts / np.maximum(having, 1), counts
    )
    whole = free.counted(tuple(tuple(values.tolist()) for values in pooled))
    free = replace(free, shares=whole / np.repeat(np.maximum(counts, 1), sizes))
    farthest = np.max([_farthest(free, stretch) for stretch in stretches], axis=0)
    return replace(free, limits=np.clip(MARGIN * farthest, LEAST_LIMIT, 1.0))


def _farthest(reference: ScoreReference, stretch: Sequence[Values]) -> Floats:
    """(S,) how far a stretch of the population strays from all of it."""
    drift = ScoreDrift(replace(reference, limits=np.ones(len(SIGNALS))))
    found = np.zeros(len(SIGNALS))
    for values in stretch:
        drift.update(values)
        found = np.maximum(found, drift.distances)
    return found


def _edges(values: Floats) -> Floats:
    """The deciles and the ends; where there is no value, one edge that none lies up to."""
    if not len(values):
        return np.array([-1.0])
    deciles = np.unique(np.quantile(values, DECILES, method="inverted_cdf"))
    return np.array([deciles[0] - _BELOW, *deciles])


def _array(told: object, length: int, low: float, high: float) -> Floats:
    """The finite numbers of a list. Raises ``ValueError`` for another length or numbers outside."""
    made = np.asarray(told, dtype=np.float64)
    if made.shape != (length,) or not np.isfinite(made).all():
        raise ValueError(f"expected {length} numbers")
    if not ((made >= low) & (made <= high)).all():
        raise ValueError(f"expected numbers from {low} to {high}")
    return made
