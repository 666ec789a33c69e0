"""Requests to checked values, and rows of the store to messages.

What a request may hold is checked here, once, after its size (``bounds``). Values that the client
shares are converted by ``secondlook_client.wire``; a row's fields travel under their own names, and
only what is different is written out.
"""

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b, sha256
from typing import Any, TypeVar

from secondlook.datasets.manifest import Entry, ManifestBox, SnapshotManifest
from secondlook.datasets.query import DEFAULT_SPLIT, Query, SplitShare, query_of
from secondlook.datasets.snapshot import NAME
from secondlook.detector.manifest import (
    DEFAULT_SIZE,
    STUDENT_SIZES,
    StudentManifest,
    parse_manifest,
)
from secondlook.evaluation.guarantee import Promise, Terms
from secondlook.registry.promotion import StudentComparison
from secondlook.review.guarantees import GuaranteeRequest, GuaranteeStatus
from secondlook.server.store_calls import next_token
from secondlook.store.guarantees import guarantee_of
from secondlook.store.model_versions import StudentVersion
from secondlook.store.queue import FailedItem, JobRow
from secondlook.store.results import Result, TimeBucket
from secondlook.store.snapshots import SnapshotRow
from secondlook.store.training_jobs import TrainingRow, TrainingSpec
from secondlook_client import wire
from secondlook_client.errors import BadOntology, BadRequest, Damaged, NotFound
from secondlook_client.images import sendable
from secondlook_client.ontology import Ontology
from secondlook_client.v1 import datasets_pb2 as datasets_pb
from secondlook_client.v1 import jobs_pb2 as jobs_pb
from secondlook_client.v1 import labeling_pb2 as labeling_pb
from secondlook_client.v1 import models_pb2 as models_pb
from secondlook_client.v1 import reviews_pb2 as reviews_pb
from secondlook_client.v1.jobs_pb2 import CreateJobRequest
from secondlook_client.values import (
    BACKGROUND,
    EmptyReason,
    GroupBy,
    LabelPath,
    NewReview,
    Review,
    ReviewOrder,
    ReviewQueue,
)

MAX_FILE, MAX_TOTAL = 128 * 2**20, 2**30
"""Bytes of a student's file, and of all its files; the largest published ones have 40 MB."""
LARGE_PAGE = 4 * 2**20
"""Bytes from which on a page has no more versions or snapshots: manifests may be long."""
QUICK_CLASSES = 100
"""Up to so many classes are checked within a few milliseconds, on the event loop."""
PROMISES = wire.EnumNumbers(Promise, reviews_pb.GuaranteePromise)
CURSOR_PREFIX = 16
"""Hex digits of a manifest's hash that a cursor begins with."""


_Row = TypeVar("_Row", StudentVersion, SnapshotRow)
_Kind = TypeVar("_Kind", bound=StrEnum)
_Message = TypeVar("_Message", models_pb.ModelVersion, datasets_pb.Snapshot)


class Ontologies:
    """Builds ontologies from messages and keeps the last few, as most requests repeat one."""

    def __init__(
        self,
        default: Ontology | None,
        check: Callable[[Ontology], None] = lambda ontology: None,
        size: int = 16,
    ) -> None:
        """``default`` serves requests that bring none.

        ``check`` raises ``BadOntology`` for words that the models do not know; of the default too.
        """
        if default is not None:
            check(default)
        self.default = default
        self._check = check
        self._size = size
        self._built: OrderedDict[bytes, Ontology] = OrderedDict()

    async def of(
        self, request: labeling_pb.LabelRequest | labeling_pb.StreamOpening | CreateJobRequest
    ) -> Ontology:
        """The request's own ontology, or the default. Raises ``BadOntology``."""
        if not request.HasField("ontology"):
            if self.default is None:
                raise BadOntology(
                    "the request has no ontology and the server has no default one; "
                    "send the classes to look for"
                )
            return self.default
        key = request.ontology.SerializeToString(deterministic=True)
        if (known := self._built.get(key)) is not None:
            self._built.move_to_end(key)
            return known
        many = len(request.ontology.classes) > QUICK_CLASSES
        built = (
            await asyncio.to_thread(self._build, request.ontology)
            if many
            else self._build(request.ontology)
        )
        self._built[key] = built
        while len(self._built) > self._size:
            self._built.popitem(last=False)
        return built

    def _build(self, message: labeling_pb.Ontology) -> Ontology:
        try:
            built = Ontology(wire.class_specs(message))
            self._check(built)
        except BadOntology as failure:
            failure.field = failure.field or "ontology"
            raise
        return built


