"""Explain one label: everything it came from, and whether the models give it again."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secondlook.config.settings import ImageSettings
from secondlook.core.boxes import Xyxy, iou
from secondlook.core.class_mapping import columns_for
from secondlook.core.images import decode
from secondlook.core.types import Boxes, Evidence
from secondlook.datasets.samples import boxes_array
from secondlook.labeling.applied_reviews import ADDED
from secondlook.labeling.box_features import box_features
from secondlook.labeling.calibrator import BASE, Calibrator
from secondlook.labeling.decisions import asked_pairs, box_of, in_force, judge, scored_boxes
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook.labeling.proposer import candidates
from secondlook.labeling.verify_budget import budget_in_force
from secondlook.review.redecide import run_calibrator
from secondlook.store import Store
from secondlook.store.results import LabelProvenance
from secondlook.store.runs import Run
from secondlook.store.uncertainties import uncertainties_at
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.uncertainties import LabelUncertainty
from secondlook_client.values import Judgement, LabelPath, Verdict

SAME_BOX = 0.5
"""IoU from which two boxes are the same box."""


def _chance(log_odds: float) -> str:
    return f"{1 / (1 + math.exp(-log_odds)):.3f}"


def _whether(value: float) -> str:
    return "yes" if value else "no"


def _count(value: float) -> str:
    return f"{math.expm1(value):.0f}"


FEATURE_WORDS: dict[str, tuple[str, Callable[[float], str]]] = {
    BASE: ("an average box of the class", lambda value: ""),
    "score": ("the proposer's score", _chance),
    "score_margin": ("its lead over the best other class, log odds", "{:.2f}".format),
    "p_yes": ("the verifier's P(yes)", _chance),
    "product": ("score × P(yes)", _chance),
    "other_side": ("P(yes) of another side of the contrast", _chance),
    "other_class": ("score × P(yes) of another class at this place", _chance),
    "size": ("size, of the image", lambda value: f"{math.exp(value):.1%}"),
    "aspect": ("width ÷ height", lambda value: f"{math.exp(value):.2f}"),
    "centre_x": ("place from left to right", "{:.0%}".format),
    "centre_y": ("place from top to bottom", "{:.0%}".format),
    "edge_left": ("touches the left edge", _whether),
    "edge_top": ("touches the top edge", _whether),
    "edge_right": ("touches the right edge", _whether),
    "edge_bottom": ("touches the bottom edge", _whether),
    "container": ("size of the box around it ÷ its own", lambda value: f"{math.exp(value):.1f}"),
    "contained": ("is inside another box", _whether),
    "overlap_scored": ("IoU with a box of higher score", "{:.2f}".format),
    "overlap_better": ("IoU with a box of higher score × P(yes)", "{:.2f}".format),
    "overlap_other": ("IoU with a box of another class", "{:.2f}".format),
    "covered": ("share of it inside a box of higher score", "{:.0%}".format),
    "near": ("boxes around it", _count),
    "boxes": ("boxes on the image", _count),
}
"""By feature of a calibrator: what it is called for people, and how its value is shown."""
LEAST_SHOWN = 0.005
"""Log odds from which a contribution is shown."""


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
class Contribution:
    """What one feature adds to the probability of a label."""

    feature: str
    """A key of ``FEATURE_WORDS``."""
    value: float
    """As ``labeling.box_features`` has it; probabilities as log odds."""
    log_odds: float
    """Added; those of all features together are the log odds of the probability."""

    @property
    def row(self) -> tuple[str, str, str]:
        """What it is, its value, and the log odds, for people."""
        words, shown = FEATURE_WORDS[self.feature]
        return words, shown(self.value), f"{self.log_odds:+.2f}"


@dataclass(frozen=True)
class Explanation:
    """A label, and the evidence of every class of its run for the same box."""

    label: LabelProvenance
    classes: tuple[ClassEvidence, ...]
    """In the order of the ontology; empty for a box that a person added."""
    calibrator: Calibrator | None = None
    """Whose probability decided; None where the answers or a student did."""
    contributions: tuple[Contribution, ...] = ()
    """How its probability for the label comes about, the strongest first."""
    uncertainties: tuple[LabelUncertainty, ...] = ()
    """By each method that the label was measured by."""

    @property
    def reasons(self) -> list[tuple[str, str, str]]:
        """The contributions that show, as rows for people: what, its value, log odds."""
        return [one.row for one in self.contributions if abs(one.log_odds) >= LEAST_SHOWN]


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
    cursor = label.result.cursor
    measured = store.uncertainties.of_results([cursor])[cursor]
    return replace(_explained(store, label), uncertainties=uncertainties_at(measured, label.index))


def _explained(store: Store, label: LabelProvenance) -> Explanation:
    row, ontology = label.judgement.row, label.run.ontology
    if row == ADDED:
        return Explanation(label, ())
    labelled = label.result.labelled
    if label.judgement.whole_image:
        return Explanation(label, tuple(_classes_of_image(label)))
    calibrator = run_calibrator(store, label.run)
    ontology = in_force(ontology, calibrator)
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
        *_contributions(label, calibrator),
    )


def _contributions(
    label: LabelProvenance, calibrator: Calibrator | None
) -> tuple[Calibrator | None, tuple[Contribution, ...]]:
    """The calibrator if it decided this label, and why by that."""
    labelled, judgement = label.result.labelled, label.judgement
    evidence, ontology = labelled.evidence, label.run.ontology
    unanswered = bool(evidence.verifier) and judgement.p_yes is None
    if calibrator is None or labelled.path is LabelPath.STUDENT:
        return None, ()
    found = scored_boxes(evidence, ontology, (labelled.width, labelled.height))
    place = ontology.names.index(judgement.class_name)
    (features,) = box_features(found, ontology, np.array([judgement.row]), np.array([place]))
    by: Calibrator | None = calibrator
    if unanswered:
        by = _decided_before(label, calibrator, features)
    if by is None:
        return None, ()
    told = by.contributions(features, judgement.class_name)
    return calibrator, tuple(Contribution(*one) for one in told if one[2])


def _decided_before(
    label: LabelProvenance, calibrator: Calibrator, features: NDArray[np.float64]
) -> Calibrator | None:
    """What gave a label its probability without an answer; None: something else did."""
    before, judgement = calibrator.before, label.judgement
    if before is None or not budget_in_force(calibrator, label.run.verify_budget):
        return None
    (known,) = before.probabilities(features[None], [judgement.class_name])
    return before if known == judgement.probability else None


def _classes_of_image(label: LabelProvenance) -> Iterator[ClassEvidence]:
    """What was said of each class of the whole image, which has no box and so no scores."""
    labelled = label.result.labelled
    doubts = {j.class_name: j for j in labelled.judgements if j.whole_image}
    for spec in label.run.ontology.classes:
        image = labelled.evidence.image
        verdict = image.verdict(spec.presence_question) if image else None
        own = spec.name == label.judgement.class_name
        yield ClassEvidence(spec, 0.0, verdict, doubts.get(spec.name), own)


def mask_words(judgement: Judgement) -> str:
    """What is known of a judgement's mask, in words; empty where it has none."""
    if judgement.segmentation is None:
        return ""
    found = judgement.segmentation
    return (
        f"{found.mask.area:,} pixels, predicted quality {found.quality:.2f}, "
        f"stability {found.stability:.2f}, by {found.model}"
    )


