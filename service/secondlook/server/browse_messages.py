"""Messages of ``BrowseService`` to values and back."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from secondlook.core.types import Judgement
from secondlook.evaluation.guarantee import Guaranteed
from secondlook.jobs.guarantee_checks import ChecksStatus
from secondlook.review.browse import (
    MEASURES,
    BrowsedImage,
    Histogram,
    ImageFilter,
    ImageOrder,
    ImagePage,
    Interval,
    RunSummary,
)
from secondlook.review.compare_runs import (
    ChangedLabel,
    ComparedPart,
    ImageDifference,
    LabelChange,
)
from secondlook.review.explain import FEATURE_WORDS, ClassEvidence, Contribution, Explanation
from secondlook.review.guarantees import GuaranteeStatus
from secondlook.review.preview import PreviewCounts, Rules
from secondlook.store.codec import OUTCOMES
from secondlook.store.guarantees import GuaranteeRow, checks_queue_of, guarantee_of
from secondlook.store.judgement_columns import PATHS
from secondlook.store.results import Result
from secondlook.store.runs import Run, RunCount
from secondlook.store.streams import StreamRow
from secondlook.store.uncertainties import OfResult
from secondlook_client import wire
from secondlook_client.errors import BadRequest
from secondlook_client.uncertainties import UncertaintyMethod
from secondlook_client.v1 import browse_pb2 as pb
from secondlook_client.v1 import labeling_pb2 as labeling_pb
from secondlook_client.values import LabelPath, Outcome, Review

MAX_IMAGES, DEFAULT_IMAGES = 500, 100
"""Of one page at most, and where the caller asks for no number."""
MAX_EVENTS, MAX_REASON = 200, 1000
"""Of the history of a guarantee, and characters of why something happened."""
ORDERS = wire.EnumNumbers(ImageOrder, pb.RunImageOrder)
CHANGES = wire.EnumNumbers(LabelChange, pb.LabelChange)
_OUTCOME_NUMBERS = [wire.OUTCOMES.number[outcome] for outcome in OUTCOMES]
_PATH_NUMBERS = [wire.PATHS.number[path] for path in PATHS]


def run_message(found: RunCount) -> pb.Run:
    """A run as a list shows it."""
    return wire.write(
        pb.Run,
        found.run,
        classes=found.run.ontology.names,
        images=found.images,
        parent=found.parent,
        guarantee=guarantee_of(found.run.settings),
    )


def run_details(found: RunCount, methods: Sequence[UncertaintyMethod]) -> pb.GetRunResponse:
    """A run with its classes and settings."""
    return pb.GetRunResponse(
        run=run_message(found),
        ontology=wire.ontology_message(found.run.ontology.classes),
        settings_json=json.dumps(dict(found.run.settings), sort_keys=True),
        uncertainty_methods=dict.fromkeys(method.value for method in methods),
    )


def image_filter(message: pb.RunImageFilter) -> ImageFilter:
    """Which images are wanted, but for the guarantee of a run, see ``covered_filter``.

    Raises ``BadRequest`` for an outcome or a path that is unknown.
    """
    return ImageFilter(
        classes=frozenset(message.classes),
        outcomes=_members(wire.OUTCOMES, message.outcomes, "outcome"),
        probability=_interval(message, "probability"),
        uncertainty=_interval(message, "uncertainty"),
        score=_interval(message, "score"),
        p_yes=_interval(message, "p_yes"),
        area=_interval(message, "area"),
        decided_at=_interval(message, "decided_at"),
        text=message.text,
        paths=_members(wire.PATHS, message.paths, "path"),
        reviewed=message.reviewed if message.HasField("reviewed") else None,
        empty=message.empty,
        reason=message.reason,
    )


def covered_filter(
    wanted: ImageFilter, message: pb.RunImageFilter, covered: Callable[[], frozenset[str]]
) -> ImageFilter:
    """``wanted`` with what the message says of a guarantee; ``covered`` gives the classes that it
    covers."""
    if not message.HasField("guaranteed"):
        return wanted
    return replace(wanted, guaranteed=covered(), unguaranteed=not message.guaranteed)


def _interval(message: Any, name: str) -> Interval:
    low, high = (
        getattr(message, field) if message.HasField(field) else None
        for field in (f"min_{name}", f"max_{name}")
    )
    return low, high


def _members(
    of: wire.EnumNumbers[wire.Member], numbers: Iterable[int], what: str
) -> frozenset[wire.Member]:
    found = [of.member.get(number) for number in numbers]
    if None in found:
        raise BadRequest(f"expected an {what} that is known here; is the client newer?")
    return frozenset(member for member in found if member is not None)


def wanted_measures(names: Iterable[str]) -> frozenset[str]:
    """The histograms that are asked for. Raises ``BadRequest`` for one that is unknown."""
    found = frozenset(names)
    if unknown := sorted(found - MEASURES.keys()):
        raise BadRequest(f"expected histograms of {', '.join(MEASURES)}, got '{unknown[0]}'")
    return found


def image_order(number: pb.RunImageOrder.ValueType) -> ImageOrder:
    """The order that is asked for. Raises ``BadRequest`` for one that is unknown."""
    if not number:
        return ImageOrder.DECIDED
    if number not in ORDERS.member:
        raise BadRequest(f"expected an order that is known here, got number {number}")
    return ORDERS.member[number]


def image_page(page: ImagePage, boxes: Iterable[int]) -> pb.ListRunImagesResponse:
    """A page of images, with the boxes of these outcomes."""
    wanted = _members(wire.OUTCOMES, boxes, "outcome")
    return pb.ListRunImagesResponse(
        images=[_image_message(image, wanted) for image in page.images],
        total=page.total,
        images_of_run=page.of_run,
    )


def _image_message(image: BrowsedImage, boxes: frozenset[Outcome]) -> pb.RunImage:
    columns, place, own = image.columns, image.place, image.judgements
    counts = np.bincount(columns.outcomes[own], minlength=len(OUTCOMES)).tolist()
    by_outcome = dict(zip(OUTCOMES, counts, strict=True))
    width, height = columns.sizes[place].tolist()
    message = pb.RunImage(
        cursor=int(columns.cursors[place]),
        sha256=columns.sha256[place].hex(),
        name=columns.names[place],
        width=width,
        height=height,
        accepted=by_outcome[Outcome.ACCEPT],
        rejected=by_outcome[Outcome.REJECT],
        unsure=by_outcome[Outcome.UNSURE],
        path=_PATH_NUMBERS[columns.paths[place]],
        decided_at=float(columns.decided_at[place]),
        reviewed=bool(columns.reviewed[place]),
    )
    if len(image.matching):
        message.uncertainty = float(image.uncertainties.max())
        message.probability = float(columns.probabilities[image.matching].min())
    if boxes:
        message.boxes.CopyFrom(_boxes_message(image, boxes))
    return message


def _boxes_message(image: BrowsedImage, boxes: frozenset[Outcome]) -> pb.RunBoxes:
    columns, own = image.columns, image.judgements
    kept = np.isin(columns.outcomes[own], [OUTCOMES.index(outcome) for outcome in boxes])
    index = np.flatnonzero(kept)
    at = index + own.start
    return pb.RunBoxes(
        index=index.tolist(),
        class_index=columns.classes[at].tolist(),
        outcome=[_OUTCOME_NUMBERS[outcome] for outcome in columns.outcomes[at].tolist()],
        probability=columns.probabilities[at].tolist(),
        xyxy=image.block.evidence.boxes[at].ravel().tolist(),
    )


def summary_message(summary: RunSummary, run: Run) -> pb.SummarizeRunResponse:
    """How a run's judgements are distributed."""
    counts = zip(run.ontology.names, summary.classes.tolist(), strict=True)
    return pb.SummarizeRunResponse(
        images=summary.images,
        matching_images=summary.matching_images,
        classes=[pb.RunClassCounts(class_name=name, **_by_name(row)) for name, row in counts],
        histograms=[_histogram_message(histogram) for histogram in summary.histograms],
    )