def wants_all(detail: labeling_pb.Detail.ValueType) -> bool:
    """Whether rejected and unsure judgements are wanted too. Raises ``BadRequest``."""
    if detail not in (
        labeling_pb.DETAIL_UNSPECIFIED,
        labeling_pb.DETAIL_LABELS,
        labeling_pb.DETAIL_ALL,
    ):
        raise BadRequest(
            f"expected detail labels or all, got number {detail}; "
            "is the client newer than the server?"
        )
    return detail != labeling_pb.DETAIL_LABELS


def job_message(
    job: JobRow,
    ontology: Ontology | None = None,
    paths: Sequence[TimeBucket] = (),
    guarantee_state: str = "",
) -> jobs_pb.Job:
    """A job as it stands; with its classes, who labelled it, and how its guarantee stands, where
    they are given."""
    return wire.write(
        jobs_pb.Job,
        job,
        kind=wire.JOB_KINDS.number.get(job.kind),
        state=wire.JOB_STATES.number[job.state],
        folder=job.root,
        open=not job.closed,
        ontology=wire.ontology_message(ontology.classes) if ontology else None,
        paths=[
            jobs_pb.PathCounts(
                begin=part.begin,
                end=part.end,
                **{path.value: part.images.get(path, 0) for path in LabelPath},
            )
            for part in paths
        ],
        guarantee=guarantee_of(job.settings),
        guarantee_state=guarantee_state,
    )


def result_message(result: Result, perceptual_hash: int | None, every: bool) -> jobs_pb.JobResult:
    """One result; only its labels unless ``every`` judgement is wanted."""
    labelled = wire.labelled_message(result.labelled.result, every)
    return wire.write(jobs_pb.JobResult, result, labelled=labelled, perceptual_hash=perceptual_hash)


def failure_message(failure: FailedItem) -> jobs_pb.JobFailure:
    """One image that failed."""
    return wire.write(jobs_pb.JobFailure, failure)


def checked_job_name(name: str) -> str:
    """A name for a new job. Raises ``BadRequest``."""
    if not name.strip() or not name.isprintable():
        raise BadRequest(f"expected a job name of printable characters, got {name!r:.60}")
    return name


def key_of(name: str, content: bytes) -> int:
    """An image's number where the client gave none: name and content, signed 64 bits."""
    named = name.encode("utf-8", "replace") + b"\0" + sha256(content).digest()
    return int.from_bytes(blake2b(named, digest_size=8).digest(), "big", signed=True)


def checked_model_name(name: str) -> str:
    """A name for a model; as for snapshots. Raises ``BadRequest``."""
    if not NAME.fullmatch(name):
        raise BadRequest(
            "a model's name has 1 to 200 letters, digits, '-', '_' or '.' and begins with a "
            f"letter or digit; '{name:.60}' does not"
        )
    return name


def known_name(name: str, what: str = "model") -> str:
    """A name that something may have: no database is asked for others. Raises ``NotFound``."""
    if not NAME.fullmatch(name):
        shown = name[:60].encode("ascii", "backslashreplace").decode()
        raise NotFound(f"there is no {what} '{shown}', and none can have such a name")
    return name


def checked_header(header: models_pb.AddVersionHeader) -> tuple[str, StudentManifest, str]:
    """Name, manifest and report of a version to come. Raises ``BadRequest``."""
    name = checked_model_name(header.name)
    try:
        manifest = parse_manifest(header.manifest_json)
    except Damaged as failure:
        raise BadRequest(f"{failure}; export the student again") from failure
    _check_report(header.report_json)
    sizes = {name: file.size for name, file in manifest.files.items()}
    largest = max(sizes, key=lambda name: sizes[name])
    if sizes[largest] > MAX_FILE or sum(sizes.values()) > MAX_TOTAL:
        raise BadRequest(
            f"a student may have {MAX_TOTAL:,} bytes, and each file {MAX_FILE:,}; this one has "
            f"{sum(sizes.values()):,}, and {largest} {sizes[largest]:,}. Distil a smaller size"
        )
    return name, manifest, header.report_json


def _check_report(text: str) -> None:
    try:
        plain = json.loads(text) if text else {}
    except (ValueError, RecursionError) as failure:
        raise BadRequest("the report is no JSON; send report.json as it is, or none") from failure
    if not isinstance(plain, dict):
        raise BadRequest("the report is no JSON object; send report.json as it is, or none")


