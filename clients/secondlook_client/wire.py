"""Values to messages and back, for client and server alike; one place knows both.

A field has the same name in a value and in its message, and a member of an enum is the number of
the same name (``Outcome.ACCEPT`` is ``OUTCOME_ACCEPT``). ``read`` and ``write`` copy by name; a
function below says only what is different.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import StrEnum
from functools import cache
from typing import Any, Generic, TypeVar

from secondlook_client.errors import BadOntology, Damaged, InvalidInput
from secondlook_client.images import sendable
from secondlook_client.masks import Mask, Segmentation
from secondlook_client.ontology import Classes, ClassSpec
from secondlook_client.private_files import checked_sha256, is_plain_name, is_sha256
from secondlook_client.uncertainties import LabelUncertainty
from secondlook_client.v1 import datasets_pb2 as datasets_pb
from secondlook_client.v1 import jobs_pb2 as jobs_pb
from secondlook_client.v1 import labeling_pb2 as pb
from secondlook_client.v1 import models_pb2 as models_pb
from secondlook_client.v1 import reviews_pb2 as reviews_pb
from secondlook_client.v1 import segmentation_pb2 as segmentation_pb
from secondlook_client.values import (
    WHOLE_IMAGE,
    Answer,
    Box,
    BoxKind,
    BoxSource,
    Decision,
    EmptyReason,
    Example,
    GroupBy,
    Job,
    JobFailure,
    JobKind,
    JobProgress,
    JobResult,
    JobState,
    Judgement,
    LabelPath,
    LabelResult,
    ModelComparison,
    ModelVersion,
    NewReview,
    Outcome,
    PathCounts,
    Promotion,
    Review,
    ReviewAnswer,
    ReviewItem,
    ReviewOrder,
    ReviewQueue,
    ServerInfo,
    Snapshot,
    SnapshotQuery,
    Training,
    TrainingState,
    Uploaded,
    Verdict,
    View,
    WrongReason,
)

Value = TypeVar("Value")
Member = TypeVar("Member", bound=StrEnum)
Xyxy = tuple[float, float, float, float]


class EnumNumbers(Generic[Member]):
    """The members of an enum and their numbers on the wire."""

    def __init__(self, kind: type[Member], wire: Any) -> None:
        """``wire`` is the generated enum; members that it lacks never travel."""
        prefix = wire.Name(0).removesuffix("UNSPECIFIED")
        known = set(wire.keys())
        self.number: Mapping[str, Any] = {
            member: wire.Value(prefix + member.name)
            for member in kind
            if prefix + member.name in known
        }
        self.member: Mapping[int, Member] = {n: kind(member) for member, n in self.number.items()}


OUTCOMES = EnumNumbers(Outcome, pb.Outcome)
EMPTY_REASONS = EnumNumbers(EmptyReason, pb.EmptyReason)
PATHS = EnumNumbers(LabelPath, pb.LabelPath)
VIEWS = EnumNumbers(View, pb.View)
BOX_SOURCES = EnumNumbers(BoxSource, pb.BoxSource)
JOB_KINDS = EnumNumbers(JobKind, jobs_pb.JobKind)
JOB_STATES = EnumNumbers(JobState, jobs_pb.JobState)
BOX_KINDS = EnumNumbers(BoxKind, datasets_pb.BoxKind)
GROUPS = EnumNumbers(GroupBy, datasets_pb.GroupBy)
TRAINING_STATES = EnumNumbers(TrainingState, models_pb.TrainingState)
REVIEW_ANSWERS = EnumNumbers(ReviewAnswer, reviews_pb.ReviewAnswer)
WRONG_REASONS = EnumNumbers(WrongReason, reviews_pb.WrongReason)
REVIEW_ORDERS = EnumNumbers(ReviewOrder, reviews_pb.ReviewOrder)
_DETAILS = {"labels": pb.DETAIL_LABELS, "all": pb.DETAIL_ALL}


@cache
def _value_fields(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@cache
def _message_fields(descriptor: Any) -> Mapping[str, bool]:
    """The fields of a message, and whether each may be absent."""
    return {field.name: field.has_presence for field in descriptor.fields}


def read(kind: type[Value], message: Any, /, **given: Any) -> Value:
    """A value from the message's fields of the same names, but for those ``given``."""
    present = _message_fields(message.DESCRIPTOR)
    for name in _value_fields(kind):  # type: ignore[arg-type]
        if name not in given:
            absent = present[name] and not message.HasField(name)
            given[name] = None if absent else getattr(message, name)
    return kind(**given)