def _by_name(counts: Sequence[int], ending: str = "") -> dict[str, int]:
    names = {Outcome.ACCEPT: "accepted", Outcome.REJECT: "rejected", Outcome.UNSURE: "unsure"}
    return {names[one] + ending: count for one, count in zip(OUTCOMES, counts, strict=True)}


def _histogram_message(histogram: Histogram) -> pb.Histogram:
    return wire.write(
        pb.Histogram,
        histogram,
        counts=histogram.counts.tolist(),
        matching=histogram.matching.tolist(),
    )


def image_details(
    result: Result, measured: Mapping[UncertaintyMethod, OfResult], reviews: Sequence[Review]
) -> pb.RunImageDetails:
    """Everything that is known of an image of a run."""
    places = sorted({place for found in measured.values() for place in found})
    return pb.RunImageDetails(
        cursor=result.cursor,
        labelled=wire.labelled_message(result.labelled.result),
        reviewed=sorted(result.reviewed),
        uncertainties=[
            pb.JudgementUncertainties(
                index=place,
                methods=[
                    wire.uncertainty_message(found[place])
                    for found in measured.values()
                    if place in found
                ],
            )
            for place in places
        ],
        reviews=map(wire.review_message, reviews),
        decided_at=result.decided_at,
        complete=result.labelled.complete,
    )


