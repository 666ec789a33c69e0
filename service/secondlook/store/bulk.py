"""Packed evidence of many images as a few large arrays, and many decisions back to bytes.

One by one, unpacking takes most of the time of deciding again. See ``packing`` for the form.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, select

from secondlook.core.errors import Damaged
from secondlook.core.ontology import Ontology
from secondlook.core.types import Answer, Boxes, LabelPath, path_of
from secondlook.store.codec import (
    CHECK,
    DECIDED,
    DECISIONS_HEAD,
    EVIDENCE_HEAD,
    EXACT,
    OUTCOMES,
    VERDICTS,
    asks_of,
    closed,
    opened,
)
from secondlook.store.corrections import corrections_of
from secondlook.store.database import insert_new, now
from secondlook.store.ontologies import speakers_of
from secondlook.store.results import RESULTS, Reader, Result
from secondlook.store.runs import Run
from secondlook.store.schema import decisions, evidence, texts


@dataclass(frozen=True, eq=False)
class Gathered:
    """What the models said of P images with T boxes in all, gathered for one ontology."""

    starts: NDArray[np.intp]
    """(P + 1,): image p has the boxes from ``starts[p]`` up to ``starts[p + 1]``."""
    boxes: Boxes
    """(T, 4)."""
    scores: NDArray[np.float32]
    """(T, classes of the ontology)."""
    p_yes: NDArray[np.float64]
    """(T, asks of the ontology); NaN where there is no verdict."""
    silent: dict[tuple[int, int], Answer]
    """By (box, ask), the answers without a verdict; a NaN that is not here was not asked."""

    def __len__(self) -> int:
        return len(self.starts) - 1


def gather(contents: Sequence[bytes], ontology: Ontology) -> Gathered:
    """Unpack the evidence of many images, gathered for ``ontology``. Raises ``Damaged``."""
    parts = [_part(content, len(ontology.classes)) for content in contents]
    starts = np.zeros(len(parts) + 1, dtype=np.intp)
    np.cumsum([len(part.boxes) for part in parts], out=starts[1:])
    gathered = Gathered(
        starts,
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.full((starts[-1], len(asks_of(ontology))), np.nan),
        {},
    )
    try:
        _fill(gathered, parts)
    except (ValueError, IndexError) as cause:
        raise Damaged(f"kept evidence cannot be read ({cause}); {CHECK}") from cause
    return gathered


@dataclass(frozen=True, eq=False)
class _Part:
    boxes: Boxes
    scores: NDArray[np.float32]
    verdicts: NDArray[Any]
    texts: bytes


def _part(content: bytes, classes: int) -> _Part:
    packed = opened(content)
    try:
        wide, boxes, columns, verdicts = EVIDENCE_HEAD.unpack_from(packed)
        if columns != classes:
            raise ValueError(f"{columns} classes where the ontology has {classes}")
        at = EVIDENCE_HEAD.size
        numbers: NDArray[np.float32] = np.frombuffer(packed, "<f4", boxes * (4 + columns), at)
        at += numbers.nbytes
        rows = np.frombuffer(packed, VERDICTS[wide], verdicts, at)
    except (struct.error, ValueError, IndexError) as cause:
        raise Damaged(f"kept evidence cannot be read ({cause}); {CHECK}") from cause
    return _Part(
        numbers[: boxes * 4].reshape(boxes, 4),
        numbers[boxes * 4 :].reshape(boxes, columns),
        rows,
        packed[at + rows.nbytes :],
    )


def _fill(gathered: Gathered, parts: Sequence[_Part]) -> None:
    """Set ``p_yes`` and ``silent`` from the images' verdicts."""
    verdicts = _joined([part.verdicts for part in parts])
    amounts = [len(part.verdicts) for part in parts]
    boxes = verdicts["row"] + np.repeat(gathered.starts[:-1], amounts)
    asks = verdicts["ask"]
    gathered.p_yes[boxes, asks] = verdicts["p_yes"]
    unheard = np.flatnonzero(np.isnan(verdicts["p_yes"]))
    if not len(unheard):
        return
    ends = np.cumsum(amounts)
    for at in unheard.tolist():
        texts = ["", *json.loads(parts[int(np.searchsorted(ends, at, side="right"))].texts)]
        row = verdicts[at]
        answer = Answer(
            None, texts[row["raw"]], texts[row["error"]], bool(int(row["flags"]) & EXACT)
        )
        gathered.silent[int(boxes[at]), int(asks[at])] = answer


