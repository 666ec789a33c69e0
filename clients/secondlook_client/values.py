"""The plain values that client and service share: what is asked, and what is answered.

All are frozen. Boxes are pixel ``xyxy`` in the upright image (EXIF orientation applied); times are
seconds since 1970, UTC. Importing this module loads neither gRPC nor protobuf: ``wire`` converts
messages to these values and back.

    an image      Outcome, EmptyReason, LabelPath, View, Answer, Verdict, Decision, Judgement,
                  LabelResult, FrameResult, ServerInfo
    a job         JobKind, JobState, Job, PathCounts, JobProgress, JobResult, JobFailure, Uploaded
    a snapshot    BoxKind, GroupBy, Box, Example, Snapshot, SnapshotQuery
    a model       ModelVersion, ModelComparison, Promotion, TrainingState, Training
    a review      ReviewAnswer, WrongReason, NewReview, Review, ReviewOrder, ReviewItem, ReviewQueue

What to look for is a ``ClassSpec``, in ``classes``.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, TypeVar

from secondlook_client.errors import InvalidInput, SecondlookError
from secondlook_client.masks import Mask, Segmentation
from secondlook_client.uncertainties import LabelUncertainty


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
    was no; or a person said that nothing is missing on the image."""


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
    MASK = "mask"
    """The crop with all but the object's mask dimmed; needs a segmenter."""


class BoxSource(StrEnum):
    """Which box a label has."""

    PROPOSER = "proposer"
    """The proposer's."""
    MASK = "mask"
    """The tight box of its mask where that is the better one, else the proposer's; needs a
    segmenter."""


WHOLE_IMAGE = -2
"""The ``row`` of a judgement that is about the whole image and no proposal."""
_FROM_JUDGEMENTS: Any = object()


@dataclass(frozen=True, slots=True)
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
    reused_from: str = ""
    """The image that was asked about, where the answer stands for a place that barely changed since
    (setting ``reuse_answers``). It is kept with a label, and not sent."""


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
    segmentation: Segmentation | None = None
    """The object's mask; None where no segmenter was in use or this box was not segmented."""
    track: int = 0
    """Number of the object in its video, from 1, the same in every frame; 0: not tracked."""

    @property
    def mask(self) -> Mask | None:
        """The pixels of the object, where it was segmented."""
        return self.segmentation.mask if self.segmentation else None

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
        """``crop``, ``context``, ``image`` or ``mask``; empty when the verifier was not asked."""
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
            "segmentation": _segmentation_to_dict(self.segmentation),
            "track": self.track,
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
            _segmentation_from_dict(plain.get("segmentation")),
            plain.get("track", 0),
        )


def _segmentation_to_dict(given: Segmentation | None) -> dict[str, Any] | None:
    if given is None:
        return None
    measured = {"quality": given.quality, "stability": given.stability, "model": given.model}
    return {**given.mask.to_coco(), **measured}


def _segmentation_from_dict(plain: Mapping[str, Any] | None) -> Segmentation | None:
    if plain is None:
        return None
    height, width = plain["size"]
    mask = Mask(width, height, plain["counts"])
    return Segmentation(mask, plain["quality"], plain["stability"], plain["model"])


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
    judgements: Sequence[Judgement], image_verdicts: Sequence[Verdict], complete: bool = False
) -> EmptyReason | None:
    """Why an image has neither a label nor an unsure box; None where it has one.

    ``complete``: a person said that nothing is missing on it."""
    if any(judgement.outcome is not Outcome.REJECT for judgement in judgements):
        return None
    # Every class was asked about, or a person looked: a doubt would be an unsure judgement.
    if image_verdicts or complete:
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
    segmenter: str = ""
    """Name and digest; empty when none is in use."""


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
    PAUSED = "paused"
    """It takes images and labels none until it is resumed."""
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
    guarantee: str = ""
    """Of the precision, which its boxes are decided under; empty without one."""
    guarantee_state: str = ""
    """How that stands, or since when it no longer holds, as a sentence; empty where only many jobs
    or news were asked for."""
    created_by: str = ""
    """Name of the token that made it; empty: without tokens, or before them."""
    device_model: str = ""
    """Of a captured stream: the model that its device said it runs when it connected last; empty
    where it said nothing."""

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
        return self.state in (JobState.DONE, JobState.CANCELLED, JobState.FAILED)


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
    """Frames of one stream or video belong together, and so do near duplicates."""
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
    segmentation: Segmentation | None = None
    """The object's mask; None where the box has none."""
    track: int = 0
    """Number of the object that was followed through a video; 0 where nothing was tracked."""

    @property
    def mask(self) -> Mask | None:
        """The pixels of the object, where it was segmented."""
        return self.segmentation.mask if self.segmentation else None


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
    created_by: str = ""
    """Name of the token that made it; empty: without tokens, or before them."""

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
    guarantee: str = ""
    """Name of a guarantee that holds and was applied: its run and classes are taken, no others."""


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
    signature: bytes = b""
    """By the server's key, over name and digest; empty where it has none."""
    created_by: str = ""
    """Name of the token that made it; empty: without tokens, or before them."""

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
    created_by: str = ""
    """Name of the token that made it; empty: without tokens, or before them."""

    @property
    def over(self) -> bool:
        """Whether it has ended, one way or another."""
        ended = (TrainingState.DONE, TrainingState.FAILED, TrainingState.CANCELLED)
        return self.state in ended