def explanation_message(explanation: Explanation) -> pb.ExplainLabelResponse:
    """What a label rests on."""
    label = explanation.label
    labelled, calibrator = label.result.labelled, explanation.calibrator
    return pb.ExplainLabelResponse(
        run=label.run.name,
        evidence_run=label.evidence_run.name,
        image_name=labelled.name,
        sha256=labelled.sha256,
        judgement=wire.judgement_message(label.judgement),
        decided=wire.judgement_message(label.decided) if label.decided else None,
        classes=map(_class_message, explanation.classes),
        calibrator=calibrator.digest if calibrator else "",
        contributions=map(_contribution_message, explanation.contributions),
        uncertainties=map(wire.uncertainty_message, explanation.uncertainties),
        reviews=map(wire.review_message, label.reviews),
        proposer=labelled.evidence.proposer,
        verifier=labelled.evidence.verifier,
        path=wire.PATHS.number[LabelPath(labelled.path)],
    )


def _class_message(known: ClassEvidence) -> pb.ClassEvidence:
    ontology = wire.ontology_message([known.spec])
    return pb.ClassEvidence(
        spec=ontology.classes[0] if ontology else None,
        score=known.score,
        verdict=wire.verdict_message(known.verdict) if known.verdict else None,
        judgement=wire.judgement_message(known.judgement) if known.judgement else None,
        same_group=known.same_group,
    )


def _contribution_message(one: Contribution) -> pb.LabelContribution:
    words, show = FEATURE_WORDS[one.feature]
    return pb.LabelContribution(
        feature=one.feature, words=words, value=show(one.value), log_odds=one.log_odds
    )


def preview_rules(request: pb.PreviewDecisionsRequest) -> Rules:
    """What to change of how a run decides. Raises ``BadRequest`` for a class named twice."""
    changes: dict[str, dict[str, float]] = {}
    names = [given.class_name for given in request.classes]
    if len(set(names)) < len(names):
        raise BadRequest("expected the thresholds of each class once", field="classes")
    for given in request.classes:
        for name in ("threshold", "accept", "reject"):
            if given.HasField(name):
                changes.setdefault(name, {})[given.class_name] = getattr(given, name)
    return Rules(
        changes,
        request.nms_iou if request.HasField("nms_iou") else None,
        request.duplicate_iou if request.HasField("duplicate_iou") else None,
        request.without_calibrator,
    )


def preview_message(
    cursors: Sequence[int],
    images: Mapping[int, Sequence[Judgement]],
    counts: PreviewCounts | None,
    run: Run,
) -> pb.PreviewDecisionsResponse:
    """What would be decided."""
    return pb.PreviewDecisionsResponse(
        images=[
            pb.PreviewedImage(cursor=cursor, judgements=map(_bare_judgement, images[cursor]))
            for cursor in dict.fromkeys(cursors)
            if cursor in images
        ],
        classes=[
            pb.PreviewedCounts(class_name=name, **_by_name(old, "_before"), **_by_name(new))
            for name, old, new in zip(
                run.ontology.names, counts.before.tolist(), counts.after.tolist(), strict=True
            )
        ]
        if counts
        else [],
        changed_images=counts.changed_images if counts else 0,
        images_counted=counts.images if counts else 0,
    )


