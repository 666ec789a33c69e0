"""Corrections of single boxes by people; they take precedence over every run."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, insert, select

from secondlook.core import boxes as box_ops
from secondlook.store.database import now, sanitize_text
from secondlook.store.schema import corrections, images
from secondlook_client.errors import InvalidInput, NotFound
from secondlook_client.values import Decision, Judgement, Outcome

SAME_BOX = 0.5
"""IoU from which a person's box and a model's are the same object."""
ADDED = -1
"""The row of a judgement whose box no model proposed."""
_MAX_LENGTH = 120


@dataclass(frozen=True)
class Correction:
    """One person's decision on one box for one class."""

    id: int
    image_id: int
    class_name: str
    box: tuple[float, float, float, float]
    """Pixel xyxy."""
    outcome: Outcome
    person: str
    note: str
    created_at: float


def add_correction(
    connection: Connection,
    image_id: int,
    class_name: str,
    box: tuple[float, float, float, float],
    outcome: Outcome,
    person: str,
    note: str = "",
) -> int:
    """Insert a correction; its id. Raises ``InvalidInput`` and ``NotFound``."""
    _check(class_name, box, person)
    if connection.execute(select(images.c.id).where(images.c.id == image_id)).first() is None:
        raise NotFound(f"there is no image {image_id} in the store")
    row = {
        "image_id": image_id,
        "class_name": sanitize_text(class_name),
        **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
        "outcome": outcome.value,
        "person": sanitize_text(person),
        "note": sanitize_text(note),
        "created_at": now(),
    }
    added = connection.execute(insert(corrections).values(row).returning(corrections.c.id))
    return int(added.scalar_one())


def corrections_of(connection: Connection, image_ids: Any) -> dict[int, list[Correction]]:
    """By image, oldest first; ``image_ids`` is a list of ids or a query."""
    query = select(corrections).where(corrections.c.image_id.in_(image_ids))
    found: dict[int, list[Correction]] = {}
    for row in connection.execute(query.order_by(corrections.c.id)):
        found.setdefault(row.image_id, []).append(_correction(row))
    return found


def apply_corrections(
    judgements: Sequence[Judgement], corrections: Iterable[Correction], classes: Sequence[str]
) -> tuple[Judgement, ...]:
    """``judgements`` with every correction applied, oldest first, so the newest one wins.

    A correction replaces the decision of the judgement of its class whose box overlaps its own
    best. Where none does, an accepted or unsure box is appended, so indices of judgements never
    change. Classes that are not in ``classes`` are ignored.
    """
    found = [*judgements]
    for correction in corrections:
        index = _best_match(found, correction)
        if index is not None:
            found[index] = replace(found[index], decision=_decision(correction, found[index]))
        elif correction.class_name in classes and correction.outcome is not Outcome.REJECT:
            found.append(
                Judgement(
                    correction.class_name,
                    correction.box,
                    0.0,
                    None,
                    _decision(correction, None),
                    ADDED,
                )
            )
    return tuple(found)


def _best_match(found: Sequence[Judgement], correction: Correction) -> int | None:
    # A doubt about the whole image can be dispelled. An object that a person found is no answer to
    # it, however large its box: that becomes a label of its own.
    found_object = correction.outcome is not Outcome.REJECT
    of_class = [
        i
        for i, j in enumerate(found)
        if j.class_name == correction.class_name and not (j.whole_image and found_object)
    ]
    if not of_class:
        return None
    theirs = np.array([found[i].box for i in of_class], dtype=np.float32)
    overlaps = box_ops.iou(theirs, np.array([correction.box], dtype=np.float32))[:, 0]
    best = int(overlaps.argmax())
    return of_class[best] if overlaps[best] >= SAME_BOX else None


def _decision(correction: Correction, judged: Judgement | None) -> Decision:
    certain = {Outcome.ACCEPT: 1.0, Outcome.REJECT: 0.0}
    before = judged.decision.probability if judged else 0.0
    note = f": {correction.note}" if correction.note else ""
    return Decision(
        correction.outcome,
        certain.get(correction.outcome, before),
        f"{correction.person} decided {correction.outcome.value}{note}",
    )


def _check(class_name: str, box: tuple[float, float, float, float], person: str) -> None:
    for what, text in (("class", class_name), ("person", person)):
        if not text.strip() or len(text) > _MAX_LENGTH:
            raise InvalidInput(
                f"expected a {what} of 1 to {_MAX_LENGTH} characters, got {text!r:.60}"
            )
    x1, y1, x2, y2 = box
    if not (all(map(math.isfinite, box)) and x2 > x1 and y2 > y1):
        raise InvalidInput(f"expected a box x1 y1 x2 y2 with x2 > x1 and y2 > y1, got {box}")


def _correction(row: "Row[Any]") -> Correction:
    return Correction(
        row.id,
        row.image_id,
        row.class_name,
        (row.x1, row.y1, row.x2, row.y2),
        Outcome(row.outcome),
        row.person,
        row.note,
        row.created_at,
    )