class ReviewAnswer(StrEnum):
    """What a person says of a box, or of a whole image."""

    RIGHT = "right"
    """The box marks an object of its class."""
    WRONG = "wrong"
    """It does not; a ``WrongReason`` may say why."""
    UNSURE = "unsure"
    """The person cannot tell."""
    MISSING = "missing"
    """An object that no box marks; the review has its class and outline."""
    COMPLETE = "complete"
    """Nothing is missing on the image: said of the image, without class and box."""


class WrongReason(StrEnum):
    """Why a box is wrong."""

    CLASS = "class"
    """An object of another class."""
    OUTLINE = "outline"
    """An object of the class, badly outlined."""
    DUPLICATE = "duplicate"
    """Another box marks the same object already."""
    NOTHING_THERE = "nothing_there"


class ReviewOrder(StrEnum):
    """In which order a queue asks."""

    RANDOM = "random"
    """At random within strata of class and probability: what estimates and guarantees need."""
    VALUE = "value"
    """First where an answer is expected to change most."""
    UNCERTAINTY = "uncertainty"
    """First where the decision is most uncertain: by the best method that the run was measured by,
    whose name the queue then has as its order; else where the probability is nearest to one
    half."""
    MONTE_CARLO = "monte-carlo"
    """By this ``UncertaintyMethod``; so are the next two."""
    COMMITTEE = "committee"
    DISTRIBUTION = "distribution"
    MIXED = "mixed"
    """Image by image, as ``secondlook select`` chooses images by this strategy; so are the next
    three. They need a count, and images that were embedded by that command."""
    DIVERSITY = "diversity"
    DENSITY = "density"
    BALANCE = "balance"
    KEYFRAMES = "keyframes"
    """Of a run with tracks: the few frames that show each track and what happens to it."""


