"""A precision that is guaranteed, from a few hundred answers of a person.

*The promise*: of the boxes whose probability reaches a threshold, at least the share ``target`` is
right. Whatever the scores, the models and the errors are like, a guarantee that does not hold is
given with a chance of at most 1 - ``confidence``, over the random choice of what is asked. The
probability may be poor: that costs coverage, not truth.

*Two populations* (``Promise``). SCENES: boxes in further scenes drawn like the run's. A whole scene
(near duplicates, a stretch of a stream) is one observation, and one answer a scene is asked for.
RUN: the boxes of this run and no others. Then chance is in the sample alone, so errors may come in
whole scenes and several answers a scene count; it takes fewer scenes, and what is checked box by
box is known. Missed objects and other kinds of scenes are part of neither promise.

*Which boxes are asked about* (``draw``). The boxes above a floor, sorted by probability. For RUN
they are cut into as many slices as there are answers, and one random box of each slice is asked
about; for SCENES one random box of each scene, and where there are more scenes than answers, of
scenes drawn in proportion to their boxes. Either way the answers above any stricter threshold are a
sample of the boxes above it, so every answer counts at many thresholds.

*Which threshold* (``certify``). Learn-then-test with fixed-sequence testing (Angelopoulos, Bates,
Candès, Jordan and Lei, "Learn then test", arXiv 2110.01052): a few thresholds, fixed before
anything is answered, are tested from strict to lax, each at the full level, until the first that
fails; the last that passed is taken. The p-values are in ``precision_tests``. Floor and first
threshold come from the scores alone: where most boxes can be expected to be guaranteed, should the
probabilities be right or off by some factor. Questions come in the order of the tests, so an early
stop is an early end of the sequence, and nothing is asked in vain after the test that failed.

*A second try* with new answers would be a second chance to be wrong by luck: whoever allows k tries
gives each a confidence of 1 - (1 - confidence) ÷ k.

What was found goes into a ``certificate``.
"""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.evaluation.precision_tests import (
    allowed_errors,
    answers_with_errors,
    answers_without_error,
    binomial_bound,
    binomial_tail,
    boxes_bound,
    boxes_p_value,
    crowding_factor,
)
from secondlook_client.errors import InvalidInput
from secondlook_client.values import ReviewAnswer

MAX_BUDGET = 10_000
"""Answers."""
LOWEST, HIGHEST = 0.5, 0.9999
"""Of target and confidence."""
FLOORS = 60
"""Numbers of boxes that are tried as the population of a sample."""
ERROR_FACTORS = (0.05, 0.25, 0.5, 1.0, 2.0, 4.0)
"""How far the share of errors may be from what the probabilities say, when a sample is planned."""
CAREFUL = 2
"""From which of these factors on the first threshold is chosen: it must not fail by optimism."""
NEARLY_BEST = 0.02
"""A stricter first threshold is preferred at this loss of the chance to pass."""
MAX_KNOWN_GATES = 500
"""Thresholds that are tried where every box is checked."""
HOPELESS = 0.9
"""Share of the allowed errors from which more answers are no advice."""

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Wrong = NDArray[np.bool_]


class Promise(StrEnum):
    """Of which boxes the precision is guaranteed."""

    SCENES = "scenes"
    """Those of further scenes drawn like the run's."""
    RUN = "run"
    """Those of the run that the answers are from."""