def rerun_models(
    store: Store, label: LabelProvenance, pipeline: Pipeline, limits: ImageSettings
) -> Rerun:
    """Run both models on the label's image and decide by its run's rules.

    Raises ``NotFound`` and ``Damaged`` for an image that is gone, and what the models raise.
    """
    run, before, class_name = label.run, label.result.labelled, label.judgement.class_name
    image = decode(store.blobs.get(before.sha256), before.name, limits)
    asked_by = label.evidence_run
    (found,) = pipeline.label([Task(image, asked_by.ontology)])
    size = before.width, before.height
    again = _as_asked(found.evidence, asked_by, run_calibrator(store, asked_by), size)
    evidence = columns_for(run.ontology, asked_by.ontology).apply(again)
    whole = label.judgement.whole_image
    # The label may have its mask's box; what was proposed is compared with what is proposed now.
    at, proposed = label.judgement.row, before.evidence.proposals
    stored = box_of(proposed, at) if at >= 0 else label.judgement.box
    row, overlap = _closest(evidence.proposals.boxes, stored)
    decided = judge(
        evidence,
        run.ontology,
        run.nms_iou,
        run_calibrator(store, run),
        size,
        run.duplicate_iou,
        run.verify_budget,
    )
    of_class = [
        judgement
        for judgement in decided
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


def _as_asked(
    evidence: Evidence, run: Run, calibrator: Calibrator | None, size: tuple[int, int]
) -> Evidence:
    """``evidence`` with the answers that ``run`` would have asked for."""
    ontology = in_force(run.ontology, calibrator)
    found = candidates(evidence.proposals, ontology, run.nms_iou)
    budget = run.verify_budget
    pairs = asked_pairs(evidence.proposals, ontology, found, size, calibrator, budget)
    specs = ((row, ontology.classes[place]) for row, place in pairs)
    asked = {(row, spec.view, spec.question) for row, spec in specs}
    kept = {key: verdict for key, verdict in evidence.verdicts.items() if key in asked}
    return replace(evidence, verdicts=kept)


def _group(ontology: Ontology, class_name: str) -> tuple[int, ...]:
    place = ontology.names.index(class_name)
    return next(members for members in ontology.groups.values() if place in members)


def _closest(boxes: Boxes, box: Xyxy) -> tuple[int | None, float]:
    """The place of the box that overlaps most, and its IoU; (None, 0) where none does enough."""
    overlaps = iou(boxes, boxes_array([box]))
    if not len(overlaps) or overlaps.max() < SAME_BOX:
        return None, 0.0
    return int(overlaps.argmax()), float(overlaps.max())
