"""Wire messages to values and back; whatever a message may hold is checked here, once."""

import json
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256

from secondlook.core.errors import BadOntology, BadRequest, Damaged, NotFound
from secondlook.core.ontology import ClassSpec, Ontology
from secondlook.core.types import Judgement, Labelled, LabelPath, Outcome, Verdict, View
from secondlook.datasets.manifest import Box, BoxKind, Entry, Manifest
from secondlook.datasets.query import DEFAULT_SPLIT, GroupBy, Query, SplitShare, query_of
from secondlook.datasets.snapshot import NAME
from secondlook.detector.manifest import (
    MAX_TEXT,
    STUDENT_SIZES,
    USUAL_SIZE,
    parse_manifest,
)
from secondlook.detector.manifest import Manifest as StudentManifest
from secondlook.registry.promotion import Comparison
from secondlook.store.model_versions import Student
from secondlook.store.queue import Failure, Job, JobState
from secondlook.store.results import Result, Stretch
from secondlook.store.snapshots import Snapshot
from secondlook.store.training_jobs import Training, TrainingOrder, TrainingState
from secondlook_client.v1 import datasets_pb2 as datasets_pb
from secondlook_client.v1 import jobs_pb2 as jobs_pb
from secondlook_client.v1 import labeling_pb2 as labeling_pb
from secondlook_client.v1 import models_pb2 as models_pb
from secondlook_client.v1.jobs_pb2 import CreateJobRequest

MAX_NAME = 4096
"""Characters of an image's name."""

_VIEWS = {
    labeling_pb.VIEW_UNSPECIFIED: View.CROP,
    labeling_pb.VIEW_CROP: View.CROP,
    labeling_pb.VIEW_CONTEXT: View.CONTEXT,
    labeling_pb.VIEW_IMAGE: View.IMAGE,
}
_VIEW_NUMBERS = {
    View.CROP: labeling_pb.VIEW_CROP,
    View.CONTEXT: labeling_pb.VIEW_CONTEXT,
    View.IMAGE: labeling_pb.VIEW_IMAGE,
}
_OUTCOMES = {
    Outcome.ACCEPT: labeling_pb.OUTCOME_ACCEPT,
    Outcome.REJECT: labeling_pb.OUTCOME_REJECT,
    Outcome.UNSURE: labeling_pb.OUTCOME_UNSURE,
}

_PATHS = {
    LabelPath.TEACHERS: labeling_pb.LABEL_PATH_TEACHERS,
    LabelPath.STUDENT: labeling_pb.LABEL_PATH_STUDENT,
    LabelPath.AUDIT: labeling_pb.LABEL_PATH_AUDIT,
}


class Ontologies:
    """Builds ontologies from messages and keeps the last few, as most requests repeat one."""

    def __init__(self, default: Ontology | None, size: int = 16) -> None:
        """``default`` serves requests that bring none."""
        self._default = default
        self._size = size
        self._built: OrderedDict[bytes, Ontology] = OrderedDict()

    def of(
        self, request: labeling_pb.LabelRequest | labeling_pb.StreamOpening | CreateJobRequest
    ) -> Ontology:
        """The request's own ontology, or the default. Raises ``BadOntology``."""
        if not request.HasField("ontology"):
            if self._default is None:
                raise BadOntology(
                    "the request has no ontology and the server has no default one; "
                    "send the classes to look for"
                )
            return self._default
        key = request.ontology.SerializeToString(deterministic=True)
        if key not in self._built:
            self._built[key] = ontology_value(request.ontology)
        self._built.move_to_end(key)
        while len(self._built) > self._size:
            self._built.popitem(last=False)
        return self._built[key]


def ontology_value(message: labeling_pb.Ontology) -> Ontology:
    """The checked value. Raises ``BadOntology``."""
    return Ontology(tuple(_class_value(spec) for spec in message.classes))


