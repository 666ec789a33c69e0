"""Rows of results as values."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Integer, Row, Select, cast, delete, exists, func, insert, select

from secondlook.core.class_mapping import columns_for
from secondlook.core.errors import InvalidInput, NotFound
from secondlook.core.ontology import Ontology
from secondlook.core.types import Evidence, Judgement, Labelled, LabelPath, Outcome, path_of
from secondlook.store import ontologies
from secondlook.store.codec import pack_decisions, pack_evidence, unpack_decisions, unpack_evidence
from secondlook.store.corrections import (
    Correction,
    add_correction,
    corrected,
    corrections_of,
)
from secondlook.store.database import Database, insert_new, now
from secondlook.store.ontologies import speakers_of, texts_of
from secondlook.store.runs import Run, load_run, load_run_by_id, name_models
from secondlook.store.schema import decisions, evidence, images, items


@dataclass(frozen=True, eq=False)
class Result:
    """What one run made of one item, with what persons said of it applied."""

    cursor: int
    """Grows within a run; ``results(after=cursor)`` goes on behind it."""
    item_id: int
    key: int
    """The item's identity in the run that labelled it."""
    image_id: int
    format: str
    """Suffix of the image's file, e.g. ``jpg``."""
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
        decisions.c.image_id,
        decisions.c.content.label("decided"),
        decisions.c.made_at,
        items.c.key,
        items.c.name,
        images.c.sha256,
        images.c.width,
        images.c.height,
        images.c.format,
        evidence.c.content.label("said"),
        evidence.c.ontology_id,
        evidence.c.proposer_id,
        evidence.c.verifier_id,
    )
    .join(items, items.c.id == decisions.c.item_id)
    .join(images, images.c.id == decisions.c.image_id)
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
        """One row of ``RESULTS`` of ``run``, with what persons said of its image."""
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
        return Result(row.id, row.item_id, row.key, row.image_id, row.format, labelled, row.made_at)

    def _evidence(self, run: Run, row: "Row[Any]") -> Evidence:
        """By the classes of ``run``, whatever run gathered it."""
        kept = self._ontology(row.ontology_id)
        proposer, student = ontologies.speakers_of(self._text(row.proposer_id))
        found = unpack_evidence(row.said, kept, proposer, self._text(row.verifier_id), student)
        if row.ontology_id == run.ontology_id:
            return found
        return columns_for(run.ontology, kept, found.path).seen(found)

    def _ontology(self, number: int) -> Ontology:
        if number not in self._ontologies:
            self._ontologies[number] = ontologies.load_ontology(self._connection, number)
        return self._ontologies[number]

    def _text(self, number: int) -> str:
        if number not in self._texts:
            self._texts |= ontologies.texts_of(self._connection, [number])
        return self._texts[number]


# Who labelled a run's images, over time: its models, a student, or both for an audit.

PARTS = 24
"""Stretches of time that a run is told in, of one length."""


@dataclass(frozen=True)
class Stretch:
    """What was labelled in a part of a run's time."""

    begin: float
    end: float
    """Seconds since 1970."""
    images: Mapping[LabelPath, int]


def paths_over_time(connection: Connection, run_id: int) -> list[Stretch]:
    """The stretches of a run in which something was labelled, the oldest first.

    Reads two numbers of each result: some seconds for a million of them.
    """
    of_run = decisions.c.run_id == run_id
    span = select(func.min(decisions.c.made_at), func.max(decisions.c.made_at)).where(of_run)
    first, last = connection.execute(span).one()
    if first is None:
        return []
    width = max((last - first) / PARTS, 1e-3)
    # A cast to a whole number rounds on one database and cuts on another; nothing hangs on it.
    part = cast((decisions.c.made_at - first) / width, Integer)
    query = (
        select(part.label("part"), evidence.c.proposer_id, func.count())
        .join(evidence, evidence.c.id == decisions.c.evidence_id)
        .where(of_run)
        .group_by("part", evidence.c.proposer_id)  # not `part`: its parameters would be others
    )
    rows = connection.execute(query).all()
    names = texts_of(connection, {proposer for _, proposer, _ in rows})
    counts: dict[int, Counter[LabelPath]] = {}
    for number, proposer, count in rows:
        path = path_of(*speakers_of(names[proposer]))
        counts.setdefault(min(number, PARTS - 1), Counter())[path] += count
    return [
        Stretch(first + width * number, first + width * (number + 1), counts[number])
        for number in sorted(counts)
    ]