@dataclass(frozen=True)
class Terms:
    """What is asked for. Raises ``InvalidInput`` for what cannot be guaranteed at all."""

    target: float = 0.95
    """The precision, from ``LOWEST`` to ``HIGHEST``."""
    confidence: float = 0.95
    """From ``LOWEST`` to ``HIGHEST``."""
    budget: int = 200
    """Answers at most, for each class or for all classes together."""
    promise: Promise = Promise.SCENES

    def __post_init__(self) -> None:
        for what, value in (("precision", self.target), ("confidence", self.confidence)):
            if not LOWEST <= value <= HIGHEST:
                raise InvalidInput(
                    f"expected a {what} from {LOWEST} to {HIGHEST}, got {value}: answers about a "
                    "sample can make nothing certain, and nothing free of errors"
                )
        if not 1 <= self.budget <= MAX_BUDGET:
            raise InvalidInput(
                f"expected a budget of 1 to {MAX_BUDGET:,} answers, got {self.budget:,}"
            )

    @property
    def level(self) -> float:
        """The chance of a guarantee that does not hold, at most."""
        return 1 - self.confidence

    @property
    def error_share(self) -> float:
        """The share of wrong boxes that is allowed."""
        return 1 - self.target

    @property
    def fewest_answers(self) -> int:
        """Answers that it takes without a single error (59 at 0.95 and 0.95), unless there are
        hardly more boxes than that."""
        return answers_without_error(self.target, self.confidence)


@dataclass(frozen=True)
class Gate:
    """One threshold to be tested."""

    answers: int
    """The first so many questions of the plan are about boxes that reach it."""
    boxes: int
    """Boxes that reach it."""
    threshold: float
    coverage: float
    """Share of the right boxes that reach it, as far as the probabilities are right."""


@dataclass(frozen=True, eq=False)
class SamplePlan:
    """What to ask about one class, or about all together.

    ``draw`` makes it from its arguments alone: the same call makes the same plan.
    """

    class_name: str
    """Empty: all classes together."""
    terms: Terms
    rows: Rows
    """(answers,) the pairs to ask about, in this order: the most probable first."""
    gates: tuple[Gate, ...]
    """In the order of testing, strict to lax."""
    sample: "_AskedBoxes | None"
    """None where there is nothing to ask."""
    impossible: str = ""
    """Why nothing can be guaranteed whatever the answers; then there is nothing to ask."""

    @property
    def digest(self) -> str:
        """SHA-256 of what is asked and tested, 64 hex digits."""
        told = [self.class_name, asdict(self.terms), self.rows.tolist()]
        told.append([asdict(gate) for gate in self.gates])
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@dataclass(frozen=True)
class Guaranteed:
    """What the answers allow to say of one class, or of all together."""

    class_name: str
    """Empty: all classes together."""
    threshold: float | None
    """Boxes with at least this probability are guaranteed; None: nothing is."""
    reason: str
    """One sentence: what is guaranteed, or why nothing is."""
    accepted: int = 0
    """Boxes of the run that reach the threshold."""
    coverage: float = 0.0
    """Share of the right boxes among them, [0, 1], as far as the probabilities are right."""
    bound: float = 0.0
    """What the answers alone say of that threshold: a precision that is reached with the
    confidence, at least the target. 0 without a guarantee."""
    scenes_bound: float = 0.0
    """The same for further scenes like these, where the promise is about the run."""
    answers: int = 0
    """Questions that were answered."""
    wrong: int = 0
    """Of these wrong, or unsure."""
    unsure: int = 0
    """Counted as wrong, to be on the safe side."""
    open_questions: int = 0
    """Still to be answered before more can be said; 0: the result stands."""
    more_answers: int | None = None
    """About how many more it would take, at the share of errors that was seen; None: unknown, or
    more answers would not help."""

    @property
    def holds(self) -> bool:
        """Whether anything is guaranteed."""
        return self.threshold is not None


