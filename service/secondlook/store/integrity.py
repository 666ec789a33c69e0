"""Integrity check: is everything there, undamaged and consistent? Reads every row and every blob.

It may run while servers are working: it looks at one point in time, and nothing is deleted
meanwhile.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, exists, func, select, text

from secondlook.detector.manifest import ModelFile, manifest_text, parse_manifest
from secondlook.store import Store
from secondlook.store.blobs import Blobs
from secondlook.store.calibrators import read_calibrator
from secondlook.store.codec import unpack_decisions
from secondlook.store.decoys import read_decoy
from secondlook.store.embeddings import unpack_box, unpack_vector
from secondlook.store.guarantees import GuaranteeState
from secondlook.store.locks import deletion_blocked
from secondlook.store.ontologies import read_ontology
from secondlook.store.queue import ItemState
from secondlook.store.results import ResultReader
from secondlook.store.retention import orphans
from secondlook.store.reviews import SELECT_REVIEWS, ReviewState, read_review, review_key
from secondlook.store.runs import Run, load_run_by_id
from secondlook.store.schema import (
    calibrators,
    decisions,
    decoys,
    embeddings,
    evidence,
    guarantee_events,
    guarantees,
    images,
    items,
    jobs,
    metadata,
    model_files,
    model_promotions,
    model_versions,
    ontologies,
    review_items,
    review_queues,
    reviews,
    runs,
    snapshot_images,
    snapshots,
    texts,
    tokens,
    uncertainties,
)
from secondlook.store.snapshots import manifest_blobs
from secondlook.store.tokens import read_token
from secondlook.store.uncertainties import unpack_uncertainties
from secondlook_client.errors import BadOntology, Damaged, InvalidInput, NotFound
from secondlook_client.values import Outcome

BATCH = 200
"""Rows read at a time."""
READERS = 8
"""Blobs read at a time: mostly they wait for a disk or a network."""
RESTORE = "restore a backup with `secondlook restore`"
LABEL_AGAIN = "label the same image again, or " + RESTORE
EMBED_AGAIN = "embed it again with `secondlook select RUN --again`, or " + RESTORE
MEASURE_AGAIN = "measure it again with `secondlook uncertainty RUN --again`, or " + RESTORE
ADD_AGAIN = "add the student again with `secondlook models add`, or " + RESTORE


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
class CheckCounts:
    """How much was checked."""

    rows: int = 0
    blobs: int = 0
    orphans: int = 0
    """Unreferenced blobs: harmless, ``secondlook forget --orphans`` deletes them."""


def check(
    store: Store, counts: CheckCounts | None = None, *, content: bool = True
) -> Iterator[Finding]:
    """Everything that is wrong with a store, one finding each; none when all is well.

    ``counts`` is updated meanwhile. ``content`` False skips reading the blobs: only their
    existence is checked. Raises ``Busy`` while results are being deleted, and
    ``StoreUnavailable``.
    """
    counts = counts or CheckCounts()
    with deletion_blocked(store.database):
        try:
            with store.database.reading() as connection:
                for table in metadata.sorted_tables:
                    count = select(func.count()).select_from(table)
                    counts.rows += int(connection.execute(count).scalar_one())
                yield from _check_commits(store)
                yield from _check_file(connection)
                yield from _check_texts(connection)
                yield from _check_evidence(connection)
                yield from _check_decisions(connection)
                yield from _check_items(connection)
                yield from _check_jobs(connection)
                yield from _check_images(connection, store.blobs, counts, content)
                yield from _check_snapshots(connection, store.blobs, counts)
                yield from _check_students(connection, store.blobs, counts, content)
                yield from _check_reviews(connection)
                yield from _check_guarantees(connection)
                yield from _check_decoys(connection)
                yield from _check_uncertainties(connection)
                yield from _check_embeddings(connection)
                yield from _check_tokens(connection)
        except Damaged as failure:  # the database itself cannot be read any further
            yield Finding("the database", str(failure), "")
            return
        with suppress(NotFound, Damaged):  # an unreadable manifest, reported above
            counts.orphans = sum(1 for _ in orphans(store))


def _pages(
    connection: Connection, query: Select[Any], number: ColumnElement[int]
) -> Iterator[Sequence[Row[Any]]]:
    """The rows of a query, page by page, ordered by ``number``, which is its first column."""
    after = 0
    while page := connection.execute(
        query.where(number > after).order_by(number).limit(BATCH)
    ).all():
        yield page
        after = page[-1][0]


def _check_commits(store: Store) -> Iterator[Finding]:
    """What the database has lost since a person last said that it was dealt with."""
    for lost in store.database.witness.losses() if store.database.witness else ():
        noticed = datetime.fromtimestamp(lost.noticed_at, UTC)
        yield Finding(
            "the database",
            f"{lost.count} transactions that were acknowledged are missing, as was noticed on "
            f"{noticed:%Y-%m-%d at %H:%M} UTC: its log was damaged, or an older copy of the file "
            "was put in its place",
            f"{RESTORE}, or send again what is missing (its images may be among the unused blobs); "
            "`secondlook check --accept-losses` ends this message",
        )


def _check_file(connection: Connection) -> Iterator[Finding]:
    if connection.dialect.name != "sqlite":
        return  # PostgreSQL enforces references itself
    for (report,) in connection.execute(text("PRAGMA integrity_check(100)")):
        if report != "ok":
            yield Finding("the database file", str(report), RESTORE)
    for row in connection.execute(text("PRAGMA foreign_key_check")):
        yield Finding(f"row {row[1]} of {row[0]}", f"refers to a missing row of {row[2]}", RESTORE)


def _check_texts(connection: Connection) -> Iterator[Finding]:
    """Texts and ontologies match their digests."""
    for page in _pages(connection, select(texts), texts.c.id):
        for row in page:
            if hashlib.blake2b(row.text.encode(), digest_size=16).digest() != row.digest:
                yield Finding(f"text {row.id}", "has changed since it was stored", RESTORE)
    for row in connection.execute(select(ontologies)):
        try:
            read_ontology(row.classes, row.digest)
        except Damaged as failure:
            yield Finding(f"ontology {row.id}", str(failure), RESTORE)


def _check_evidence(connection: Connection) -> Iterator[Finding]:
    """All evidence can be unpacked, and its masks fill their images."""
    reader = ResultReader(connection)
    for page in _pages(connection, select(evidence), evidence.c.id):
        for row in page:
            try:
                for segmentation in reader.evidence(row, row.content).segmentations.values():
                    segmentation.mask.check()
            except (Damaged, NotFound, InvalidInput) as failure:
                yield Finding(f"evidence {row.id}", str(failure), RESTORE)


def _check_decisions(connection: Connection) -> Iterator[Finding]:
    """All decisions can be unpacked and match the evidence and item that they refer to."""
    query = (
        select(
            decisions,
            evidence.c.content.label("evidence_content"),
            evidence.c.image_id.label("evidence_image_id"),
            evidence.c.ontology_id,
            evidence.c.proposer_id,
            evidence.c.verifier_id,
            items.c.run_id.label("item_run_id"),
        )
        .join(evidence, evidence.c.id == decisions.c.evidence_id)
        .join(items, items.c.id == decisions.c.item_id)
    )
    reader, lineages = ResultReader(connection), _lineages(connection)
    for page in _pages(connection, query, decisions.c.id):
        for row in page:
            lineage = lineages[row.run_id]
            for problem in _decision_problems(reader, row, lineage):
                yield Finding(f"decision {row.id} of {lineage[0].name}", problem, RESTORE)


def _decision_problems(reader: ResultReader, row: "Row[Any]", lineage: list[Run]) -> Iterator[str]:
    run = lineage[0]
    if row.evidence_image_id != row.image_id:
        yield "its evidence is of another image"
    if row.item_run_id not in [ancestor.id for ancestor in lineage]:
        yield "its item is of another run"
    try:
        found = reader.evidence_for(run, row, row.evidence_content)
        judgements = unpack_decisions(row.content, found, run.ontology)
    except (Damaged, NotFound, BadOntology) as failure:
        yield str(failure)
        return
    outcomes = [judgement.decision.outcome for judgement in judgements]
    actual = tuple(outcomes.count(o) for o in (Outcome.ACCEPT, Outcome.REJECT, Outcome.UNSURE))
    counted = (row.accepted, row.rejected, row.unsure)
    if counted != actual:
        yield f"counts (accepted, rejected, unsure) {counted} where it holds {actual}"


def _lineages(connection: Connection) -> dict[int, list[Run]]:
    """By id every run, followed by the runs that it re-decided."""
    lineages: dict[int, list[Run]] = {}
    for number in connection.execute(select(runs.c.id).order_by(runs.c.id)).scalars().all():
        run = load_run_by_id(connection, number)
        parents = lineages[run.parent_id] if run.parent_id is not None else []
        lineages[number] = [run, *parents]
    return lineages


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
        "is in an unknown state": items.c.state.not_in(list(ItemState)),
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
        count().label("total_found"),
        count(items.c.state == ItemState.DONE).label("done_found"),
        count(items.c.state == ItemState.FAILED).label("failed_found"),
    ).join(runs, runs.c.id == jobs.c.run_id)
    for row in connection.execute(query):
        counted = (row.total, row.done, row.failed)
        actual = (row.total_found, row.done_found, row.failed_found)
        if counted != actual:
            yield Finding(
                f"job {row.name}",
                f"counts (total, done, failed) {counted} where there are {actual}",
                RESTORE,
            )
        waiting = row.total_found - row.done_found - row.failed_found
        if row.state == "done" and waiting:
            yield Finding(
                f"job {row.name}", f"is done, and {waiting} of its items are queued", RESTORE
            )


def _check_images(
    connection: Connection, blobs: Blobs, counts: CheckCounts, content: bool
) -> Iterator[Finding]:
    def problem_of(row: "Row[Any]") -> str:
        return _blob_problem(blobs, row.sha256.hex(), row.size, content)

    with ThreadPoolExecutor(READERS, thread_name_prefix="check") as readers:
        for page in _pages(connection, select(images), images.c.id):
            for row, problem in zip(page, readers.map(problem_of, page), strict=True):
                counts.blobs += 1
                if problem:
                    subject = f"image {row.id} ({row.sha256.hex()[:12]})"
                    yield Finding(subject, problem, LABEL_AGAIN)


def _blob_problem(blobs: Blobs, sha256: str, expected_size: int, content: bool) -> str:
    """What is wrong with a blob, or empty; without ``content`` only whether it exists."""
    if not content:
        return "" if blobs.has(sha256) else "its bytes are missing"
    try:
        size = len(blobs.get(sha256))
    except NotFound:
        return "its bytes are missing"
    except Damaged:
        return "its bytes no longer match their hash"
    if size != expected_size:
        return f"its row says {expected_size} bytes and there are {size}"
    return ""


def _check_snapshots(
    connection: Connection, blobs: Blobs, counts: CheckCounts
) -> Iterator[Finding]:
    for snapshot in connection.execute(select(snapshots)).all():
        for problem in _snapshot_problems(connection, blobs, snapshot, counts):
            yield Finding(f"snapshot {snapshot.name}", problem, RESTORE)


def _snapshot_problems(
    connection: Connection, blobs: Blobs, snapshot: "Row[Any]", counts: CheckCounts
) -> Iterator[str]:
    of_snapshot = snapshot_images.c.snapshot_id == snapshot.id
    stored = set(
        connection.execute(
            select(images.c.sha256).join(snapshot_images).where(of_snapshot)
        ).scalars()
    )
    listed: set[bytes] = set()
    try:
        _, *parts = manifest_blobs(blobs, snapshot.manifest)
        counts.blobs += 1 + len(parts)
        for part in parts:
            lines = blobs.get(part).splitlines()
            listed.update(bytes.fromhex(json.loads(line)["sha256"]) for line in lines)
    except (NotFound, Damaged) as failure:
        yield str(failure)
        return
    except (ValueError, KeyError, TypeError, RecursionError):
        yield "a part of its manifest is none"
        return
    if listed != stored:
        yield (
            f"has {len(stored)} images and its manifest lists {len(listed)}, "
            f"{len(listed - stored)} of them missing"
        )
    if len(stored) != snapshot.images:
        yield f"says {snapshot.images} images and has {len(stored)}"


def _check_students(
    connection: Connection, blobs: Blobs, counts: CheckCounts, content: bool
) -> Iterator[Finding]:
    for page in _pages(connection, select(model_versions), model_versions.c.id):
        for row in page:
            subject = f"version {row.version} of model {row.name}"
            of_row = select(model_files).where(model_files.c.model_id == row.id)
            files = {
                file.name: ModelFile(file.sha256.hex(), file.size)
                for file in connection.execute(of_row.order_by(model_files.c.name))
            }
            for problem in _student_problems(row, files):
                yield Finding(subject, problem, RESTORE)
            for name, file in files.items():
                counts.blobs += 1
                if problem := _blob_problem(blobs, file.sha256, file.size, content):
                    yield Finding(f"{name} of {subject}", problem, ADD_AGAIN)
    mixed = (
        select(model_promotions.c.id)
        .join(model_versions, model_versions.c.id == model_promotions.c.model_id)
        .where(model_versions.c.name != model_promotions.c.name)
    )
    for number in connection.execute(mixed).scalars():
        yield Finding(f"promotion {number}", "is of a version of another model", RESTORE)


def _student_problems(row: "Row[Any]", files: dict[str, ModelFile]) -> Iterator[str]:
    try:
        manifest = parse_manifest(row.manifest)
    except Damaged as failure:
        yield str(failure)
        return
    if manifest.digest != row.digest or manifest_text(manifest) != row.manifest:
        yield "its manifest has changed since it was stored"
    if dict(manifest.files) != files:
        yield f"its manifest lists {len(manifest.files)} files, and others are stored"


def _check_reviews(connection: Connection) -> Iterator[Finding]:
    """Reviews are as they were stored, and queues count their items."""
    for page in _pages(connection, SELECT_REVIEWS, reviews.c.id):
        for row in page:
            try:
                review = read_review(row)
                review.check()
            except (ValueError, InvalidInput) as failure:
                yield Finding(f"review {row.id}", f"is none: {failure}", RESTORE)
                continue
            if review_key(review, row.created_at) != row.key:
                yield Finding(f"review {row.id}", "has changed since it was stored", RESTORE)
    answered = review_items.c.state == ReviewState.ANSWERED
    counts = select(
        review_queues,
        func.count(review_items.c.id).label("total_found"),
        func.count(review_items.c.id).filter(answered).label("answered_found"),
    ).outerjoin(review_items, review_items.c.queue_id == review_queues.c.id)
    complete = counts.where(review_queues.c.complete).group_by(review_queues.c.id)
    for row in connection.execute(complete).all():
        counted, actual = (row.total, row.answered), (row.total_found, row.answered_found)
        if counted != actual:
            yield Finding(
                f"review queue {row.name}",
                f"counts (total, answered) {counted} where there are {actual}",
                RESTORE,
            )
    mixed = answered != review_items.c.review_id.is_not(None)
    for number in connection.scalars(select(review_items.c.id).where(mixed)):
        problem = "is answered without a review, or open with one"
        yield Finding(f"review item {number}", problem, RESTORE)


def _check_guarantees(connection: Connection) -> Iterator[Finding]:
    """Calibrators are as they were stored, and guarantees and runs have those that they name."""
    known = set()
    for page in _pages(connection, select(calibrators), calibrators.c.id):
        for row in page:
            known.add(row.digest)
            try:
                read_calibrator(row.digest, row.content)
            except Damaged as failure:
                yield Finding(f"calibrator {row.id}", str(failure), RESTORE)
    for name, settings in connection.execute(select(runs.c.name, runs.c.settings)):
        digest = json.loads(settings).get("calibrator", "")
        if digest and digest not in known:
            yield Finding(f"run {name}", f"its calibrator {digest[:12]} is missing", RESTORE)
    for row in connection.execute(select(guarantees)).all():
        for problem in _guarantee_problems(connection, row, known):
            yield Finding(f"guarantee {row.name}", problem, RESTORE)


def _guarantee_problems(
    connection: Connection, row: "Row[Any]", calibrator_digests: set[str]
) -> Iterator[str]:
    if row.calibrator and row.calibrator not in calibrator_digests:
        yield f"its calibrator {row.calibrator[:12]} is missing"
    if row.state not in list(GuaranteeState):
        yield f"is in an unknown state '{row.state}'"
    elif row.state in (GuaranteeState.HOLDS, GuaranteeState.BROKEN) and not row.certificate:
        yield f"is in the state '{row.state}' and has no certificate"
    events = select(guarantee_events.c.content).where(guarantee_events.c.guarantee_id == row.id)
    for text_ in (row.settings, row.certificate or "{}", *connection.scalars(events)):
        try:
            json.loads(text_)
        except ValueError:
            yield "has a text that is no JSON"


def _check_decoys(connection: Connection) -> Iterator[Finding]:
    """Every decoy can be read, and belongs to evidence of its image."""
    query = (
        select(
            decoys,
            images.c.width,
            images.c.height,
            evidence.c.image_id.label("evidence_image_id"),
        )
        .join(images, images.c.id == decoys.c.image_id)
        .join(evidence, evidence.c.id == decoys.c.evidence_id)
    )
    classes = {
        number: {spec.name: spec for spec in lineage[0].ontology.classes}
        for number, lineage in _lineages(connection).items()
    }
    for page in _pages(connection, query, decoys.c.id):
        for row in page:
            subject = f"decoy {row.id}"
            if row.evidence_image_id != row.image_id:
                yield Finding(subject, "its evidence is of another image", RESTORE)
            try:
                read_decoy(row, classes[row.run_id])
            except Damaged as failure:
                yield Finding(subject, str(failure), RESTORE)


def _check_uncertainties(connection: Connection) -> Iterator[Finding]:
    """Each can be read."""
    for page in _pages(connection, select(uncertainties), uncertainties.c.id):
        for row in page:
            try:
                unpack_uncertainties(row.method, row.content)
            except Damaged as failure:
                yield Finding(f"uncertainty {row.id}", str(failure), MEASURE_AGAIN)


def _check_embeddings(connection: Connection) -> Iterator[Finding]:
    """Each can be read, and those of a model are equally long."""
    lengths: dict[int, int] = {}
    for page in _pages(connection, select(embeddings), embeddings.c.id):
        for row in page:
            try:
                unpack_box(row.box)
                found = len(unpack_vector(row.vector))
                if lengths.setdefault(row.model_id, found) != found:
                    expected = lengths[row.model_id]
                    raise Damaged(f"has {found} numbers where others of its model have {expected}")
            except Damaged as failure:
                yield Finding(f"embedding {row.id}", str(failure), EMBED_AGAIN)


def _check_tokens(connection: Connection) -> Iterator[Finding]:
    """What each allows can be read: a server does not start otherwise."""
    for page in _pages(connection, select(tokens), tokens.c.id):
        for row in page:
            try:
                read_token(row)
            except Damaged as failure:
                yield Finding(f"token {row.id}", str(failure), "revoke it by hand")