def write(kind: type[Value], value: Any, /, **given: Any) -> Value:
    """A message from the value's attributes of the same names, but for the fields ``given``."""
    for name in _message_fields(kind.DESCRIPTOR):  # type: ignore[attr-defined]
        if name not in given:
            given[name] = getattr(value, name)
    return kind(**given)


def ontology_message(classes: Classes | None) -> pb.Ontology | None:
    """The message for ``classes``; None asks for the server's own. Raises ``BadOntology``."""
    if classes is None:
        return None
    if isinstance(classes, str):
        raise BadOntology(f"expected a list of classes, got one text; write [{classes!r}]")
    return pb.Ontology(
        classes=[
            pb.ClassSpec(name=spec)  # the server fills in the rest
            if isinstance(spec, str)
            else write(
                pb.ClassSpec, spec, view=VIEWS.number[spec.view], box=BOX_SOURCES.number[spec.box]
            )
            for spec in classes
        ]
    )


def class_specs(message: pb.Ontology) -> tuple[ClassSpec, ...]:
    """The checked classes. Raises ``BadOntology``."""
    return tuple(_class_spec(spec) for spec in message.classes)


def _class_spec(message: pb.ClassSpec) -> ClassSpec:
    view = VIEWS.member.get(message.view or pb.VIEW_CROP)
    if view is None:
        raise BadOntology(
            f"class '{message.name}': expected view {', '.join(View)}, got number "
            f"{message.view}; is the client newer than the server?"
        )
    box = BOX_SOURCES.member.get(message.box or pb.BOX_SOURCE_PROPOSER)
    if box is None:
        raise BadOntology(
            f"class '{message.name}': expected box {', '.join(BoxSource)}, got number "
            f"{message.box}; is the client newer than the server?"
        )
    names = ("name", "question", "group", *(f.name for f, _ in message.ListFields()))
    given = {name: getattr(message, name) for name in names}
    return ClassSpec(**{**given, "phrases": tuple(message.phrases), "view": view, "box": box})


def detail_number(detail: str) -> pb.Detail.ValueType:
    """``labels`` or ``all`` as the wire has it. Raises ``InvalidInput``."""
    if detail not in _DETAILS:
        raise InvalidInput(f"expected detail 'labels' or 'all', got {detail!r}")
    return _DETAILS[detail]


def live_opening(
    classes: Classes | None, detail: str, stream_id: str, max_pending: int
) -> pb.StreamOpening:
    """The first message of a live stream. Raises ``BadOntology`` or ``InvalidInput``."""
    return pb.StreamOpening(
        stream_id=stream_id,
        mode=pb.STREAM_MODE_LIVE,
        ontology=ontology_message(classes),
        detail=detail_number(detail),
        max_pending=max_pending,
    )


def capture_opening(
    classes: Classes | None, stream_id: str, guarantee: str = "", device_model: str = ""
) -> pb.StreamOpening:
    """The first message of a captured stream. Raises ``BadOntology`` or ``InvalidInput``."""
    if not stream_id:
        raise InvalidInput("a captured stream needs a stream_id, its name on the server")
    return pb.StreamOpening(
        stream_id=stream_id,
        mode=pb.STREAM_MODE_CAPTURE,
        ontology=ontology_message(classes),
        guarantee=guarantee,
        device_model=device_model,
    )


def labelled_message(result: LabelResult, every: bool = True) -> pb.Labelled:
    """One image's result; only its labels unless ``every`` judgement is wanted."""
    judgements = result.judgements if every else result.labels
    return write(
        pb.Labelled,
        result,
        judgements=[judgement_message(judgement) for judgement in judgements],
        path=PATHS.number[result.path],
        image_verdicts=[verdict_message(one) for one in result.image_verdicts if every],
        empty=empty_number(result.empty),
    )


def empty_number(empty: EmptyReason | None) -> pb.EmptyReason.ValueType:
    """As the wire has it; None is unspecified."""
    return EMPTY_REASONS.number[empty] if empty else pb.EMPTY_REASON_UNSPECIFIED


