"""What is kept of a learning loop: its plan, its rounds, what they cost and what came of them.

One JSON file, replaced as a whole after each phase.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from secondlook.core.files import replacing
from secondlook.evaluation.map_interval import MapInterval
from secondlook.selection.choices import Measure, Strategy
from secondlook_client.errors import Damaged, NotFound
from secondlook_client.values import GroupBy, Review, ReviewAnswer

FORMAT = 1
SECONDS_PER_ANSWER = 2.5
"""Of a person who answers yes or no about one box, where it was not measured."""
SECONDS_PER_BOX = 7.0
"""Of a person who draws a box that was missed, likewise: extreme clicking (arXiv 1708.02750)."""
PAUSE_S = 120.0
"""A longer time between two reviews of a person is a pause, not work."""
LEAST_MEASURED = 0.5
"""Share of the reviews of which the time must be known, for times to count as measured."""


class LabelUse(StrEnum):
    """Which labels a student learns."""

    ALL = "all"
    """Those that people reviewed, and of all other images what both models made."""
    REVIEWED = "reviewed"
    """Only the images that people reviewed."""


@dataclass(frozen=True)
class LoopPlan:
    """What must stay the same for a loop to go on."""

    name: str
    run: str
    """Of the store, with the labels of all images."""
    strategy: Strategy = Strategy.BALANCE
    measure: Measure = Measure.ENTROPY
    batch: int = 50
    """Images a round."""
    held_out: int = 50
    """Images that are never chosen, about."""
    labels: LabelUse = LabelUse.ALL
    group_by: GroupBy = GroupBy.SIMILARITY
    """What is one scene: near duplicates, or also the images of one folder."""
    seed: int = 0
    seconds_per_answer: float = SECONDS_PER_ANSWER
    seconds_per_box: float = SECONDS_PER_BOX


@dataclass(frozen=True)
class ReviewCost:
    """What some images took of people's time."""

    answers: int = 0
    """Yes, no or unsure of a box; and that nothing is missing on an image."""
    boxes: int = 0
    """Drawn: missed objects and better outlines."""
    seconds: float = 0.0
    measured: bool = False
    """Whether ``seconds`` follow from the times of the reviews; else from those that are stated."""

    def __add__(self, other: "ReviewCost") -> "ReviewCost":
        return ReviewCost(
            self.answers + other.answers,
            self.boxes + other.boxes,
            self.seconds + other.seconds,
            self.measured or other.measured,
        )


@dataclass(frozen=True)
class Round:
    """One round; what is not done yet is empty."""

    number: int
    strategy: str = ""
    images: tuple[str, ...] = ()
    """SHA-256 of those that were chosen."""
    reasons: tuple[str, ...] = ()
    """Why each of them."""
    cost: ReviewCost | None = None
    snapshot: str = ""
    student: str = ""
    """Folder, relative to the loop's."""
    measured: MapInterval | None = None


@dataclass(frozen=True)
class LoopRecord:
    """All that is kept of a loop."""

    plan: LoopPlan
    held_out: tuple[str, ...] = ()
    """SHA-256 of the held-out images."""
    held_out_cost: ReviewCost = ReviewCost()
    rounds: tuple[Round, ...] = ()
    """The last of them may be under way."""
    stopped: str = ""
    """Why the loop ended."""
    given: dict[str, Any] = field(default_factory=dict)
    """Options of the command that began it, as plain values, to go on with."""
    format: int = FORMAT

    @property
    def last(self) -> Round:
        """The newest round."""
        return self.rounds[-1]

    @property
    def asked_now(self) -> tuple[str, ...]:
        """The images that people are asked about in this phase."""
        return self.last.images if self.rounds else self.held_out

    @property
    def reviewed(self) -> frozenset[str]:
        """Images of the rounds that people have answered."""
        return frozenset().union(*(one.images for one in self.rounds if one.cost))

    @property
    def done(self) -> tuple[Round, ...]:
        """The rounds that were measured."""
        return tuple(one for one in self.rounds if one.measured)

    @property
    def costs(self) -> list[ReviewCost]:
        """Of people's time up to the end of each round that was measured."""
        total, found = self.held_out_cost, []
        for one in self.done:
            total += one.cost or ReviewCost()
            found.append(total)
        return found

    def with_last(self, **changes: Any) -> "LoopRecord":
        """The record with these changes of the newest round."""
        return replace(self, rounds=(*self.rounds[:-1], replace(self.last, **changes)))


