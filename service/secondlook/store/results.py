"""Results: evidence of the models, decisions of the runs, reviews of people applied to them.

Evidence and decisions are inserted once for each item and never updated; results are read page by
page with a cursor, and the reviews of people are applied at each read.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from sqlalchemy import (
    Connection,
    Integer,
    Row,
    Select,
    bindparam,
    cast,
    delete,
    exists,
    func,
    insert,
    select,
)

from secondlook.core.class_mapping import columns_for
from secondlook.core.types import Evidence, Judgement, Labelled, LabelPath, Outcome, path_of
from secondlook.labeling.applied_reviews import apply_reviews, is_complete
from secondlook.store.codec import pack_decisions, pack_evidence, unpack_decisions, unpack_evidence
from secondlook.store.database import Database, insert_new, now
from secondlook.store.decoys import add_decoys
from secondlook.store.ontologies import (
    load_ontology,
    load_texts,
    parse_proposer_text,
    proposer_text,
    text_id,
)
from secondlook.store.queue import FailedItem, ItemState
from secondlook.store.reviews import reviews_of
from secondlook.store.runs import Run, load_run, load_run_by_id, name_models, source_run
from secondlook.store.schema import decisions, evidence, images, items
from secondlook_client.errors import InvalidInput, NotFound
from secondlook_client.ontology import Ontology
from secondlook_client.values import Review

TIME_BUCKETS = 24
"""Intervals of equal length in which the history of a run is shown."""


@dataclass(frozen=True, eq=False)
class Result:
    """What one run decided on one item, with reviews applied."""

    cursor: int
    """Grows within a run; ``page(after=cursor)`` continues behind it."""
    item_id: int
    key: int
    """The item's identity in the run that labelled it."""
    image_id: int
    format: str
    """Suffix of the image's file, e.g. ``jpg``."""
    labelled: Labelled
    decided_at: float
    """Seconds since 1970."""
    reviewed: frozenset[int] = frozenset()
    """Places of the judgements that people decided or added."""

    def label_id(self, index: int) -> str:
        """The id of one judgement for ``secondlook explain``."""
        return f"{self.cursor}.{index}"


@dataclass(frozen=True, eq=False)
class LabelProvenance:
    """One judgement and everything that it was derived from."""

    result: Result
    index: int
    """Of the judgement in the result."""
    run: Run
    evidence_run: Run
    """The run whose models made the evidence; ``run`` itself unless it re-decided another."""
    decided: Judgement | None
    """As the run decided it, before reviews; None when a person added the box."""
    reviews: tuple[Review, ...]
    """Of this image and class, or of the whole image, oldest first; also those taken back."""

    @property
    def judgement(self) -> Judgement:
        """With reviews applied."""
        return self.result.labelled.judgements[self.index]


@dataclass(frozen=True)
class TimeBucket:
    """What a run labelled in an interval of time."""

    begin: float
    end: float
    """Seconds since 1970."""
    images: Mapping[LabelPath, int]