def _class_value(message: labeling_pb.ClassSpec) -> ClassSpec:
    if message.view not in _VIEWS:
        raise BadOntology(
            f"class '{message.name}': expected view crop, context or image, "
            f"got number {message.view}; is the client newer than the server?"
        )
    given = {
        field: getattr(message, field)
        for field in ("threshold", "accept", "reject")
        if message.HasField(field)
    }
    return ClassSpec(
        message.name,
        tuple(message.phrases),
        message.question,
        _VIEWS[message.view],
        message.group,
        **given,
    )


def ontology_message(ontology: Ontology) -> labeling_pb.Ontology:
    """The message that ``ontology_value`` reads back as an equal value."""
    return labeling_pb.Ontology(
        classes=[
            labeling_pb.ClassSpec(
                name=spec.name,
                phrases=spec.phrases,
                question=spec.question,
                view=_VIEW_NUMBERS[spec.view],
                group=spec.group,
                threshold=spec.threshold,
                accept=spec.accept,
                reject=spec.reject,
            )
            for spec in ontology.classes
        ]
    )


def checked_name(name: str) -> str:
    """An image's name as it came. Raises ``BadRequest`` when it is too long."""
    if len(name) > MAX_NAME:
        raise BadRequest(f"the image's name has {len(name):,} characters; at most {MAX_NAME:,}")
    return name


def kept_name(name: str) -> str:
    """An image's name as every database takes it. Raises ``BadRequest`` when it is too long."""
    return checked_name(name).replace("\x00", "\N{REPLACEMENT CHARACTER}")


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


def labelled_message(labelled: Labelled, every: bool) -> labeling_pb.Labelled:
    """The answer for one image; only its labels unless ``every`` judgement is wanted."""
    judgements = labelled.judgements if every else labelled.of(Outcome.ACCEPT)
    return labeling_pb.Labelled(
        name=labelled.name,
        sha256=labelled.sha256,
        width=labelled.width,
        height=labelled.height,
        proposals=labelled.proposals,
        judgements=[_judgement_message(judgement) for judgement in judgements],
        proposer=labelled.evidence.proposer,
        verifier=labelled.evidence.verifier,
        timings_ms=labelled.timings_ms,
        path=_PATHS[labelled.path],
    )


def _judgement_message(judgement: Judgement) -> labeling_pb.Judgement:
    x1, y1, x2, y2 = judgement.box
    verdict = judgement.verdict
    return labeling_pb.Judgement(
        class_name=judgement.class_name,
        box=labeling_pb.Box(x1=x1, y1=y1, x2=x2, y2=y2),
        score=judgement.score,
        verdict=_verdict_message(verdict) if verdict is not None else None,
        outcome=_OUTCOMES[judgement.decision.outcome],
        probability=judgement.decision.probability,
        reason=judgement.decision.reason,
    )


def _verdict_message(verdict: Verdict) -> labeling_pb.Verdict:
    return labeling_pb.Verdict(
        question=verdict.question,
        view=_VIEW_NUMBERS[verdict.view],
        p_yes=verdict.answer.p_yes,
        raw_answer=verdict.answer.raw,
        error=verdict.answer.error,
        exact=verdict.answer.exact,
        model=verdict.model,
        ms=verdict.ms,
        cached=verdict.cached,
    )


# Jobs as messages, and what a message may say of one: checked here, once.

MAX_JOB_NAME = 200
"""Characters of a job's name."""

_JOB_KINDS = {
    "folder": jobs_pb.JOB_KIND_FOLDER,
    "upload": jobs_pb.JOB_KIND_UPLOAD,
    "capture": jobs_pb.JOB_KIND_CAPTURE,
}
_JOB_STATES = {
    JobState.LISTING: jobs_pb.JOB_STATE_LISTING,
    JobState.RUNNING: jobs_pb.JOB_STATE_RUNNING,
    JobState.DONE: jobs_pb.JOB_STATE_DONE,
    JobState.CANCELLED: jobs_pb.JOB_STATE_CANCELLED,
    JobState.FAILED: jobs_pb.JOB_STATE_FAILED,
}


