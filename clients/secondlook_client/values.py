"""The plain values that client and service share: what is asked, and what is answered.

All are frozen. Boxes are pixel ``xyxy`` in the upright image (EXIF orientation applied); times are
seconds since 1970, UTC. Importing this module loads neither gRPC nor protobuf: ``wire`` converts
messages to these values and back.

    an image      Outcome, EmptyReason, LabelPath, View, Answer, Verdict, Decision, Judgement,
                  LabelResult, FrameResult, ServerInfo
    a job         JobKind, JobState, Job, PathCounts, JobProgress, JobResult, JobFailure, Uploaded
    a snapshot    BoxKind, GroupBy, Box, Example, Snapshot, SnapshotQuery
    a model       ModelVersion, ModelComparison, Promotion, TrainingState, Training

What to look for is a ``ClassSpec``, in ``classes``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from secondlook_client.errors import InvalidInput, SecondlookError


class Outcome(StrEnum):
    """What became of one box for one class."""

    ACCEPT = "accept"
    REJECT = "reject"
    UNSURE = "unsure"


class EmptyReason(StrEnum):
    """Why an image has neither a label nor an unsure box."""

    NOTHING_PROPOSED = "nothing_proposed"
    """No box reached the verifier, so nobody looked twice: an object may have been missed. So are
    the empty images of a student that labels alone."""
    ALL_REJECTED = "all_rejected"
    """Boxes were proposed, and each was rejected."""
    VERIFIED_EMPTY = "verified_empty"
    """The verifier was asked about every class of the whole image or of its tiles, and each answer
    was no."""


BACKGROUND = (EmptyReason.ALL_REJECTED, EmptyReason.VERIFIED_EMPTY)
"""Images without a label that a training may take for background, unless it is told otherwise."""


class LabelPath(StrEnum):
    """Who made the labels of an image."""

    TEACHERS = "teachers"
    """Proposer and verifier."""
    STUDENT = "student"
    """A student alone: it was certain, and audits agree with it."""
    AUDIT = "audit"
    """Proposer and verifier; a student's labels were compared with theirs."""


class View(StrEnum):
    """What the verifier is shown of a box."""

    CROP = "crop"
    """The box with a margin."""
    CONTEXT = "context"
    """A wider crop with the box drawn."""
    IMAGE = "image"
    """The whole image."""


WHOLE_IMAGE = -2
"""The ``row`` of a judgement that is about the whole image and no proposal."""
_FROM_JUDGEMENTS: Any = object()