class Results:
    """Evidence and decisions of one store, with reviews applied. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def run(self, name: str) -> Run:
        """The run of that name. Raises ``NotFound``."""
        with self._database.reading() as connection:
            return load_run(connection, name)

    def add(
        self, connection: Connection, run: Run, results: Sequence[tuple[int, int, Labelled]]
    ) -> int:
        """Insert results as (item, image, result) in the caller's transaction; how many were new.

        An item that has a result of the run keeps it. The results were made with
        ``run.ontology``, and are at most about a thousand.
        """
        items = {item for item, _, _ in results}
        of_items = (decisions.c.run_id == run.id) & decisions.c.item_id.in_(items)
        known = set(connection.execute(select(decisions.c.item_id).where(of_items)).scalars())
        new = [result for result in results if result[0] not in known]
        if not new:
            return 0
        ids = _add_evidence(connection, run, [(image, one.evidence) for _, image, one in new])
        rows = [
            decision_row(run, item, image, evidence_id, one.judgements)
            for (item, image, one), evidence_id in zip(new, ids, strict=True)
        ]
        added = insert_new(connection, decisions, rows)
        if added < len(rows):  # another server was faster, in a transaction that we did not see
            unused = ~exists().where(decisions.c.evidence_id == evidence.c.id)
            connection.execute(delete(evidence).where(evidence.c.id.in_(ids), unused))
        _add_decoys(connection, run, ids, new, all_new=added == len(rows))
        found = [one.evidence for _, _, one in new]
        teachers = next((one for one in found if one.path is not LabelPath.STUDENT), found[0])
        name_models(connection, run, teachers.proposer, teachers.verifier)
        return added

    def page(
        self, run_id: int, after: int = 0, limit: int = 200, *, reviewed: bool = True
    ) -> list[Result]:
        """The next results of a run behind the cursor ``after``, at most ``limit``; with
        ``reviewed`` False as the run decided them, before reviews.

        Whoever writes results of a run holds its lease, so cursors become visible in ascending
        order, and a reader that follows a run misses none. Raises ``NotFound`` and ``Damaged``.
        """
        with self._database.reading() as connection:
            run = load_run_by_id(connection, run_id)
            chosen = (decisions.c.run_id == run_id) & (decisions.c.id > after)
            query = _SELECT_RESULTS.where(chosen).order_by(decisions.c.id).limit(limit)
            rows = connection.execute(query).all()
            last = decisions.c.id <= (rows[-1].id if rows else 0)
            of_page = select(decisions.c.image_id).where(chosen, last)
            reviews = reviews_of(connection, of_page) if reviewed else {}
            reader = ResultReader(connection)
            return [reader.result(run, row, reviews.get(row.image_id, [])) for row in rows]

    def outcome(self, run_id: int, key: int) -> Result | FailedItem | None:
        """The result of one item of a run, or its failure; None as long as it has neither.

        ``key`` is the item's identity in the run. Raises ``NotFound`` when the run has no such
        item, and ``Damaged``.
        """
        with self._database.reading() as connection:
            item = connection.execute(_ITEM, {"run": run_id, "key": key}).first()
            if item is None:
                raise NotFound(f"run number {run_id} has no image with key {key}; send it again")
            if item.state == ItemState.FAILED:
                return FailedItem(
                    item.id, item.name, item.key, item.reason, item.message, item.attempts
                )
            row = connection.execute(_RESULT_OF_ITEM, {"run": run_id, "item": item.id}).first()
            if row is None:
                return None
            run = load_run_by_id(connection, run_id)
            reviews = reviews_of(connection, [row.image_id]).get(row.image_id, [])
            return ResultReader(connection).result(run, row, reviews)

    def count(self, run_id: int) -> int:
        """How many results a run has."""
        with self._database.reading() as connection:
            of_run = decisions.c.run_id == run_id
            counted = select(func.count()).select_from(decisions).where(of_run)
            return int(connection.execute(counted).scalar_one())

    def accepted_after(self, run_id: int, since: float, until: float | None = None) -> int:
        """How many boxes a run accepted after ``since``, seconds since 1970, and before ``until``;
        reviews do not count."""
        chosen = (decisions.c.run_id == run_id) & (decisions.c.created_at > since)
        if until is not None:
            chosen &= decisions.c.created_at < until
        with self._database.reading() as connection:
            query = select(func.coalesce(func.sum(decisions.c.accepted), 0)).where(chosen)
            return int(connection.execute(query).scalar_one())

    def page_of(
        self, found: Sequence[Run], since: float, after: int = 0, limit: int = 200
    ) -> list[tuple[Run, Result]]:
        """The next results of several runs behind the cursor ``after`` that were decided after
        ``since``, seconds since 1970, and have an accepted box; reviews are applied."""
        by_id = {run.id: run for run in found}
        chosen = decisions.c.run_id.in_(by_id) & (decisions.c.id > after)
        chosen &= (decisions.c.created_at > since) & (decisions.c.accepted > 0)
        with self._database.reading() as connection:
            query = _SELECT_RESULTS.where(chosen).order_by(decisions.c.id).limit(limit)
            rows = connection.execute(query).all()
            reviews = reviews_of(connection, [row.image_id for row in rows])
            reader = ResultReader(connection)
            return [
                (run, reader.result(run, row, reviews.get(row.image_id, [])))
                for row in rows
                for run in (by_id[row.run_id],)
            ]

    def paths(self, run_id: int) -> list[TimeBucket]:
        """Who labelled a run's images over time: its models, a student, or both for an audit.

        Only the buckets in which something was labelled, oldest first. Reads two numbers of each
        result: some seconds for a million of them.
        """
        with self._database.reading() as connection:
            return _paths_over_time(connection, run_id)

    def decided(self, cursor: int) -> Result:
        """One result as the run decided it, before reviews. Raises as ``decided_many``."""
        (result,) = self.decided_many([cursor])
        return result

    def decided_many(self, cursors: Sequence[int]) -> list[Result]:
        """Results as their runs decided them, before reviews, in the order of ``cursors``, which
        are at most about a thousand. Raises ``NotFound`` and ``Damaged``."""
        with self._database.reading() as connection:
            query = _SELECT_RESULTS.where(decisions.c.id.in_(cursors))
            rows = {row.id: row for row in connection.execute(query)}
            if len(rows) < len(cursors):
                raise NotFound("results were removed while they were read; label the images again")
            reader = ResultReader(connection)
            runs = {
                one: load_run_by_id(connection, one) for one in {r.run_id for r in rows.values()}
            }
            found = [rows[cursor] for cursor in cursors]
            return [reader.result(runs[row.run_id], row, []) for row in found]

    def some(self, run: Run, cursors: Sequence[int]) -> dict[int, Result]:
        """Results of a run by cursor, with reviews applied; those that it has not are left out.

        ``cursors`` are at most about a thousand. Raises ``Damaged``.
        """
        with self._database.reading() as connection:
            chosen = (decisions.c.run_id == run.id) & decisions.c.id.in_(cursors)
            rows = connection.execute(_SELECT_RESULTS.where(chosen)).all()
            reviews = reviews_of(connection, [row.image_id for row in rows])
            reader = ResultReader(connection)
            return {row.id: reader.result(run, row, reviews.get(row.image_id, [])) for row in rows}

    def cursors_of_images(self, run: Run, sha256s: Sequence[str]) -> dict[str, int]:
        """The newest result of a run on each of some images, at most about a thousand, by sha256;
        those that it has not are left out."""
        wanted = [bytes.fromhex(sha256) for sha256 in sha256s]
        query = (
            select(images.c.sha256, func.max(decisions.c.id).label("cursor"))
            .join(decisions, decisions.c.image_id == images.c.id)
            .where(images.c.sha256.in_(wanted), decisions.c.run_id == run.id)
            .group_by(images.c.sha256)
        )
        with self._database.reading() as connection:
            return {row.sha256.hex(): row.cursor for row in connection.execute(query)}

    def names(self, run_id: int) -> Iterator[tuple[int, int, str]]:
        """(cursor, key, name of the image) of every result of a run, by cursor."""
        query = (
            select(decisions.c.id, items.c.key, items.c.name)
            .join(items, items.c.id == decisions.c.item_id)
            .where(decisions.c.run_id == run_id)
            .order_by(decisions.c.id)
        )
        with self._database.reading() as connection:
            for row in connection.execute(query):
                yield row.id, row.key, row.name

    def label(self, label_id: str) -> LabelProvenance:
        """Everything about one label. Raises ``InvalidInput``, ``NotFound`` and ``Damaged``."""
        decision_id, index = _parse_label_id(label_id)
        with self._database.reading() as connection:
            query = _SELECT_RESULTS.where(decisions.c.id == decision_id)
            row = connection.execute(query).first()
            if row is None:
                raise NotFound(
                    f"there is no label '{label_id}' in the store; it has no {decision_id}"
                )
            run = load_run_by_id(connection, row.run_id)
            reader = ResultReader(connection)
            reviews = reviews_of(connection, [row.image_id]).get(row.image_id, [])
            result = reader.result(run, row, reviews)
            as_decided = reader.result(run, row, []).labelled.judgements
            evidence_run = source_run(connection, run)
        judgements = result.labelled.judgements
        if index >= len(judgements):
            raise NotFound(
                f"there is no label '{label_id}': that image has {len(judgements)} judgements, "
                f"{decision_id}.0 to {decision_id}.{len(judgements) - 1}"
                if judgements
                else f"there is no label '{label_id}': nothing was judged on that image"
            )
        return LabelProvenance(
            result,
            index,
            run,
            evidence_run,
            as_decided[index] if index < len(as_decided) else None,
            tuple(r for r in reviews if _is_about(r, judgements[index])),
        )


class ResultReader:
    """Converts rows to values; caches the texts and ontologies that they share."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._texts: dict[int, str] = {}
        self._ontologies: dict[int, Ontology] = {}

    def result(self, run: Run, row: "Row[Any]", reviews: Sequence[Review]) -> Result:
        """A result of ``run``, with the reviews of its image, oldest first, applied."""
        found = self.evidence_for(run, row, row.evidence_content)
        decided = unpack_decisions(row.content, found, run.ontology)
        judgements = apply_reviews(decided, reviews, run.ontology.names)
        labelled = Labelled(
            name=row.name,
            sha256=row.sha256.hex(),
            width=row.width,
            height=row.height,
            judgements=judgements,
            evidence=found,
            complete=is_complete(reviews),
        )
        return Result(
            row.id,
            row.item_id,
            row.key,
            row.image_id,
            row.format,
            labelled,
            row.created_at,
            frozenset(
                place
                for place, (before, after) in enumerate(zip_longest(decided, judgements))
                if before is not after
            ),
        )

    def evidence(self, row: "Row[Any]", content: bytes) -> Evidence:
        """Evidence by the ontology that it was made with. Raises ``Damaged`` and ``NotFound``.

        ``row`` has ``ontology_id``, ``proposer_id`` and ``verifier_id``.
        """
        proposer, student = parse_proposer_text(self._text(row.proposer_id))
        ontology = self._ontology(row.ontology_id)
        return unpack_evidence(content, ontology, proposer, self._text(row.verifier_id), student)

    def evidence_for(self, run: Run, row: "Row[Any]", content: bytes) -> Evidence:
        """``evidence`` by the classes of ``run``. Raises ``BadOntology`` too."""
        found = self.evidence(row, content)
        if row.ontology_id == run.ontology_id:
            return found
        return columns_for(run.ontology, self._ontology(row.ontology_id), found.path).apply(found)

    def _ontology(self, ontology_id: int) -> Ontology:
        if ontology_id not in self._ontologies:
            self._ontologies[ontology_id] = load_ontology(self._connection, ontology_id)
        return self._ontologies[ontology_id]

    def _text(self, text_id: int) -> str:
        if text_id not in self._texts:
            self._texts |= load_texts(self._connection, [text_id])
        return self._texts[text_id]