def job_message(
    job: Job, ontology: Ontology | None = None, paths: Sequence[Stretch] = ()
) -> jobs_pb.Job:
    """A job as it stands; with its classes, and who labelled it, where they are given."""
    return jobs_pb.Job(
        name=job.name,
        kind=_JOB_KINDS.get(job.kind, jobs_pb.JOB_KIND_UNSPECIFIED),
        state=_JOB_STATES[job.state],
        folder=job.root,
        total=job.total,
        done=job.done,
        failed=job.failed,
        message=job.message,
        open=not job.closed,
        created_at=job.created_at,
        changed_at=job.changed_at,
        ontology=ontology_message(ontology) if ontology else None,
        paths=[
            jobs_pb.PathCounts(
                begin=part.begin,
                end=part.end,
                **{path.value: part.images.get(path, 0) for path in LabelPath},
            )
            for part in paths
        ],
    )


def result_message(result: Result, every: bool) -> jobs_pb.JobResult:
    """One result; only its labels unless ``every`` judgement is wanted."""
    labelled = labelled_message(result.labelled, every)
    return jobs_pb.JobResult(cursor=result.cursor, key=result.key, labelled=labelled)


def failure_message(failure: Failure) -> jobs_pb.JobFailure:
    """One image that was set aside."""
    return jobs_pb.JobFailure(
        key=failure.key,
        name=failure.name,
        reason=failure.reason,
        message=failure.message,
        tries=failure.tries,
    )


def checked_job_name(name: str) -> str:
    """A name for a new job. Raises ``BadRequest``."""
    if not name.strip() or len(name) > MAX_JOB_NAME or not name.isprintable():
        raise BadRequest(
            f"expected a job name of 1 to {MAX_JOB_NAME} printable characters, got {name!r:.60}"
        )
    return name


def key_of(name: str, content: bytes) -> int:
    """An image's number where the client gave none: name and content, signed 64 bits."""
    named = name.encode("utf-8", "replace") + b"\0" + sha256(content).digest()
    return int.from_bytes(blake2b(named, digest_size=8).digest(), "big", signed=True)


class Pace:
    """How fast a job gets on, by what it did in the last while."""

    WINDOW_S = 30.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def per_second(self, settled: int) -> float:
        """Images a second, now that ``settled`` are done or set aside; 0 while unknown."""
        now = self._clock()
        self._seen.append((now, settled))
        while len(self._seen) > 2 and self._seen[1][0] <= now - self.WINDOW_S:
            self._seen.popleft()
        then, before = self._seen[0]
        return max(settled - before, 0) / (now - then) if now > then else 0.0


# Students and trainings as messages, and what a message may say of them: checked here, once.

MAX_FILE, MAX_TOTAL = 128 * 2**20, 2**30
"""Bytes of a student; the largest published ones have 40 MB."""
MAX_REPORT = 2 * 2**20
MAX_STEPS = 1_000_000
MAX_PAGE, SOME = 200, 50
LARGEST_ID = 2**63 - 1
LARGE_PAGE = 4 * 2**20
"""Bytes from which on a page has no more versions: manifests may be long."""

_TRAINING_STATES = {
    TrainingState.QUEUED: models_pb.TRAINING_STATE_QUEUED,
    TrainingState.RUNNING: models_pb.TRAINING_STATE_RUNNING,
    TrainingState.DONE: models_pb.TRAINING_STATE_DONE,
    TrainingState.FAILED: models_pb.TRAINING_STATE_FAILED,
    TrainingState.CANCELLED: models_pb.TRAINING_STATE_CANCELLED,
}


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
    if len(header.manifest_json) > MAX_TEXT or len(header.report_json) > MAX_REPORT:
        raise BadRequest(
            f"the manifest may have {MAX_TEXT:,} characters and the report {MAX_REPORT:,}; got "
            f"{len(header.manifest_json):,} and {len(header.report_json):,}"
        )
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


