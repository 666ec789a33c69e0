"""Explain one label: everything it came from, and whether the models give it again."""

from collections.abc import Iterator
from dataclasses import dataclass

from secondlook.config.settings import ImageSettings
from secondlook.core.boxes import Xyxy, iou
from secondlook.core.class_mapping import columns_for
from secondlook.core.images import decode
from secondlook.core.types import Boxes
from secondlook.datasets.samples import boxes_array
from secondlook.labeling.decisions import judge
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook.store import Store
from secondlook.store.corrections import ADDED
from secondlook.store.results import LabelProvenance
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Judgement, Verdict

SAME_BOX = 0.5
"""IoU from which two boxes are the same box."""


@dataclass(frozen=True)
class ClassEvidence:
    """What the run has of one class for the label's box."""

    spec: ClassSpec
    """With the thresholds in force."""
    score: float
    """The proposer's, [0, 1]; 0 for a doubt about the whole image, which nobody proposed."""
    verdict: Verdict | None
    """None when no verifier was in use, or this class was not judged for this box."""
    judgement: Judgement | None
    """None when this class was not judged for this box."""
    same_group: bool
    """Whether it is the label's own class or in its contrast group."""


@dataclass(frozen=True)
class Explanation:
    """A label, and the evidence of every class of its run for the same box."""

    label: LabelProvenance
    classes: tuple[ClassEvidence, ...]
    """In the order of the ontology; empty for a box that a person added."""


@dataclass(frozen=True)
class Rerun:
    """The same label, computed again by the models at hand."""

    proposer: str
    verifier: str
    """Names and digests of the models that ran now."""
    same_models: bool
    """Whether they are the run's own."""
    overlap: float
    """IoU of the label's box with the closest box found now; 0 when there is none."""
    score: float | None
    """The proposer's for that box and the label's class; None without such a box."""
    judgement: Judgement | None
    """The judgement now; None when the box is not found or its class not judged."""
    same_outcome: bool
    """Whether the outcome is the one that the run decided."""


def explain(store: Store, label_id: str) -> Explanation:
    """Everything about one label. Raises ``InvalidInput``, ``NotFound`` and ``Damaged``."""
    label = store.results.label(label_id)
    row, ontology = label.judgement.row, label.run.ontology
    if row == ADDED:
        return Explanation(label, ())
    labelled = label.result.labelled
    if label.judgement.whole_image:
        return Explanation(label, tuple(_classes_of_image(label)))
    group = _group(ontology, label.judgement.class_name)
    judged = {j.class_name: j for j in labelled.judgements if j.row == row}
    return Explanation(
        label,
        tuple(
            ClassEvidence(
                spec,
                float(labelled.evidence.proposals.scores[row, place]),
                judged[spec.name].verdict if spec.name in judged else None,
                judged.get(spec.name),
                place in group,
            )
            for place, spec in enumerate(ontology.classes)
        ),
    )


def _classes_of_image(label: LabelProvenance) -> Iterator[ClassEvidence]:
    """What was said of each class of the whole image, which has no box and so no scores."""
    labelled = label.result.labelled
    doubts = {j.class_name: j for j in labelled.judgements if j.whole_image}
    for spec in label.run.ontology.classes:
        image = labelled.evidence.image
        verdict = image.verdict(spec.presence_question) if image else None
        own = spec.name == label.judgement.class_name
        yield ClassEvidence(spec, 0.0, verdict, doubts.get(spec.name), own)


def rerun_models(
    store: Store, label: LabelProvenance, pipeline: Pipeline, limits: ImageSettings
) -> Rerun:
    """Run both models on the label's image and decide by its run's rules.

    Raises ``NotFound`` and ``Damaged`` for an image that is gone, and what the models raise.
    """
    run, before, class_name = label.run, label.result.labelled, label.judgement.class_name
    image = decode(store.blobs.get(before.sha256), before.name, limits)
    (found,) = pipeline.label([Task(image, label.evidence_run.ontology)])
    evidence = columns_for(run.ontology, label.evidence_run.ontology).apply(found.evidence)
    whole = label.judgement.whole_image
    row, overlap = _closest(evidence.proposals.boxes, label.judgement.box)
    of_class = [
        judgement
        for judgement in judge(evidence, run.ontology, run.nms_iou)
        if judgement.class_name == class_name and judgement.whole_image == whole
    ]
    place, _ = _closest(boxes_array(j.box for j in of_class), label.judgement.box)
    now = None if place is None else of_class[place]
    scores = evidence.proposals.scores[:, run.ontology.names.index(class_name)]
    models = (found.evidence.proposer, found.evidence.verifier)
    return Rerun(
        *models,
        same_models=models == (before.evidence.proposer, before.evidence.verifier),
        overlap=1.0 if whole else overlap,
        score=0.0 if whole else None if row is None else float(scores[row]),
        judgement=now,
        same_outcome=bool(now and label.decided and now.outcome is label.decided.outcome),
    )


def _group(ontology: Ontology, class_name: str) -> tuple[int, ...]:
    place = ontology.names.index(class_name)
    return next(members for members in ontology.groups.values() if place in members)


def _closest(boxes: Boxes, box: Xyxy) -> tuple[int | None, float]:
    """The place of the box that overlaps most, and its IoU; (None, 0) where none does enough."""
    overlaps = iou(boxes, boxes_array([box]))
    if not len(overlaps) or overlaps.max() < SAME_BOX:
        return None, 0.0
    return int(overlaps.argmax()), float(overlaps.max())