def cursors_of(connection: Connection, run_id: int, item_ids: Collection[int]) -> dict[int, int]:
    """The cursors of the results of a run, by item, where there are any."""
    of_items = (decisions.c.run_id == run_id) & decisions.c.item_id.in_(item_ids)
    rows = connection.execute(select(decisions.c.item_id, decisions.c.id).where(of_items))
    return {row.item_id: row.id for row in rows}


def decided_at(connection: Connection, cursor: int) -> float | None:
    """When a result was decided, seconds since 1970; None where it is not in the store."""
    query = select(decisions.c.created_at).where(decisions.c.id == cursor)
    return connection.execute(query).scalar()


def result_pairs(
    connection: Connection, a: Run, b: Run, after: int = 0, limit: int = 200
) -> list[tuple[Result, Result | None]]:
    """The next results of ``a`` behind the cursor ``after``, each with that of ``b``, or None.

    Results of the same item where both have it, as when one run re-decided the other; else of the
    same image, under whatever name ``b`` has it.
    """
    chosen = (decisions.c.run_id == a.id) & (decisions.c.id > after)
    query = _SELECT_RESULTS.where(chosen).order_by(decisions.c.id).limit(limit)
    rows = connection.execute(query).all()
    if not rows:
        return []
    last = decisions.c.id <= rows[-1].id
    item_ids = select(decisions.c.item_id).where(chosen, last).scalar_subquery()
    image_ids = select(decisions.c.image_id).where(chosen, last).scalar_subquery()
    of_b = _SELECT_RESULTS.where(decisions.c.run_id == b.id)
    by_item = {
        row.item_id: row
        for row in connection.execute(of_b.where(decisions.c.item_id.in_(item_ids)))
    }
    by_image = {
        row.image_id: row
        for row in connection.execute(of_b.where(decisions.c.image_id.in_(image_ids)))
    }
    reviews = reviews_of(connection, image_ids)
    reader = ResultReader(connection)
    pairs: list[tuple[Result, Result | None]] = []
    for row in rows:
        of_image = reviews.get(row.image_id, [])
        other = by_item.get(row.item_id) or by_image.get(row.image_id)
        counterpart = reader.result(b, other, of_image) if other is not None else None
        pairs.append((reader.result(a, row, of_image), counterpart))
    return pairs


