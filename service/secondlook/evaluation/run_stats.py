"""The figures of a run, added up one image at a time, and its labels before and after verification.

*Before* takes every candidate that the proposer scored at or above its class's threshold as a
label, as a user of the proposer alone would. *After* takes the accepted ones. Unsure boxes are no
labels, so they cost recall and never precision.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from secondlook.core.types import NOT_ASKED
from secondlook.evaluation.matching import Quality, ScoredBox, ScoredImage, TrueBox, evaluate
from secondlook.labeling.decisions import FILLED, UNASKED
from secondlook.labeling.outlines import NO_MASK, NOT_SEGMENTED
from secondlook_client.ontology import Ontology
from secondlook_client.values import EmptyReason, LabelPath, LabelResult, Outcome

Results = Callable[[], Iterator[tuple[str, LabelResult]]]
"""Image names and results, anew at each call."""
OUTCOME_WORDS = {
    Outcome.ACCEPT: "accepted",
    Outcome.UNSURE: "unsure",
    Outcome.REJECT: "rejected",
}
"""What became of a box, as it is told; in this order."""
Truth = Mapping[str, Sequence[TrueBox]]
"""True boxes by image name."""


@dataclass
class RunStats:
    """What became of all boxes so far. ``add`` each image's result."""

    images: int = 0
    proposals: int = 0
    """Boxes the proposer found."""
    judged_boxes: int = 0
    """Those that reached the threshold of a class, so that they were judged. Each was for every
    class that it may show: the numbers below are of decisions, one box for one class."""
    accepted: int = 0
    rejected: int = 0
    unsure: int = 0
    """Decisions by outcome."""
    doubts: int = 0
    """Decisions about whole images without a box, one for each class that could not be ruled out;
    counted nowhere else."""
    doubtful_images: int = 0
    """Images that have such doubts."""
    empty: Counter[EmptyReason] = field(default_factory=Counter)
    """Images where nothing was accepted and nothing is unsure."""
    without_verdict: int = 0
    """Judgements that the verifier failed to answer; all of them unsure."""
    first_error: str = ""
    """Why the first of those has no verdict."""
    abstained: int = 0
    """Judgements to which the verifier answered neither yes nor no; all of them unsure."""
    first_abstention: str = ""
    """What it said to the first of those."""
    not_asked: int = 0
    """Judgements that were certain without the verifier's answer; see ``verify_budget``."""
    by_track: int = 0
    """Judgements of boxes that were answered for in another frame; see ``labeling.tracks``."""
    brief: int = 0
    """Judgements of boxes that are not worth a question: of objects that were seen for a moment, or
    beside another box of the same object."""
    filled: int = 0
    """Judgements of boxes between two sightings of a track, where nothing was found."""
    masks: int = 0
    """Labels with a mask."""
    without_mask: int = 0
    """Labels that the segmenter gave none of."""
    first_mask_error: str = ""
    """Why the first of those has none."""
    by_class: dict[str, Counter[Outcome]] = field(default_factory=dict)
    by_path: Counter[LabelPath] = field(default_factory=Counter)
    """Images by who labelled them."""
    proposer: str = ""
    """Of the models, or of a student where it labelled all."""
    verifier: str = ""

    def add(self, result: LabelResult) -> None:
        """Count one image in."""
        self.images += 1
        self.proposals += result.proposals
        self.by_path[result.path] += 1
        if result.path is not LabelPath.STUDENT or not self.proposer:
            self.proposer, self.verifier = result.proposer, result.verifier
        of_boxes = [judgement for judgement in result.judgements if not judgement.whole_image]
        self.judged_boxes += len({judgement.box for judgement in of_boxes})
        for judgement in of_boxes:
            self.by_class.setdefault(judgement.class_name, Counter())[judgement.outcome] += 1
        outcomes = Counter(judgement.outcome for judgement in of_boxes)
        self.accepted += outcomes[Outcome.ACCEPT]
        self.rejected += outcomes[Outcome.REJECT]
        self.unsure += outcomes[Outcome.UNSURE]
        doubts = len(result.of(Outcome.UNSURE)) - outcomes[Outcome.UNSURE]
        self.doubts += doubts
        self.doubtful_images += doubts > 0
        if result.empty:
            self.empty[result.empty] += 1
        self._add_missing_answers(result)
        self._add_masks(result)

    def _add_missing_answers(self, result: LabelResult) -> None:
        for judgement in result.judgements:
            if judgement.error == NOT_ASKED and NOT_ASKED not in judgement.reason:
                self.not_asked += 1
            elif judgement.p_yes is not None and judgement.reason.startswith(UNASKED):
                self.by_track += 1
            elif judgement.error.startswith(UNASKED):
                self.brief += 1
            elif judgement.error.startswith(FILLED):
                self.filled += 1
            elif judgement.error:
                self.without_verdict += 1
                self.first_error = self.first_error or judgement.error
            elif judgement.verdict and judgement.verdict.answer.p_yes is None:
                self.abstained += 1
                self.first_abstention = self.first_abstention or judgement.verdict.answer.raw

    def _add_masks(self, result: LabelResult) -> None:
        for label in result.labels:
            self.masks += label.segmentation is not None
            _, failed, why = label.reason.partition(f"; {NO_MASK}")
            if failed and why != NOT_SEGMENTED:
                self.without_mask += 1
                self.first_mask_error = self.first_mask_error or why

    @property
    def verifier_never_answered(self) -> bool:
        """Whether it was asked and abstained every time: such a run labelled nothing."""
        return 0 < self.abstained == self.decisions + self.doubts - self.not_asked

    @property
    def decisions(self) -> int:
        """One box for one class each."""
        return self.accepted + self.rejected + self.unsure

    def count(self, outcome: Outcome, classes: Iterable[str]) -> int:
        """Judgements of these classes with this outcome."""
        counted = (self.by_class.get(name) for name in classes)
        return sum(count[outcome] for count in counted if count)

    @classmethod
    def of(cls, results: Iterable[LabelResult]) -> "RunStats":
        """The figures of all ``results``."""
        stats = cls()
        for result in results:
            stats.add(result)
        return stats


@dataclass(frozen=True)
class StageComparison:
    """Quality before and after verification, against the same truth."""

    before: Quality
    after: Quality


def compare_stages(
    results: Results, truth: Truth, ontology: Ontology, min_iou: float = 0.5
) -> StageComparison:
    """Judge both stages on every image of ``results``; its name must be in ``truth``."""
    thresholds = {spec.name: spec.threshold for spec in ontology.classes}

    def images(labels: Callable[[LabelResult], list[ScoredBox]]) -> Iterator[ScoredImage]:
        return ((labels(result), truth[name]) for name, result in results())

    return StageComparison(
        evaluate(images(lambda r: _proposed(r, thresholds)), ontology.names, min_iou),
        evaluate(images(_accepted), ontology.names, min_iou),
    )


def _proposed(result: LabelResult, thresholds: Mapping[str, float]) -> list[ScoredBox]:
    """What the proposer alone would have labelled."""
    return [
        ScoredBox(j.class_name, j.box, j.score)
        for j in result.judgements
        if j.score >= thresholds[j.class_name] and not j.whole_image
    ]


def _accepted(result: LabelResult) -> list[ScoredBox]:
    """What became a label."""
    return [ScoredBox(j.class_name, j.box, j.probability) for j in result.labels]
