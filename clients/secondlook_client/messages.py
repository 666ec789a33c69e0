"""Values to wire messages and back."""

import os
from pathlib import Path

from secondlook_client.classes import Classes, ClassSpec
from secondlook_client.errors import BadOntology, InvalidRequest, UnreadableFile
from secondlook_client.results import Judgement, LabelPath, LabelResult, Outcome, ServerInfo
from secondlook_client.v1 import labeling_pb2 as pb

ImageInput = bytes | bytearray | memoryview | str | os.PathLike[str]
"""An encoded image, or the path of its file."""

_DETAILS = {"labels": pb.DETAIL_LABELS, "all": pb.DETAIL_ALL}
_VIEWS = {"crop": pb.VIEW_CROP, "context": pb.VIEW_CONTEXT, "image": pb.VIEW_IMAGE}
_VIEW_NAMES = {number: name for name, number in _VIEWS.items()}
_OUTCOMES = {
    pb.OUTCOME_ACCEPT: Outcome.ACCEPT,
    pb.OUTCOME_REJECT: Outcome.REJECT,
    pb.OUTCOME_UNSURE: Outcome.UNSURE,
}

_PATHS = {pb.LABEL_PATH_STUDENT: LabelPath.STUDENT, pb.LABEL_PATH_AUDIT: LabelPath.AUDIT}


def image_bytes(image: ImageInput) -> bytes:
    """The encoded image. Raises ``UnreadableFile``."""
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    try:
        return Path(image).read_bytes()
    except OSError as cause:
        raise UnreadableFile(f"{os.fspath(image)}: {cause.strerror or cause}") from cause


def image_name(image: ImageInput, name: str) -> str:
    """``name``, or else the file's."""
    if not name and isinstance(image, str | os.PathLike):
        name = Path(image).name
    return sendable(name)


def sendable(name: str) -> str:
    """``name`` as the wire can carry it: a file's name may hold bytes that are no text."""
    return name.encode("utf-8", "replace").decode()


def ontology(classes: Classes | None) -> pb.Ontology | None:
    """The message for ``classes``; None asks for the server's own. Raises ``BadOntology``."""
    if classes is None:
        return None
    if isinstance(classes, str):
        raise BadOntology(f"expected a list of classes, got one text; write [{classes!r}]")
    return pb.Ontology(classes=[_class_message(spec) for spec in classes])


def detail_number(detail: str) -> pb.Detail.ValueType:
    """``labels`` or ``all`` as the wire has it. Raises ``InvalidRequest``."""
    if detail not in _DETAILS:
        raise InvalidRequest(f"expected detail 'labels' or 'all', got {detail!r}")
    return _DETAILS[detail]


def opening(
    classes: Classes | None, detail: str, stream_id: str, max_pending: int
) -> pb.StreamOpening:
    """The first message of a live stream. Raises ``BadOntology`` or ``InvalidRequest``."""
    return pb.StreamOpening(
        stream_id=stream_id,
        mode=pb.STREAM_MODE_LIVE,
        ontology=ontology(classes),
        detail=detail_number(detail),
        max_pending=max_pending,
    )


def capture_opening(classes: Classes | None, stream_id: str) -> pb.StreamOpening:
    """The first message of a captured stream. Raises ``BadOntology`` or ``InvalidRequest``."""
    if not stream_id:
        raise InvalidRequest("a captured stream needs a stream_id; it is its name for ever")
    return pb.StreamOpening(
        stream_id=stream_id, mode=pb.STREAM_MODE_CAPTURE, ontology=ontology(classes)
    )


def _class_message(spec: str | ClassSpec) -> pb.ClassSpec:
    if isinstance(spec, str):
        return pb.ClassSpec(name=spec)
    if spec.view not in _VIEWS:
        raise BadOntology(
            f"class '{spec.name}': expected view crop, context or image, got {spec.view!r}"
        )
    return pb.ClassSpec(
        name=spec.name,
        phrases=spec.phrases,
        question=spec.question,
        view=_VIEWS[spec.view],
        group=spec.group,
        threshold=spec.threshold,
        accept=spec.accept,
        reject=spec.reject,
    )


def label_result(message: pb.Labelled) -> LabelResult:
    """The value of an answer."""
    return LabelResult(
        name=message.name,
        sha256=message.sha256,
        width=message.width,
        height=message.height,
        proposals=message.proposals,
        judgements=tuple(_judgement(judgement) for judgement in message.judgements),
        proposer=message.proposer,
        verifier=message.verifier,
        timings_ms=dict(message.timings_ms),
        path=_PATHS.get(message.path, LabelPath.TEACHERS),
    )


def _judgement(message: pb.Judgement) -> Judgement:
    box, verdict = message.box, message.verdict
    asked = message.HasField("verdict")
    return Judgement(
        class_name=message.class_name,
        box=(box.x1, box.y1, box.x2, box.y2),
        score=message.score,
        # An outcome that a newer server may add is one that this client cannot be sure of.
        outcome=_OUTCOMES.get(message.outcome, Outcome.UNSURE),
        probability=message.probability,
        reason=message.reason,
        question=verdict.question,
        view=_VIEW_NAMES.get(verdict.view, "") if asked else "",
        p_yes=verdict.p_yes if verdict.HasField("p_yes") else None,
        raw_answer=verdict.raw_answer,
        error=verdict.error,
        exact=verdict.exact if asked else True,
        verifier=verdict.model,
        verify_ms=verdict.ms,
        cached=verdict.cached,
    )


def server_info(message: pb.GetServerInfoResponse) -> ServerInfo:
    """The value of an answer."""
    has_default = message.HasField("default_ontology")
    return ServerInfo(
        version=message.version,
        proposer=message.proposer,
        verifier=message.verifier,
        classes=tuple(c.name for c in message.default_ontology.classes) if has_default else None,
        max_message_bytes=message.max_message_bytes,
        max_images=message.max_images,
        student=message.student,
    )