@dataclass(frozen=True)
class StopRules:
    """When a loop ends; it may go on later under other rules."""

    target: float | None = None
    """mAP50 that the lower end of the interval must reach."""
    budget_s: float | None = None
    """Seconds of people's time, with the held-out images."""
    plateau: int = 0
    """Rounds without one that is better than all before by more than its interval; 0: never."""
    rounds: int = 0
    """At most; 0: no limit."""

    def reason(self, record: LoopRecord) -> str:
        """Why the loop ends after its newest round, in a sentence; empty where it goes on."""
        done = [one.measured for one in record.rounds if one.measured]
        if not done:
            return ""
        low, _ = done[-1].interval
        spent = record.costs[-1].seconds
        if self.target is not None and low >= self.target:
            return f"the target is reached: mAP50 is at least {low:.3f}, asked for {self.target:g}"
        if self.budget_s is not None and spent >= self.budget_s:
            return f"the budget is used: {spent:,.0f} of {self.budget_s:,.0f} seconds"
        if self.rounds and len(done) >= self.rounds:
            return f"round {len(done)} was the last one asked for"
        if self.plateau and len(done) > self.plateau and _is_flat(done, self.plateau):
            return (
                f"a plateau: none of the last {self.plateau} rounds was better than those before "
                "by more than the interval of the difference"
            )
        return ""


def _is_flat(done: list[MapInterval], last: int) -> bool:
    best = max(done[:-last], key=lambda one: one.map50)
    return all(one.gain_over(best)[0] <= 0 for one in done[-last:])


def cost_of(said: Iterable[Review], plan: LoopPlan, *, timed: bool) -> ReviewCost:
    """What reviews took; with ``timed`` by the times at which they were given, where these tell.

    The time of a review is that since the one before by the same person. The first, and one after
    a pause, count as the mean of the others.
    """
    standing = [one for one in said if one.undoes is None and one.undone_by is None]
    drawn = sum(
        one.answer is ReviewAnswer.MISSING or bool(one.new_box or one.mask) for one in standing
    )
    answers = sum(one.answer is not ReviewAnswer.MISSING for one in standing)
    times = _times(standing) if timed else []
    if len(times) > LEAST_MEASURED * len(standing):
        seconds = sum(times) / len(times) * len(standing)
        return ReviewCost(answers, drawn, seconds, measured=True)
    stated = answers * plan.seconds_per_answer + drawn * plan.seconds_per_box
    return ReviewCost(answers, drawn, stated)


def _times(said: list[Review]) -> list[float]:
    of_people: dict[str, list[float]] = {}
    for one in said:
        of_people.setdefault(one.person, []).append(one.created_at)
    gaps = (b - a for times in of_people.values() for a, b in pairwise(sorted(times)))
    return [gap for gap in gaps if gap <= PAUSE_S]


def write_record(file: Path, record: LoopRecord) -> None:
    """Replace the file of a loop. Raises ``StorageFull``."""
    with replacing(file) as part:
        part.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


def read_record(file: Path) -> LoopRecord:
    """What ``write_record`` wrote. Raises ``NotFound`` and ``Damaged``."""
    try:
        content = file.read_bytes()
    except OSError as cause:
        raise NotFound(
            f"there is no loop in {file.parent}; begin one: secondlook loop start"
        ) from cause
    try:
        record = msgspec.json.decode(content, type=LoopRecord)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise Damaged(f"{file} is not the record of a loop ({cause})") from cause
    if record.format != FORMAT:
        raise Damaged(f"{file} has format {record.format}, and this version reads {FORMAT}")
    return record