def checked_order(request: models_pb.TrainModelRequest, splits: Mapping[str, int]) -> TrainingSpec:
    """What shall be trained; ``splits`` are the images of the snapshot's parts.

    Raises ``BadRequest``.
    """
    size = request.size or DEFAULT_SIZE
    if size not in STUDENT_SIZES:
        raise BadRequest(f"expected a size of {', '.join(STUDENT_SIZES)}, got '{size:.40}'")
    if request.split and not splits.get(request.split):
        raise BadRequest(
            f"the snapshot has no image in a split '{request.split:.60}', only in "
            f"{', '.join(sorted(name for name, count in splits.items() if count))}"
        )
    if len([count for count in splits.values() if count]) < 2:
        raise BadRequest(
            "the snapshot has one split only, and a student is measured on images that it has "
            "not learnt from; make a snapshot with --split train=0.8 --split val=0.2"
        )
    return TrainingSpec(
        model=checked_model_name(request.model),
        snapshot=request.snapshot,
        split=request.split,
        size=size,
        steps=request.steps,
        seed=request.seed,
    )


def model_message(student: StudentVersion) -> models_pb.ModelVersion:
    """A version; with its report where it was read."""
    return wire.write(
        models_pb.ModelVersion,
        student,
        manifest_json=student.manifest,
        report_json=student.report,
        files={name: wire.write(models_pb.ModelFile, f) for name, f in student.files.items()},
    )


def model_page(found: Sequence[StudentVersion], most: int) -> models_pb.ListModelsResponse:
    """A page of at most ``most`` versions of those, and where the next begins if there are more."""
    shown, token = _page(found, most, model_message)
    return models_pb.ListModelsResponse(models=shown, next_page_token=token)


def comparison_message(comparison: StudentComparison | None) -> models_pb.ModelComparison | None:
    """What two versions made of the same images; None where nothing was compared."""
    return wire.write(models_pb.ModelComparison, comparison) if comparison else None


def training_message(training: TrainingRow) -> models_pb.Training:
    """A training as it stands."""
    progress = training.progress
    return wire.write(
        models_pb.Training,
        training,
        model=training.spec.model,
        snapshot=training.spec.snapshot,
        split=training.spec.split,
        size=training.spec.size,
        state=wire.TRAINING_STATES.number[training.state],
        step=progress.get("step", 0),
        of=progress.get("of", 0),
        loss=progress.get("loss"),
        map50=progress.get("map50"),
        phase=progress.get("phase", ""),
    )


@dataclass(frozen=True)
class Slice:
    """What one call pulls of a manifest."""

    split: str
    """Empty: all."""
    shard: int
    shards: int
    after: int
    """Place, among the images of the split, from which on they are sent."""

    def cursor(self, manifest: SnapshotManifest, place: int) -> str:
        """What a client asks with to go on behind the image at ``place``."""
        return f"{manifest.sha256[:CURSOR_PREFIX]}.{self.split}.{self.shard}.{self.shards}.{place}"


def slice_of(request: datasets_pb.PullRequest, manifest: SnapshotManifest) -> Slice:
    """The checked slice. Raises ``BadRequest``."""
    shards = request.shards or 1
    if request.shard >= shards:
        raise BadRequest(
            f"shard {request.shard} is out of range: of {shards} shards the first is 0 and the "
            f"last {shards - 1}"
        )
    if request.split and request.split not in manifest.splits:
        raise BadRequest(
            f"the snapshot has no split '{request.split:.60}', only {', '.join(manifest.splits)}"
        )
    whole = Slice(request.split, request.shard, shards, 0)
    if not request.cursor:
        return whole
    return Slice(request.split, request.shard, shards, _place(request.cursor, whole, manifest) + 1)


def _place(cursor: str, whole: Slice, manifest: SnapshotManifest) -> int:
    """Of the image that the cursor came with."""
    parts = cursor.split(".")
    if len(parts) != 5 or not parts[4].isdecimal() or len(parts[4]) > 18:
        raise BadRequest(f"'{cursor:.80}' is no cursor; send one that Pull has given, or none")
    if parts[0] != manifest.sha256[:CURSOR_PREFIX]:
        raise BadRequest(
            "the cursor is of another snapshot; leave it out to pull this one from the beginning"
        )
    place = int(parts[4])
    if cursor != whole.cursor(manifest, place):
        raise BadRequest(
            f"the cursor is of shard {parts[2]} of {parts[3]} of split '{parts[1]:.40}', not of "
            f"shard {whole.shard} of {whole.shards} of split '{whole.split}'; ask for what it was "
            "given for, or begin anew without it"
        )
    return place


