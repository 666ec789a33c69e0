"""A truth file plays the person: it answers what a queue asks.

Right is what ``evaluation.matching`` calls right: in each image and class the boxes, most probable
first, each take the unmatched true box that they overlap most, from an IoU of ``min_iou``.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secondlook.core.boxes import Xyxy, iou
from secondlook.core.types import Boxes
from secondlook.datasets.samples import boxes_array, class_array
from secondlook.evaluation.coco_files import truth_and_classes
from secondlook.evaluation.matching import MIN_IOU, Matching, TrueBox, match_boxes
from secondlook_client.errors import InvalidInput
from secondlook_client.values import (
    Judgement,
    LabelResult,
    NewReview,
    Outcome,
    ReviewAnswer,
    ReviewItem,
    WrongReason,
)

PERSON = "oracle"
SAME_OUTLINE = 0.9
"""IoU from which two outlines are the same."""
LOOSE_IOU = 0.1
"""IoU from which a box that is no match is a bad outline, rather than of nothing."""


@dataclass(frozen=True, eq=False)
class Oracle:
    """The true boxes of some images, by name, and the answers that follow from them."""

    truth: Mapping[str, Sequence[TrueBox]]
    """By image; one without boxes has an empty list."""
    classes: frozenset[str]
    """All that it would have boxes of."""
    source: str
    """What errors call it."""
    min_iou: float = MIN_IOU
    _taken: dict[tuple[str, int], str] = field(default_factory=dict, repr=False)
    """By image and true box, the box that was called right, where the others are not known."""

    @classmethod
    def from_truth(cls, path: Path, min_iou: float = MIN_IOU, *, masks: bool = False) -> "Oracle":
        """Read a COCO file, with ``masks`` those of its boxes too.

        Raises ``NotFound`` and ``InvalidInput`` naming the file and entry.
        """
        truth, classes = truth_and_classes(path, masks=masks)
        boxed = {one.class_name for boxes in truth.values() for one in boxes}
        return cls(truth, frozenset(boxed.union(classes)), str(path), min_iou)

    def right(self, result: LabelResult) -> dict[int, bool]:
        """By place, whether each judgement marks an object of its class.

        A second box of one object is wrong. Boxes in an ignore region are neither, and doubts
        about the whole image are no boxes: both are left out. Raises ``InvalidInput`` for another
        image, and for a class that the truth does not have.
        """
        places, matched = self._judged(result.name, result.judgements)
        return {
            place: bool(matched.truth[row] >= 0)
            for row, place in enumerate(places)
            if not matched.ignored[row]
        }

    def answer(
        self, item: ReviewItem, judgements: Sequence[Judgement] = (), *, correct: bool = False
    ) -> NewReview:
        """What a person who knows the truth says of an item of a queue.

        ``judgements`` are all of its image's, as the run decided them: with them the answers are
        those of ``right``. Without, the first of several boxes of one object that is asked about
        is right, and the others are duplicates. ``correct`` adds the true outline to a bad one.
        Raises as ``right``.
        """
        if judgements:
            places, matched = self._judged(item.image_name, judgements)
            row = _row_of(item, judgements, places)
        else:
            matched, row = self._match(item.image_name, [item.class_name], [item.box], [1.0]), 0
            self._take(item, matched)
        reason, outline = None, None
        if matched.truth[row] >= 0:
            answer = ReviewAnswer.RIGHT
        elif matched.ignored[row]:
            answer = ReviewAnswer.UNSURE
        else:
            answer = ReviewAnswer.WRONG
            reason, outline = self._why(item, set(matched.truth.tolist()))
        return NewReview(
            image=item.image,
            class_name=item.class_name,
            box=item.box,
            answer=answer,
            reason=reason,
            new_box=outline if correct else None,
            person=PERSON,
        )

    def review(
        self,
        result: LabelResult,
        classes: Collection[str],
        *,
        current: LabelResult | None = None,
        outlines: bool = False,
    ) -> Iterator[NewReview]:
        """What a person who knows the truth says of the labels and unsure boxes of an image, and
        of the objects that they miss; of the ``classes`` that the truth has.

        ``current``: ``result`` with the reviews of others, who may have found such an object.
        ``outlines``: a right box whose IoU with the true one is below ``SAME_OUTLINE`` is badly
        outlined, and others get the true mask, where there is one. A missing object always has its
        mask.
        """
        kept = [one for one in result.judgements if self._is_asked(one)]
        _, matched = self._judged(result.name, kept)
        true = self._true(result.name)
        for row, judged in enumerate(kept):
            said = NewReview(
                result.sha256, judged.class_name, judged.box, ReviewAnswer.RIGHT, person=PERSON
            )
            at = int(matched.truth[row])
            if at < 0:
                wrong = ReviewAnswer.UNSURE if matched.ignored[row] else ReviewAnswer.WRONG
                said = replace(said, answer=wrong)
            elif outlines and _overlap(judged.box, true[at].box) < SAME_OUTLINE:
                reason, box = WrongReason.OUTLINE, true[at].box
                said = replace(said, answer=ReviewAnswer.WRONG, reason=reason, new_box=box)
            if at >= 0 and outlines:
                said = replace(said, mask=true[at].mask)
            yield said
        shown = [one for one in (current or result).judgements if self._is_asked(one)]
        marked = {*matched.truth.tolist(), *self._judged(result.name, shown)[1].truth.tolist()}
        for at, one in enumerate(true):
            if at not in marked and one.class_name in classes:
                found = result.sha256, one.class_name, one.box, ReviewAnswer.MISSING
                yield NewReview(*found, person=PERSON, mask=one.mask)

    def _is_asked(self, judged: Judgement) -> bool:
        kept = judged.outcome is not Outcome.REJECT and not judged.whole_image
        return kept and judged.class_name in self.classes

    def _judged(self, image: str, judgements: Sequence[Judgement]) -> tuple[list[int], Matching]:
        """Places of the judgements that are about a box, and what each is matched to."""
        places = [at for at, one in enumerate(judgements) if not one.whole_image]
        boxes = [judgements[at] for at in places]
        matched = self._match(
            image,
            [one.class_name for one in boxes],
            [one.box for one in boxes],
            [one.probability for one in boxes],
        )
        return places, matched

    def _match(
        self, image: str, classes: Sequence[str], boxes: Sequence[Xyxy], scores: Sequence[float]
    ) -> Matching:
        true, regions = self._true(image), [one for one in self._all(image) if one.ignore]
        for name in classes:
            if name not in self.classes:
                raise InvalidInput(
                    f"{self.source} has no class '{name:.60}', only {_some(self.classes)}; its "
                    "classes must be named as those of the run"
                )
        numbers = {name: at for at, name in enumerate(sorted(self.classes))}
        return match_boxes(
            (boxes_array(boxes), class_array(numbers[name] for name in classes)),
            scores,
            _classed(true, numbers),
            _classed(regions, numbers),
            self.min_iou,
        )

    def _all(self, image: str) -> Sequence[TrueBox]:
        if image not in self.truth:
            raise InvalidInput(
                f"{self.source} has no image '{image:.200}', only {_some(self.truth)}; give the "
                "truth of the images that were labelled, with their names relative to the folder"
            )
        return self.truth[image]

    def _true(self, image: str) -> list[TrueBox]:
        return [one for one in self._all(image) if not one.ignore]

    def _take(self, item: ReviewItem, matched: Matching) -> None:
        """Let only one box have each true one."""
        key = item.image_name, int(matched.truth[0])
        if key[1] >= 0 and self._taken.setdefault(key, item.label_id) != item.label_id:
            matched.truth[0] = -1

    def _why(self, item: ReviewItem, taken: Collection[int]) -> tuple[WrongReason, Xyxy | None]:
        """Why a box is wrong, and the true outline of one that is badly outlined."""
        true = self._true(item.image_name)
        overlaps = iou(boxes_array([item.box]), boxes_array([one.box for one in true]))[0]
        own = np.array([one.class_name == item.class_name for one in true], dtype=bool)
        if (overlaps[own] >= self.min_iou).any():
            return WrongReason.DUPLICATE, None
        if (overlaps[~own] >= self.min_iou).any():
            return WrongReason.CLASS, None
        free = own & ~np.isin(np.arange(len(true)), [*taken])
        if len(true) and (best := np.where(free, overlaps, 0.0)).max() >= LOOSE_IOU:
            return WrongReason.OUTLINE, true[int(best.argmax())].box
        return WrongReason.NOTHING_THERE, None


def _overlap(a: Xyxy, b: Xyxy) -> float:
    return float(iou(boxes_array([a]), boxes_array([b]))[0, 0])


def _row_of(item: ReviewItem, judgements: Sequence[Judgement], places: Sequence[int]) -> int:
    """Where an item's judgement is among those at ``places``."""
    place = int(item.label_id.partition(".")[2])
    if place not in places or judgements[place].class_name != item.class_name:
        raise InvalidInput(f"these are not the judgements of the image of item {item.id}")
    return places.index(place)


def _classed(
    boxes: Sequence[TrueBox], numbers: Mapping[str, int]
) -> tuple[Boxes, NDArray[np.int64]]:
    classes = class_array(numbers[one.class_name] for one in boxes)
    return boxes_array(one.box for one in boxes), classes


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:5]) + (", …" if len(listed) > 5 else "") if listed else "none"
