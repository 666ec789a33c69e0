"""Rows of results as values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from secondlook.columns import columns_for
from secondlook.labels import Evidence, Labelled
from secondlook.ontology import Ontology
from secondlook.store import texts
from secondlook.store.corrections import Correction, corrected
from secondlook.store.packing import unpack_decisions, unpack_evidence
from secondlook.store.runs import Run
from secondlook.store.tables import decisions, evidence, items, pictures


@dataclass(frozen=True, eq=False)
class Result:
    """What one run made of one item, with what persons said of it applied."""

    cursor: int
    """Grows within a run; ``results(after=cursor)`` goes on behind it."""
    item_id: int
    key: int
    """The item's identity in the run that labelled it."""
    picture_id: int
    format: str
    """Suffix of the picture's file, e.g. ``jpg``."""
    labelled: Labelled
    made_at: float
    """When it was decided, seconds since 1970."""

    def label_id(self, place: int) -> str:
        """The name of one judgement for ``secondlook explain``."""
        return f"{self.cursor}.{place}"


RESULTS: Select[Any] = (
    select(
        decisions.c.id,
        decisions.c.run_id,
        decisions.c.item_id,
        decisions.c.picture_id,
        decisions.c.content.label("decided"),
        decisions.c.made_at,
        items.c.key,
        items.c.name,
        pictures.c.sha256,
        pictures.c.width,
        pictures.c.height,
        pictures.c.format,
        evidence.c.content.label("said"),
        evidence.c.ontology_id,
        evidence.c.proposer_id,
        evidence.c.verifier_id,
    )
    .join(items, items.c.id == decisions.c.item_id)
    .join(pictures, pictures.c.id == decisions.c.picture_id)
    .join(evidence, evidence.c.id == decisions.c.evidence_id)
)
"""What ``Reader.result`` reads, before it is narrowed down."""


class Reader:
    """Rows to values; remembers the texts and ontologies that they share."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._texts: dict[int, str] = {}
        self._ontologies: dict[int, Ontology] = {}

    def result(self, run: Run, row: "Row[Any]", said: Sequence[Correction]) -> Result:
        """One row of ``RESULTS`` of ``run``, with what persons said of its picture."""
        found = self._evidence(run, row)
        decided = unpack_decisions(row.decided, found, run.ontology)
        labelled = Labelled(
            name=row.name,
            sha256=row.sha256.hex(),
            width=row.width,
            height=row.height,
            judgements=corrected(decided, said, run.ontology.names),
            evidence=found,
        )
        return Result(
            row.id, row.item_id, row.key, row.picture_id, row.format, labelled, row.made_at
        )

    def _evidence(self, run: Run, row: "Row[Any]") -> Evidence:
        """By the classes of ``run``, whatever run gathered it."""
        kept = self._ontology(row.ontology_id)
        proposer, student = texts.speakers_of(self._text(row.proposer_id))
        found = unpack_evidence(row.said, kept, proposer, self._text(row.verifier_id), student)
        if row.ontology_id == run.ontology_id:
            return found
        return columns_for(run.ontology, kept, found.path).seen(found)

    def _ontology(self, number: int) -> Ontology:
        if number not in self._ontologies:
            self._ontologies[number] = texts.load_ontology(self._connection, number)
        return self._ontologies[number]

    def _text(self, number: int) -> str:
        if number not in self._texts:
            self._texts |= texts.texts_of(self._connection, [number])
        return self._texts[number]