def _joined(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """One array; ``np.concatenate`` compares the fields of each pair of records, which is slow."""
    kinds = {part.dtype for part in rows}
    kind = kinds.pop() if len(kinds) == 1 else VERDICTS[True]
    return np.frombuffer(b"".join([part.astype(kind, copy=False).tobytes() for part in rows]), kind)


@dataclass(frozen=True, eq=False)
class Decided:
    """J judgements of P images, image by image in the order of ``judging.judge``."""

    starts: NDArray[np.intp]
    """(P + 1,): image p has the judgements from ``starts[p]`` up to ``starts[p + 1]``."""
    rows: NDArray[np.intp]
    """(J,) of the image's own proposals."""
    classes: NDArray[np.intp]
    """(J,) places in the ontology."""
    outcomes: NDArray[np.intp]
    """(J,) places in ``packing.OUTCOMES``."""
    probabilities: NDArray[np.float64]
    """(J,) in [0, 1]."""
    reasons: Sequence[str]
    """J of them."""

    def __len__(self) -> int:
        return len(self.starts) - 1


def pack_many(decided: Decided) -> list[bytes]:
    """What ``pack_decisions`` gives for each of the images."""
    rows = np.empty(len(decided.rows), dtype=DECIDED[True])
    rows["probability"] = decided.probabilities
    rows["row"], rows["class"] = decided.rows, decided.classes
    rows["outcome"] = decided.outcomes
    texts, places = _texts(decided)
    rows["reason"] = places
    narrow = rows.astype(DECIDED[False])
    exact = narrow["probability"] == rows["probability"]
    packed = []
    for text, (start, end) in zip(texts, pairwise(decided.starts.tolist()), strict=True):
        wide = not exact[start:end].all()
        kept = (rows if wide else narrow)[start:end]
        packed.append(closed(DECISIONS_HEAD.pack(wide, end - start), kept.tobytes(), text))
    return packed


def _texts(decided: Decided) -> tuple[list[bytes], list[int]]:
    """For each image its distinct reasons as JSON, and for each judgement its reason's place."""
    texts, places = [], []
    for start, end in pairwise(decided.starts.tolist()):
        place = {"": 0}
        places += [place.setdefault(r, len(place)) for r in decided.reasons[start:end]]
        texts.append(json.dumps([*place][1:], separators=(",", ":")).encode("ascii"))
    return texts, places


# Reading packed evidence in bulk, and adding what another run decides from it.


@dataclass(frozen=True, slots=True)
class Packed:
    """The evidence behind one result."""

    cursor: int
    """Of the result."""
    item_id: int
    image_id: int
    evidence_id: int
    ontology_id: int
    """What it was gathered for."""
    verified: bool
    """Whether a verifier was in use."""
    path: LabelPath
    content: bytes


def packed_evidence(connection: Connection, run_id: int, after: int, limit: int) -> list[Packed]:
    """The evidence of a run's results behind the cursor ``after``, at most ``limit``."""
    proposers, verifiers = texts.alias("proposers"), texts.alias("verifiers")
    query = (
        select(
            decisions.c.id,
            decisions.c.item_id,
            decisions.c.image_id,
            decisions.c.evidence_id,
            evidence.c.ontology_id,
            (verifiers.c.text != "").label("verified"),
            proposers.c.text.label("speakers"),
            evidence.c.content,
        )
        .join(evidence, evidence.c.id == decisions.c.evidence_id)
        .join(verifiers, verifiers.c.id == evidence.c.verifier_id)
        .join(proposers, proposers.c.id == evidence.c.proposer_id)
        .where(decisions.c.run_id == run_id, decisions.c.id > after)
        .order_by(decisions.c.id)
        .limit(limit)
    )
    return [
        Packed(
            cursor=row.id,
            item_id=row.item_id,
            image_id=row.image_id,
            evidence_id=row.evidence_id,
            ontology_id=row.ontology_id,
            verified=row.verified,
            path=path_of(*speakers_of(row.speakers)),
            content=row.content,
        )
        for row in connection.execute(query)
    ]


def add_decided(
    connection: Connection, run: Run, sources: Sequence[Packed], decided: Decided
) -> int:
    """Keep what ``run`` decided from ``sources``; how many of them it had not decided before."""
    images = np.repeat(np.arange(len(decided)), np.diff(decided.starts))
    counts = np.zeros((len(decided), len(OUTCOMES)), dtype=np.int64)
    np.add.at(counts, (images, decided.outcomes), 1)
    made_at = now()
    rows = [
        {
            "run_id": run.id,
            "item_id": source.item_id,
            "image_id": source.image_id,
            "evidence_id": source.evidence_id,
            "accepted": accepted,
            "rejected": rejected,
            "unsure": unsure,
            "content": content,
            "made_at": made_at,
        }
        for source, (accepted, rejected, unsure), content in zip(
            sources, counts.tolist(), pack_many(decided), strict=True
        )
    ]
    return insert_new(connection, decisions, rows)


def decided_up_to(connection: Connection, run: Run, parent: Run) -> int:
    """The cursor of the last result of ``parent`` that ``run`` has decided again; 0: none yet.

    They are decided in the order of their cursors, so what is before it is done.
    """
    theirs, ours = decisions.alias("theirs"), decisions.alias("ours")
    query = (
        select(func.max(theirs.c.id))
        .join(ours, ours.c.item_id == theirs.c.item_id)
        .where(theirs.c.run_id == parent.id, ours.c.run_id == run.id)
    )
    return connection.execute(query).scalar() or 0


# What two runs made of the same images, side by side.


def pairs(
    connection: Connection, a: Run, b: Run, after: int = 0, limit: int = 200
) -> list[tuple[Result, Result | None]]:
    """The next results of ``a`` behind the cursor ``after``, each with that of ``b``, or None.

    The same item where both have it, as when one run decided the other again; else the same
    image, under whatever name ``b`` has it.
    """
    chosen = (decisions.c.run_id == a.id) & (decisions.c.id > after)
    ours = connection.execute(RESULTS.where(chosen).order_by(decisions.c.id).limit(limit)).all()
    if not ours:
        return []
    last = decisions.c.id <= ours[-1].id
    items = select(decisions.c.item_id).where(chosen, last).scalar_subquery()
    images = select(decisions.c.image_id).where(chosen, last).scalar_subquery()
    of_b = decisions.c.run_id == b.id
    by_item = {
        row.item_id: row
        for row in connection.execute(RESULTS.where(of_b, decisions.c.item_id.in_(items)))
    }
    by_image = {
        row.image_id: row
        for row in connection.execute(RESULTS.where(of_b, decisions.c.image_id.in_(images)))
    }
    said = corrections_of(connection, images)
    reader = Reader(connection)
    found: list[tuple[Result, Result | None]] = []
    for row in ours:
        persons = said.get(row.image_id, [])
        other = by_item.get(row.item_id) or by_image.get(row.image_id)
        theirs = reader.result(b, other, persons) if other is not None else None
        found.append((reader.result(a, row, persons), theirs))
    return found


def images_missing(connection: Connection, a: Run, b: Run) -> int:
    """How many images have a result in ``b`` and none in ``a``."""
    known = select(decisions.c.image_id).where(decisions.c.run_id == a.id)
    of_b = (decisions.c.run_id == b.id) & decisions.c.image_id.not_in(known)
    query = select(func.count(decisions.c.image_id.distinct())).where(of_b)
    return int(connection.execute(query).scalar_one())
