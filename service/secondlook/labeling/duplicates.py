"""Of one object one label a class survives, found after verification, by what was accepted.

Suppression before verification (``proposer.candidates``) goes by the proposer's scores, and only
where two boxes are nearly one, so that the verifier sees rivals. Here the probabilities are known:
among the accepted boxes of a class, or of a contrast group, the most probable one of each object
stays.

Two objects of a class that stand close must stay two, so the limits are as tight as the measurement
of labels and of real annotations allowed (docs/decisions).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.config.settings import PipelineSettings
from secondlook.core.boxes import area, pair_iou, pairs_within
from secondlook.core.types import Boxes
from secondlook_client.values import Judgement, Outcome

INSIDE, CENTRES = 0.9, 0.2
"""A box with this share of its area in a larger one is a loose or tight outline of the same object
where their centres are that close, as a share of the larger one's sides."""
DUPLICATE = "duplicate of "
"""What the reason of a rejected duplicate begins with."""
_NOTHING = np.zeros(0, dtype=np.intp)


@dataclass(frozen=True, eq=False)
class Duplicates:
    """D boxes that mark an object which a more probable box marks already."""

    removed: NDArray[np.intp]
    """(D,) indices of them, each once."""
    kept: NDArray[np.intp]
    """(D,) the box of which each is a duplicate."""
    iou: NDArray[np.float32]
    """(D,) with that box."""


def same_object(a: Boxes, b: Boxes, limit: float) -> NDArray[np.bool_]:
    """(...) whether two boxes (..., 4) of one class mark the same object.

    Their IoU is above ``limit``, or one is nearly inside the other and has the same centre. From
    a limit of 1 on, no two boxes do.
    """
    if limit >= 1:
        return np.zeros(np.broadcast_shapes(a.shape, b.shape)[:-1], dtype=bool)
    return (pair_iou(a, b) > limit) | _one_outline(a, b)


def _one_outline(a: Boxes, b: Boxes) -> NDArray[np.bool_]:
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(sides, 0).prod(axis=-1)
    own, other = area(a), area(b)
    larger = np.where((own >= other)[..., None], a, b)
    apart = np.abs((a[..., :2] + a[..., 2:]) - (b[..., :2] + b[..., 2:])) / 2
    near = apart <= CENTRES * (larger[..., 2:] - larger[..., :2])
    inside: NDArray[np.bool_] = shared >= INSIDE * np.minimum(own, other)
    return inside & (shared > 0) & near.all(axis=-1)


def find_duplicates(
    boxes: Boxes,
    keys: NDArray[np.intp],
    probabilities: NDArray[np.float64],
    scores: NDArray[np.float64],
    limit: float,
) -> Duplicates:
    """The duplicates among N accepted boxes; only those with equal ``keys`` are compared.

    ``keys`` (N,) say image and contrast group. The most probable box of an object stays; of equal
    ones that with the higher score, then the first. A box that is removed removes no other.
    """
    if limit >= 1 or len(np.unique(keys)) == len(keys):
        return Duplicates(_NOTHING, _NOTHING, np.zeros(0, dtype=np.float32))
    order = np.lexsort((-scores, -probabilities, keys))
    best_first = boxes[order]
    kept_by: dict[int, int] = {}
    for first, second in pairs_within(keys[order]):
        same = same_object(best_first[first], best_first[second], limit)
        for better, worse in zip(first[same].tolist(), second[same].tolist(), strict=True):
            if better not in kept_by:  # final: all boxes better than it were compared before
                kept_by.setdefault(worse, better)
    removed = np.array([*kept_by], dtype=np.intp)
    kept = np.array([*kept_by.values()], dtype=np.intp)
    iou = pair_iou(best_first[removed], best_first[kept])
    return Duplicates(order[removed], order[kept], iou)


def duplicate_reason(class_name: str, probability: float, iou: float, own: str) -> str:
    """Why a duplicate is rejected: the label that stays, and what was decided of the box alone."""
    return f"{DUPLICATE}a '{class_name}' of {probability:.2f} (IoU {iou:.2f}); alone: {own}"


def hard_negatives(
    judgements: Sequence[Judgement], limit: float = PipelineSettings.duplicate_iou
) -> set[int]:
    """Places of the rejected judgements that say what is *not* in their box.

    A duplicate says nothing of the kind, nor does a rejected box on an object whose accepted box
    of the class is another one: a detector would unlearn the object. Neither is there a box where
    a person dispelled a doubt about the whole image.
    """
    rejected = [
        place
        for place, one in enumerate(judgements)
        if one.outcome is Outcome.REJECT and not one.whole_image and not is_duplicate(one)
    ]
    labels = [one for one in judgements if one.outcome is Outcome.ACCEPT]
    if not (rejected and labels):
        return set(rejected)
    boxes = np.array([judgements[place].box for place in rejected], dtype=np.float32)
    names = np.array([judgements[place].class_name for place in rejected])
    of_class = names[:, None] == np.array([one.class_name for one in labels])
    labelled = np.array([one.box for one in labels], dtype=np.float32)
    on_object = (same_object(boxes[:, None], labelled[None], limit) & of_class).any(axis=1)
    return {place for place, on in zip(rejected, on_object.tolist(), strict=True) if not on}


def is_duplicate(judgement: Judgement) -> bool:
    """Whether a better box marks its object."""
    return judgement.outcome is Outcome.REJECT and judgement.reason.startswith(DUPLICATE)
