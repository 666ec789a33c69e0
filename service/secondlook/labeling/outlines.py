"""The mask of a label: whether it outlines the object of its box, and whose box the label has.

Needs no model and no pixels: like decisions, outlines follow from stored evidence alone. They come
after the decisions and change no outcome. What a mask shows of its box is in ``MaskFeatures``, also
for calibrators to come; the shipped ones do not use it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from secondlook.core.boxes import Xyxy
from secondlook.core.types import Evidence
from secondlook_client.masks import Mask, Segmentation
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import BoxSource, Decision, Judgement, Outcome

MIN_FILL = 0.15
"""Share of its box that the mask of an object covers at least."""
MAX_OUTSIDE = 0.2
"""Share of the mask that may lie outside of its box."""
MIN_QUALITY = 0.7
"""Predicted IoU from which a mask's box may take the place of the proposal's."""
MIN_STABILITY = 0.7
"""The same of its stability."""
MIN_IOU = 0.6
"""IoU of the mask's box with the proposal from which both are of one object: above what reviews
and matching with truth ask for, so that a label stays the one that was reviewed."""
NO_MASK = "no mask: "
"""What is told of a label without a mask begins with it."""
NOT_SEGMENTED = "the box was not segmented when its image was labelled"


@dataclass(frozen=True)
class MaskFeatures:
    """How a mask lies in the box that it was asked for."""

    fill: float
    """Share of the box that it covers, [0, 1]."""
    outside: float
    """Share of the mask that lies outside of the box, [0, 1]."""
    iou: float
    """IoU of its tight box with the box, [0, 1]."""
    quality: float
    """The IoU with the object that its model predicts, [0, 1]."""
    stability: float
    """See ``Segmentation``, [0, 1]."""


@dataclass(frozen=True)
class Outline:
    """What a judgement takes of the mask of its box."""

    box: Xyxy
    """Of the label, pixel xyxy."""
    segmentation: Segmentation | None = None
    told: str = ""
    """What is worth telling of it in the reason of a decision; empty: nothing."""


def mask_features(box: Xyxy, segmentation: Segmentation) -> MaskFeatures:
    """How the mask lies in ``box``, pixel xyxy of the same image.

    Raises ``InvalidInput`` for a mask without pixels or with a damaged code.
    """
    mask = segmentation.mask
    tight, total = mask.box, mask.area
    inside = _pixels_inside(mask, box)
    width, height = box[2] - box[0], box[3] - box[1]
    return MaskFeatures(
        fill=min(inside / (width * height), 1.0),
        outside=1 - inside / total if total else 1.0,
        iou=_iou(tight, box) if tight else 0.0,
        quality=segmentation.quality,
        stability=segmentation.stability,
    )


def _iou(a: Xyxy, b: Xyxy) -> float:
    """Of two boxes as plain numbers: an array of one box takes ten times as long."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(one[2] - one[0]) * (one[3] - one[1]) for one in (a, b)]
    return shared / (sum(areas) - shared)


def _pixels_inside(mask: Mask, box: Xyxy) -> int:
    """Pixels of the mask whose centre lies in the box; takes time by the box's width."""
    runs = mask.runs
    edges = np.concatenate([[0], runs.cumsum()])
    covered = np.zeros(len(edges), dtype=np.int64)  # pixels of the mask before each edge
    covered[2::2] = runs[1::2]
    covered = covered.cumsum()
    left, top, right, bottom = (
        round(min(max(edge, 0.0), side))
        for edge, side in zip(box, (mask.width, mask.height) * 2, strict=True)
    )
    columns = np.arange(left, max(right, left)) * mask.height
    upper, lower = (np.interp(columns + y, edges, covered) for y in (top, bottom))
    return int((lower - upper).sum())


def doubt_of_outline(features: MaskFeatures) -> str:
    """Why a mask hardly outlines the object of its box, in words; empty where it may."""
    if features.outside > MAX_OUTSIDE:
        return f"{features.outside:.0%} of the mask lie outside of its box"
    if features.fill < MIN_FILL:
        return f"the mask fills {features.fill:.0%} of its box"
    return ""


def keeps_proposed_box(features: MaskFeatures) -> str:
    """Why the proposal's box is the better one, in words; empty where the mask's tight box is.

    A tight box is right to the pixel where the mask is right, and far off where the mask has lost a
    part of the object or leaked into its surroundings. So it counts only where nothing speaks
    against the mask.
    """
    if doubt := doubt_of_outline(features):
        return doubt
    if features.quality < MIN_QUALITY:
        return f"the mask's predicted quality is {features.quality:.2f}"
    if features.stability < MIN_STABILITY:
        return f"the mask's stability is {features.stability:.2f}"
    if features.iou < MIN_IOU:
        return f"the mask's box and the proposal have an IoU of {features.iou:.2f}"
    return ""


def find_outline(
    spec: ClassSpec, box: Xyxy, label: bool, segmentation: Segmentation | None, failure: str
) -> Outline:
    """What the judgement of one box takes of its mask, where a segmenter was in use.

    ``box`` is the proposal's. Whether its class accepted it (``label``) decides only what is told:
    the judgements of one proposal keep one box. ``failure``: why there is no mask although one was
    asked for.
    """
    if spec.mask is False:
        return Outline(box)
    if segmentation is None:
        return Outline(box, None, f"{NO_MASK}{failure or NOT_SEGMENTED}" if label else "")
    if not label and spec.box is not BoxSource.MASK:
        return Outline(box, segmentation)
    features = mask_features(box, segmentation)
    doubt = doubt_of_outline(features)
    told = f"outline doubtful: {doubt}" if doubt else ""
    if spec.box is BoxSource.MASK:
        against, tight = keeps_proposed_box(features), segmentation.mask.box
        if tight and not against:
            box, told = tight, f"the box is the mask's (IoU {features.iou:.2f})"
        else:
            told = told or f"the mask's box was not taken: {against}"
    return Outline(box, segmentation, told if label else "")


def with_told(reason: str, told: str) -> str:
    """The reason of a decision with what is told of the outline."""
    return f"{reason}; {told}" if told else reason


def with_outlines(
    judgements: Sequence[Judgement], evidence: Evidence, ontology: Ontology
) -> tuple[Judgement, ...]:
    """``judgements`` on the proposals' boxes, with the masks that the evidence has."""
    if not evidence.segmenter:
        return tuple(judgements)
    specs = {spec.name: spec for spec in ontology.classes}
    return tuple(
        one if one.row < 0 else _with_outline(one, specs[one.class_name], evidence)
        for one in judgements
    )


def _with_outline(judgement: Judgement, spec: ClassSpec, evidence: Evidence) -> Judgement:
    row, decision = judgement.row, judgement.decision
    label = decision.outcome is Outcome.ACCEPT
    known, failure = evidence.segmentations.get(row), evidence.unsegmented.get(row, "")
    found = find_outline(spec, judgement.box, label, known, failure)
    reason = with_told(decision.reason, found.told)
    told = Decision(decision.outcome, decision.probability, reason)
    return replace(judgement, box=found.box, decision=told, segmentation=found.segmentation)
