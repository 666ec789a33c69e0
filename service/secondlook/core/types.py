"""The values that move through the stages: Image → Proposals → Verdict → Decision → Judgement.

Those that a client sees too (``Verdict``, ``Decision``, ``Judgement``, ``LabelResult``) are in
``secondlook_client.values``. All are frozen. Boxes are float32 pixel ``xyxy`` in the original image
everywhere inside the package; other formats exist only at the borders (the wire, model adapters,
exports).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from secondlook_client.masks import Segmentation
from secondlook_client.values import (
    Answer,
    EmptyReason,
    Judgement,
    LabelPath,
    LabelResult,
    Outcome,
    Verdict,
    View,
    empty_reason,
)

Boxes = NDArray[np.float32]
"""(N, 4) float32, pixel xyxy, x2 > x1 and y2 > y1."""

Pixels = NDArray[np.uint8]
"""(H, W, 3) uint8, RGB, upright (EXIF orientation applied)."""

NOT_ASKED = "this question was not asked of this box"
"""The error of a verdict for a question that was not asked."""

NOT_ASKED_OF_IMAGE = "this question was not asked of the image"
"""The same where the question is about the whole image."""

STUDENT = "student:"
"""What the name of a student begins with where a proposer's stands: ``student:NAME@digest``."""


@dataclass(frozen=True, eq=False)
class Image:
    """A checked image."""

    pixels: Pixels
    sha256: str
    """Hash of the bytes it was decoded from, 64 hex digits."""
    name: str = ""
    """Where it came from, for people; never used as a path."""

    @property
    def width(self) -> int:
        """Pixels, after rotation."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Pixels, after rotation."""
        return int(self.pixels.shape[0])


@dataclass(frozen=True, eq=False)
class Proposals:
    """The boxes found on one image, each with a score for every column asked for.

    A column is a phrase where a model made them, and a class of the ontology after
    the pipeline has merged phrases into classes.
    """

    boxes: Boxes
    scores: NDArray[np.float32]
    """(N, columns) float32 in [0, 1]."""

    def __post_init__(self) -> None:
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise ValueError(f"expected boxes of shape (N, 4), got {self.boxes.shape}")
        if self.scores.ndim != 2 or len(self.scores) != len(self.boxes):
            raise ValueError(
                f"expected scores of shape ({len(self.boxes)}, columns), got {self.scores.shape}"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, rows: NDArray[np.intp] | Sequence[int]) -> "Proposals":
        """The same proposals, only ``rows``, in that order."""
        return Proposals(self.boxes[rows], self.scores[rows])


@dataclass(frozen=True, eq=False)
class VQAQuery:
    """Closed questions about one rendered view; they share its encoding."""

    pixels: Pixels
    questions: tuple[str, ...]


@dataclass(frozen=True)
class ImageVerdicts:
    """What the verifier said of an image as a whole, asked whether it is empty."""

    size: tuple[int, int]
    """Width and height of the image, pixels."""
    by_question: Mapping[str, tuple[Verdict, ...]]
    """By presence question, one verdict for each tile of the image, row by row; mostly one tile."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The whole image, pixel xyxy."""
        return 0.0, 0.0, float(self.size[0]), float(self.size[1])

    def verdict(self, question: str) -> Verdict:
        """The verdict that speaks most against an empty image: one without an answer, else the
        highest P(yes). A question that was not asked is a verdict without an answer."""
        known = self.by_question.get(question)
        if known is None:
            return Verdict(question, View.IMAGE, Answer(None, error=NOT_ASKED_OF_IMAGE), "", 0.0)
        return max(known, key=lambda v: 2.0 if v.answer.p_yes is None else v.answer.p_yes)


@dataclass(frozen=True, eq=False)
class Evidence:
    """The output of all models for one image, from which decisions are made."""

    proposals: Proposals
    """By class: every box above the low threshold, best first."""
    verdicts: Mapping[tuple[int, View, str], Verdict]
    """By row of the proposals, view and question."""
    proposer: str
    """Name and digest."""
    verifier: str
    """Name and digest; empty when none was in use."""
    student: str = ""
    """``student:NAME@digest`` of the student compared with them; empty without one."""
    image: ImageVerdicts | None = None
    """None where the whole image was not asked about."""
    segmentations: Mapping[int, Segmentation] = field(default_factory=dict)
    """By row of the proposals, where a mask was asked for and found."""
    segmenter: str = ""
    """Name and digest; empty when none was in use."""
    unsegmented: Mapping[int, str] = field(default_factory=dict)
    """By row of the proposals, why there is no mask although one was asked for."""
    tracks: Mapping[int, int] = field(default_factory=dict)
    """By row of the proposals, the number of the track that it belongs to, from 1; empty where
    nothing was tracked."""

    @property
    def image_verdicts(self) -> tuple[Verdict, ...]:
        """Every verdict about the whole image or a tile, question by question."""
        found = self.image.by_question.values() if self.image else ()
        return tuple(verdict for of_question in found for verdict in of_question)

    @property
    def path(self) -> LabelPath:
        """Which models made it. A student's scores are probabilities that its boxes are right."""
        return path_of(self.proposer, self.student)

    def verdict(self, row: int, view: View, question: str) -> Verdict | None:
        """The verdict on one box; None only where no verifier was in use.

        A question that was not asked of this box is a verdict without an answer.
        """
        if not self.verifier:
            return None
        known = self.verdicts.get((row, view, question))
        if known is not None:
            return known
        return Verdict(question, view, Answer(None, error=NOT_ASKED), self.verifier, ms=0.0)


