"""Is everything there, whole, and does it fit together? Reads every row and every blob.

It may run beside servers at work: it looks at one moment, and nothing is forgotten meanwhile.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, exists, func, select, text

from secondlook.core.class_mapping import columns_for
from secondlook.core.errors import BadOntology, Damaged, NotFound
from secondlook.core.ontology import Ontology
from secondlook.core.types import Evidence, Outcome
from secondlook.detector.manifest import ModelFile, manifest_text, parse_manifest
from secondlook.store import Store
from secondlook.store.blobs import Blobs
from secondlook.store.codec import unpack_decisions, unpack_evidence
from secondlook.store.locks import nothing_forgotten
from secondlook.store.ontologies import load_ontology, read_ontology, speakers_of, texts_of
from secondlook.store.queue import ItemState
from secondlook.store.retention import orphans
from secondlook.store.runs import Run, load_run_by_id
from secondlook.store.schema import (
    decisions,
    evidence,
    images,
    items,
    jobs,
    metadata,
    model_files,
    model_promotions,
    model_versions,
    ontologies,
    runs,
    snapshot_images,
    snapshots,
    texts,
)
from secondlook.store.snapshots import manifest_blobs

# What a check of the store finds.

AT_ONCE = 200
"""Rows read at a time."""
RESTORE = "restore a backup with `secondlook restore`"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    subject: str
    """What, e.g. ``image 81 (0c1f…)``."""
    problem: str
    way_out: str
    """What a person can do about it; empty when ``problem`` says it."""

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}" + (f"; {self.way_out}" if self.way_out else "")


@dataclass
class Checked:
    """How much was looked at."""

    rows: int = 0
    blobs: int = 0
    orphans: int = 0
    """Blobs that nothing names: no harm, ``secondlook forget --orphans`` removes them."""


def pages(
    connection: Connection, query: Select[Any], number: ColumnElement[int]
) -> Iterator[Sequence[Row[Any]]]:
    """Every row of a query in the order of ``number``, which is its first column, bit by bit."""
    after = 0
    while page := connection.execute(
        query.where(number > after).order_by(number).limit(AT_ONCE)
    ).all():
        yield page
        after = page[-1][0]


# Can everything that the models said and the runs decided be read, and does it agree?


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
            evidence.c.image_id.label("seen"),
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
            for problem in _content_fault(shared, row, line):
                yield Finding(f"decision {row.id} of {line[0].name}", problem, RESTORE)


def _content_fault(shared: "_Shared", row: "Row[Any]", line: list[Run]) -> Iterator[str]:
    run = line[0]
    if row.seen != row.image_id:
        yield "its evidence is of another image"
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


# Is every student whole: its manifest, its files, and what was promoted?

ADD_AGAIN = "add the student again with `secondlook models add`, or " + RESTORE


def check_students(
    connection: Connection, blobs: Blobs, checked: Checked, content: bool
) -> Iterator[Finding]:
    """What is wrong with the students; ``content`` False only looks whether files are there."""
    for page in pages(connection, select(model_versions), model_versions.c.id):
        for row in page:
            subject = f"version {row.version} of model {row.name}"
            of_row = select(model_files).where(model_files.c.model_id == row.id)
            files = {
                file.name: ModelFile(file.sha256.hex(), file.size)
                for file in connection.execute(of_row.order_by(model_files.c.name))
            }
            for problem in _student_fault(row, files):
                yield Finding(subject, problem, RESTORE)
            for name, file in files.items():
                checked.blobs += 1
                if problem := _wrong_with_file(blobs, file, content):
                    yield Finding(f"{name} of {subject}", problem, ADD_AGAIN)
    mixed = (
        select(model_promotions.c.id)
        .join(model_versions, model_versions.c.id == model_promotions.c.model_id)
        .where(model_versions.c.name != model_promotions.c.name)
    )
    for number in connection.execute(mixed).scalars():
        yield Finding(f"promotion {number}", "is of a version of another model", RESTORE)


def _student_fault(row: "Row[Any]", files: dict[str, ModelFile]) -> Iterator[str]:
    try:
        manifest = parse_manifest(row.manifest)
    except Damaged as failure:
        yield str(failure)
        return
    if manifest.digest != row.digest or manifest_text(manifest) != row.manifest:
        yield "its manifest has changed since it was kept"
    if dict(manifest.files) != files:
        yield f"its manifest names {len(manifest.files)} files, and others are kept"


def _wrong_with_file(blobs: Blobs, file: ModelFile, content: bool) -> str:
    if not content:
        return "" if blobs.has(file.sha256) else "its bytes are gone"
    try:
        size = len(blobs.get(file.sha256))
    except NotFound:
        return "its bytes are gone"
    except Damaged:
        return "its bytes no longer match their hash"
    return "" if size == file.size else f"its row says {file.size} bytes and there are {size}"


READERS = 8
"""Blobs read at a time: mostly they wait for a disk or a network."""


def check(
    store: Store, checked: Checked | None = None, *, content: bool = True
) -> Iterator[Finding]:
    """Everything that is wrong with a store, one finding each; none when all is well.

    ``checked`` counts along. ``content`` False leaves out reading the blobs: only whether they
    are there. Raises ``Busy`` while results are being forgotten, and ``StoreUnavailable``.
    """
    checked = checked or Checked()
    with nothing_forgotten(store.database):
        try:
            with store.database.reading() as connection:
                for table in metadata.sorted_tables:
                    count = select(func.count()).select_from(table)
                    checked.rows += int(connection.execute(count).scalar_one())
                yield from _check_file(connection)
                yield from check_texts(connection)
                yield from check_evidence(connection)
                yield from check_decisions(connection)
                yield from _check_items(connection)
                yield from _check_jobs(connection)
                yield from _check_images(connection, store.blobs, checked, content)
                yield from _check_snapshots(connection, store.blobs, checked)
                yield from check_students(connection, store.blobs, checked, content)
        except Damaged as failure:  # the database itself cannot be read on
            yield Finding("the database", str(failure), "")
            return
        with suppress(NotFound, Damaged):  # a manifest that cannot be read, told above
            checked.orphans = sum(1 for _ in orphans(store))


def _check_file(connection: Connection) -> Iterator[Finding]:
    if connection.dialect.name != "sqlite":
        return  # PostgreSQL never lets a row refer to nothing
    for (told,) in connection.execute(text("PRAGMA integrity_check(100)")):
        if told != "ok":
            yield Finding("the database file", str(told), RESTORE)
    for row in connection.execute(text("PRAGMA foreign_key_check")):
        yield Finding(f"row {row[1]} of {row[0]}", f"names a row of {row[2]} that is gone", RESTORE)


def _check_items(connection: Connection) -> Iterator[Finding]:
    result = and_(decisions.c.item_id == items.c.id, decisions.c.run_id == items.c.run_id)
    wrong = {
        "is done and has no result": and_(items.c.state == ItemState.DONE, ~exists().where(result)),
        "has a result and is not done": and_(
            items.c.state != ItemState.DONE, exists().where(result)
        ),
        "is done and has no image": and_(
            items.c.state == ItemState.DONE, items.c.image_id.is_(None)
        ),
        "has a result of another image": exists().where(
            decisions.c.item_id == items.c.id, decisions.c.image_id != items.c.image_id
        ),
        "is in no state that is known": items.c.state.not_in(list(ItemState)),
    }
    columns = select(items.c.id, items.c.name, runs.c.name.label("run"))
    for what, condition in wrong.items():
        query = columns.join(runs, runs.c.id == items.c.run_id).where(condition)
        for row in connection.execute(query):
            yield Finding(f"item {row.id} ({row.name}) of {row.run}", what, RESTORE)


def _check_jobs(connection: Connection) -> Iterator[Finding]:
    def count(*conditions: Any) -> Any:
        query = select(func.count()).select_from(items).where(items.c.run_id == jobs.c.run_id)
        return query.where(*conditions).scalar_subquery()

    query = select(
        runs.c.name,
        jobs,
        count().label("there"),
        count(items.c.state == ItemState.DONE).label("labelled"),
        count(items.c.state == ItemState.FAILED).label("aside"),
    ).join(runs, runs.c.id == jobs.c.run_id)
    for row in connection.execute(query):
        said, found = (row.total, row.done, row.failed), (row.there, row.labelled, row.aside)
        if said != found:
            yield Finding(
                f"job {row.name}",
                f"counts (total, done, failed) {said} where there are {found}",
                RESTORE,
            )
        waiting = row.there - row.labelled - row.aside
        if row.state == "done" and waiting:
            yield Finding(f"job {row.name}", f"is done, and {waiting} of its items wait", RESTORE)


def _check_images(
    connection: Connection, blobs: Blobs, checked: Checked, content: bool
) -> Iterator[Finding]:
    look: Callable[[Row[Any]], str] = (
        (lambda row: _wrong_with(blobs, row)) if content else (lambda row: _missing(blobs, row))
    )
    with ThreadPoolExecutor(READERS, thread_name_prefix="check") as readers:
        for page in pages(connection, select(images), images.c.id):
            for row, problem in zip(page, readers.map(look, page), strict=True):
                checked.blobs += 1
                if problem:
                    yield Finding(
                        f"image {row.id} ({row.sha256.hex()[:12]})",
                        problem,
                        "label the same image again, or " + RESTORE,
                    )


def _wrong_with(blobs: Blobs, row: "Row[Any]") -> str:
    try:
        size = len(blobs.get(row.sha256.hex()))
    except NotFound:
        return "its bytes are gone"
    except Damaged:
        return "its bytes no longer match their hash"
    return "" if size == row.size else f"its row says {row.size} bytes and there are {size}"


def _missing(blobs: Blobs, row: "Row[Any]") -> str:
    return "" if blobs.has(row.sha256.hex()) else "its bytes are gone"


def _check_snapshots(connection: Connection, blobs: Blobs, checked: Checked) -> Iterator[Finding]:
    for snapshot in connection.execute(select(snapshots)).all():
        for problem in _wrong_with_snapshot(connection, blobs, snapshot, checked):
            yield Finding(f"snapshot {snapshot.name}", problem, RESTORE)


def _wrong_with_snapshot(
    connection: Connection, blobs: Blobs, snapshot: "Row[Any]", checked: Checked
) -> Iterator[str]:
    held_by_it = snapshot_images.c.snapshot_id == snapshot.id
    held = set(
        connection.execute(
            select(images.c.sha256).join(snapshot_images).where(held_by_it)
        ).scalars()
    )
    named: set[bytes] = set()
    try:
        _, *parts = manifest_blobs(blobs, snapshot.manifest)
        checked.blobs += 1 + len(parts)
        for part in parts:
            lines = blobs.get(part).splitlines()
            named.update(bytes.fromhex(json.loads(line)["sha256"]) for line in lines)
    except (NotFound, Damaged) as failure:
        yield str(failure)
        return
    if named != held:
        yield (
            f"holds {len(held)} images and its manifest names {len(named)}, "
            f"{len(named - held)} of them not held"
        )
    if len(held) != snapshot.images:
        yield f"says {snapshot.images} images and holds {len(held)}"