def draw(
    probability: Floats,
    class_names: Sequence[str] | NDArray[Any],
    scenes: NDArray[Any],
    terms: Terms,
    *,
    class_name: str = "",
    expected: Floats | None = None,
    seed: int = 0,
) -> SamplePlan:
    """Which of J (box, class) pairs to ask about.

    ``probability`` (J,) is what will be compared with the threshold; a pair with NaN is never
    accepted. ``scenes`` (J,) tells the scene of each pair by any number or name. ``class_name``
    takes the pairs of that class, an empty one all. ``expected`` (J,): better guesses of P(right)
    to plan with, by default the probabilities themselves. Raises ``InvalidInput`` for arrays that
    do not belong together.
    """
    probability, expected = _checked(probability, class_names, scenes, expected)
    usable = ~np.isnan(probability)
    if class_name:
        usable &= np.asarray(class_names) == class_name
    random = np.random.default_rng(seed)
    rows = random.permutation(np.flatnonzero(usable))  # ties must not follow the order of images
    rows = rows[np.argsort(-probability[rows], kind="stable")]
    if not len(rows):
        return SamplePlan(class_name, terms, rows, (), None, "there is no box to ask about")
    boxes = _RankedBoxes(
        probability[rows],
        np.clip(1 - np.nan_to_num(expected[rows]), 0, 1),
        np.unique(np.asarray(scenes)[rows], return_inverse=True)[1].astype(np.intp),
    )
    kind = _SceneSample if terms.promise is Promise.SCENES else _SliceSample
    sample = kind.draw(boxes, _population_size(boxes, terms, kind), terms, random)
    gates = _gates(sample, terms)
    if not gates:
        return SamplePlan(class_name, terms, rows[:0], (), sample, _impossible(sample, terms))
    return SamplePlan(class_name, terms, rows[sample.asked[: gates[-1].answers]], gates, sample)


def certify(plan: SamplePlan, answers: Mapping[int, ReviewAnswer]) -> Guaranteed:
    """What the ``answers`` (by row, as in ``plan.rows``) allow to guarantee.

    Answers to other rows are not looked at. Raises ``InvalidInput`` for an answer that says nothing
    about a box.
    """
    given = [answers.get(row) for row in plan.rows.tolist()]
    for answer in given:
        if answer not in (None, ReviewAnswer.RIGHT, ReviewAnswer.WRONG, ReviewAnswer.UNSURE):
            raise InvalidInput(f"expected right, wrong or unsure of a box, got '{answer}'")
    missing = np.array([answer is None for answer in given], dtype=bool)
    wrong = np.array([answer is not ReviewAnswer.RIGHT for answer in given], dtype=bool)
    passed, failed, pending = _test(plan, wrong, missing)
    counts = {
        "answers": int((~missing).sum()),
        "wrong": int((wrong & ~missing).sum()),
        "unsure": sum(answer is ReviewAnswer.UNSURE for answer in given),
        "open_questions": int(missing[: pending.answers].sum()) if pending else 0,
    }
    if plan.sample is None or passed is None:
        reason, more = _why_not(plan, failed, pending, wrong, counts["open_questions"])
        return Guaranteed(plan.class_name, None, reason, more_answers=more, **counts)
    errors = wrong[: passed.answers]
    return Guaranteed(
        plan.class_name,
        passed.threshold,
        _promised(plan, passed),
        accepted=passed.boxes,
        coverage=passed.coverage,
        bound=plan.sample.bound(errors, plan.terms.level),
        scenes_bound=plan.sample.scenes_bound(errors, plan.terms.level),
        **counts,
    )


def _test(
    plan: SamplePlan, wrong: Wrong, missing: NDArray[np.bool_]
) -> tuple[Gate | None, Gate | None, Gate | None]:
    """The last gate that passed, the one that failed, and the one that waits for answers."""
    passed = failed = None
    for gate in plan.gates:
        if plan.sample is None or missing[: gate.answers].any():
            return passed, failed, gate
        if plan.sample.p_value(wrong[: gate.answers], plan.terms) <= plan.terms.level:
            passed, failed = gate, None
        elif plan.sample.everything_is_known:
            failed = gate  # no test that may fail by luck: a laxer threshold may be good enough
        else:
            return passed, gate, None
    return passed, failed, None


