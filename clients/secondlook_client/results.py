"""What the service answers, as frozen values. Boxes are pixel xyxy in the upright image."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from secondlook_client.errors import ClientError


class Outcome(StrEnum):
    """What became of one box for one class."""

    ACCEPT = "accept"
    REJECT = "reject"
    UNSURE = "unsure"


@dataclass(frozen=True)
class Judgement:
    """One box judged for one class; an accepted one is a label."""

    class_name: str
    box: tuple[float, float, float, float]
    """Pixel xyxy in the upright image."""
    score: float
    """The proposer's, [0, 1]."""
    outcome: Outcome
    probability: float
    """That the label is right, [0, 1]."""
    reason: str
    """One sentence for a person."""
    question: str = ""
    """What the verifier was asked; empty when it was not."""
    view: str = ""
    """``crop``, ``context`` or ``image``."""
    p_yes: float | None = None
    """The verifier's probability of "yes", [0, 1]; None when there is no verdict."""
    raw_answer: str = ""
    error: str = ""
    """Why there is no verdict, when the verifier failed."""
    exact: bool = True
    """False when the verifier gave no probabilities and ``p_yes`` was read from its words."""
    verifier: str = ""
    """Name and digest of the model that answered."""
    verify_ms: float = 0.0
    cached: bool = False
    """True when the same question about the same pixels had been answered before."""


class LabelPath(StrEnum):
    """Who made the labels of an image."""

    TEACHERS = "teachers"
    """Proposer and verifier."""
    STUDENT = "student"
    """A student alone: it was certain, and audits agree with it."""
    AUDIT = "audit"
    """Proposer and verifier; what a student would have said was compared with it."""


@dataclass(frozen=True)
class LabelResult:
    """Everything known about one image after both stages."""

    name: str
    sha256: str
    """Of the bytes that were sent."""
    width: int
    height: int
    """Pixels, after rotation by EXIF."""
    proposals: int
    """Boxes found above the low threshold."""
    judgements: tuple[Judgement, ...]
    proposer: str
    verifier: str
    """Name and digest; empty when no verifier is in use, or a student labelled it alone."""
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    path: LabelPath = LabelPath.TEACHERS

    def of(self, outcome: Outcome) -> tuple[Judgement, ...]:
        """The judgements with this outcome."""
        return tuple(j for j in self.judgements if j.outcome is outcome)

    @property
    def labels(self) -> tuple[Judgement, ...]:
        """What was accepted."""
        return self.of(Outcome.ACCEPT)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``from_dict`` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "LabelResult":
        """Read what ``to_dict`` wrote. Raises ``KeyError``/``TypeError`` on anything else."""
        judgements = tuple(
            Judgement(**{**j, "box": tuple(j["box"]), "outcome": Outcome(j["outcome"])})
            for j in plain["judgements"]
        )
        path = LabelPath(plain.get("path", LabelPath.TEACHERS))
        return cls(**{**plain, "judgements": judgements, "path": path})


@dataclass(frozen=True)
class ServerInfo:
    """What runs at the other end."""

    version: str
    """Of the secondlook package."""
    proposer: str
    """Name and digest."""
    verifier: str
    """Name and digest; empty when none is in use."""
    classes: tuple[str, ...] | None
    """Names in the server's own ontology; None when a request must bring its own."""
    max_message_bytes: int
    """A larger request is refused."""
    max_images: int
    """Inside at one time; one more is told to come back later."""
    student: str = ""
    """Name and digest of the student that labels what it is certain of; empty without one."""


@dataclass(frozen=True)
class FrameResult:
    """The one report about one frame of a live stream: exactly one of the last three is set."""

    sequence: int
    """The number that ``send`` gave it."""
    key: Any
    """Whatever was given to ``send`` with it."""
    result: LabelResult | None = None
    error: ClientError | None = None
    """Why this frame could not be labelled."""
    dropped: str = ""
    """Why it was left out: ``superseded`` (newer frames came), ``server_busy``,
    ``shutting_down``, ``not_connected``, ``connection_lost`` or ``closed``."""
