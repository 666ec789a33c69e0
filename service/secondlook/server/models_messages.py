"""Students and trainings as messages, and what a message may say of them: checked here, once."""

import json
from collections.abc import Mapping, Sequence

from secondlook.dataset.compare_students import Comparison
from secondlook.dataset.freeze import NAME
from secondlook.detector.manifest import MAX_TEXT, Manifest, parse_manifest
from secondlook.errors import BadRequest, Damaged, NotFound
from secondlook.store.students import Student
from secondlook.store.trainings import Training, TrainingOrder, TrainingState
from secondlook.student_sizes import STUDENT_SIZES, USUAL_SIZE
from secondlook_client.v1 import models_pb2 as pb

MAX_FILE, MAX_TOTAL = 128 * 2**20, 2**30
"""Bytes of a student; the largest published ones have 40 MB."""
MAX_REPORT = 2 * 2**20
MAX_STEPS = 1_000_000
MAX_PAGE, SOME = 200, 50
LARGEST_ID = 2**63 - 1
LARGE_PAGE = 4 * 2**20
"""Bytes from which on a page has no more versions: manifests may be long."""

_STATES = {
    TrainingState.QUEUED: pb.TRAINING_STATE_QUEUED,
    TrainingState.RUNNING: pb.TRAINING_STATE_RUNNING,
    TrainingState.DONE: pb.TRAINING_STATE_DONE,
    TrainingState.FAILED: pb.TRAINING_STATE_FAILED,
    TrainingState.CANCELLED: pb.TRAINING_STATE_CANCELLED,
}


def checked_name(name: str) -> str:
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


def checked_header(header: pb.AddVersionHeader) -> tuple[str, Manifest, str]:
    """Name, manifest and report of a version to come. Raises ``BadRequest``."""
    name = checked_name(header.name)
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


def checked_order(request: pb.TrainModelRequest, splits: Mapping[str, int]) -> TrainingOrder:
    """What shall be trained; ``splits`` are the pictures of the snapshot's parts.

    Raises ``BadRequest``.
    """
    size = request.size or USUAL_SIZE
    if size not in STUDENT_SIZES:
        raise BadRequest(f"expected a size of {', '.join(STUDENT_SIZES)}, got '{size:.40}'")
    if request.steps > MAX_STEPS:
        raise BadRequest(f"expected up to {MAX_STEPS:,} steps, got {request.steps:,}")
    if request.split and not splits.get(request.split):
        raise BadRequest(
            f"the snapshot has no picture in a split '{request.split:.60}', only in "
            f"{', '.join(sorted(name for name, count in splits.items() if count))}"
        )
    if len([count for count in splits.values() if count]) < 2:
        raise BadRequest(
            "the snapshot has one split only, and a student is measured on pictures that it has "
            "not learnt from; make a snapshot with --split train=0.8 --split val=0.2"
        )
    return TrainingOrder(
        model=checked_name(request.model),
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


def model_message(student: Student) -> pb.ModelVersion:
    """A version; with its report where it was read."""
    return pb.ModelVersion(
        name=student.name,
        version=student.version,
        digest=student.digest,
        manifest_json=student.manifest,
        report_json=student.report,
        created_at=student.created_at,
        current=student.current,
        files={
            name: pb.ModelFile(sha256=file.sha256, size=file.size)
            for name, file in student.files.items()
        },
        promotion=student.promotion,
    )


def model_page(found: Sequence[Student], most: int) -> pb.ListModelsResponse:
    """A page of at most ``most`` versions of those, and where the next begins if there are more."""
    response, size = pb.ListModelsResponse(), 0
    for place, student in enumerate(found):
        if place == most or size > LARGE_PAGE:
            response.next_page_token = str(found[place - 1].id)
            break
        response.models.append(model_message(student))
        size += response.models[-1].ByteSize()
    return response


def comparison_message(comparison: Comparison | None) -> pb.ModelComparison | None:
    """What two versions made of the same pictures; None where nothing was compared."""
    if comparison is None:
        return None
    return pb.ModelComparison(
        snapshot=comparison.snapshot,
        split=comparison.split,
        pictures=comparison.pictures,
        current_version=comparison.current_version,
        current_map50=comparison.current_map50,
        candidate_map50=comparison.candidate_map50,
    )


def training_message(training: Training) -> pb.Training:
    """A training as it stands."""
    order, progress = training.order, training.progress
    return pb.Training(
        id=training.id,
        model=order.model,
        snapshot=order.snapshot,
        split=order.split,
        size=order.size,
        state=_STATES[training.state],
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
