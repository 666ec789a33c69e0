"""What formats of other programs keep of a label beside its class and box, both ways.

CVAT has attributes, FiftyOne fields and Label Studio texts for it. What comes back went through a
program of somebody else and a person's hands: a field that is missing or makes no sense has the
value of a box that a person drew, and costs nothing else.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from secondlook.core.boxes import Xyxy
from secondlook.datasets.readers.fields import number, whole_number
from secondlook_client.masks import Mask, Segmentation
from secondlook_client.values import (
    MAX_NAME_LENGTH,
    Answer,
    Decision,
    EmptyReason,
    Judgement,
    Outcome,
    Review,
    Verdict,
    View,
)

LABEL_FIELDS = (
    "label_id",
    "outcome",
    "probability",
    "proposer_score",
    "p_yes",
    "reason",
    "track_id",
    "mask_quality",
    "mask_stability",
    "mask_model",
)
"""Names of the fields, as ``coco`` has them among its attributes too."""
PROPOSED_BOX, MASK_DIGEST = "box", "mask_digest"
"""Further fields where a format has no box beside a mask: the label's box, and the digest of the
mask that it belongs to."""
MAX_TEXT = 2000
"""Characters of a reason, a model's name and an id that are read."""


@dataclass(frozen=True)
class CorrectedBox:
    """A box as another program gives it back."""

    judgement: Judgement
    """With the scores that it was exported with; of a box that a person drew there the probability
    is 1 and the proposer's score 0."""
    label_id: str = ""
    """What we called the label; empty of a box that a person drew there."""
    mask_as_exported: bool = False
    """Whether it has a mask, and that is still the one that it was exported with."""


@dataclass(frozen=True)
class CorrectedImage:
    """An image as another program gives it back, after people worked on its boxes."""

    name: str
    """As we exported it, or else as the program has it."""
    place: str = ""
    """Its path as the program has it."""
    split: str = ""
    """``train``, ``val`` or ``test``; empty where the program names none."""
    sha256: str = ""
    """Of its bytes; empty where the program does not say."""
    width: int = 0
    height: int = 0
    """Pixels, upright; 0 where the program does not say."""
    boxes: tuple[CorrectedBox, ...] | None = ()
    """None where the person has said nothing of them."""
    reviews: tuple[Review, ...] = ()
    """Those that it was exported with."""
    person: str = ""
    """Who corrected it; empty where the program does not say."""
    created_at: float = 0.0
    """When, seconds since 1970; 0 where the program does not say."""
    seconds: float = 0.0
    """That the person took for the image; 0 where the program does not say."""
    empty: EmptyReason | None = None
    """Why it had no box when it was exported; None where it is not told."""


def fields_of(judgement: Judgement, label_id: str) -> dict[str, Any]:
    """The fields of a label, by name; those that say nothing are left out."""
    found: dict[str, Any] = {
        "label_id": label_id or None,
        "outcome": judgement.outcome.value,
        "probability": judgement.probability,
        "proposer_score": judgement.score,
        "p_yes": judgement.p_yes,
        "reason": judgement.reason or None,
        "track_id": judgement.track or None,
    }
    if measured := judgement.segmentation:
        found |= {
            "mask_quality": measured.quality,
            "mask_stability": measured.stability,
            "mask_model": measured.model,
        }
    return {name: value for name, value in found.items() if value is not None}


def box_of(
    class_name: str, box: Xyxy, fields: Mapping[str, Any], mask: Mask | None = None
) -> CorrectedBox:
    """The box of a class with the ``fields`` that came back with it, and its mask.

    Raises ``ValueError`` for a class that no label can have, and for a box that is none.
    """
    if not class_name.strip() or len(class_name) > MAX_NAME_LENGTH:
        raise ValueError(f"expected a class of 1 to {MAX_NAME_LENGTH} characters")
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError("its box has no area")
    p_yes = _share(fields, "p_yes")
    verdict = None if p_yes is None else Verdict("", View.CROP, Answer(p_yes), "", 0.0)
    decision = Decision(
        _outcome(fields), _share(fields, "probability", 1.0) or 0.0, _text(fields, "reason")
    )
    segmentation = None
    if mask is not None:
        quality, stability = (
            _share(fields, "mask_quality", 1.0),
            _share(fields, "mask_stability", 1.0),
        )
        model = _text(fields, "mask_model")
        segmentation = Segmentation(mask, quality or 0.0, stability or 0.0, model)
    judgement = Judgement(
        class_name,
        box,
        _share(fields, "proposer_score", 0.0) or 0.0,
        verdict,
        decision,
        segmentation=segmentation,
        track=_track(fields),
    )
    same = mask is not None and fields.get(MASK_DIGEST) == mask_digest(mask)
    return CorrectedBox(judgement, _text(fields, "label_id"), same)


def reason_of(value: Any) -> EmptyReason | None:
    """Why an image is empty; None for anything else."""
    return EmptyReason(value) if value in tuple(EmptyReason) else None


def mask_digest(mask: Mask) -> str:
    """Tells a mask from another one of the same image."""
    return hashlib.blake2b(mask.counts.encode(), digest_size=8).hexdigest()


def proposed_box(mask: Mask, edges: Sequence[Any], fields: Mapping[str, Any]) -> Xyxy:
    """The box of a label with a mask: ``edges``, pixel xyxy, where the mask is still the one that
    it was exported with, else its tight box. Raises ``ValueError`` for a mask without a pixel."""
    if mask.box is None:
        raise ValueError("its mask covers no pixel")
    if len(edges) == 4 and fields.get(MASK_DIGEST) == mask_digest(mask):
        with suppress(ValueError):
            x1, y1, x2, y2 = map(number, edges)
            if x1 < x2 and y1 < y2:
                return x1, y1, x2, y2
    return mask.box


def _share(fields: Mapping[str, Any], name: str, otherwise: float | None = None) -> float | None:
    """A number of 0 to 1."""
    with suppress(ValueError):
        found = number(fields.get(name))
        if 0 <= found <= 1:
            return found
    return otherwise


def _outcome(fields: Mapping[str, Any]) -> Outcome:
    """What is in a file of labels is a label, unless it says that it is in doubt."""
    return Outcome.UNSURE if fields.get("outcome") == Outcome.UNSURE else Outcome.ACCEPT


def _text(fields: Mapping[str, Any], name: str) -> str:
    found = fields.get(name)
    return found[:MAX_TEXT] if isinstance(found, str) else ""


def _track(fields: Mapping[str, Any]) -> int:
    with suppress(ValueError):
        return max(0, whole_number(fields.get("track_id")))
    return 0