@dataclass(frozen=True, eq=False)
class _RankedBoxes:
    """The candidates, the most probable first."""

    probability: Floats
    errors: Floats
    """(N,) expected chance of being wrong."""
    scenes: Rows
    """(N,) 0, 1, …"""

    @cached_property
    def error_sums(self) -> Floats:
        """(N,) expected wrong ones among the boxes up to each."""
        return np.cumsum(self.errors)

    @cached_property
    def ends(self) -> Rows:
        """Numbers of boxes at which a threshold can cut: not between equal probabilities."""
        return np.flatnonzero(np.diff(self.probability, append=-np.inf)) + 1

    def last_end(self, boxes: int) -> int:
        """The last place to cut that leaves at most ``boxes``; 0 for none."""
        place = int(np.searchsorted(self.ends, boxes, side="right"))
        return int(self.ends[place - 1]) if place else 0

    def amounts(self, boxes: int) -> Rows:
        """(scenes,) how many of the first ``boxes`` each scene has."""
        return np.bincount(self.scenes[:boxes], minlength=int(self.scenes.max()) + 1)


@dataclass(frozen=True, eq=False)
class _AskedBoxes(ABC):
    """Which of the first boxes are asked about."""

    boxes: _RankedBoxes
    size: int
    """How many boxes it is a sample of."""
    asked: Rows
    """(answers,) their places among the sorted boxes, ascending."""

    @property
    def everything_is_known(self) -> bool:
        """Whether every box is asked about and nothing is left to chance."""
        return False

    @classmethod
    @abstractmethod
    def planned(cls, boxes: _RankedBoxes, size: int, terms: Terms) -> tuple[int, float]:
        """Answers about ``size`` boxes, and the share of errors that is allowed among them."""

    @classmethod
    @abstractmethod
    def draw(
        cls, boxes: _RankedBoxes, size: int, terms: Terms, random: np.random.Generator
    ) -> "_AskedBoxes": ...

    @abstractmethod
    def cut(self, answers: int) -> int:
        """How many boxes ``answers`` are a sample of; 0 where no threshold can cut there."""

    def allowed_share(self, answers: int, terms: Terms) -> float:
        """The share of errors among the first ``answers`` that just keeps the promise."""
        return terms.error_share

    @abstractmethod
    def most_errors(self, answers: int, terms: Terms, known: int) -> int:
        """The most errors that pass, at least ``known``; -1 for none."""

    @abstractmethod
    def p_value(self, wrong: Wrong, terms: Terms) -> float:
        """How likely so few of the first answers are wrong if the promise is broken, at most."""

    @abstractmethod
    def bound(self, wrong: Wrong, level: float) -> float:
        """The precision that is reached with confidence 1 - ``level``."""

    @abstractmethod
    def scenes_bound(self, wrong: Wrong, level: float) -> float:
        """The same of further scenes."""


class _SliceSample(_AskedBoxes):
    """One random box of each slice."""

    @classmethod
    def planned(cls, boxes: _RankedBoxes, size: int, terms: Terms) -> tuple[int, float]:
        return math.ceil(size / math.ceil(size / terms.budget)), terms.error_share

    @classmethod
    def draw(
        cls, boxes: _RankedBoxes, size: int, terms: Terms, random: np.random.Generator
    ) -> "_SliceSample":
        slices, _ = cls.planned(boxes, size, terms)
        edges = cls._edges(size, slices)
        within = (random.random(slices) * np.diff(edges)).astype(np.intp)
        return cls(boxes, size, edges[:-1] + within)

    @staticmethod
    def _edges(size: int, slices: int) -> Rows:
        return np.linspace(0, size, slices + 1).round().astype(np.intp)

    @cached_property
    def edges(self) -> Rows:
        """(slices + 1,) where each slice begins, and the end of the last."""
        return self._edges(self.size, len(self.asked))

    @cached_property
    def largest(self) -> int:
        """Boxes in the largest slice."""
        return int(np.diff(self.edges).max())

    @property
    def everything_is_known(self) -> bool:
        return self.largest == 1

    def cut(self, answers: int) -> int:
        boxes = int(self.edges[answers])
        return boxes if self.boxes.last_end(boxes) == boxes else 0

    def most_errors(self, answers: int, terms: Terms, known: int) -> int:
        too_many = _too_many(int(self.edges[answers]), terms)
        if self.everything_is_known:
            return too_many - 1
        while boxes_p_value(known + 1, answers, self.largest, too_many) <= terms.level:
            known += 1
        return known

    def p_value(self, wrong: Wrong, terms: Terms) -> float:
        too_many = _too_many(int(self.edges[len(wrong)]), terms)
        return boxes_p_value(int(wrong.sum()), len(wrong), self.largest, too_many)

    def bound(self, wrong: Wrong, level: float) -> float:
        boxes = int(self.edges[len(wrong)])
        return boxes_bound(int(wrong.sum()), len(wrong), self.largest, boxes, level)

    def scenes_bound(self, wrong: Wrong, level: float) -> float:
        boxes = int(self.edges[len(wrong)])
        amounts = self.boxes.amounts(boxes)
        chances: Floats = 1 - np.power(1 - len(wrong) / boxes, amounts)
        asked = self.boxes.scenes[self.asked[: len(wrong)]]
        order = np.random.default_rng(0).permutation(len(asked))
        one_a_scene = order[np.unique(asked[order], return_index=True)[1]]
        factor = crowding_factor(amounts, amounts, chances)
        return _bound_of_scenes(wrong[one_a_scene], factor, level)