def checked_order(request: models_pb.TrainModelRequest, splits: Mapping[str, int]) -> TrainingOrder:
    """What shall be trained; ``splits`` are the images of the snapshot's parts.

    Raises ``BadRequest``.
    """
    size = request.size or USUAL_SIZE
    if size not in STUDENT_SIZES:
        raise BadRequest(f"expected a size of {', '.join(STUDENT_SIZES)}, got '{size:.40}'")
    if request.steps > MAX_STEPS:
        raise BadRequest(f"expected up to {MAX_STEPS:,} steps, got {request.steps:,}")
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
    return TrainingOrder(
        model=checked_model_name(request.model),
        snapshot=request.snapshot,
        split=request.split,
        size=size,
        steps=request.steps,
        seed=request.seed,
    )


def checked_page(size: int, token: str, call: str) -> tuple[int, int | None]:
    """Rows of a page and where it begins. Raises ``BadRequest``."""
    if size > MAX_PAGE:
        raise BadRequest(f"expected page_size up to {MAX_PAGE}, got {size}")
    if token and not (token.isdecimal() and len(token) <= 18):
        raise BadRequest(f"'{token:.40}' is no page_token that {call} has given")
    return size or SOME, int(token) if token else None


def checked_id(number: int) -> int:
    """A training's number that a database can hold. Raises ``BadRequest``."""
    if number > LARGEST_ID:
        raise BadRequest(f"expected the id of a training, got {number}")
    return number


def model_message(student: Student) -> models_pb.ModelVersion:
    """A version; with its report where it was read."""
    return models_pb.ModelVersion(
        name=student.name,
        version=student.version,
        digest=student.digest,
        manifest_json=student.manifest,
        report_json=student.report,
        created_at=student.created_at,
        current=student.current,
        files={
            name: models_pb.ModelFile(sha256=file.sha256, size=file.size)
            for name, file in student.files.items()
        },
        promotion=student.promotion,
    )


def model_page(found: Sequence[Student], most: int) -> models_pb.ListModelsResponse:
    """A page of at most ``most`` versions of those, and where the next begins if there are more."""
    response, size = models_pb.ListModelsResponse(), 0
    for place, student in enumerate(found):
        if place == most or size > LARGE_PAGE:
            response.next_page_token = str(found[place - 1].id)
            break
        response.models.append(model_message(student))
        size += response.models[-1].ByteSize()
    return response


def comparison_message(comparison: Comparison | None) -> models_pb.ModelComparison | None:
    """What two versions made of the same images; None where nothing was compared."""
    if comparison is None:
        return None
    return models_pb.ModelComparison(
        snapshot=comparison.snapshot,
        split=comparison.split,
        images=comparison.images,
        current_version=comparison.current_version,
        current_map50=comparison.current_map50,
        candidate_map50=comparison.candidate_map50,
    )


def training_message(training: Training) -> models_pb.Training:
    """A training as it stands."""
    order, progress = training.order, training.progress
    return models_pb.Training(
        id=training.id,
        model=order.model,
        snapshot=order.snapshot,
        split=order.split,
        size=order.size,
        state=_TRAINING_STATES[training.state],
        step=progress.get("step", 0),
        of=progress.get("of", 0),
        loss=progress.get("loss"),
        map50=progress.get("map50"),
        phase=progress.get("phase", ""),
        message=training.message,
        version=training.version,
        created_at=training.created_at,
        changed_at=training.changed_at,
    )


# Messages of datasets to values and back.

_BOX_KINDS = {
    BoxKind.LABEL: datasets_pb.BOX_KIND_LABEL,
    BoxKind.IGNORE: datasets_pb.BOX_KIND_IGNORE,
    BoxKind.HARD_NEGATIVE: datasets_pb.BOX_KIND_HARD_NEGATIVE,
}
_GROUPS = {
    datasets_pb.GROUP_BY_UNSPECIFIED: GroupBy.AUTO,
    datasets_pb.GROUP_BY_AUTO: GroupBy.AUTO,
    datasets_pb.GROUP_BY_FOLDER: GroupBy.FOLDER,
    datasets_pb.GROUP_BY_SIMILARITY: GroupBy.SIMILARITY,
    datasets_pb.GROUP_BY_TIME: GroupBy.TIME,
}
_GROUP_NUMBERS = {value: number for number, value in _GROUPS.items()}
PREFIX = 16
"""Hex digits of a manifest's hash that a cursor begins with."""


