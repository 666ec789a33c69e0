"""Why one label is what it is, and whether the models would say it again."""

from dataclasses import dataclass

import numpy as np

from secondlook.core import boxes as box_ops
from secondlook.core.class_mapping import columns_for
from secondlook.core.images import ImageLimits, decode
from secondlook.core.ontology import ClassSpec, Ontology
from secondlook.core.types import Judgement, Labelled, Verdict
from secondlook.labeling.decisions import judge
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook.store import Store
from secondlook.store.corrections import ADDED
from secondlook.store.results import Label

SAME_BOX = 0.5
"""IoU from which a box found again is the same box."""


@dataclass(frozen=True)
class Side:
    """One class of the run, as it looks at the label's box."""

    spec: ClassSpec
    """With the thresholds in force."""
    score: float
    """The proposer's."""
    verdict: Verdict | None
    """None when no verifier was in use, or this class was not judged for this box."""
    judgement: Judgement | None
    """None when this class was not judged for this box."""
    contrast: bool
    """Whether it is the label's own class or stands in its contrast group."""


@dataclass(frozen=True)
class Explanation:
    """A label and what every class of its run says of the same box."""

    label: Label
    sides: tuple[Side, ...]
    """In the order of the ontology; empty for a box that a person added."""


@dataclass(frozen=True)
class Again:
    """The same label, made once more by the models at hand."""

    proposer: str
    verifier: str
    """Name and digest of the models that ran now."""
    same_models: bool
    overlap: float
    """IoU of the label's box with the nearest one found now; 0 when there is none."""
    score: float | None
    """The proposer's for that box and the label's class; None when there is no such box."""
    judgement: Judgement | None
    """What is decided now; None when the box is not found or its class not judged."""
    same: bool
    """Whether the outcome is what the run decided."""


def explain(store: Store, label_id: str) -> Explanation:
    """Everything about one label. Raises ``InvalidInput``, ``NotFound`` and ``Damaged``."""
    label = store.records.label(label_id)
    row, ontology = label.judgement.row, label.run.ontology
    if row == ADDED:
        return Explanation(label, ())
    labelled = label.result.labelled
    group = _group(ontology, label.judgement.class_name)
    judged = {j.class_name: j for j in labelled.judgements if j.row == row}
    return Explanation(
        label,
        tuple(
            Side(
                spec,
                float(labelled.evidence.proposals.scores[row, place]),
                judged[spec.name].verdict if spec.name in judged else None,
                judged.get(spec.name),
                place in group,
            )
            for place, spec in enumerate(ontology.classes)
        ),
    )


def ask_again(store: Store, label: Label, pipeline: Pipeline, limits: ImageLimits) -> Again:
    """Run both models on the label's image and decide by its run's rules.

    Raises ``NotFound`` and ``Damaged`` for an image that is gone, and what the models raise.
    """
    sha256 = label.result.labelled.sha256
    image = decode(store.blobs.get(sha256), label.result.labelled.name, limits)
    (found,) = pipeline.label([Task(image, label.asked_by.ontology)])
    columns = columns_for(label.run.ontology, label.asked_by.ontology)
    evidence = columns.seen(found.evidence)
    row, overlap = _nearest(found, label.judgement.box)
    class_name = label.judgement.class_name
    judgements = judge(evidence, label.run.ontology, label.run.max_iou)
    now = _judged(judgements, label.judgement.box, class_name)
    kept, before = label.result.labelled.evidence, label.decided
    place = label.run.ontology.names.index(class_name)
    return Again(
        found.evidence.proposer,
        found.evidence.verifier,
        (kept.proposer, kept.verifier) == (found.evidence.proposer, found.evidence.verifier),
        overlap,
        None if row is None else float(evidence.proposals.scores[row, place]),
        now,
        now is not None and before is not None and now.decision.outcome is before.decision.outcome,
    )


def _group(ontology: Ontology, class_name: str) -> tuple[int, ...]:
    place = ontology.names.index(class_name)
    return next(members for members in ontology.groups.values() if place in members)


def _nearest(found: Labelled, box: tuple[float, float, float, float]) -> tuple[int | None, float]:
    """The row of the box that overlaps most, and its IoU; (None, 0) where none does enough."""
    overlaps = box_ops.iou(found.evidence.proposals.boxes, np.array([box], dtype=np.float32))
    if not len(overlaps) or overlaps.max() < SAME_BOX:
        return None, 0.0
    return int(overlaps.argmax()), float(overlaps.max())


def _judged(
    judgements: tuple[Judgement, ...], box: tuple[float, float, float, float], class_name: str
) -> Judgement | None:
    of_class = [j for j in judgements if j.class_name == class_name]
    if not of_class:
        return None
    theirs = np.array([j.box for j in of_class], dtype=np.float32)
    overlaps = box_ops.iou(theirs, np.array([box], dtype=np.float32))[:, 0]
    best = int(overlaps.argmax())
    return of_class[best] if overlaps[best] >= SAME_BOX else None