UNASKED = Answer(None, error=NOT_ASKED)
YES = 0.5
"""P(yes) above which a decoy was answered with yes, whatever limits its class has."""


class DecoyKind(StrEnum):
    """Why the answer to a decoy is known to be no: see ``labeling.decoys``."""

    BACKGROUND = "background"
    """Nothing was proposed where its box is."""
    OTHER_CLASS = "other_class"
    """Its box is a confident proposal of a class that cannot be the one asked about."""
    SWAPPED_ATTRIBUTE = "swapped_attribute"
    """The question of another side of a contrast, where one side was answered with a sure yes."""
    OFF_CENTRE = "off_centre"
    """Its box holds a part of an object only: the label would be in the wrong place."""


class DecoyReply(StrEnum):
    """What the verifier said to a decoy."""

    YES = "yes"
    """Wrongly so."""
    NO = "no"
    ABSTAINED = "abstained"
    """Neither yes nor no."""
    FAILED = "failed"
    """It gave no answer."""


DecoyCounts = Mapping[tuple[DecoyKind, str, DecoyReply], int]
"""Decoys by kind, class and what the verifier said."""


@dataclass(frozen=True)
class Decoy:
    """A question whose answer is known to be no, asked to audit the verifier; never a label."""

    kind: DecoyKind
    class_name: str
    box: tuple[float, float, float, float]
    """Pixel xyxy in the upright image."""
    view: View
    question: str
    answer: Answer = UNASKED

    @property
    def said(self) -> "DecoyReply":
        """What the verifier said to it."""
        p_yes = self.answer.p_yes
        if p_yes is not None:
            return DecoyReply.YES if p_yes > YES else DecoyReply.NO
        return DecoyReply.FAILED if self.answer.error else DecoyReply.ABSTAINED


def path_of(proposer: str, student: str) -> LabelPath:
    """Who made labels, by the names of their evidence."""
    if proposer.startswith(STUDENT):
        return LabelPath.STUDENT
    return LabelPath.AUDIT if student else LabelPath.TEACHERS


@dataclass(frozen=True, eq=False)
class Labelled:
    """Everything known about one image after both stages."""

    name: str
    sha256: str
    width: int
    height: int
    judgements: tuple[Judgement, ...]
    evidence: Evidence
    """What the judgements were made from."""
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds by stage: ``decode``, ``queue``, ``propose``, ``verify``, ``segment``."""
    decoys: tuple[Decoy, ...] = ()
    """What the verifier was asked to audit it, with its answers; no part of the ``result``."""
    complete: bool = False
    """Whether a person said that nothing is missing on the image."""

    @property
    def path(self) -> LabelPath:
        """Who made the labels."""
        return self.evidence.path

    @property
    def proposals(self) -> int:
        """Boxes that the proposer found above the low threshold."""
        return len(self.evidence.proposals)

    @property
    def result(self) -> LabelResult:
        """The same without its evidence: what a client gets, and what is reported or exported."""
        return LabelResult(
            self.name,
            self.sha256,
            self.width,
            self.height,
            self.proposals,
            self.judgements,
            self.evidence.proposer,
            self.evidence.verifier,
            self.timings_ms,
            self.path,
            self.evidence.image_verdicts,
            self.empty,
        )

    def of(self, outcome: Outcome) -> tuple[Judgement, ...]:
        """The judgements with this outcome."""
        return tuple(j for j in self.judgements if j.decision.outcome is outcome)

    @property
    def empty(self) -> EmptyReason | None:
        """Why it has neither a label nor an unsure box; None where it has one."""
        return self.empty_of(self.judgements)

    def empty_of(self, judgements: Sequence[Judgement]) -> EmptyReason | None:
        """The same for some of its judgements."""
        return empty_reason(judgements, self.evidence.image_verdicts, self.complete)


@dataclass(frozen=True)
class LabelledImage:
    """One labelled image of a run or a dataset, to be shown or written."""

    name: str
    """Its path, with forward slashes."""
    result: LabelResult
    cursor: int | None = None
    """Of the result in its job; None where it is not known."""

    def label_id(self, place: int) -> str:
        """What ``secondlook explain`` calls the judgement at this place; empty if not known."""
        return "" if self.cursor is None else f"{self.cursor}.{place}"