@dataclass(frozen=True)
class Answer:
    """A verifier model's answer to one question about one view."""

    p_yes: float | None
    """Probability of "yes" against "no", [0, 1]; None when the model abstained (``raw`` has its
    words) or failed (``error`` says why)."""
    raw: str = ""
    """The model's first answer token(s), as decoded."""
    error: str = ""
    """Why there is no answer at all; empty when the model answered."""
    exact: bool = True
    """False when the backend gave no probabilities and ``p_yes`` was parsed from words."""
    reason: str = field(default="", compare=False)
    """Stable word for ``error``, where it was given just now: "unreachable", "refused", ...; it is
    counted, and neither sent nor stored."""


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
    """True when the same question about the same pixels had been answered before."""


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
    """One box judged for one class; an accepted one is a label."""

    class_name: str
    box: tuple[float, float, float, float]
    """Pixel xyxy in the upright image."""
    score: float
    """The proposer's score for this class, [0, 1]."""
    verdict: Verdict | None
    """None when the verifier was not asked."""
    decision: Decision
    row: int = -1
    """Of the evidence's proposals, where the evidence is at hand; ``WHOLE_IMAGE``: of none."""

    @property
    def whole_image(self) -> bool:
        """Whether it is a doubt about the whole image: no box was accepted, none is unsure, and
        the verifier was asked about the class and did not say no. Its ``box`` is the image."""
        return self.row == WHOLE_IMAGE

    @property
    def outcome(self) -> Outcome:
        """Accepted, rejected or unsure."""
        return self.decision.outcome

    @property
    def probability(self) -> float:
        """That the label is right, [0, 1]."""
        return self.decision.probability

    @property
    def reason(self) -> str:
        """One sentence for a person."""
        return self.decision.reason

    @property
    def question(self) -> str:
        """What the verifier was asked; empty when it was not."""
        return self.verdict.question if self.verdict else ""

    @property
    def view(self) -> str:
        """``crop``, ``context`` or ``image``; empty when the verifier was not asked."""
        return self.verdict.view.value if self.verdict else ""

    @property
    def p_yes(self) -> float | None:
        """The verifier's probability of "yes", [0, 1]; None when it gave none."""
        return self.verdict.answer.p_yes if self.verdict else None

    @property
    def raw_answer(self) -> str:
        """The verifier's first words; empty when it was not asked."""
        return self.verdict.answer.raw if self.verdict else ""

    @property
    def error(self) -> str:
        """Why the verifier gave no answer, when it failed."""
        return self.verdict.answer.error if self.verdict else ""

    @property
    def exact(self) -> bool:
        """False when ``p_yes`` was parsed from words."""
        return self.verdict.answer.exact if self.verdict else True

    @property
    def verifier(self) -> str:
        """Name and digest of the model that answered; empty when none was asked."""
        return self.verdict.model if self.verdict else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, flat; ``from_dict`` reads them back."""
        return {
            "class_name": self.class_name,
            "box": self.box,
            "score": self.score,
            **asdict(self.decision),
            **_verdict_to_dict(self.verdict),
            "whole_image": self.whole_image,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Judgement":
        """Read what ``to_dict`` wrote. Raises ``KeyError``/``ValueError`` on anything else."""
        decision = Decision(Outcome(plain["outcome"]), plain["probability"], plain["reason"])
        x1, y1, x2, y2 = plain["box"]
        return cls(
            plain["class_name"],
            (x1, y1, x2, y2),
            plain["score"],
            _verdict_from_dict(plain) if plain["question"] else None,
            decision,
            WHOLE_IMAGE if plain.get("whole_image") else -1,
        )


def _verdict_to_dict(verdict: Verdict | None) -> dict[str, Any]:
    answer = verdict.answer if verdict else Answer(None)
    return {
        "question": verdict.question if verdict else "",
        "view": verdict.view.value if verdict else "",
        "p_yes": answer.p_yes,
        "raw_answer": answer.raw,
        "error": answer.error,
        "exact": answer.exact,
        "verifier": verdict.model if verdict else "",
        "verify_ms": verdict.ms if verdict else 0.0,
        "cached": verdict.cached if verdict else False,
    }


def _verdict_from_dict(plain: Mapping[str, Any]) -> Verdict:
    answer = Answer(plain["p_yes"], plain["raw_answer"], plain["error"], plain["exact"])
    view, ms, cached = View(plain["view"]), plain["verify_ms"], plain["cached"]
    return Verdict(plain["question"], view, answer, plain["verifier"], ms, cached)


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
    image_verdicts: tuple[Verdict, ...] = ()
    """What the verifier said of the whole image, or of each of its tiles, where it was asked
    whether the image is empty: class by class."""
    empty: EmptyReason | None = _FROM_JUDGEMENTS
    """Why there is neither a label nor an unsure box; None where there is one. Follows from the
    judgements and ``image_verdicts`` unless it is given, as where not all of those are at hand."""

    def __post_init__(self) -> None:
        if self.labels or self.of(Outcome.UNSURE):
            object.__setattr__(self, "empty", None)
        elif self.empty is _FROM_JUDGEMENTS:
            reason = empty_reason(self.judgements, self.image_verdicts)
            object.__setattr__(self, "empty", reason)

    def of(self, outcome: Outcome) -> tuple[Judgement, ...]:
        """The judgements with this outcome."""
        return tuple(j for j in self.judgements if j.outcome is outcome)

    @property
    def labels(self) -> tuple[Judgement, ...]:
        """What was accepted."""
        return self.of(Outcome.ACCEPT)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``from_dict`` reads them back."""
        return {
            **vars(self),
            "judgements": [j.to_dict() for j in self.judgements],
            "image_verdicts": [_verdict_to_dict(verdict) for verdict in self.image_verdicts],
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "LabelResult":
        """Read what ``to_dict`` wrote. Raises ``KeyError``/``TypeError`` on anything else."""
        verdicts = plain.get("image_verdicts", ())
        read = {
            **plain,
            "judgements": tuple(Judgement.from_dict(one) for one in plain["judgements"]),
            "path": LabelPath(plain.get("path", LabelPath.TEACHERS)),
            "image_verdicts": tuple(_verdict_from_dict(one) for one in verdicts),
        }
        if "empty" in plain:
            read["empty"] = EmptyReason(plain["empty"]) if plain["empty"] else None
        return cls(**read)


def empty_reason(
    judgements: Sequence[Judgement], image_verdicts: Sequence[Verdict]
) -> EmptyReason | None:
    """Why an image has neither a label nor an unsure box; None where it has one."""
    if any(judgement.outcome is not Outcome.REJECT for judgement in judgements):
        return None
    if image_verdicts:  # every class was asked about: a doubt would be an unsure judgement
        return EmptyReason.VERIFIED_EMPTY
    return EmptyReason.ALL_REJECTED if judgements else EmptyReason.NOTHING_PROPOSED


@dataclass(frozen=True)
class FrameResult:
    """The one report about one frame of a live stream: exactly one of the last three is set."""

    sequence: int
    """The number that ``send`` gave it."""
    key: Any
    """Whatever was given to ``send`` with it."""
    result: LabelResult | None = None
    error: SecondlookError | None = None
    """Why this frame could not be labelled."""
    dropped: str = ""
    """Why it was left out: ``superseded`` (newer frames came), ``server_busy``,
    ``shutting_down``, ``not_connected``, ``connection_lost`` or ``closed``."""


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
    """In flight at a time; more are refused with RESOURCE_EXHAUSTED."""
    student: str = ""
    """Name and digest of the student that labels what it is certain of; empty without one."""


class JobKind(StrEnum):
    """Where the images of a job come from."""

    FOLDER = "folder"
    """A folder on the server."""
    UPLOAD = "upload"
    """Sent one by one."""
    CAPTURE = "capture"
    """A captured stream."""
    UNKNOWN = "unknown"
    """Something that only a newer client knows."""


class JobState(StrEnum):
    """How a job stands."""

    LISTING = "listing"
    """The folder is being read; images found so far are labelled meanwhile."""
    RUNNING = "running"
    """Images are labelled, or more are waited for: see ``Job.idle``."""
    DONE = "done"
    """Every image is labelled, or failed for good."""
    CANCELLED = "cancelled"
    FAILED = "failed"
    """It cannot go on; its message says why."""
    UNKNOWN = "unknown"
    """Something that only a newer client knows."""


@dataclass(frozen=True)
class PathCounts:
    """Who labelled the images of a job in a stretch of time."""

    begin: float
    end: float
    """Seconds since 1970, UTC."""
    teachers: int
    """Images by proposer and verifier."""
    student: int
    """By a student alone."""
    audit: int
    """By proposer and verifier, with the student compared."""


@dataclass(frozen=True)
class Job:
    """A job as it stood when it was asked for."""

    name: str
    kind: JobKind
    state: JobState
    folder: str
    """On the server; empty unless it is the kind."""
    total: int
    """Images found or received so far."""
    done: int
    """Labelled."""
    failed: int
    """Each with a reason; see ``Jobs.failures``."""
    message: str
    """What it waits for, or why it failed; empty when all goes well."""
    open: bool
    """More images may come."""
    created_at: float
    """Seconds since 1970, UTC; so is ``updated_at``."""
    updated_at: float
    classes: tuple[str, ...] | None
    """What is looked for; None where only many jobs or news were asked for."""
    paths: tuple[PathCounts, ...] = ()
    """Who labelled its images, over time; empty unless asked for."""

    @property
    def waiting(self) -> int:
        """Images neither labelled nor failed yet."""
        return self.total - self.done - self.failed

    @property
    def idle(self) -> bool:
        """Whether all that came is labelled or failed, and more may come: from a stream that is
        closed or silent, or an upload that nobody finished."""
        return self.open and self.state is JobState.RUNNING and self.waiting == 0

    @property
    def over(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.state not in (JobState.LISTING, JobState.RUNNING, JobState.UNKNOWN)


@dataclass(frozen=True)
class JobProgress:
    """The state of a job and its speed."""

    job: Job
    images_per_second: float
    """Labelled or failed, lately; 0 while that is not known."""
    seconds_left: float | None
    """Until all images known so far are labelled or failed; None while that is not known."""


@dataclass(frozen=True)
class Uploaded:
    """An image that the server has made durable."""

    key: int
    """Its number in the job, signed 64 bits."""
    already: bool
    """Whether the job had this number before."""


@dataclass(frozen=True)
class JobResult:
    """One image's result in a job."""

    cursor: int
    """Grows within a job: results behind it come after this one."""
    key: int
    """The image's number in the job."""
    result: LabelResult
    decided_at: float = 0.0
    """When the run decided it, seconds since 1970, UTC; 0 where an earlier server does not say."""
    perceptual_hash: int | None = None
    """Of the image, signed 64 bits: those of near duplicates differ in few bits. None where it is
    not known."""

    def label_id(self, place: int) -> str:
        """The name of a judgement for ``secondlook explain``.

        ``place`` is its place in ``result.judgements``, which must hold all of them (``detail``).
        """
        return f"{self.cursor}.{place}"


@dataclass(frozen=True)
class JobFailure:
    """An image of a job that failed."""

    key: int
    """Its number in the job."""
    name: str
    reason: str
    """Stable word for programs."""
    message: str
    """The cause and the way out."""
    attempts: int


class BoxKind(StrEnum):
    """How a training uses a box."""

    LABEL = "label"
    """An object of the class: learn it."""
    IGNORE = "ignore"
    """Nobody is sure: learn nothing from this region, neither object nor background."""
    HARD_NEGATIVE = "hard_negative"
    """Proposed for the class and rejected: background that looks like it."""


class GroupBy(StrEnum):
    """What keeps images on the same side of a split."""

    AUTO = "auto"
    """Frames of one stream belong together, and so do near duplicates."""
    FOLDER = "folder"
    """Images of one folder belong together, and so do near duplicates."""
    SIMILARITY = "similarity"
    """Near duplicates alone."""
    TIME = "time"
    """Images of one stream, or of one job, belong together while they come one shortly after the
    other, and near duplicates do not: before a fixed camera most images are."""


@dataclass(frozen=True)
class Box:
    """A box of an image."""

    class_name: str
    class_index: int
    """Place in the snapshot's classes, from 0."""
    xyxy: tuple[float, float, float, float]
    """Pixels of the upright image (EXIF orientation applied)."""
    kind: BoxKind
    probability: float
    """That the label is right, [0, 1]."""
    score: float
    """The proposer's, [0, 1]."""
    p_yes: float | None
    """The verifier's, [0, 1]; None when there was no verdict."""
    reason: str
    """One sentence for a person."""


@dataclass(frozen=True)
class Example:
    """An image of a snapshot with all that is known of it."""

    sha256: str
    name: str
    """Where it came from, for people; never to be used as a path."""
    format: str
    """The usual suffix of such files, without the dot."""
    width: int
    height: int
    """Pixels, upright."""
    split: str
    group: str
    """What keeps it on the side of others, 16 hex digits."""
    boxes: tuple[Box, ...]
    content: bytes
    """The file's bytes, checked by ``sha256``; empty where only labels were asked for."""
    cursor: str = ""
    """``pull(cursor=...)`` goes on behind this image."""
    empty: EmptyReason | None = None
    """Why it has neither a label nor an ignore region; None where it has one, and in snapshots of
    before this was kept."""

    def of(self, kind: BoxKind) -> tuple[Box, ...]:
        """The boxes of this kind."""
        return tuple(box for box in self.boxes if box.kind is kind)

    @property
    def labels(self) -> tuple[Box, ...]:
        """What to learn."""
        return self.of(BoxKind.LABEL)


@dataclass(frozen=True)
class Snapshot:
    """A dataset with a name, which never changes."""

    name: str
    manifest: str
    """Hash of its content, 64 hex digits."""
    classes: tuple[str, ...]
    splits: Mapping[str, int]
    """Images by part."""
    statistics: Mapping[str, Any]
    """Counts of everything; and ``ontology``, what was asked for, as YAML."""
    created_at: float
    """Seconds since 1970."""

    def count(self, split: str = "") -> int:
        """Images of a part; empty: of all. Raises ``InvalidInput`` when there is none."""
        if not split:
            return sum(self.splits.values())
        if split not in self.splits:
            raise InvalidInput(
                f"snapshot '{self.name}' has no image in a split '{split}'; there are "
                f"{', '.join(sorted(self.splits))}"
            )
        return self.splits[split]


@dataclass(frozen=True)
class SnapshotQuery:
    """Which images and boxes a new snapshot shall hold; the server checks it."""

    runs: Sequence[str] = ()
    """Names; where several judged an image for one class, the later counts."""
    ontology: str = ""
    """Digest, 16 hex digits: all runs with it, where none is named."""
    classes: Sequence[str] = ()
    """Kept, in this order; empty: every class of the runs."""
    since: float | None = None
    until: float | None = None
    """Decided from, and before, these times; seconds since 1970."""
    min_probability: float = 0.0
    """An accepted box below it becomes an ignore region."""
    empty: Sequence[str] = BACKGROUND
    """Which images without a label or unsure box are kept, by ``EmptyReason``. Not those on which
    nothing was proposed: an object that the proposer missed would be learnt as background."""
    ignore: bool = True
    """Keep images that have an ignore region."""
    hard_negatives: bool = False
    """Keep rejected boxes."""
    split: Mapping[str, float] | None = None
    """Weight by part; None: 0.8 ``train`` and 0.2 ``val``."""
    group_by: str = GroupBy.AUTO
    """What falls into one part as a whole; a ``GroupBy``."""


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model, which never changes."""

    name: str
    version: int
    """From 1."""
    digest: str
    """SHA-256 of ``manifest_json``, 64 hex digits."""
    manifest_json: str
    """Classes, input, thresholds, figures, files: the text of ``manifest.json``."""
    report_json: str
    """The report of its training; empty unless it was asked for."""
    created_at: float
    """Seconds since 1970."""
    current: bool
    """Whether it was what devices fetch, when it was asked for."""
    files: Mapping[str, tuple[str, int]]
    """(sha256, bytes) by plain name."""
    promotion: str = ""
    """Why it was made current last, for a person; empty when it never was."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size in self.files.values())


@dataclass(frozen=True)
class ModelComparison:
    """mAP50 of the version that was current and of the one promoted, on the same images."""

    snapshot: str
    split: str
    images: int
    current_version: int
    """The one that was current before."""
    current_map50: float
    """[0, 1], over the classes of the current version that have a true box."""
    candidate_map50: float
    """The same, of the one promoted; a class that it lacks counts as 0."""


@dataclass(frozen=True)
class Promotion:
    """A version that was made current."""

    model: ModelVersion
    comparison: ModelComparison | None
    """None when there was nothing to compare with, and when it was forced."""


class TrainingState(StrEnum):
    """How a training stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    """Its student is a version of the model."""
    FAILED = "failed"
    """It cannot go on; its message says why."""
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    """Something that only a newer client knows."""


@dataclass(frozen=True)
class Training:
    """A training as it stood when it was asked for."""

    id: int
    model: str
    """Name of the model that gets the new version."""
    snapshot: str
    split: str
    """Held out; empty: as the training chooses."""
    size: str
    state: TrainingState
    step: int
    of: int
    """Steps in all; 0 while that is not known."""
    loss: float | None
    map50: float | None
    """On the held-out part, [0, 1]; None before it was measured."""
    phase: str
    """What it does, in a word."""
    message: str
    """What it waits for, or why it failed."""
    version: int
    """That it made; 0 before it is done."""
    created_at: float
    """Seconds since 1970, UTC; so is ``updated_at``."""
    updated_at: float

    @property
    def over(self) -> bool:
        """Whether it has ended, one way or another."""
        ended = (TrainingState.DONE, TrainingState.FAILED, TrainingState.CANCELLED)
        return self.state in ended
