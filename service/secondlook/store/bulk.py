"""Re-deciding in bulk: evidence of many images as a few large arrays, decisions back to rows.

Read one image at a time, unpacking takes most of the time of deciding again. The binary format is
that of ``codec``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, select

from secondlook.core.types import Boxes, ImageVerdicts, path_of
from secondlook.store.codec import (
    CHECK,
    DECIDED,
    DECISIONS_HEAD,
    EXACT,
    FORMAT,
    MAX_CLASS,
    NO_MASK,
    OUTCOMES,
    VERDICTS,
    WHOLE_IMAGE_ROW,
    WITH_IMAGE,
    WITH_MASKS,
    EvidenceArrays,
    StoredMasks,
    compress,
    evidence_arrays,
    image_verdicts,
    questions_of,
    read_masks,
)
from secondlook.store.database import insert_new, now
from secondlook.store.ontologies import parse_proposer_text
from secondlook.store.runs import Run
from secondlook.store.schema import decisions, evidence, images, texts
from secondlook_client.errors import Damaged, InvalidInput
from secondlook_client.ontology import Ontology
from secondlook_client.values import Answer, LabelPath


@dataclass(frozen=True, eq=False)
class EvidenceBatch:
    """Evidence of P images with T boxes in all, made with one ontology."""

    starts: NDArray[np.intp]
    """(P + 1,): image p has the boxes from ``starts[p]`` up to ``starts[p + 1]``."""
    boxes: Boxes
    """(T, 4)."""
    scores: NDArray[np.float32]
    """(T, classes of the ontology)."""
    p_yes: NDArray[np.float64]
    """(T, questions of the ontology); NaN where there is no verdict."""
    abstentions: dict[tuple[int, int], Answer]
    """By (box, question), answers without a verdict; a NaN that is not here was not asked."""
    images: dict[int, ImageVerdicts] = field(default_factory=dict)
    """By image, what was said of the whole image, where it was asked about. Without the name of the
    model, on which no decision depends."""
    sizes: NDArray[np.float32] | None = None
    """(P, 2) width and height of the images, pixels, which calibrators need; None: not known."""
    masks: dict[int, StoredMasks] = field(default_factory=dict)
    """By image, its masks, where a segmenter was in use."""

    def __len__(self) -> int:
        return len(self.starts) - 1


def unpack_many(
    contents: Sequence[bytes], ontology: Ontology, sizes: NDArray[np.float32] | None = None
) -> EvidenceBatch:
    """Unpack the evidence of many images, made with ``ontology``. Raises ``Damaged``.

    ``sizes`` are those of the images, see ``EvidenceBatch``.
    """
    parts = [evidence_arrays(content, len(ontology.classes)) for content in contents]
    starts = np.zeros(len(parts) + 1, dtype=np.intp)
    np.cumsum([len(part.boxes) for part in parts], out=starts[1:])
    batch = EvidenceBatch(
        starts,
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.full((starts[-1], len(questions_of(ontology))), np.nan),
        {},
        sizes=sizes,
    )
    try:
        _fill(batch, parts)
        for place, part in enumerate(parts):
            if of_image := image_verdicts(part, ontology, ""):
                batch.images[place] = of_image
            if part.masks:
                batch.masks[place] = read_masks(part.masks, ["", *json.loads(part.texts)])
    except (ValueError, IndexError, TypeError, InvalidInput) as cause:
        raise Damaged(f"stored evidence cannot be read ({cause}); {CHECK}") from cause
    return batch


def _fill(batch: EvidenceBatch, parts: Sequence[EvidenceArrays]) -> None:
    """Set ``p_yes`` and ``abstentions`` from the images' verdicts."""
    verdicts = _joined([part.verdicts for part in parts])
    amounts = [len(part.verdicts) for part in parts]
    boxes = verdicts["row"] + np.repeat(batch.starts[:-1], amounts)
    questions = verdicts["question"]
    batch.p_yes[boxes, questions] = verdicts["p_yes"]
    without_verdict = np.flatnonzero(np.isnan(verdicts["p_yes"]))
    if not len(without_verdict):
        return
    ends = np.cumsum(amounts)
    for at in without_verdict.tolist():
        texts = ["", *json.loads(parts[int(np.searchsorted(ends, at, side="right"))].texts)]
        row = verdicts[at]
        answer = Answer(
            None, texts[row["raw"]], texts[row["error"]], bool(int(row["flags"]) & EXACT)
        )
        batch.abstentions[int(boxes[at]), int(questions[at])] = answer


