"""The figures of a run, added up one picture at a time."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from secondlook_client.results import LabelPath, LabelResult, Outcome


@dataclass
class Totals:
    """What became of all boxes so far. ``add`` each picture's result."""

    pictures: int = 0
    proposals: int = 0
    """Boxes the proposer found."""
    accepted: int = 0
    rejected: int = 0
    unsure: int = 0
    """Judgements (one box for one class) by outcome."""
    verified_empty: int = 0
    """Pictures where nothing was accepted and nothing is unsure."""
    without_verdict: int = 0
    """Judgements that the verifier failed to answer; all of them unsure."""
    first_error: str = ""
    """Why the first of those has no verdict."""
    by_class: dict[str, Counter[Outcome]] = field(default_factory=dict)
    by_path: Counter[LabelPath] = field(default_factory=Counter)
    """Pictures by who labelled them."""
    proposer: str = ""
    """Of the models, or of a student where it labelled all."""
    verifier: str = ""

    def add(self, result: LabelResult) -> None:
        """Count one picture in."""
        self.pictures += 1
        self.proposals += result.proposals
        self.by_path[result.path] += 1
        if result.path is not LabelPath.STUDENT or not self.proposer:
            self.proposer, self.verifier = result.proposer, result.verifier
        for judgement in result.judgements:
            self.by_class.setdefault(judgement.class_name, Counter())[judgement.outcome] += 1
            if judgement.error:
                self.without_verdict += 1
                self.first_error = self.first_error or judgement.error
        accepted, unsure = len(result.labels), len(result.of(Outcome.UNSURE))
        self.accepted += accepted
        self.unsure += unsure
        self.rejected += len(result.judgements) - accepted - unsure
        self.verified_empty += not (accepted or unsure)

    def count(self, outcome: Outcome, classes: Iterable[str]) -> int:
        """Judgements of these classes with this outcome."""
        counted = (self.by_class.get(name) for name in classes)
        return sum(count[outcome] for count in counted if count)

    @classmethod
    def of(cls, results: Iterable[LabelResult]) -> "Totals":
        """The figures of all ``results``."""
        totals = cls()
        for result in results:
            totals.add(result)
        return totals