# What the models said and what was decided from it: added once for each item, read by cursor.


@dataclass(frozen=True, eq=False)
class Label:
    """One judgement and all that it came from."""

    result: Result
    place: int
    """Of the judgement in the result."""
    run: Run
    asked_by: Run
    """The run whose models gathered the evidence; ``run`` itself unless it was decided again."""
    decided: Judgement | None
    """As the run decided it, before what persons said; None when a person added the box."""
    corrections: tuple[Correction, ...]
    """Of this image and class, the oldest first."""

    @property
    def judgement(self) -> Judgement:
        """As it stands now."""
        return self.result.labelled.judgements[self.place]


class Records:
    """Evidence, decisions and corrections of one store. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def run(self, name: str) -> Run:
        """The run of that name. Raises ``NotFound``."""
        with self._database.reading() as connection:
            return load_run(connection, name)

    def keep(
        self, connection: Connection, run: Run, item_id: int, image_id: int, labelled: Labelled
    ) -> bool:
        """Add a result in the caller's transaction; False when the item has one already.

        The result was made by ``run.ontology``.
        """
        return self.keep_all(connection, run, [(item_id, image_id, labelled)]) == 1

    def keep_all(
        self, connection: Connection, run: Run, results: Sequence[tuple[int, int, Labelled]]
    ) -> int:
        """Add results as (item, image, result), up to about a thousand; how many were new."""
        items = {item for item, _, _ in results}
        of_items = (decisions.c.run_id == run.id) & decisions.c.item_id.in_(items)
        known = set(connection.execute(select(decisions.c.item_id).where(of_items)).scalars())
        new = [result for result in results if result[0] not in known]
        if not new:
            return 0
        numbers = _add_evidence(connection, run, [(p, result.evidence) for _, p, result in new])
        rows = [
            decision_row(run, item, image, number, result.judgements)
            for (item, image, result), number in zip(new, numbers, strict=True)
        ]
        added = insert_new(connection, decisions, rows)
        if added < len(rows):  # another server was faster, in a transaction that we did not see
            unused = ~exists().where(decisions.c.evidence_id == evidence.c.id)
            connection.execute(delete(evidence).where(evidence.c.id.in_(numbers), unused))
        said = [result.evidence for _, _, result in new]
        teachers = next((one for one in said if one.path is not LabelPath.STUDENT), said[0])
        name_models(connection, run, teachers.proposer, teachers.verifier)
        return added

    def results(self, run_id: int, after: int = 0, limit: int = 200) -> list[Result]:
        """The next results of a run behind the cursor ``after``, at most ``limit``.

        Whoever writes results of a run holds its lease, so cursors grow in the order in which
        results come to be seen, and a reader that follows misses none. Raises ``NotFound`` and
        ``Damaged``.
        """
        with self._database.reading() as connection:
            run = load_run_by_id(connection, run_id)
            chosen = (decisions.c.run_id == run_id) & (decisions.c.id > after)
            query = RESULTS.where(chosen).order_by(decisions.c.id).limit(limit)
            rows = connection.execute(query).all()
            ids = select(decisions.c.image_id).where(
                chosen, decisions.c.id <= (rows[-1].id if rows else 0)
            )
            said = corrections_of(connection, ids)
            reader = Reader(connection)
            return [reader.result(run, row, said.get(row.image_id, [])) for row in rows]

    def count(self, run_id: int) -> int:
        """How many results a run has."""
        with self._database.reading() as connection:
            of_run = decisions.c.run_id == run_id
            counted = select(func.count()).select_from(decisions).where(of_run)
            return int(connection.execute(counted).scalar_one())

    def paths(self, run_id: int) -> list[Stretch]:
        """Who labelled the run's images, over time."""
        with self._database.reading() as connection:
            return paths_over_time(connection, run_id)

    def label(self, label_id: str) -> Label:
        """Everything about one label. Raises ``InvalidInput``, ``NotFound`` and ``Damaged``."""
        number, place = _parts(label_id)
        with self._database.reading() as connection:
            row = connection.execute(RESULTS.where(decisions.c.id == number)).first()
            if row is None:
                raise NotFound(f"there is no label '{label_id}' in the store; it has no {number}")
            run = load_run_by_id(connection, row.run_id)
            reader = Reader(connection)
            said = corrections_of(connection, [row.image_id]).get(row.image_id, [])
            result = reader.result(run, row, said)
            as_decided = reader.result(run, row, []).labelled.judgements
            asked_by = _asked_by(connection, run)
        judgements = result.labelled.judgements
        if place >= len(judgements):
            raise NotFound(
                f"there is no label '{label_id}': that image has {len(judgements)} judgements, "
                f"{number}.0 to {number}.{len(judgements) - 1}"
                if judgements
                else f"there is no label '{label_id}': nothing was judged on that image"
            )
        return Label(
            result,
            place,
            run,
            asked_by,
            as_decided[place] if place < len(as_decided) else None,
            tuple(c for c in said if c.class_name == judgements[place].class_name),
        )

    def correct(
        self,
        image_id: int,
        class_name: str,
        box: tuple[float, float, float, float],
        outcome: Outcome,
        person: str,
        note: str = "",
    ) -> int:
        """Keep what a person said of a box; it is applied whenever results are read.

        Returns the correction's number. Raises ``InvalidInput`` and ``NotFound``.
        """
        with self._database.writing() as connection:
            return add_correction(connection, image_id, class_name, box, outcome, person, note)