@dataclass(frozen=True, eq=False)
class _SceneSample(_AskedBoxes):
    """One random box a scene."""

    chances: Floats
    """(scenes,) that a scene is asked about; 0 for those that have no box above the floor."""

    @classmethod
    def planned(cls, boxes: _RankedBoxes, size: int, terms: Terms) -> tuple[int, float]:
        amounts = boxes.amounts(size)
        chances = _proportional(amounts, terms.budget)
        factor = crowding_factor(amounts, amounts, chances)
        return round(chances.sum()), terms.error_share * factor

    @classmethod
    def draw(
        cls, boxes: _RankedBoxes, size: int, terms: Terms, random: np.random.Generator
    ) -> "_SceneSample":
        amounts = boxes.amounts(size)
        chances = _proportional(amounts, terms.budget)
        order = random.permutation(len(amounts))
        steps = np.floor(np.cumsum(chances[order]) + random.random())  # systematic sampling
        chosen = order[np.diff(steps, prepend=0) > 0]
        by_scene = np.argsort(boxes.scenes[:size], kind="stable")
        starts = np.cumsum(amounts) - amounts
        within = (random.random(len(chosen)) * amounts[chosen]).astype(np.intp)
        return cls(boxes, size, np.sort(by_scene[starts[chosen] + within]), chances)

    def cut(self, answers: int) -> int:
        if answers == len(self.asked):
            return self.size
        boxes = self.boxes.last_end(int(self.asked[answers]))
        return boxes if boxes > self.asked[answers - 1] else 0

    @cached_property
    def crowds(self) -> Rows:
        """(scenes,) how many of the boxes each has."""
        return self.boxes.amounts(self.size)

    def factor(self, answers: int) -> float:
        """By how much less likely an answer is wrong than a box, at most 1."""
        reach = self.boxes.amounts(self.cut(answers))
        answered: Floats = self.chances * reach / np.maximum(self.crowds, 1)
        return crowding_factor(reach, self.crowds, answered)

    def allowed_share(self, answers: int, terms: Terms) -> float:
        return terms.error_share * self.factor(answers)

    def most_errors(self, answers: int, terms: Terms, known: int) -> int:
        share = self.allowed_share(answers, terms)
        return max(known, allowed_errors(answers, share, terms.level))

    def p_value(self, wrong: Wrong, terms: Terms) -> float:
        share = self.allowed_share(len(wrong), terms)
        return binomial_tail(int(wrong.sum()), len(wrong), share)

    def bound(self, wrong: Wrong, level: float) -> float:
        return _bound_of_scenes(wrong, self.factor(len(wrong)), level)

    def scenes_bound(self, wrong: Wrong, level: float) -> float:
        return self.bound(wrong, level)