def label_result(message: pb.Labelled) -> LabelResult:
    """One image's result."""
    return read(
        LabelResult,
        message,
        judgements=_judgements(message),
        timings_ms=dict(message.timings_ms),
        path=PATHS.member.get(message.path, LabelPath.TEACHERS),
        image_verdicts=tuple(_verdict(verdict) for verdict in message.image_verdicts),
        empty=EMPTY_REASONS.member.get(message.empty),
    )


def judgement_message(judgement: Judgement) -> pb.Judgement:
    """One box judged for one class."""
    x1, y1, x2, y2 = judgement.box
    verdict = judgement.verdict
    return pb.Judgement(
        class_name=judgement.class_name,
        box=pb.Box(x1=x1, y1=y1, x2=x2, y2=y2),
        score=judgement.score,
        verdict=verdict_message(verdict) if verdict is not None else None,
        outcome=OUTCOMES.number[judgement.decision.outcome],
        probability=judgement.decision.probability,
        reason=judgement.decision.reason,
        whole_image=judgement.whole_image,
        segmentation=segmentation_message(judgement.segmentation),
        track=judgement.track,
    )


def _judgements(message: "pb.Labelled | reviews_pb.ReviewItem") -> tuple[Judgement, ...]:
    size = message.width, message.height
    return tuple(_judgement(judgement, size) for judgement in message.judgements)


def _judgement(message: pb.Judgement, size: tuple[int, int]) -> Judgement:
    """``size`` is that of the image, width and height."""
    box = message.box
    # An outcome that a newer server may add is one that this client cannot be sure of.
    outcome = OUTCOMES.member.get(message.outcome, Outcome.UNSURE)
    return Judgement(
        message.class_name,
        (box.x1, box.y1, box.x2, box.y2),
        message.score,
        _verdict(message.verdict) if message.HasField("verdict") else None,
        Decision(outcome, message.probability, message.reason),
        WHOLE_IMAGE if message.whole_image else -1,
        segmentation_at(message, "segmentation", size),
        message.track,
    )


def segmentation_message(given: Segmentation | None) -> pb.Segmentation | None:
    """The mask of a box, where there is one."""
    if given is None:
        return None
    return write(pb.Segmentation, given, mask=mask_message(given.mask))


def segmentation_at(message: Any, name: str, size: tuple[int, int]) -> Segmentation | None:
    """The segmentation in the field ``name`` of a message; None where it is absent.

    Raises ``Damaged`` for a mask that is not one of an image of this ``size`` (width, height).
    """
    if not message.HasField(name):
        return None
    given = getattr(message, name)
    return _segmentation(given, given.model, size)


def _segmentation(
    given: "pb.Segmentation | segmentation_pb.SegmentCandidate", model: str, size: tuple[int, int]
) -> Segmentation:
    try:
        mask = checked_mask(given.mask)
    except InvalidInput as cause:
        raise Damaged(f"the server sent a mask that cannot be used: {cause}") from cause
    if (mask.width, mask.height) != size:
        raise Damaged(
            f"the server sent a mask of {mask.width} × {mask.height} pixels for an image of "
            f"{size[0]} × {size[1]}"
        )
    return read(Segmentation, given, mask=mask, model=model)


def mask_message(mask: Mask | None) -> pb.Mask | None:
    """The pixels of an object, where there are any."""
    return write(pb.Mask, mask) if mask is not None else None


def checked_mask(message: pb.Mask) -> Mask:
    """The pixels of an object. Raises ``InvalidInput`` for a code that does not fill its image."""
    mask = read(Mask, message)
    mask.check()
    return mask


def segment_request(
    sha256: str, box: Xyxy | None, clicks: Sequence[Any], previous: Mask | None
) -> segmentation_pb.SegmentRequest:
    """What is known of one object; each click has ``x``, ``y`` and ``inside``."""
    return segmentation_pb.SegmentRequest(
        sha256=sha256,
        box=box_message(box),
        clicks=[write(segmentation_pb.Click, click) for click in clicks],
        previous=mask_message(previous),
    )


def segment_candidates(
    message: segmentation_pb.SegmentResponse, size: tuple[int, int]
) -> tuple[Segmentation, ...]:
    """The masks that a prompt may have meant, on an image of this ``size`` (width, height).

    Raises ``Damaged`` for none, and for masks that are none of the image.
    """
    if not message.candidates:
        raise Damaged("the server answered a click without a mask")
    return tuple(_segmentation(one, message.segmenter, size) for one in message.candidates)