def comparison_message(part: ComparedPart) -> pb.CompareRunsResponse:
    """What differs on a part of two runs."""
    names = sorted({name for name, _ in part.changes})
    fields = {
        LabelChange.NONE: "same",
        LabelChange.MOVED: "moved",
        LabelChange.CLASS: "class_changed",
        LabelChange.LOST: "lost",
        LabelChange.GAINED: "gained",
    }
    return pb.CompareRunsResponse(
        images=[_compared_image(*one) for one in part.images],
        compared=part.compared,
        only_before=part.only_before,
        classes=[
            pb.ComparedClass(
                class_name=name,
                **{field: part.changes[name, change] for change, field in fields.items()},
            )
            for name in names
        ],
        next_cursor=part.next_cursor,
    )


def _compared_image(
    difference: ImageDifference, labels: Sequence[ChangedLabel]
) -> pb.ComparedImage:
    labelled = difference.before.labelled
    return pb.ComparedImage(
        sha256=labelled.sha256,
        name=labelled.name,
        width=labelled.width,
        height=labelled.height,
        before_cursor=difference.before.cursor,
        after_cursor=difference.after.cursor,
        labels=[
            pb.ComparedLabel(
                change=CHANGES.number[change],
                before=_bare_judgement(before) if before else None,
                after=_bare_judgement(after) if after else None,
            )
            for change, before, after in labels
        ],
    )


def _bare_judgement(judgement: Judgement) -> labeling_pb.Judgement:
    message = wire.judgement_message(judgement)
    message.ClearField("verdict")
    message.ClearField("segmentation")
    return message


def guarantee_message(row: GuaranteeRow, checks: ChecksStatus | None) -> pb.Guarantee:
    """A guarantee as a list shows it."""
    return pb.Guarantee(
        name=row.name,
        run=row.run,
        state=row.state.value,
        precision=row.settings.get("target", 0.0),
        confidence=row.settings.get("confidence", 0.0),
        queue=row.queue,
        checks_queue=checks_queue_of(row.name) if checks else "",
        checks=str(checks) if checks else "",
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def guarantee_details(
    status: GuaranteeStatus, checks: ChecksStatus | None
) -> pb.GetGuaranteeResponse:
    """A guarantee with its certificate and its history."""
    certificate = status.certificate
    return pb.GetGuaranteeResponse(
        guarantee=guarantee_message(status.row, checks),
        asked=status.asked,
        answered=status.answered,
        classes=map(_guaranteed_class, certificate.results) if certificate else (),
        not_guaranteed=certificate.not_guaranteed if certificate else (),
        history=[
            pb.GuaranteeEvent(kind=one.kind, reason=_reason(one.content), at=one.created_at)
            for one in status.events[-MAX_EVENTS:]
        ],
    )


def _guaranteed_class(result: Guaranteed) -> pb.GuaranteedClass:
    holds = result.threshold is not None
    return pb.GuaranteedClass(
        class_name=result.class_name,
        threshold=result.threshold,
        bound=result.bound if holds else None,
        accepted=result.accepted if holds else 0,
        coverage=result.coverage if holds else 0.0,
        answers=result.answers,
        wrong=result.wrong,
        reason="" if holds else result.reason,
    )


def _reason(content: Mapping[str, Any]) -> str:
    told = content.get("reason", "")
    return told[:MAX_REASON] if isinstance(told, str) else ""


def stream_message(row: StreamRow) -> pb.CapturedStream:
    """A captured stream with its last frame."""
    job, last = row.job, row.last
    return pb.CapturedStream(
        name=job.name,
        frames=job.total,
        labelled=job.done,
        failed=job.failed,
        last_name=last.name if last else "",
        last_sha256=last.sha256 if last else "",
        last_at=last.added_at if last else 0.0,
        guarantee=guarantee_of(job.settings),
        created_at=job.created_at,
        created_by=job.created_by,
        device_model=job.device_model,
    )
