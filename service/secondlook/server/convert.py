"""Wire messages to values and back; whatever a message may hold is checked here, once."""

from collections import OrderedDict

from secondlook.errors import BadOntology, BadRequest
from secondlook.labels import Judgement, Labelled, LabelPath, Outcome, Verdict, View
from secondlook.ontology import ClassSpec, Ontology
from secondlook_client.v1 import labeling_pb2 as pb
from secondlook_client.v1.jobs_pb2 import CreateJobRequest

MAX_NAME = 4096
"""Characters of a picture's name."""

_VIEWS = {
    pb.VIEW_UNSPECIFIED: View.CROP,
    pb.VIEW_CROP: View.CROP,
    pb.VIEW_CONTEXT: View.CONTEXT,
    pb.VIEW_IMAGE: View.IMAGE,
}
_VIEW_NUMBERS = {View.CROP: pb.VIEW_CROP, View.CONTEXT: pb.VIEW_CONTEXT, View.IMAGE: pb.VIEW_IMAGE}
_OUTCOMES = {
    Outcome.ACCEPT: pb.OUTCOME_ACCEPT,
    Outcome.REJECT: pb.OUTCOME_REJECT,
    Outcome.UNSURE: pb.OUTCOME_UNSURE,
}

_PATHS = {
    LabelPath.TEACHERS: pb.LABEL_PATH_TEACHERS,
    LabelPath.STUDENT: pb.LABEL_PATH_STUDENT,
    LabelPath.AUDIT: pb.LABEL_PATH_AUDIT,
}


class Ontologies:
    """Builds ontologies from messages and keeps the last few, as most requests repeat one."""

    def __init__(self, default: Ontology | None, size: int = 16) -> None:
        """``default`` serves requests that bring none."""
        self._default = default
        self._size = size
        self._built: OrderedDict[bytes, Ontology] = OrderedDict()

    def of(self, request: pb.LabelRequest | pb.StreamOpening | CreateJobRequest) -> Ontology:
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


def ontology_value(message: pb.Ontology) -> Ontology:
    """The checked value. Raises ``BadOntology``."""
    return Ontology(tuple(_class_value(spec) for spec in message.classes))


def _class_value(message: pb.ClassSpec) -> ClassSpec:
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


def ontology_message(ontology: Ontology) -> pb.Ontology:
    """The message that ``ontology_value`` reads back as an equal value."""
    return pb.Ontology(
        classes=[
            pb.ClassSpec(
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
    """A picture's name as it came. Raises ``BadRequest`` when it is too long."""
    if len(name) > MAX_NAME:
        raise BadRequest(f"the picture's name has {len(name):,} characters; at most {MAX_NAME:,}")
    return name


def kept_name(name: str) -> str:
    """A picture's name as every database takes it. Raises ``BadRequest`` when it is too long."""
    return checked_name(name).replace("\x00", "\N{REPLACEMENT CHARACTER}")


def wants_all(detail: pb.Detail.ValueType) -> bool:
    """Whether rejected and unsure judgements are wanted too. Raises ``BadRequest``."""
    if detail not in (pb.DETAIL_UNSPECIFIED, pb.DETAIL_LABELS, pb.DETAIL_ALL):
        raise BadRequest(
            f"expected detail labels or all, got number {detail}; "
            "is the client newer than the server?"
        )
    return detail != pb.DETAIL_LABELS


def labelled_message(labelled: Labelled, every: bool) -> pb.Labelled:
    """The answer for one picture; only its labels unless ``every`` judgement is wanted."""
    judgements = labelled.judgements if every else labelled.of(Outcome.ACCEPT)
    return pb.Labelled(
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


def _judgement_message(judgement: Judgement) -> pb.Judgement:
    x1, y1, x2, y2 = judgement.box
    verdict = judgement.verdict
    return pb.Judgement(
        class_name=judgement.class_name,
        box=pb.Box(x1=x1, y1=y1, x2=x2, y2=y2),
        score=judgement.score,
        verdict=_verdict_message(verdict) if verdict is not None else None,
        outcome=_OUTCOMES[judgement.decision.outcome],
        probability=judgement.decision.probability,
        reason=judgement.decision.reason,
    )


def _verdict_message(verdict: Verdict) -> pb.Verdict:
    return pb.Verdict(
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