def verdict_message(verdict: Verdict) -> pb.Verdict:
    """One question and its answer."""
    answer = verdict.answer
    return pb.Verdict(
        question=verdict.question,
        view=VIEWS.number[verdict.view],
        p_yes=answer.p_yes,
        raw_answer=answer.raw,
        error=answer.error,
        exact=answer.exact,
        model=verdict.model,
        ms=verdict.ms,
        cached=verdict.cached,
    )


def _verdict(message: pb.Verdict) -> Verdict:
    p_yes = message.p_yes if message.HasField("p_yes") else None
    return Verdict(
        message.question,
        VIEWS.member.get(message.view, View.CROP),
        Answer(p_yes, message.raw_answer, message.error, message.exact),
        message.model,
        message.ms,
        message.cached,
    )


def server_info(message: pb.GetServerInfoResponse) -> ServerInfo:
    """What runs at the other end."""
    has_default = message.HasField("default_ontology")
    names = tuple(spec.name for spec in message.default_ontology.classes)
    return read(ServerInfo, message, classes=names if has_default else None)


def job(message: jobs_pb.Job) -> Job:
    """How a job stands."""
    names = tuple(spec.name for spec in message.ontology.classes)
    return read(
        Job,
        message,
        kind=JOB_KINDS.member.get(message.kind, JobKind.UNKNOWN),
        state=JOB_STATES.member.get(message.state, JobState.UNKNOWN),
        classes=names if message.HasField("ontology") else None,
        paths=tuple(read(PathCounts, part) for part in message.paths),
    )


def job_progress(message: jobs_pb.WatchJobResponse) -> JobProgress:
    """How a job stands and how fast it gets on."""
    return read(JobProgress, message, job=job(message.job))


def uploaded(message: jobs_pb.UploadImageResponse) -> Uploaded:
    """An image that is durable."""
    return read(Uploaded, message)


def job_result(message: jobs_pb.JobResult) -> JobResult:
    """One image's result in a job."""
    return read(JobResult, message, result=label_result(message.labelled))


def job_failure(message: jobs_pb.JobFailure) -> JobFailure:
    """An image that failed."""
    return read(JobFailure, message)


def query_message(query: SnapshotQuery) -> datasets_pb.SnapshotQuery:
    """What a new snapshot shall hold. Raises ``InvalidInput``."""
    if query.group_by not in tuple(GroupBy):
        raise InvalidInput(f"expected group_by {', '.join(GroupBy)}, got {query.group_by!r}")
    if isinstance(query.runs, str) or isinstance(query.classes, str):
        raise InvalidInput("expected lists of runs and classes, got one text")
    split = (query.split or {}).items()
    return write(
        datasets_pb.SnapshotQuery,
        query,
        without_empties=not query.empty,
        empty=[EMPTY_REASONS.number[reason] for reason in empty_reasons(query.empty)],
        without_ignore=not query.ignore,
        split=[datasets_pb.SplitShare(name=name, weight=weight) for name, weight in split],
        group_by=GROUPS.number[GroupBy(query.group_by)],
    )


def empty_reasons(given: Sequence[str]) -> tuple[EmptyReason, ...]:
    """The reasons by their names. Raises ``InvalidInput``."""
    unknown = [name for name in given if name not in tuple(EmptyReason)]
    if unknown or isinstance(given, str):
        raise InvalidInput(f"expected a list of {', '.join(EmptyReason)}, got {given!r:.80}")
    return tuple(EmptyReason(name) for name in given)


def snapshot(message: datasets_pb.Snapshot) -> Snapshot:
    """A snapshot without its images. Raises ``Damaged`` for one that no server of ours sends."""
    checked_sha256(message.manifest, f"snapshot '{message.name:.200}'")
    try:
        statistics = json.loads(message.statistics_json)
    except (ValueError, RecursionError):
        statistics = None
    if not isinstance(statistics, dict):
        raise Damaged(
            f"snapshot '{message.name:.200}' came with statistics that are no JSON object; run "
            "`secondlook check` where the server's store is"
        )
    return read(
        Snapshot,
        message,
        classes=tuple(message.classes),
        splits=dict(message.splits),
        statistics=statistics,
    )