def _bound_of_scenes(wrong: Wrong, factor: float, level: float) -> float:
    most_wrong = 1 - binomial_bound(int(wrong.sum()), len(wrong), level)
    return max(0.0, 1 - most_wrong / factor)


def _proportional(amounts: Rows, budget: int) -> Floats:
    """(scenes,) chances in proportion to ``amounts``, at most 1, with the sum ``budget`` or, if
    there are fewer scenes with a box, 1 for each of them."""
    chances = np.minimum(amounts, 1).astype(np.float64)
    if chances.sum() <= budget:
        return chances
    certain = np.zeros(len(amounts), dtype=bool)
    while True:
        rest = budget - int(certain.sum())
        chances = np.where(certain, 1.0, amounts * rest / amounts[~certain].sum())
        if (chances <= 1).all():
            return chances
        certain |= chances >= 1


def _population_size(boxes: _RankedBoxes, terms: Terms, kind: type[_AskedBoxes]) -> int:
    """How many boxes the sample is drawn from, so that most can be expected to be guaranteed."""
    few = boxes.ends[np.unique(np.linspace(0, len(boxes.ends) - 1, FLOORS).round().astype(int))]
    best, most = int(few[-1]), 0.0
    for size in few.tolist():
        answers, share = kind.planned(boxes, size, terms)
        worth = np.zeros(len(ERROR_FACTORS))
        for step in _steps(answers, share, terms.level):
            reach = size * step // answers
            worth = np.maximum(worth, reach * _chances(boxes, reach, step, share, terms))
        if worth.mean() > most:
            best, most = size, float(worth.mean())
    return best


def _gates(sample: _AskedBoxes, terms: Terms) -> tuple[Gate, ...]:
    """The thresholds to test: where one error more is allowed, and the floor."""
    boxes, most, total = sample.boxes, -1, len(sample.asked)
    steps = range(1, total + 1)
    if sample.everything_is_known:
        steps = range(1, total + 1, math.ceil(total / MAX_KNOWN_GATES))
    chosen: list[tuple[int, int]] = []
    for answers in steps:
        if reach := sample.cut(answers):
            more = sample.most_errors(answers, terms, most)
            if more > most or (more >= 0 and (answers == total or sample.everything_is_known)):
                chosen.append((answers, reach))
            most = more
    if chosen and not sample.everything_is_known:
        chosen = chosen[_first(sample, chosen, terms) :]
    right = np.cumsum(1 - boxes.errors)
    return tuple(
        Gate(
            answers, n, float(boxes.probability[n - 1]), float(right[n - 1] / max(right[-1], 1e-9))
        )
        for answers, n in chosen
    )


def _first(sample: _AskedBoxes, chosen: Sequence[tuple[int, int]], terms: Terms) -> int:
    """Place of the strictest threshold that is likely to pass, of those chosen."""
    likely = [
        _chances(sample.boxes, reach, answers, sample.allowed_share(answers, terms), terms)
        for answers, reach in chosen
    ]
    means = [float(chances[CAREFUL:].mean()) for chances in likely]
    return next(place for place, mean in enumerate(means) if mean >= max(means) - NEARLY_BEST)


def _chances(boxes: _RankedBoxes, reach: int, answers: int, share: float, terms: Terms) -> Floats:
    """About how likely ``answers`` about the first boxes pass, by ``ERROR_FACTORS``.

    ``share`` of the answers may be wrong.
    """
    allowed = allowed_errors(answers, share, terms.level)
    if allowed < 0 or not reach:
        return np.zeros(len(ERROR_FACTORS))
    rate = float(boxes.error_sums[reach - 1] / reach) * share / terms.error_share
    return np.array([binomial_tail(allowed, answers, min(rate * f, 1)) for f in ERROR_FACTORS])


def _steps(answers: int, share: float, level: float) -> list[int]:
    """Numbers of answers from which one error more is allowed, and all of them."""
    steps: list[int] = []
    while (step := answers_with_errors(len(steps), share, level, answers)) <= answers:
        steps.append(step)
    return sorted({*steps, answers})