MAX_NAME_LENGTH, MAX_NOTE_LENGTH = 120, 2000
MAX_SECONDS = 86_400
"""Of one answer."""
"""Characters of the class and the person of a review, and of its note."""
_SHA256 = re.compile("[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class NewReview:
    """What a person says, before the store has it."""

    image: str
    """SHA-256 of its bytes, 64 hex digits."""
    class_name: str
    """Empty of ``COMPLETE``."""
    box: tuple[float, float, float, float] | None
    """Pixel xyxy as it was shown, or as it was drawn of ``MISSING``; None of ``COMPLETE``."""
    answer: ReviewAnswer
    reason: WrongReason | None = None
    """Why a box is wrong; None where nobody said it."""
    new_class: str = ""
    """Of a wrong box: the object's right class; empty where it is the same."""
    new_box: tuple[float, float, float, float] | None = None
    """Of a wrong box: the object's right outline; None where it is the same."""
    person: str = ""
    """Who says it."""
    note: str = ""
    mask: Mask | None = None
    """The object's pixels, where the person outlined it: of a right box, of a wrong one's right
    outline, or of ``MISSING``. Its tight box is the label's."""
    seconds: float = 0.0
    """That the person took for it, up to a day; 0 where nobody measured."""

    def check(self) -> None:
        """Raises ``InvalidInput`` for what contradicts itself or is out of bounds."""
        if not _SHA256.fullmatch(self.image):
            raise InvalidInput(
                f"expected the SHA-256 of an image, 64 hex digits, got {self.image!r:.80}"
            )
        _check_name("person", self.person)
        if len(self.note) > MAX_NOTE_LENGTH:
            raise InvalidInput(f"a note has at most {MAX_NOTE_LENGTH} characters")
        if not 0 <= self.seconds <= MAX_SECONDS:
            raise InvalidInput(
                f"expected 0 to {MAX_SECONDS} seconds for an answer, got {self.seconds!r:.40}"
            )
        if self.answer is ReviewAnswer.COMPLETE:
            if self.class_name or self.box is not None:
                raise InvalidInput("'complete' is said of a whole image: give no class and no box")
        else:
            _check_name("class", self.class_name)
            _check_box(self.box)
        self._check_wrong()
        if self.mask is not None:
            self._check_mask(self.mask)

    def _check_mask(self, mask: Mask) -> None:
        wrong = self.answer is ReviewAnswer.WRONG
        elsewhere = self.reason in (WrongReason.DUPLICATE, WrongReason.NOTHING_THERE)
        if self.answer in (ReviewAnswer.UNSURE, ReviewAnswer.COMPLETE) or (wrong and elsewhere):
            raise InvalidInput(
                "a mask belongs to a right box, to a wrong one with its right outline, or to a "
                f"missing object; this one is '{self.answer.value}'"
                + (f" ({self.reason.value})" if self.reason else "")
            )
        if mask.box is None:
            raise InvalidInput("the mask is empty; an object has one pixel at least")

    def _check_wrong(self) -> None:
        """What only a wrong box has."""
        corrected = bool(self.new_class) or self.new_box is not None
        if self.answer is not ReviewAnswer.WRONG and (self.reason or corrected):
            raise InvalidInput(
                f"a reason, a new class and a new outline belong to a wrong box; this one is "
                f"'{self.answer.value}'"
            )
        if self.new_class == self.class_name and corrected and self.new_box is None:
            raise InvalidInput(f"a box of '{self.class_name}' is wrong, and its new class the same")
        if corrected and self.reason in (WrongReason.DUPLICATE, WrongReason.NOTHING_THERE):
            raise InvalidInput(
                f"a box that is wrong because of '{self.reason.value}' has no new class or outline"
            )
        if self.new_class:
            _check_name("new class", self.new_class)
        if self.new_box is not None:
            _check_box(self.new_box)


@dataclass(frozen=True)
class Review(NewReview):
    """What a person said. It is never changed; another review takes it back or outranks it."""

    id: int = 0
    created_at: float = 0.0
    """Seconds since 1970, UTC."""
    undone_by: int | None = None
    """Id of the review that takes it back; None while it holds."""
    undoes: int | None = None
    """Id of the review that this one takes back; the rest is a copy of it, but who, when and the
    note. None of an ordinary one."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the mask as COCO has it; ``from_dict`` reads them back."""
        return {**asdict(self), "mask": self.mask.to_coco() if self.mask else None}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Review":
        """Read what ``to_dict`` wrote, or a file of somebody else. What has a default may be left
        out. Raises ``InvalidInput`` for anything that is no review."""
        names = {one.name for one in fields(cls)}
        if unknown := sorted(set(plain) - names):
            raise InvalidInput(
                f"a review has no {str(unknown[0])!r:.60}; it has {', '.join(sorted(names))}"
            )
        for name in ("image", "answer"):
            if name not in plain:
                raise InvalidInput(f"a review needs its '{name}'")
        read = cls(
            image=_text(plain, "image"),
            class_name=_text(plain, "class_name"),
            box=_box(plain, "box"),
            answer=_choice(plain, "answer", ReviewAnswer),
            reason=_choice(plain, "reason", WrongReason) if plain.get("reason") else None,
            new_class=_text(plain, "new_class"),
            new_box=_box(plain, "new_box"),
            person=_text(plain, "person"),
            note=_text(plain, "note"),
            mask=_mask(plain, "mask"),
            seconds=_number("seconds", plain.get("seconds", 0.0)),
            id=_id(plain, "id") or 0,
            created_at=_number("created_at", plain.get("created_at", 0.0)),
            undone_by=_id(plain, "undone_by"),
            undoes=_id(plain, "undoes"),
        )
        read.check()
        return read


def _check_name(what: str, text: str) -> None:
    if not text.strip() or len(text) > MAX_NAME_LENGTH:
        raise InvalidInput(
            f"expected a {what} of 1 to {MAX_NAME_LENGTH} characters, got {text!r:.60}"
        )


def _check_box(box: tuple[float, float, float, float] | None) -> None:
    if box is None:
        raise InvalidInput("expected a box x1 y1 x2 y2 in pixels, got none")
    x1, y1, x2, y2 = box
    if not (all(math.isfinite(edge) and abs(edge) < 1e9 for edge in box) and x2 > x1 and y2 > y1):
        raise InvalidInput(f"expected a box x1 y1 x2 y2 with x2 > x1 and y2 > y1, got {box!r:.200}")


def _text(plain: Mapping[str, Any], name: str) -> str:
    value = plain.get(name, "")
    if not isinstance(value, str):
        raise InvalidInput(f"the '{name}' of a review is a text, not {value!r:.60}")
    return value


def _number(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e15:
        raise InvalidInput(
            f"expected a finite number as the '{name}' of a review, got {value!r:.60}"
        )
    return float(value)


def _id(plain: Mapping[str, Any], name: str) -> int | None:
    value = plain.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise InvalidInput(f"expected the '{name}' of a review, 0 to 2^63, got {value!r:.60}")
    return value


def _box(plain: Mapping[str, Any], name: str) -> tuple[float, float, float, float] | None:
    value = plain.get(name)
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 4:
        raise InvalidInput(f"the '{name}' of a review is [x1, y1, x2, y2], not {value!r:.60}")
    x1, y1, x2, y2 = (_number(name, edge) for edge in value)
    return x1, y1, x2, y2


def _mask(plain: Mapping[str, Any], name: str) -> Mask | None:
    value = plain.get(name)
    if value is None:
        return None
    size = value.get("size") if isinstance(value, Mapping) else None
    if not isinstance(size, list | tuple) or len(size) != 2:
        raise InvalidInput(
            f"the '{name}' of a review is {{'size': [height, width], 'counts': …}} as COCO has "
            f"it, not {value!r:.60}"
        )
    return Mask(size[1], size[0], value.get("counts"))


_Choice = TypeVar("_Choice", ReviewAnswer, WrongReason)


def _choice(plain: Mapping[str, Any], name: str, of: type[_Choice]) -> _Choice:
    try:
        return of(plain[name])
    except ValueError as failure:
        raise InvalidInput(
            f"the '{name}' of a review is {', '.join(of)}; got {plain[name]!r:.60}"
        ) from failure


@dataclass(frozen=True)
class ReviewItem:
    """A box that a queue asks about, as it stood when the queue was made."""

    id: int
    queue: str
    position: int
    """In the queue, from 1."""
    label_id: str
    """The judgement, for ``secondlook explain``."""
    image: str
    """SHA-256, 64 hex digits."""
    image_name: str
    width: int
    height: int
    """Pixels of the upright image."""
    class_name: str
    box: tuple[float, float, float, float]
    """Pixel xyxy."""
    probability: float
    """That the label is right, [0, 1]."""
    outcome: Outcome
    stratum: str
    """What it was drawn from; empty where nothing was drawn."""
    inclusion: float = 1.0
    """The probability with which it was drawn into the queue, (0, 1]."""
    leased_to: str = ""
    """Who is looking at it; empty where nobody is."""
    lease_until: float = 0.0
    """Seconds since 1970; afterwards it may be given to somebody else."""
    review_id: int | None = None
    """Of its answer; None until there is one."""
    judgements: tuple[Judgement, ...] = ()
    """Everything that was judged on its image, as the run decided it; empty where the run's results
    are gone, and where nobody asked for it."""
    uncertainties: tuple[LabelUncertainty, ...] = ()
    """How uncertain this box is, by each method that it was measured by."""

    @property
    def judgement(self) -> Judgement | None:
        """What the models said of this box: scores, question and answer."""
        return self.judgements[self.place] if 0 <= self.place < len(self.judgements) else None

    @property
    def place(self) -> int:
        """Of the box's judgement among those of its image; -1 where the label id has none."""
        place = self.label_id.partition(".")[2]
        return int(place) if place.isdecimal() and len(place) < 10 else -1


@dataclass(frozen=True)
class ReviewQueue:
    """Boxes of a run in the order in which people are asked about them."""

    name: str
    run: str
    order: str
    """``random``, ``value``, ``uncertainty``, an ``UncertaintyMethod``, or what its maker calls
    it."""
    total: int
    answered: int
    leased: int
    """Handed out and not answered yet."""
    created_at: float
    """Seconds since 1970, UTC."""

    @property
    def waiting(self) -> int:
        """Neither answered nor handed out."""
        return self.total - self.answered - self.leased