def example(message: datasets_pb.SnapshotImage, classes: Sequence[str], content: bytes) -> Example:
    """An image of a snapshot, with these bytes. Raises ``Damaged`` for a class it has not."""
    if any(box.class_index >= len(classes) for box in message.boxes):
        raise Damaged(
            f"image {message.sha256[:12]} came with a box of a class that the snapshot has not; "
            "run `secondlook check` where the server's store is"
        )
    size = message.width, message.height
    boxes = tuple(_box(box, classes, size) for box in message.boxes)
    empty = EMPTY_REASONS.member.get(message.empty)
    return read(Example, message, boxes=boxes, content=content, empty=empty)


def _box(message: datasets_pb.SnapshotBox, classes: Sequence[str], size: tuple[int, int]) -> Box:
    return read(
        Box,
        message,
        class_name=classes[message.class_index],
        xyxy=(message.x1, message.y1, message.x2, message.y2),
        # A kind that a newer server may add is one that this client cannot learn from.
        kind=BOX_KINDS.member.get(message.kind, BoxKind.IGNORE),
        segmentation=segmentation_at(message, "segmentation", size),
    )


def checked_content(sha256: str, content: bytes) -> bytes:
    """``content`` if that is its hash. Raises ``Damaged``."""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Damaged(
            f"image {sha256[:12]} came with other bytes than its hash says; run `secondlook "
            "check` where the server's store is"
        )
    return content


MANIFEST = "manifest.json"


def model_version(message: models_pb.ModelVersion) -> ModelVersion:
    """A version of a model. Raises ``Damaged`` for one that nothing may be written by."""
    files = {name: (file.sha256, file.size) for name, file in message.files.items()}
    if not _is_sound(message, files):
        raise Damaged(
            f"version {message.version} of '{message.name:.200}' came with another manifest than "
            "its digest says, or with files of strange names; run `secondlook check` where the "
            "server's store is"
        )
    return read(ModelVersion, message, files=files)


