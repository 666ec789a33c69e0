"""Can everything that the models said and the runs decided be read, and does it agree?"""

import hashlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Row, select

from secondlook.columns import columns_for
from secondlook.errors import BadOntology, Damaged, NotFound
from secondlook.labels import Evidence, Outcome
from secondlook.store.finding import RESTORE, Finding, pages
from secondlook.store.packing import unpack_decisions, unpack_evidence
from secondlook.store.runs import Run, load_run_by_id
from secondlook.store.tables import decisions, evidence, items, ontologies, runs, texts
from secondlook.store.texts import load_ontology, read_ontology, texts_of


def check_texts(connection: Connection) -> Iterator[Finding]:
    """Texts and ontologies are what they were when they were kept."""
    for page in pages(connection, select(texts), texts.c.id):
        for row in page:
            if hashlib.blake2b(row.text.encode(), digest_size=16).digest() != row.digest:
                yield Finding(f"text {row.id}", "has changed since it was kept", RESTORE)
    for row in connection.execute(select(ontologies)):
        try:
            read_ontology(row.classes, row.digest)
        except Damaged as failure:
            yield Finding(f"ontology {row.id}", str(failure), RESTORE)


def check_evidence(connection: Connection) -> Iterator[Finding]:
    """Everything that the models said can be read."""
    for page in pages(connection, select(evidence), evidence.c.id):
        for row in page:
            try:
                _evidence(connection, row)
            except (Damaged, NotFound) as failure:
                yield Finding(f"evidence {row.id}", str(failure), RESTORE)


def check_decisions(connection: Connection) -> Iterator[Finding]:
    """Everything that was decided can be read, and is of the evidence and item that it names."""
    query = (
        select(
            decisions,
            evidence.c.content.label("said"),
            evidence.c.picture_id.label("seen"),
            evidence.c.ontology_id,
            evidence.c.proposer_id,
            evidence.c.verifier_id,
            items.c.run_id.label("item_run"),
        )
        .join(evidence, evidence.c.id == decisions.c.evidence_id)
        .join(items, items.c.id == decisions.c.item_id)
    )
    lines = _lines_of_descent(connection)
    for page in pages(connection, query, decisions.c.id):
        for row in page:
            for problem in _wrong_with(connection, row, lines):
                yield Finding(f"decision {row.id} of {lines[row.run_id][0].name}", problem, RESTORE)


def _wrong_with(
    connection: Connection, row: "Row[Any]", lines: dict[int, list[Run]]
) -> Iterator[str]:
    run, *_ = line = lines[row.run_id]
    if row.seen != row.picture_id:
        yield "its evidence is of another picture"
    if row.item_run not in [ancestor.id for ancestor in line]:
        yield "its item is of another run"
    try:
        kept = load_ontology(connection, row.ontology_id)
        said = _evidence(connection, row, row.said)
        if row.ontology_id != run.ontology_id:
            said = columns_for(run.ontology, kept).seen(said)
        outcomes = [
            judgement.decision.outcome
            for judgement in unpack_decisions(row.content, said, run.ontology)
        ]
    except (Damaged, NotFound, BadOntology) as failure:
        yield str(failure)
        return
    found = tuple(
        outcomes.count(outcome) for outcome in (Outcome.ACCEPT, Outcome.REJECT, Outcome.UNSURE)
    )
    counted = (row.accepted, row.rejected, row.unsure)
    if counted != found:
        yield f"counts (accepted, rejected, unsure) {counted} where it holds {found}"


def _evidence(connection: Connection, row: "Row[Any]", content: bytes | None = None) -> Evidence:
    named = texts_of(connection, [row.proposer_id, row.verifier_id])
    kept = load_ontology(connection, row.ontology_id)
    said = row.content if content is None else content
    return unpack_evidence(said, kept, named[row.proposer_id], named[row.verifier_id])


def _lines_of_descent(connection: Connection) -> dict[int, list[Run]]:
    """Every run, and those that it decided again, by number."""
    lines: dict[int, list[Run]] = {}
    for number in connection.execute(select(runs.c.id).order_by(runs.c.id)).scalars().all():
        run = load_run_by_id(connection, number)
        lines[number] = [run, *(lines[run.parent_id] if run.parent_id is not None else [])]
    return lines
