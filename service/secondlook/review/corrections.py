"""What people corrected in another program, as reviews.

The boxes that come back are compared with those that the image has here. One that is as it was is
right; one with another class or outline is wrong, with the right one; one that is gone is wrong;
and one that is new is a missing object. What a person said here already is not said again.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from secondlook.core.boxes import Xyxy, iou
from secondlook.datasets.label_fields import CorrectedBox
from secondlook.datasets.samples import boxes_array
from secondlook_client.values import (
    Judgement,
    NewReview,
    Outcome,
    ReviewAnswer,
    WrongReason,
)

SAME_BOX = 0.5
"""IoU from which two boxes of one class are the same object, as wherever reviews are applied."""
SAME_PLACE = 0.9
"""The same of two boxes of different classes: a person gave the box another class."""
MOVED = 0.05
"""Pixels that an edge has to move: programs round what they write."""


@dataclass(frozen=True)
class ShownImage:
    """An image as it stands here, with reviews."""

    sha256: str
    judgements: Sequence[Judgement]
    reviewed: Collection[int] = ()
    """Places of the judgements that people decided or added."""
    cursor: int = 0
    """Of its result: "<cursor>.<place>" is the name of a label."""


@dataclass(frozen=True)
class Corrector:
    """Who corrected an image, and what the other program could show."""

    person: str
    classes: Collection[str]
    """That the other program knows; labels of others are left alone."""
    known: Collection[str]
    """That the run labels; of a box with another one only that it is no longer what it was."""
    changes_only: bool = False
    """Whether a box that is as it was says nothing, instead of that it is right."""
    masks_only: bool = False
    """Whether the other program shows no boxes; labels without a mask are left alone."""

    def reviews(
        self, image: ShownImage, boxes: Sequence[CorrectedBox], seconds: float = 0.0
    ) -> list[NewReview]:
        """What was said by leaving ``boxes`` on an image, in ``seconds`` for all of it."""
        places = [at for at, one in enumerate(image.judgements) if self._was_shown(one)]
        matched = _matched(image, places, boxes)
        found = [*self._of_labels(image, places, boxes, matched)]
        taken = set(matched.values())
        new = (one.judgement for at, one in enumerate(boxes) if at not in taken)
        found += [_missing(image.sha256, one) for one in new if one.class_name in self.known]
        share = seconds / len(found) if found else 0.0
        return [replace(one, person=self.person, seconds=share) for one in found]

    def _was_shown(self, judged: Judgement) -> bool:
        label = judged.outcome is not Outcome.REJECT and not judged.whole_image
        visible = judged.mask is not None or not self.masks_only
        return label and visible and judged.class_name in self.classes

    def _of_labels(
        self,
        image: ShownImage,
        places: Sequence[int],
        boxes: Sequence[CorrectedBox],
        matched: dict[int, int],
    ) -> Iterator[NewReview]:
        for at in places:
            judged = image.judgements[at]
            said = NewReview(image.sha256, judged.class_name, judged.box, ReviewAnswer.WRONG)
            if at not in matched:
                yield said
                continue
            change = self._change(said, judged, boxes[matched[at]])
            if change is not None:
                yield change
            elif judged.outcome is Outcome.ACCEPT and not (
                self.changes_only or at in image.reviewed
            ):
                yield replace(said, answer=ReviewAnswer.RIGHT)

    def _change(self, said: NewReview, judged: Judgement, found: CorrectedBox) -> NewReview | None:
        """``said`` with what is different now; None where nothing is."""
        corrected = found.judgement
        mask = corrected.mask if corrected.mask != judged.mask else None
        if judged.mask is None and found.mask_as_exported:
            mask = None  # a person moved the box without it, here or there
        tight = judged.mask.box if judged.mask and corrected.mask else None
        at = (one for one in (judged.box, tight) if one)  # of a mask alone, its box is all there is
        moved = mask is None and all(_distance(one, corrected.box) > MOVED for one in at)
        outline: dict[str, Any] = (
            {"mask": mask} if mask else {"new_box": corrected.box} if moved else {}
        )
        if corrected.class_name != judged.class_name:
            said = replace(said, reason=WrongReason.CLASS)
            if corrected.class_name not in self.known:
                return said
            return replace(said, new_class=corrected.class_name, **outline)
        if mask and judged.mask is None and _overlap(judged.box, mask.box) >= SAME_PLACE:
            return replace(said, answer=ReviewAnswer.RIGHT, mask=mask)
        if outline:
            return replace(said, reason=WrongReason.OUTLINE, **outline)
        if corrected.outcome is judged.outcome:
            return None
        unsure = corrected.outcome is Outcome.UNSURE
        return replace(said, answer=ReviewAnswer.UNSURE if unsure else ReviewAnswer.RIGHT)


def _missing(sha256: str, found: Judgement) -> NewReview:
    box = found.mask.box if found.mask else found.box
    return NewReview(sha256, found.class_name, box, ReviewAnswer.MISSING, mask=found.mask)


def _matched(
    image: ShownImage, places: Sequence[int], boxes: Sequence[CorrectedBox]
) -> dict[int, int]:
    """By the place of a label, which of ``boxes`` is the same object.

    First those that still have the label's name (of several, as after copying, the nearest), then
    those of its class that overlap it, then those of another class in the same place.
    """
    if not places or not boxes:
        return {}
    shown = [image.judgements[at] for at in places]
    found = [one.judgement for one in boxes]
    overlaps = iou(boxes_array(one.box for one in shown), boxes_array(one.box for one in found))
    own = np.array([[one.class_name == other.class_name for other in found] for one in shown])
    named = np.array(
        [[one.label_id == f"{image.cursor}.{at}" for one in boxes] for at in places], bool
    )
    rounds = (
        np.where(named, 2 + overlaps, 0),
        np.where(own & (overlaps >= SAME_BOX), overlaps, 0),
        np.where(overlaps >= SAME_PLACE, overlaps, 0),
    )
    matched, taken = dict[int, int](), set[int]()
    for scores in rounds:
        rows, columns = np.nonzero(scores > 0)
        for at in np.argsort(-scores[rows, columns], kind="stable").tolist():
            place, column = places[rows[at]], int(columns[at])
            if place not in matched and column not in taken:
                matched[place] = column
                taken.add(column)
    return matched


def _distance(a: Xyxy, b: Xyxy) -> float:
    return max(abs(one - other) for one, other in zip(a, b, strict=True))


def _overlap(a: Xyxy, b: Xyxy | None) -> float:
    return float(iou(boxes_array([a]), boxes_array([b]))[0, 0]) if b else 0.0