def _is_sound(message: models_pb.ModelVersion, files: Mapping[str, tuple[str, int]]) -> bool:
    """Whether the digest is the manifest's, and the files are those that the manifest names."""
    if hashlib.sha256(message.manifest_json.encode()).hexdigest() != message.digest:
        return False
    try:
        named = json.loads(message.manifest_json)["files"]
        listed = {name: (file["sha256"], file["size"]) for name, file in named.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return listed == files and all(
        is_plain_name(name) and is_sha256(sha256) and name != MANIFEST
        for name, (sha256, _) in files.items()
    )


def promotion(message: models_pb.PromoteModelResponse) -> Promotion:
    """A version that was made current."""
    compared = message.HasField("comparison")
    comparison = read(ModelComparison, message.comparison) if compared else None
    return Promotion(model_version(message.model), comparison)


def training(message: models_pb.Training) -> Training:
    """How a training stands."""
    state = TRAINING_STATES.member.get(message.state, TrainingState.UNKNOWN)
    return read(Training, message, state=state)


def new_review_message(said: NewReview, moment: float) -> reviews_pb.NewReview:
    """A review that was said at ``moment``. Raises ``InvalidInput`` for a contradiction in it."""
    said.check()
    return write(reviews_pb.NewReview, said, created_at=moment, **_answer_fields(said))


def review_message(review: Review) -> reviews_pb.Review:
    """A review as it is kept."""
    return write(reviews_pb.Review, review, **_answer_fields(review))


_SAID = ("class_name", "new_class", "person", "note")


def _answer_fields(said: NewReview) -> dict[str, Any]:
    """The fields of a review that travel in another form."""
    return {
        **{name: sendable(getattr(said, name)) for name in _SAID},
        "box": box_message(said.box),
        "answer": REVIEW_ANSWERS.number[said.answer],
        "reason": reason_number(said.reason),
        "new_box": box_message(said.new_box),
        "mask": mask_message(said.mask),
    }


def reason_number(reason: WrongReason | None) -> reviews_pb.WrongReason.ValueType:
    """As the wire has it; None is unspecified."""
    return WRONG_REASONS.number[reason] if reason else reviews_pb.WRONG_REASON_UNSPECIFIED


def box_message(box: Xyxy | None) -> pb.Box | None:
    """A box, where there is one."""
    return pb.Box(x1=box[0], y1=box[1], x2=box[2], y2=box[3]) if box is not None else None


def mask_at(message: Any, name: str) -> Mask | None:
    """The mask in the field ``name`` of a message; None where it is absent. Raises
    ``InvalidInput`` for a code that does not fill its image."""
    return checked_mask(getattr(message, name)) if message.HasField(name) else None


def box_at(message: Any, name: str) -> Xyxy | None:
    """The box in the field ``name`` of a message; None where it is absent."""
    box = getattr(message, name)
    return (box.x1, box.y1, box.x2, box.y2) if message.HasField(name) else None


def review(message: reviews_pb.Review) -> Review:
    """A review as it is kept."""
    return read(
        Review,
        message,
        box=box_at(message, "box"),
        # An answer that a newer server may add says nothing certain to this client.
        answer=REVIEW_ANSWERS.member.get(message.answer, ReviewAnswer.UNSURE),
        reason=WRONG_REASONS.member.get(message.reason),
        new_box=box_at(message, "new_box"),
        mask=mask_at(message, "mask"),
    )


def review_item_message(item: ReviewItem) -> reviews_pb.ReviewItem:
    """A box in a queue, with what was judged on its image where that is at hand."""
    return write(
        reviews_pb.ReviewItem,
        item,
        box=box_message(item.box),
        outcome=OUTCOMES.number[item.outcome],
        judgements=map(judgement_message, item.judgements),
        uncertainties=map(uncertainty_message, item.uncertainties),
    )


def uncertainty_message(one: LabelUncertainty) -> reviews_pb.LabelUncertainty:
    """How uncertain a judgement is, by one method."""
    figures = (
        reviews_pb.UncertaintyFigure(name=name, values=values)
        for name, values in one.figures.items()
    )
    return write(reviews_pb.LabelUncertainty, one, figures=figures)


def _uncertainty(message: reviews_pb.LabelUncertainty) -> LabelUncertainty:
    figures = {figure.name: tuple(figure.values) for figure in message.figures}
    return read(LabelUncertainty, message, figures=figures)


def review_item(message: reviews_pb.ReviewItem) -> ReviewItem:
    """A box in a queue."""
    box = message.box
    return read(
        ReviewItem,
        message,
        box=(box.x1, box.y1, box.x2, box.y2),
        outcome=OUTCOMES.member.get(message.outcome, Outcome.UNSURE),
        judgements=_judgements(message),
        uncertainties=tuple(map(_uncertainty, message.uncertainties)),
    )


def review_queue(message: reviews_pb.ReviewQueue) -> ReviewQueue:
    """How a queue stands."""
    return read(ReviewQueue, message)


def order_number(order: str) -> reviews_pb.ReviewOrder.ValueType:
    """The order of a new queue as the wire has it. Raises ``InvalidInput``."""
    return REVIEW_ORDERS.number[_choice(ReviewOrder, order, "an order")]


def review_answer(answer: str) -> ReviewAnswer:
    """The answer of that name. Raises ``InvalidInput``."""
    return _choice(ReviewAnswer, answer, "an answer")


def wrong_reason(reason: str | None) -> WrongReason | None:
    """The reason of that name; None for none. Raises ``InvalidInput``."""
    return _choice(WrongReason, reason, "a reason") if reason else None


def _choice(kind: type[Member], name: str, what: str) -> Member:
    if name not in tuple(kind):
        raise InvalidInput(f"expected {what} of {', '.join(kind)}, got {name!r:.60}")
    return kind(name)


def answer_request(item: int, said: NewReview) -> reviews_pb.AnswerReviewItemRequest:
    """The answer to a box in a queue. Raises ``InvalidInput`` for one that contradicts itself."""
    if said.answer in (ReviewAnswer.MISSING, ReviewAnswer.COMPLETE):
        raise InvalidInput(
            f"'{said.answer.value}' is no answer about a box; add it as a review of its own"
        )
    said.check()
    given = _answer_fields(said)
    for known in ("class_name", "box"):  # the server knows what it asked about
        del given[known]
    return write(reviews_pb.AnswerReviewItemRequest, said, item=item, **given)


def listed(names: Sequence[str]) -> Sequence[str]:
    """Several names. Raises ``InvalidInput`` for one text, which is a sequence of letters."""
    if isinstance(names, str):
        raise InvalidInput(f"expected a list of names, got one text; write [{names!r:.80}]")
    return [sendable(name) for name in names]
