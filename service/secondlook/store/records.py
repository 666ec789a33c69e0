"""What the models said and what was decided from it: added once for each item, read by cursor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, exists, func, insert, select

from secondlook.errors import InvalidInput, NotFound
from secondlook.labels import Evidence, Judgement, Labelled, LabelPath, Outcome
from secondlook.store import texts
from secondlook.store.corrections import (
    Correction,
    add_correction,
    corrections_of,
)
from secondlook.store.database import Database, insert_new, now
from secondlook.store.packing import (
    pack_decisions,
    pack_evidence,
)
from secondlook.store.paths import Stretch, paths_over_time
from secondlook.store.results import RESULTS, Reader, Result
from secondlook.store.runs import Run, load_run, load_run_by_id, name_models
from secondlook.store.tables import decisions, evidence


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
    """Of this picture and class, the oldest first."""

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
        self, connection: Connection, run: Run, item_id: int, picture_id: int, labelled: Labelled
    ) -> bool:
        """Add a result in the caller's transaction; False when the item has one already.

        The result was made by ``run.ontology``.
        """
        return self.keep_all(connection, run, [(item_id, picture_id, labelled)]) == 1

    def keep_all(
        self, connection: Connection, run: Run, results: Sequence[tuple[int, int, Labelled]]
    ) -> int:
        """Add results as (item, picture, result), up to about a thousand; how many were new."""
        items = {item for item, _, _ in results}
        of_items = (decisions.c.run_id == run.id) & decisions.c.item_id.in_(items)
        known = set(connection.execute(select(decisions.c.item_id).where(of_items)).scalars())
        new = [result for result in results if result[0] not in known]
        if not new:
            return 0
        numbers = _add_evidence(connection, run, [(p, result.evidence) for _, p, result in new])
        rows = [
            decision_row(run, item, picture, number, result.judgements)
            for (item, picture, result), number in zip(new, numbers, strict=True)
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
            ids = select(decisions.c.picture_id).where(
                chosen, decisions.c.id <= (rows[-1].id if rows else 0)
            )
            said = corrections_of(connection, ids)
            reader = Reader(connection)
            return [reader.result(run, row, said.get(row.picture_id, [])) for row in rows]

    def count(self, run_id: int) -> int:
        """How many results a run has."""
        with self._database.reading() as connection:
            of_run = decisions.c.run_id == run_id
            counted = select(func.count()).select_from(decisions).where(of_run)
            return int(connection.execute(counted).scalar_one())

    def paths(self, run_id: int) -> list[Stretch]:
        """Who labelled the run's pictures, over time."""
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
            said = corrections_of(connection, [row.picture_id]).get(row.picture_id, [])
            result = reader.result(run, row, said)
            as_decided = reader.result(run, row, []).labelled.judgements
            asked_by = _asked_by(connection, run)
        judgements = result.labelled.judgements
        if place >= len(judgements):
            raise NotFound(
                f"there is no label '{label_id}': that picture has {len(judgements)} judgements, "
                f"{number}.0 to {number}.{len(judgements) - 1}"
                if judgements
                else f"there is no label '{label_id}': nothing was judged on that picture"
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
        picture_id: int,
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
            return add_correction(connection, picture_id, class_name, box, outcome, person, note)


def decision_row(
    run: Run,
    item_id: int,
    picture_id: int,
    evidence_id: int,
    judgements: tuple[Judgement, ...],
) -> dict[str, Any]:
    """A row of ``decisions``."""
    outcomes = [judgement.decision.outcome for judgement in judgements]
    return {
        "run_id": run.id,
        "item_id": item_id,
        "picture_id": picture_id,
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
    """Numbers of new rows of evidence, given as (picture, evidence), in order."""
    names = {name for _, said in found for name in (texts.speakers(said), said.verifier)}
    numbers = {name: texts.text_id(connection, name) for name in sorted(names)}
    rows = [
        {
            "picture_id": picture,
            "ontology_id": run.ontology_id,
            "proposer_id": numbers[texts.speakers(said)],
            "verifier_id": numbers[said.verifier],
            "content": pack_evidence(said, run.ontology),
            "made_at": now(),
        }
        for picture, said in found
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