def images_missing(connection: Connection, a: Run, b: Run) -> int:
    """How many images have a result in ``b`` and none in ``a``."""
    known = select(decisions.c.image_id).where(decisions.c.run_id == a.id)
    of_b = (decisions.c.run_id == b.id) & decisions.c.image_id.not_in(known)
    query = select(func.count(decisions.c.image_id.distinct())).where(of_b)
    return int(connection.execute(query).scalar_one())


def decision_row(
    run: Run, item_id: int, image_id: int, evidence_id: int, judgements: tuple[Judgement, ...]
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
        "created_at": now(),
    }


_SELECT_RESULTS: Select[Any] = (
    select(
        decisions.c.id,
        decisions.c.run_id,
        decisions.c.item_id,
        decisions.c.image_id,
        decisions.c.content,
        decisions.c.created_at,
        items.c.key,
        items.c.name,
        images.c.sha256,
        images.c.width,
        images.c.height,
        images.c.format,
        evidence.c.content.label("evidence_content"),
        evidence.c.ontology_id,
        evidence.c.proposer_id,
        evidence.c.verifier_id,
    )
    .join(items, items.c.id == decisions.c.item_id)
    .join(images, images.c.id == decisions.c.image_id)
    .join(evidence, evidence.c.id == decisions.c.evidence_id)
)
"""What ``ResultReader.result`` reads."""
# Statements of ``outcome``, built once: it is asked again and again while an image is labelled.
_ITEM = select(items).where(items.c.run_id == bindparam("run"), items.c.key == bindparam("key"))
_RESULT_OF_ITEM = _SELECT_RESULTS.where(
    decisions.c.run_id == bindparam("run"), decisions.c.item_id == bindparam("item")
)


