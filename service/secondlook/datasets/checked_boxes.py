"""What verification found out about the annotations of an image: from judgements to findings.

A finding is a box that a person should look at. Its kind is one of

    wrong class     rejected, and another class was accepted for the same box
    rejected        rejected, and nothing else was accepted (or asked about)
    duplicate       the same object annotated twice as the same class
    loose box       accepted or not, a proposal nearby fits better
    missing object  proposed and accepted where nothing is annotated
    unsure          neither accepted nor rejected
    no area         lies outside of its image, or has no width or height

Loose boxes and missing objects are known only where a proposer looked too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from secondlook.core import boxes as box_ops
from secondlook.core.boxes import Xyxy
from secondlook.datasets.annotated_images import ImageAnnotations
from secondlook.datasets.samples import boxes_array
from secondlook.labeling.annotated_boxes import is_annotated
from secondlook_client.values import Judgement, LabelResult, Outcome

DUPLICATE_IOU = 0.9
SAME_OBJECT_IOU = 0.5
"""IoU from which a proposal shows the same object as an annotation."""
NEAR_IOU = 0.1
"""IoU from which a proposal may be the better box for an annotation that no proposal matches."""


class FindingKind(StrEnum):
    """What seems to be wrong with a box; the gravest first."""

    WRONG_CLASS = "wrong class"
    REJECTED = "rejected"
    NO_AREA = "no area"
    DUPLICATE = "duplicate"
    LOOSE_BOX = "loose box"
    MISSING_OBJECT = "missing object"
    UNSURE = "unsure"


_RANKS = (
    (FindingKind.NO_AREA, FindingKind.WRONG_CLASS, FindingKind.REJECTED),
    (FindingKind.DUPLICATE,),
    (FindingKind.LOOSE_BOX,),
    (FindingKind.MISSING_OBJECT,),
    (FindingKind.UNSURE,),
)
"""Kinds in the order in which they are looked at; within one rank P(yes) decides."""


@dataclass(frozen=True, eq=False)
class CheckedBox:
    """One annotation that was asked about, or a missing object, and what is known of it now."""

    class_name: str
    """As the dataset calls it."""
    box: Xyxy
    judgement: Judgement | None
    """None for a box that was not asked about, because it has no area."""
    suggested: Judgement | None = None
    """The best other class that was accepted for this box."""
    duplicate: bool = False
    """Whether an earlier annotation of its class is the same box."""
    better: Judgement | None = None
    """A proposal of its class that was accepted and seems to be where the object is."""
    missing: bool = False
    """Whether it is no annotation, but an object without one."""

    @property
    def outcome(self) -> Outcome:
        """A box without area is rejected unasked."""
        return self.judgement.outcome if self.judgement else Outcome.REJECT

    @property
    def kind(self) -> FindingKind | None:
        """What seems to be wrong; None for an annotation that was kept."""
        if self.judgement is None:
            return FindingKind.NO_AREA
        if self.missing:
            return FindingKind.MISSING_OBJECT
        if self.outcome is Outcome.REJECT:
            return FindingKind.WRONG_CLASS if self.suggested else FindingKind.REJECTED
        if self.duplicate:
            return FindingKind.DUPLICATE
        if self.better:
            return FindingKind.LOOSE_BOX
        return FindingKind.UNSURE if self.outcome is Outcome.UNSURE else None

    @property
    def suspicion(self) -> tuple[int, float]:
        """Ascending from the most suspicious: rejected, other findings, unsure, kept."""
        ranks = (place for place, kinds in enumerate(_RANKS) if self.kind in kinds)
        rank = next(ranks, len(_RANKS))
        if self.judgement is None:
            return rank, 0.0
        p_yes = 0.5 if self.judgement.p_yes is None else self.judgement.p_yes
        return rank, 1 - p_yes * self.judgement.score if self.missing else p_yes

    @property
    def reason(self) -> str:
        """Why it is what it is, in words for a person."""
        if self.judgement is None:
            return "it has no area inside its image"
        parts = [self.judgement.reason]
        if self.missing:
            parts.append(f"proposed with {self.judgement.score:.2f} where nothing is annotated")
        if self.duplicate:
            parts.append("the same box is annotated before")
        if self.suggested:
            parts.append(f"accepted as '{self.suggested.class_name}' {_sure(self.suggested)}")
        if self.better:
            parts.append(f"a proposal nearby was accepted {_sure(self.better)}")
        return "; ".join(parts)


def _sure(judgement: Judgement) -> str:
    return f"(P(yes) {judgement.p_yes:.2f})" if judgement.p_yes is not None else ""


def check_boxes(
    image: ImageAnnotations, classes: Sequence[str], result: LabelResult, names: Mapping[str, str]
) -> list[CheckedBox]:
    """What ``result`` says of the annotations of ``image``, in their order, then missing objects.

    ``classes`` are the dataset's; ``names`` by class of the dataset: in the ontology, of those that
    were asked about.
    """
    judged = {(j.class_name, j.box): j for j in result.judgements if is_annotated(j)}
    others = [j for j in result.judgements if not is_annotated(j) and j.outcome is Outcome.ACCEPT]
    asked_boxes = {j.box for j in judged.values()}
    suggested = [j for j in others if j.box in asked_boxes]
    proposed = _outside_ignored(image, [j for j in others if j.box not in asked_boxes], names)
    duplicates = _duplicates(image)
    found = []
    for place, (box, name) in enumerate(annotations_of(image, classes)):
        if (own := judged.get((names.get(name, ""), box))) is not None:
            best = _best(j for j in suggested if j.box == box and own.outcome is not Outcome.ACCEPT)
            found.append(CheckedBox(name, box, own, best, place in duplicates))
    return _with_proposals(found, proposed, names)


def annotations_of(image: ImageAnnotations, classes: Sequence[str]) -> Iterator[tuple[Xyxy, str]]:
    """Box and class of each annotation, without crowd and ignore regions."""
    sample = image.sample
    for box, number in zip(sample.boxes.tolist(), sample.classes.tolist(), strict=True):
        x1, y1, x2, y2 = box
        yield (x1, y1, x2, y2), classes[number]


def _duplicates(image: ImageAnnotations) -> set[int]:
    """Places of the annotations for which an earlier one of the same class is the same box."""
    boxes, classes = image.sample.boxes, image.sample.classes
    if len(boxes) < 2:
        return set()
    same = (box_ops.iou(boxes, boxes) > DUPLICATE_IOU) & (classes[:, None] == classes)
    return set(np.flatnonzero(np.triu(same, 1).any(axis=0)).tolist())


def _outside_ignored(
    image: ImageAnnotations, proposed: Sequence[Judgement], names: Mapping[str, str]
) -> list[Judgement]:
    """Proposals of classes that were asked about, without those in crowd and ignore regions."""
    inside = box_ops.share_inside(boxes_array(j.box for j in proposed), image.sample.ignore)
    outside = inside.max(axis=1, initial=0) < SAME_OBJECT_IOU
    asked = set(names.values())
    return [j for place, j in enumerate(proposed) if outside[place] and j.class_name in asked]


def _with_proposals(
    found: list[CheckedBox], proposed: Sequence[Judgement], names: Mapping[str, str]
) -> list[CheckedBox]:
    """The same with better boxes and other classes from the proposals, and missing objects."""
    if not proposed:
        return found
    overlaps = box_ops.iou(
        boxes_array(checked.box for checked in found), boxes_array(j.box for j in proposed)
    )
    own = np.array(
        [[names[c.class_name] == j.class_name for j in proposed] for c in found], dtype=bool
    ).reshape(overlaps.shape)
    same_object = overlaps >= SAME_OBJECT_IOU
    free = np.asarray(~same_object.any(axis=0), dtype=bool)
    """Proposals that no annotation matches."""
    matched = (same_object & own).any(axis=1)
    for place, checked in enumerate(found):
        near = (overlaps[place] >= NEAR_IOU) & own[place] & free & ~matched[place]
        closest = int(np.where(near, overlaps[place], -1).argmax())
        if near[closest]:
            found[place] = replace(checked, better=proposed[closest])
        elif checked.outcome is not Outcome.ACCEPT:
            here = [j for j, same in zip(proposed, same_object[place], strict=True) if same]
            best = _best([j for j in here if j.class_name != names[checked.class_name]])
            found[place] = replace(checked, suggested=checked.suggested or best)
    # One that overlaps an annotation of its own class may be a part of that object.
    near_own = np.asarray(((overlaps >= NEAR_IOU) & own).any(axis=0), dtype=bool)
    missing = [j for place, j in enumerate(proposed) if free[place] and not near_own[place]]
    return [*found, *(CheckedBox(j.class_name, j.box, j, missing=True) for j in missing)]


def _best(judgements: Iterator[Judgement] | Sequence[Judgement]) -> Judgement | None:
    return max(judgements, key=lambda j: j.p_yes or 0.0, default=None)
