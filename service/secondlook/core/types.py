"""The values that move through the stages: Image → Proposals → Verdict → Decision → Judgement.

All are frozen. Boxes are float32 pixel ``xyxy`` in the original image everywhere inside the
package; other formats exist only at the borders (``formats``, the wire, model adapters).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]
"""(N, 4) float32, pixel xyxy, x2 > x1 and y2 > y1."""

Pixels = NDArray[np.uint8]
"""(H, W, 3) uint8, RGB, upright (EXIF orientation applied)."""

NOT_ASKED = "this question was not asked of this box"
"""The error of a verdict that nobody gave."""

STUDENT = "student:"
"""What the name of a student begins with where a proposer's stands: ``student:NAME@digest``."""


class View(StrEnum):
    """What the verifier is shown of a box."""

    CROP = "crop"
    """The box with a margin."""
    CONTEXT = "context"
    """A wider crop with the box drawn."""
    IMAGE = "image"
    """The whole image."""


class Outcome(StrEnum):
    """What became of one box for one class."""

    ACCEPT = "accept"
    REJECT = "reject"
    UNSURE = "unsure"


class LabelPath(StrEnum):
    """Who made the labels of one image."""

    TEACHERS = "teachers"
    """Proposer and verifier alone."""
    STUDENT = "student"
    """The student alone: it was certain, and audits agree with it."""
    AUDIT = "audit"
    """Proposer and verifier; what the student would have said was compared with it."""


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
    ``propose.by_class`` has folded phrases into classes.
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
class Ask:
    """Closed questions about one rendered view; they share its encoding."""

    pixels: Pixels
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What a verifier model said to one question on one view.

    ``p_yes`` in [0, 1] is the probability of "yes" against "no", or None when there is no
    verdict: the model abstained (``raw`` holds what it said) or failed (``error`` says why).
    """

    p_yes: float | None
    raw: str = ""
    """The model's first answer token(s), as decoded."""
    error: str = ""
    """Why there is no answer at all; empty when the model answered."""
    exact: bool = True
    """False when the backend gave no probabilities and ``p_yes`` was parsed from words."""


@dataclass(frozen=True)
class Verdict:
    """One question answered about one box."""

    question: str
    view: View
    answer: Answer
    model: str
    """Name and digest of the model that answered."""
    ms: float
    """This question's share of the model's time, milliseconds; 0 when it came from the cache."""
    cached: bool = False


@dataclass(frozen=True)
class Decision:
    """The outcome for one box and class, and why."""

    outcome: Outcome
    probability: float
    """That the label is right, [0, 1], from the scores at hand."""
    reason: str
    """One sentence for a person."""


@dataclass(frozen=True)
class Judgement:
    """One box judged for one class. An accepted judgement is a label."""

    class_name: str
    box: tuple[float, float, float, float]
    """Pixel xyxy in the original image."""
    score: float
    """The proposer's score for this class, [0, 1]."""
    verdict: Verdict | None
    """None when no verifier was in use."""
    decision: Decision
    row: int
    """Of the evidence's proposals."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that the models said of one image, whatever is decided from it."""

    proposals: Proposals
    """By class: every box above the low threshold, best first."""
    verdicts: Mapping[tuple[int, View, str], Verdict]
    """By row of the proposals, view and question."""
    proposer: str
    """Name and digest."""
    verifier: str
    """Name and digest; empty when there was no second look."""
    student: str = ""
    """``student:NAME@digest`` of the student that was compared with them; empty without one."""

    @property
    def path(self) -> LabelPath:
        """Who said it. A student's scores are the probabilities that its boxes are right."""
        return path_of(self.proposer, self.student)

    def heard(self, row: int, view: View, question: str) -> Verdict | None:
        """What was said of one box; None only where no verifier was in use.

        A question that was not asked of this box is a verdict without an answer.
        """
        if not self.verifier:
            return None
        known = self.verdicts.get((row, view, question))
        if known is not None:
            return known
        return Verdict(question, view, Answer(None, error=NOT_ASKED), self.verifier, ms=0.0)


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
    """Milliseconds by stage: ``decode``, ``queue``, ``propose``, ``verify``."""

    @property
    def path(self) -> LabelPath:
        """Who made the labels."""
        return self.evidence.path

    @property
    def proposals(self) -> int:
        """Boxes that the proposer found above the low threshold."""
        return len(self.evidence.proposals)

    def of(self, outcome: Outcome) -> tuple[Judgement, ...]:
        """The judgements with this outcome."""
        return tuple(j for j in self.judgements if j.decision.outcome is outcome)

    @property
    def verified_empty(self) -> bool:
        """True when nothing was accepted and nothing is unsure."""
        return all(j.decision.outcome is Outcome.REJECT for j in self.judgements)
