"""Can everything that the models said and the runs decided be read, and does it agree?"""

import hashlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Row, select

from secondlook.columns import columns_for
from secondlook.errors import BadOntology, Damaged, NotFound
from secondlook.labels import Evidence, Outcome
from secondlook.ontology import Ontology
from secondlook.store.finding import RESTORE, Finding, pages
from secondlook.store.packing import unpack_decisions, unpack_evidence
from secondlook.store.runs import Run, load_run_by_id
from secondlook.store.tables import decisions, evidence, items, ontologies, runs, texts
from secondlook.store.texts import load_ontology, read_ontology, speakers_of, texts_of


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
    shared = _Shared(connection)
    for page in pages(connection, select(evidence), evidence.c.id):
        for row in page:
            try:
                shared.evidence(row, row.content)
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
    shared, lines = _Shared(connection), _lines_of_descent(connection)
    for page in pages(connection, query, decisions.c.id):
        for row in page:
            line = lines[row.run_id]
            for problem in _wrong_with(shared, row, line):
                yield Finding(f"decision {row.id} of {line[0].name}", problem, RESTORE)


def _wrong_with(shared: "_Shared", row: "Row[Any]", line: list[Run]) -> Iterator[str]:
    run = line[0]
    if row.seen != row.picture_id:
        yield "its evidence is of another picture"
    if row.item_run not in [ancestor.id for ancestor in line]:
        yield "its item is of another run"
    try:
        said = shared.evidence(row, row.said)
        if row.ontology_id != run.ontology_id:
            kept = shared.ontology(row.ontology_id)
            said = columns_for(run.ontology, kept, said.path).seen(said)
        decided = unpack_decisions(row.content, said, run.ontology)
    except (Damaged, NotFound, BadOntology) as failure:
        yield str(failure)
        return
    outcomes = [judgement.decision.outcome for judgement in decided]
    found = tuple(outcomes.count(o) for o in (Outcome.ACCEPT, Outcome.REJECT, Outcome.UNSURE))
    counted = (row.accepted, row.rejected, row.unsure)
    if counted != found:
        yield f"counts (accepted, rejected, unsure) {counted} where it holds {found}"


class _Shared:
    """Texts and ontologies that many rows name, read once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._texts: dict[int, str] = {}
        self._ontologies: dict[int, Ontology] = {}

    def evidence(self, row: "Row[Any]", content: bytes) -> Evidence:
        """What the models said. Raises ``Damaged`` and ``NotFound``."""
        if missing := {row.proposer_id, row.verifier_id} - self._texts.keys():
            self._texts |= texts_of(self._connection, missing)
        (proposer, student), verifier = (
            speakers_of(self._texts[row.proposer_id]),
            self._texts[row.verifier_id],
        )
        ontology = self.ontology(row.ontology_id)
        return unpack_evidence(content, ontology, proposer, verifier, student)

    def ontology(self, number: int) -> Ontology:
        """The ontology of that number. Raises ``Damaged`` and ``NotFound``."""
        if number not in self._ontologies:
            self._ontologies[number] = load_ontology(self._connection, number)
        return self._ontologies[number]


def _lines_of_descent(connection: Connection) -> dict[int, list[Run]]:
    """Every run, and those that it decided again, by number."""
    lines: dict[int, list[Run]] = {}
    for number in connection.execute(select(runs.c.id).order_by(runs.c.id)).scalars().all():
        run = load_run_by_id(connection, number)
        lines[number] = [run, *(lines[run.parent_id] if run.parent_id is not None else [])]
    return lines