def decision_row(
    run: Run,
    item_id: int,
    image_id: int,
    evidence_id: int,
    judgements: tuple[Judgement, ...],
) -> dict[str, Any]:
    """A row of ``decisions``."""
    outcomes = [judgement.decision.outcome for judgement in judgements]
    return {
        "run_id": run.id,
        "item_id": item_id,
        "image_id": image_id,
        "evidence_id": evidence_id,
        "accepted": outcomes.count(Outcome.ACCEPT),
        "rejected": outcomes.count(Outcome.REJECT),
        "unsure": outcomes.count(Outcome.UNSURE),
        "content": pack_decisions(judgements, run.ontology),
        "made_at": now(),
    }


def _add_evidence(
    connection: Connection, run: Run, found: Sequence[tuple[int, Evidence]]
) -> list[int]:
    """Numbers of new rows of evidence, given as (image, evidence), in order."""
    names = {name for _, said in found for name in (ontologies.speakers(said), said.verifier)}
    numbers = {name: ontologies.text_id(connection, name) for name in sorted(names)}
    rows = [
        {
            "image_id": image,
            "ontology_id": run.ontology_id,
            "proposer_id": numbers[ontologies.speakers(said)],
            "verifier_id": numbers[said.verifier],
            "content": pack_evidence(said, run.ontology),
            "made_at": now(),
        }
        for image, said in found
    ]
    adding = insert(evidence).returning(evidence.c.id, sort_by_parameter_order=True)
    return [int(number) for number in connection.execute(adding, rows).scalars()]


def _asked_by(connection: Connection, run: Run) -> Run:
    while run.parent_id is not None:
        run = load_run_by_id(connection, run.parent_id)
    return run


def _parts(label_id: str) -> tuple[int, int]:
    number, dot, place = label_id.partition(".")
    if not (dot and number.isdecimal() and place.isdecimal() and len(label_id) < 30):
        raise InvalidInput(f"expected a label such as 81.3, got '{label_id:.60}'")
    return int(number), int(place)
