"""Reading packed evidence in bulk, and adding what another run decides from it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, func, select

from secondlook.labels import LabelPath, path_of
from secondlook.store.batches import Decided, pack_many
from secondlook.store.database import insert_new, now
from secondlook.store.packing import OUTCOMES
from secondlook.store.runs import Run
from secondlook.store.tables import decisions, evidence, texts
from secondlook.store.texts import speakers_of


@dataclass(frozen=True, slots=True)
class Packed:
    """The evidence behind one result."""

    cursor: int
    """Of the result."""
    item_id: int
    picture_id: int
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
            decisions.c.picture_id,
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
            picture_id=row.picture_id,
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
    pictures = np.repeat(np.arange(len(decided)), np.diff(decided.starts))
    counts = np.zeros((len(decided), len(OUTCOMES)), dtype=np.int64)
    np.add.at(counts, (pictures, decided.outcomes), 1)
    made_at = now()
    rows = [
        {
            "run_id": run.id,
            "item_id": source.item_id,
            "picture_id": source.picture_id,
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