def query_value(message: datasets_pb.SnapshotQuery) -> Query:
    """The checked query. Raises ``InvalidInput``."""
    group_by = wire.GROUPS.member.get(message.group_by or datasets_pb.GROUP_BY_AUTO)
    if group_by is None:
        raise BadRequest(
            f"expected group_by {', '.join(GroupBy)}, got number {message.group_by}; is the client "
            "newer than the server?"
        )
    split = tuple(SplitShare(share.name, share.weight) for share in message.split)
    return wire.read(
        Query,
        message,
        runs=tuple(message.runs),
        classes=tuple(message.classes),
        empty=_empties(message),
        ignore=not message.without_ignore,
        split=split or DEFAULT_SPLIT,
        group_by=group_by,
        certificate="",
    )


def _empties(message: datasets_pb.SnapshotQuery) -> tuple[EmptyReason, ...]:
    """The reasons of the empty images that are kept. Raises ``BadRequest``."""
    unknown = [number for number in message.empty if number not in wire.EMPTY_REASONS.member]
    if unknown:
        raise BadRequest(
            f"expected empty {', '.join(EmptyReason)}, got number {unknown[0]}; is the client "
            "newer than the server?"
        )
    if message.without_empties:
        return ()
    return tuple(wire.EMPTY_REASONS.member[number] for number in message.empty) or BACKGROUND


def query_message(query: Query) -> datasets_pb.SnapshotQuery:
    """The message that ``query_value`` reads back as an equal value."""
    return wire.write(
        datasets_pb.SnapshotQuery,
        query,
        without_empties=not query.empty,
        empty=[wire.EMPTY_REASONS.number[reason] for reason in query.empty],
        without_ignore=not query.ignore,
        split=[wire.write(datasets_pb.SplitShare, share) for share in query.split],
        group_by=wire.GROUPS.number[query.group_by],
    )


def snapshot_message(snapshot: SnapshotRow) -> datasets_pb.Snapshot:
    """A snapshot without its images."""
    splits = snapshot.statistics["splits"]
    return wire.write(
        datasets_pb.Snapshot,
        snapshot,
        classes=snapshot.statistics["classes"],
        splits={name: counts["images"] for name, counts in splits.items()},
        statistics_json=json.dumps(snapshot.statistics, sort_keys=True),
        query=query_message(query_of(snapshot.query)),
    )


def snapshot_page(found: Sequence[SnapshotRow], most: int) -> datasets_pb.ListSnapshotsResponse:
    """A page of at most ``most`` snapshots, and where the next begins if there are more."""
    shown, token = _page(found, most, snapshot_message)
    return datasets_pb.ListSnapshotsResponse(snapshots=shown, next_page_token=token)


def _page(
    found: Sequence[_Row], most: int, message_of: Callable[[_Row], _Message]
) -> tuple[list[_Message], str]:
    """The first of those as messages, and the token of the next page; empty after the last.

    Each may be long, by its manifest or its statistics, so a page also ends at ``LARGE_PAGE``.
    """
    shown: list[_Message] = []
    size = 0
    for place, row in enumerate(found):
        if place == most or size > LARGE_PAGE:
            return shown, str(found[place - 1].id)
        shown.append(message_of(row))
        size += shown[-1].ByteSize()
    return shown, ""


def image_message(entry: Entry, cursor: str, content: bytes) -> datasets_pb.SnapshotImage:
    """One image; ``content`` is empty where only its labels are wanted."""
    return wire.write(
        datasets_pb.SnapshotImage,
        entry,
        # A file's name may hold bytes that are not text.
        name=sendable(entry.name),
        boxes=[_box_message(box) for box in entry.boxes],
        content=content,
        cursor=cursor,
        empty=wire.empty_number(entry.empty),
    )


def _box_message(box: ManifestBox) -> datasets_pb.SnapshotBox:
    x1, y1, x2, y2 = box.xyxy
    kind = wire.BOX_KINDS.number[box.kind]
    segmentation = wire.segmentation_message(box.segmentation)
    return wire.write(
        datasets_pb.SnapshotBox,
        box,
        x1=x1,
        y1=y1,
        x2=x2,
        y2=y2,
        kind=kind,
        segmentation=segmentation,
    )


LEASE_S = 600
"""Of a box in a review queue, where the caller asks for no time."""
MAX_AHEAD_S = 86_400.0
"""By how much a client's clock may be ahead of ours."""