@dataclass(frozen=True)
class Slice:
    """What one call pulls of a manifest."""

    split: str
    """Empty: all."""
    shard: int
    shards: int
    after: int
    """Place, among the images of the split, from which on they are sent."""

    def cursor(self, manifest: Manifest, place: int) -> str:
        """What a client asks with to go on behind the image at ``place``."""
        return f"{manifest.sha256[:PREFIX]}.{self.split}.{self.shard}.{self.shards}.{place}"


def slice_of(request: datasets_pb.PullRequest, manifest: Manifest) -> Slice:
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


def _place(cursor: str, whole: Slice, manifest: Manifest) -> int:
    """Of the image that the cursor came with."""
    parts = cursor.split(".")
    if len(parts) != 5 or not parts[4].isdecimal() or len(parts[4]) > 18:
        raise BadRequest(f"'{cursor:.80}' is no cursor; send one that Pull has given, or none")
    if parts[0] != manifest.sha256[:PREFIX]:
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
    if message.group_by not in _GROUPS:
        raise BadRequest(
            f"expected group_by {', '.join(GroupBy)}, got number {message.group_by}; is the client "
            "newer than the server?"
        )
    split = tuple(SplitShare(share.name, share.weight) for share in message.split)
    return Query(
        runs=tuple(message.runs),
        ontology=message.ontology,
        classes=tuple(message.classes),
        since=message.since if message.HasField("since") else None,
        until=message.until if message.HasField("until") else None,
        min_probability=message.min_probability,
        empties=not message.without_empties,
        ignore=not message.without_ignore,
        hard_negatives=message.hard_negatives,
        split=split or DEFAULT_SPLIT,
        group_by=_GROUPS[message.group_by],
    )


def query_message(query: Query) -> datasets_pb.SnapshotQuery:
    """The message that ``query_value`` reads back as an equal value."""
    return datasets_pb.SnapshotQuery(
        runs=query.runs,
        ontology=query.ontology,
        classes=query.classes,
        since=query.since,
        until=query.until,
        min_probability=query.min_probability,
        without_empties=not query.empties,
        without_ignore=not query.ignore,
        hard_negatives=query.hard_negatives,
        split=[
            datasets_pb.SplitShare(name=share.name, weight=share.weight) for share in query.split
        ],
        group_by=_GROUP_NUMBERS[query.group_by],
    )


def snapshot_message(snapshot: Snapshot) -> datasets_pb.Snapshot:
    """A snapshot without its images."""
    splits = snapshot.statistics["splits"]
    return datasets_pb.Snapshot(
        name=snapshot.name,
        manifest=snapshot.manifest,
        classes=snapshot.statistics["classes"],
        splits={name: counts["images"] for name, counts in splits.items()},
        statistics_json=json.dumps(snapshot.statistics, sort_keys=True),
        query=query_message(query_of(snapshot.query)),
        created_at=snapshot.created_at,
    )


def image_message(entry: Entry, cursor: str, content: bytes) -> datasets_pb.SnapshotImage:
    """One image; ``content`` is empty where only its labels are wanted."""
    return datasets_pb.SnapshotImage(
        sha256=entry.sha256,
        # A file's name may hold bytes that are no text.
        name=entry.name.encode("utf-8", "replace").decode(),
        format=entry.format,
        width=entry.width,
        height=entry.height,
        split=entry.split,
        group=entry.group,
        boxes=[_box_message(box) for box in entry.boxes],
        content=content,
        cursor=cursor,
    )


def _box_message(box: Box) -> datasets_pb.SnapshotBox:
    x1, y1, x2, y2 = box.xyxy
    return datasets_pb.SnapshotBox(
        class_index=box.class_index,
        x1=x1,
        y1=y1,
        x2=x2,
        y2=y2,
        kind=_BOX_KINDS[box.kind],
        probability=box.probability,
        score=box.score,
        p_yes=box.p_yes,
        reason=box.reason,
    )