def _add_decoys(
    connection: Connection,
    run: Run,
    ids: Sequence[int],
    new: Sequence[tuple[int, int, Labelled]],
    all_new: bool,
) -> None:
    """The decoys of results whose evidence, by its ``ids``, is in use."""
    asked = [
        (image, evidence_id, one.decoys)
        for evidence_id, (_, image, one) in zip(ids, new, strict=True)
        if one.decoys
    ]
    if asked and not all_new:
        of_ids = select(evidence.c.id).where(evidence.c.id.in_(ids))
        used = set(connection.execute(of_ids).scalars())
        asked = [one for one in asked if one[1] in used]
    add_decoys(connection, run, asked)


def _add_evidence(
    connection: Connection, run: Run, found: Sequence[tuple[int, Evidence]]
) -> list[int]:
    """Insert evidence as (image, evidence); the ids, in order."""
    names = {name for _, one in found for name in (proposer_text(one), one.verifier)}
    ids = {name: text_id(connection, name) for name in sorted(names)}
    rows = [
        {
            "image_id": image,
            "ontology_id": run.ontology_id,
            "proposer_id": ids[proposer_text(one)],
            "verifier_id": ids[one.verifier],
            "content": pack_evidence(one, run.ontology),
            "created_at": now(),
        }
        for image, one in found
    ]
    adding = insert(evidence).returning(evidence.c.id, sort_by_parameter_order=True)
    return [int(number) for number in connection.execute(adding, rows).scalars()]


def _paths_over_time(connection: Connection, run_id: int) -> list[TimeBucket]:
    of_run = decisions.c.run_id == run_id
    times = decisions.c.created_at
    first, last = connection.execute(select(func.min(times), func.max(times)).where(of_run)).one()
    if first is None:
        return []
    width = max((last - first) / TIME_BUCKETS, 1e-3)
    # A cast to integer rounds on one database and truncates on the other; either will do.
    bucket = cast((times - first) / width, Integer)
    query = (
        select(bucket.label("bucket"), evidence.c.proposer_id, func.count())
        .join(evidence, evidence.c.id == decisions.c.evidence_id)
        .where(of_run)
        .group_by("bucket", evidence.c.proposer_id)  # not `bucket`: its parameters would differ
    )
    rows = connection.execute(query).all()
    names = load_texts(connection, {proposer for _, proposer, _ in rows})
    counts: dict[int, Counter[LabelPath]] = {}
    for number, proposer, count in rows:
        path = path_of(*parse_proposer_text(names[proposer]))
        counts.setdefault(min(number, TIME_BUCKETS - 1), Counter())[path] += count
    return [
        TimeBucket(first + width * number, first + width * (number + 1), counts[number])
        for number in sorted(counts)
    ]


def _is_about(review: Review, judgement: Judgement) -> bool:
    """Whether it says something of the class, or of the whole image."""
    return review.box is None or judgement.class_name in (review.class_name, review.new_class)


def _parse_label_id(label_id: str) -> tuple[int, int]:
    decision_id, dot, index = label_id.partition(".")
    if not (dot and decision_id.isdecimal() and index.isdecimal() and len(label_id) < 30):
        raise InvalidInput(f"expected a label such as 81.3, got '{label_id:.60}'")
    if int(decision_id) >= 2**63:  # no database has it, and none takes it
        raise NotFound(f"there is no label '{label_id}' in the store")
    return int(decision_id), int(index)