def _too_many(boxes: int, terms: Terms) -> int:
    """The fewest wrong ones of so many boxes that break the promise."""
    return math.floor(terms.error_share * boxes + 1e-9) + 1


def _checked(
    probability: Floats,
    class_names: Sequence[str] | NDArray[Any],
    scenes: NDArray[Any],
    expected: Floats | None,
) -> tuple[Floats, Floats]:
    probability = np.asarray(probability, dtype=np.float64)
    expected = probability if expected is None else np.asarray(expected, dtype=np.float64)
    lengths = {len(probability), len(class_names), len(scenes), len(expected)}
    if len(lengths) > 1:
        raise InvalidInput(
            "expected as many probabilities as classes, scenes and expected probabilities, got "
            f"{len(probability)}, {len(class_names)}, {len(scenes)} and {len(expected)}"
        )
    if ((probability < 0) | (probability > 1)).any():
        raise InvalidInput("expected probabilities from 0 to 1")
    return probability, expected


def _promised(plan: SamplePlan, gate: Gate) -> str:
    terms = plan.terms
    sure = f"with confidence {terms.confidence:g}"
    if plan.sample is not None and plan.sample.everything_is_known:
        sure = "as every box was checked"
    where = "this run" if terms.promise is Promise.RUN else "scenes like these"
    return (
        f"at least {terms.target:g} of the boxes of {where} with a probability of at least "
        f"{gate.threshold:.4g} are right, {sure}"
    )


def _impossible(sample: _AskedBoxes, terms: Terms) -> str:
    """Why no answers could be enough."""
    need = (
        f"a precision of {terms.target:g} with confidence {terms.confidence:g} takes at least "
        f"{terms.fewest_answers} answers without a single error"
    )
    asked = len(sample.asked)
    if terms.promise is Promise.SCENES and asked < terms.budget:
        counted = math.floor(asked * sample.allowed_share(asked, terms) / terms.error_share)
        return (
            f"{need}, one a scene; its boxes are in {asked} scenes, which count as {counted}, as "
            "some have more boxes than others. It takes more scenes, or a guarantee of this run "
            "alone"
        )
    return f"{need}, and a few more where scenes differ in size; {asked} are too few"


def _why_not(
    plan: SamplePlan, failed: Gate | None, pending: Gate | None, wrong: Wrong, open_questions: int
) -> tuple[str, int | None]:
    """Why nothing is guaranteed, and about how many more answers it would take."""
    if plan.sample is None or not plan.gates:
        return plan.impossible, None
    if pending or failed is None:
        return f"{open_questions} questions are still to be answered", None
    if plan.sample.everything_is_known:
        return (
            f"every box was checked: at no threshold are {plan.terms.target:g} of them right"
        ), None
    errors, asked = int(wrong[: failed.answers].sum()), len(plan.sample.asked)
    seen = (
        f"{errors} of {failed.answers} answers about boxes with a probability of at least "
        f"{failed.threshold:.4g} are wrong or unsure, too many to be sure of {plan.terms.target:g}"
    )
    share = plan.sample.allowed_share(failed.answers, plan.terms)
    needed = _answers_for(errors / failed.answers, share, plan.terms)
    if needed is None:
        return f"{seen}; more answers would hardly help, better probabilities would", None
    more = max(1, math.ceil((needed / failed.answers - 1) * asked))
    from_scenes = ", each from another scene" if plan.terms.promise is Promise.SCENES else ""
    return f"{seen}; at that share it would take about {more:,} more answers{from_scenes}", more


def _answers_for(error_rate: float, share: float, terms: Terms) -> int | None:
    """Answers that are enough at this rate of errors; None where none are."""
    if error_rate >= HOPELESS * share:
        return None
    for errors in range(MAX_BUDGET):
        answers = answers_with_errors(errors, share, terms.level, MAX_BUDGET)
        if answers > MAX_BUDGET:
            break
        if answers * error_rate <= errors:
            return answers
    return None