def wanted_order(number: reviews_pb.ReviewOrder.ValueType) -> ReviewOrder:
    """The order of a new queue. Raises ``BadRequest``."""
    return _member(wire.REVIEW_ORDERS, number or reviews_pb.REVIEW_ORDER_RANDOM, "order")


def wanted_guarantee(request: reviews_pb.CreateGuaranteeRequest) -> GuaranteeRequest:
    """What a guarantee is asked for. Raises ``BadRequest``, and ``InvalidInput`` for terms that
    cannot be met."""
    usual = Terms()
    terms = Terms(
        request.precision or usual.target,
        request.confidence or usual.confidence,
        request.budget or usual.budget,
        _member(PROMISES, request.promise or reviews_pb.GUARANTEE_PROMISE_SCENES, "promise"),
    )
    return GuaranteeRequest(request.run, terms, tuple(request.classes))


def guarantee_progress(status: GuaranteeStatus) -> reviews_pb.GuaranteeProgress:
    """How far a guarantee is."""
    return reviews_pb.GuaranteeProgress(
        name=status.row.name,
        state=status.row.state.value,
        queue=status.row.queue,
        asked=status.asked,
        answered=status.answered,
    )


def lease_of(request: reviews_pb.NextReviewItemsRequest) -> tuple[int, int]:
    """How many boxes, and for how many seconds."""
    return request.count or 1, request.lease_s or LEASE_S


def review_said(
    message: reviews_pb.NewReview | reviews_pb.AnswerReviewItemRequest, **about: Any
) -> NewReview:
    """What a message says; ``about`` which box. Raises ``BadRequest`` for what is unknown."""
    reason = message.reason
    about = {"image": "", "class_name": "", "box": None, **about}
    return wire.read(
        NewReview,
        message,
        **about,
        answer=_member(wire.REVIEW_ANSWERS, message.answer, "answer"),
        reason=_member(wire.WRONG_REASONS, reason, "reason") if reason else None,
        new_box=wire.box_at(message, "new_box"),
        mask=wire.mask_at(message, "mask"),
    )


def new_review(message: reviews_pb.NewReview) -> NewReview:
    """A review to be kept; with its time, where it has one. Raises ``InvalidInput``."""
    about = {name: getattr(message, name) for name in ("image", "class_name")}
    said = review_said(message, **about, box=wire.box_at(message, "box"))
    said.check()
    when = message.created_at
    return Review(**vars(said), created_at=_checked_time(when)) if when else said


def imported_review(message: reviews_pb.Review) -> Review:
    """A review of another store. Raises ``InvalidInput``."""
    _member(wire.REVIEW_ANSWERS, message.answer, "answer")
    if message.reason:
        _member(wire.WRONG_REASONS, message.reason, "reason")
    _checked_time(message.created_at)
    review = wire.review(message)
    review.check()
    return review


def _checked_time(when: float) -> float:
    """Raises ``BadRequest`` for a time at which nobody can have said anything."""
    if not 0 <= when <= time.time() + MAX_AHEAD_S:
        raise BadRequest(
            f"expected created_at in seconds since 1970 and not in the future, got {when:g}",
            field="created_at",
        )
    return when


def _member(of: wire.EnumNumbers[_Kind], number: int, what: str) -> _Kind:
    """The member of an enum that a request names. Raises ``BadRequest``."""
    if number not in of.member:
        raise BadRequest(
            f"expected {what} {', '.join(of.number)}, got number {number}; is the client newer "
            "than the server?",
            field=what,
        )
    return of.member[number]


def review_queue_page(
    found: Sequence[ReviewQueue], size: int
) -> reviews_pb.ListReviewQueuesResponse:
    """A page of at most ``size`` of these queues, and the name behind which the next begins."""
    return reviews_pb.ListReviewQueuesResponse(
        queues=[wire.write(reviews_pb.ReviewQueue, queue) for queue in found[:size]],
        next_page_token=next_token(found, size, "name"),
    )


def review_page(found: Sequence[Review], size: int) -> reviews_pb.ListReviewsResponse:
    """A page of at most ``size`` of these reviews, and behind which number the next begins."""
    page, token = found[:size], next_token(found, size)
    if page and any(one.mask for one in page):  # large ones may have ended the page before
        token = str(page[-1].id)
    return reviews_pb.ListReviewsResponse(
        reviews=map(wire.review_message, page), next_page_token=token
    )


def image_name_message(sha256: str, name: str, width: int, height: int) -> reviews_pb.ImageName:
    """What an image is called."""
    return reviews_pb.ImageName(sha256=sha256, name=sendable(name), width=width, height=height)