def _joined(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """One array; ``np.concatenate`` compares the fields of each pair of records, which is slow."""
    kinds = {part.dtype for part in rows}
    kind = kinds.pop() if len(kinds) == 1 else VERDICTS[True]
    return np.frombuffer(b"".join([part.astype(kind, copy=False).tobytes() for part in rows]), kind)


@dataclass(frozen=True, eq=False)
class DecisionBatch:
    """J judgements of P images, image by image in the order of ``labeling.judging``."""

    starts: NDArray[np.intp]
    """(P + 1,): image p has the judgements from ``starts[p]`` up to ``starts[p + 1]``."""
    rows: NDArray[np.intp]
    """(J,) indices into the image's own proposals, or ``WHOLE_IMAGE_ROW``."""
    classes: NDArray[np.intp]
    """(J,) indices of classes in the ontology."""
    outcomes: NDArray[np.intp]
    """(J,) indices into ``codec.OUTCOMES``."""
    probabilities: NDArray[np.float64]
    """(J,) in [0, 1]."""
    reasons: Sequence[str]
    """J of them."""
    outlines: NDArray[np.uint8] | None = None
    """(J,) what each takes of the mask of its row: ``codec.NO_MASK`` and others; None: no masks."""

    def __len__(self) -> int:
        return len(self.starts) - 1


def pack_many(decided: DecisionBatch) -> list[bytes]:
    """``codec.pack_decisions`` for each of the images."""
    rows = np.empty(len(decided.rows), dtype=DECIDED[WITH_IMAGE][True])
    rows["probability"] = decided.probabilities
    rows["row"], rows["class"] = decided.rows, decided.classes
    rows["outcome"] = decided.outcomes
    texts, indices = _texts(decided)
    rows["reason"] = indices
    tables = {kind: tuple(map(rows.astype, DECIDED[kind])) for kind in (FORMAT, WITH_IMAGE)}
    exact = tables[FORMAT][False]["probability"] == rows["probability"]
    new = (rows["row"] == WHOLE_IMAGE_ROW) | (rows["class"] > MAX_CLASS)
    outlines = decided.outlines
    masked = np.zeros(len(rows), dtype=bool) if outlines is None else outlines != NO_MASK
    if outlines is not None:
        tables[WITH_MASKS] = _with_outlines(rows, outlines)
    packed = []
    for text, (start, end) in zip(texts, pairwise(decided.starts.tolist()), strict=True):
        wide = not exact[start:end].all()
        kind = WITH_IMAGE if new[start:end].any() else FORMAT
        kind = WITH_MASKS if masked[start:end].any() else kind
        kept = tables[kind][wide][start:end]
        head = DECISIONS_HEAD.pack(wide, end - start)
        packed.append(compress(head, kept.tobytes(), text, kind=kind))
    return packed


def _with_outlines(
    rows: NDArray[Any], outlines: NDArray[np.uint8]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """``rows`` as format 3 has them, with probabilities in 32 and in 64 bits."""
    tables = []
    for kind in DECIDED[WITH_MASKS]:
        table = np.empty(len(rows), dtype=kind)
        for name in rows.dtype.names or ():
            table[name] = rows[name]
        table["outline"] = outlines
        tables.append(table)
    return tables[0], tables[1]


def _texts(decided: DecisionBatch) -> tuple[list[bytes], list[int]]:
    """For each image its distinct reasons as JSON; for each judgement the index of its reason."""
    texts, indices = [], []
    for start, end in pairwise(decided.starts.tolist()):
        index = {"": 0}
        indices += [index.setdefault(r, len(index)) for r in decided.reasons[start:end]]
        texts.append(json.dumps([*index][1:], separators=(",", ":")).encode("ascii"))
    return texts, indices


@dataclass(frozen=True, slots=True)
class PackedEvidence:
    """The evidence behind one result."""

    cursor: int
    """Of the result."""
    item_id: int
    image_id: int
    evidence_id: int
    ontology_id: int
    """What it was made with."""
    verified: bool
    """Whether a verifier was in use."""
    path: LabelPath
    size: tuple[int, int]
    """Width and height of the image, pixels."""
    content: bytes


def packed_evidence(
    connection: Connection, run_id: int, after: int, limit: int
) -> list[PackedEvidence]:
    """Evidence of a run's results behind the cursor ``after``, at most ``limit``."""
    proposers, verifiers = texts.alias("proposers"), texts.alias("verifiers")
    query = (
        select(
            decisions.c.id,
            decisions.c.item_id,
            decisions.c.image_id,
            decisions.c.evidence_id,
            evidence.c.ontology_id,
            (verifiers.c.text != "").label("verified"),
            proposers.c.text.label("proposer"),
            evidence.c.content,
            images.c.width,
            images.c.height,
        )
        .join(evidence, evidence.c.id == decisions.c.evidence_id)
        .join(images, images.c.id == decisions.c.image_id)
        .join(verifiers, verifiers.c.id == evidence.c.verifier_id)
        .join(proposers, proposers.c.id == evidence.c.proposer_id)
        .where(decisions.c.run_id == run_id, decisions.c.id > after)
        .order_by(decisions.c.id)
        .limit(limit)
    )
    return [
        PackedEvidence(
            cursor=row.id,
            item_id=row.item_id,
            image_id=row.image_id,
            evidence_id=row.evidence_id,
            ontology_id=row.ontology_id,
            verified=row.verified,
            path=path_of(*parse_proposer_text(row.proposer)),
            size=(row.width, row.height),
            content=row.content,
        )
        for row in connection.execute(query)
    ]


def add_decisions(
    connection: Connection, run: Run, sources: Sequence[PackedEvidence], decided: DecisionBatch
) -> int:
    """Insert what ``run`` decided from ``sources``; how many of them were new to it."""
    images = np.repeat(np.arange(len(decided)), np.diff(decided.starts))
    counts = np.zeros((len(decided), len(OUTCOMES)), dtype=np.int64)
    np.add.at(counts, (images, decided.outcomes), 1)
    created_at = now()
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
            "created_at": created_at,
        }
        for source, (accepted, rejected, unsure), content in zip(
            sources, counts.tolist(), pack_many(decided), strict=True
        )
    ]
    return insert_new(connection, decisions, rows)


def redecided_up_to(connection: Connection, run: Run, parent: Run) -> int:
    """The cursor of the last result of ``parent`` that ``run`` has re-decided; 0: none yet.

    Results are re-decided in the order of their cursors, so all before it are done.
    """
    source, redecided = decisions.alias("source"), decisions.alias("redecided")
    query = (
        select(func.max(source.c.id))
        .join(redecided, redecided.c.item_id == source.c.item_id)
        .where(source.c.run_id == parent.id, redecided.c.run_id == run.id)
    )
    return connection.execute(query).scalar() or 0
