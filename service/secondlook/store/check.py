"""Is everything there, whole, and does it fit together? Reads every row and every blob.

It may run beside servers at work: it looks at one moment, and nothing is forgotten meanwhile.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, Row, and_, exists, func, select, text

from secondlook.errors import Damaged, NotFound
from secondlook.store import Store
from secondlook.store.blobs import Blobs
from secondlook.store.care import nothing_forgotten
from secondlook.store.check_content import check_decisions, check_evidence, check_texts
from secondlook.store.check_students import check_students
from secondlook.store.finding import RESTORE, Checked, Finding, pages
from secondlook.store.forget import orphans
from secondlook.store.job import ItemState
from secondlook.store.snapshots import manifest_blobs
from secondlook.store.tables import (
    decisions,
    items,
    jobs,
    metadata,
    pictures,
    runs,
    snapshot_pictures,
    snapshots,
)

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
                yield from _check_pictures(connection, store.blobs, checked, content)
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
        "is done and has no picture": and_(
            items.c.state == ItemState.DONE, items.c.picture_id.is_(None)
        ),
        "has a result of another picture": exists().where(
            decisions.c.item_id == items.c.id, decisions.c.picture_id != items.c.picture_id
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


def _check_pictures(
    connection: Connection, blobs: Blobs, checked: Checked, content: bool
) -> Iterator[Finding]:
    look: Callable[[Row[Any]], str] = (
        (lambda row: _wrong_with(blobs, row)) if content else (lambda row: _missing(blobs, row))
    )
    with ThreadPoolExecutor(READERS, thread_name_prefix="check") as readers:
        for page in pages(connection, select(pictures), pictures.c.id):
            for row, problem in zip(page, readers.map(look, page), strict=True):
                checked.blobs += 1
                if problem:
                    yield Finding(
                        f"picture {row.id} ({row.sha256.hex()[:12]})",
                        problem,
                        "label the same picture again, or " + RESTORE,
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
    held_by_it = snapshot_pictures.c.snapshot_id == snapshot.id
    held = set(
        connection.execute(
            select(pictures.c.sha256).join(snapshot_pictures).where(held_by_it)
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
            f"holds {len(held)} pictures and its manifest names {len(named)}, "
            f"{len(named - held)} of them not held"
        )
    if len(held) != snapshot.pictures:
        yield f"says {snapshot.pictures} pictures and holds {len(held)}"
