"""Backup of a store while servers are working, and restore into an empty store.

A backup is a folder that is a store itself: a SQLite file with every row as of one point in time,
and the bytes that those rows refer to. Made again into the same folder it copies only new bytes.
It can be restored into either database and either kind of blob store.
"""

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, Table, cast, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import REGCLASS

from secondlook.core.files import explain_write_errors, remove
from secondlook.store import BLOBS_FOLDER, DATABASE_FILE, Store
from secondlook.store.blobs import Blobs, FolderBlobs
from secondlook.store.commit_witness import COMMITS, LOST
from secondlook.store.database import Database, now
from secondlook.store.locks import deletion_blocked, deletion_lock
from secondlook.store.migrations import CURRENT, revision_of, upgrade
from secondlook.store.model_versions import model_blobs
from secondlook.store.schema import images, jobs, metadata, model_files, snapshots, training_jobs
from secondlook.store.snapshots import manifest_blobs
from secondlook_client.errors import AlreadyExists, Damaged, NotFound
from secondlook_client.private_files import make_private_folder, open_private

ABOUT_FILE = "backup.json"
BATCH = 500
"""Rows or blobs at a time."""
COPIERS = 8
"""Blobs copied at a time: mostly they wait for a disk or a network."""

Progress = Callable[[int, int], None]
"""Called with (done, total) blobs."""


def _no_progress(done: int, total: int) -> None:
    pass


@dataclass
class CopyCounts:
    """What a backup or restore copied."""

    rows: int = 0
    blobs: int = 0
    """New ones."""
    size: int = 0
    """Bytes of the new blobs."""
    broken: list[str] = field(default_factory=list)
    """One sentence for each blob that is damaged or missing."""


def back_up(store: Store, folder: Path, progress: Progress = _no_progress) -> CopyCounts:
    """Copy a live store into ``folder``, which is new or holds an earlier backup.

    An earlier backup stays valid until the new one is complete. Damaged and missing blobs are
    listed in ``broken`` and do not stop it. Raises ``AlreadyExists`` for a folder with anything
    else, ``Busy`` while results are being deleted, ``StorageFull`` and ``StoreUnavailable``.
    """
    copied = CopyCounts()
    with explain_write_errors(folder):
        _claim(folder)
        part = folder / f"{DATABASE_FILE}.part"
        _remove_database(part)
        open_private(part, "wb").close()
        with deletion_blocked(store.database):
            with closing(Database.in_file(part)) as target:
                upgrade(target)
                with store.database.reading() as source, target.writing() as sink:
                    copied.rows = _copy_rows(source, sink)
                blobs = FolderBlobs(folder / BLOBS_FOLDER)
                _copy_blobs(target, store.blobs, blobs, copied, progress)
            _make_one_file(part)
        # An earlier backup that was used as a store has counted its own commits.
        for suffix in (COMMITS, LOST):
            remove(part.with_name(part.name + suffix))
            remove(folder / (DATABASE_FILE + suffix))
        part.replace(folder / DATABASE_FILE)
        about = {"backup": 1, "schema": CURRENT, "created_at": now(), "rows": copied.rows}
        _write_about(folder, about)
        os.sync()
    return copied


def restore(folder: Path, store: Store, progress: Progress = _no_progress) -> CopyCounts:
    """Fill an empty store from a backup, which is only read.

    Jobs resume where they were when the backup was made. Raises ``NotFound`` when the folder holds
    no backup, ``AlreadyExists`` when the store is not empty, ``InvalidInput`` for a backup of a
    newer version, ``Damaged``, ``StorageFull`` and ``StoreUnavailable``.
    """
    copied = CopyCounts()
    if not (folder / ABOUT_FILE).is_file() or not (folder / DATABASE_FILE).is_file():
        raise NotFound(f"{folder} holds no backup; name a folder that `secondlook backup` made")
    with deletion_lock(store.database), _readable(folder) as source:
        _check_empty(store)
        backed_up = FolderBlobs(folder / BLOBS_FOLDER, read_only=True)
        _copy_blobs(source, backed_up, store.blobs, copied, progress)
        with source.reading() as rows, store.database.writing() as sink:
            if not _is_empty(sink):
                raise _not_empty()
            copied.rows = _copy_rows(rows, sink)
            # The servers that had these leases are not those of the restored store.
            for leased in (jobs, training_jobs):
                sink.execute(update(leased).values(owner="", lease_until=0.0))
    return copied


@contextmanager
def _readable(folder: Path) -> Iterator[Database]:
    """The database of a backup in the current schema; the backup itself stays unchanged."""
    database = Database.read_only(folder / DATABASE_FILE)
    try:
        if revision_of(database) == CURRENT:
            yield database
            return
    finally:
        database.close()
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / DATABASE_FILE
        shutil.copyfile(folder / DATABASE_FILE, copy)
        with closing(Database.in_file(copy)) as upgraded:
            upgrade(upgraded)
            yield upgraded


def _check_empty(store: Store) -> None:
    with store.database.reading() as connection:
        if not _is_empty(connection):
            raise _not_empty()


def _not_empty() -> AlreadyExists:
    return AlreadyExists(
        "the store to restore into is not empty; give the --data of a new "
        "folder, or the URL of an empty database"
    )


def _copy_blobs(
    rows: Database, source: Blobs, sink: Blobs, copied: CopyCounts, progress: Progress
) -> None:
    """Copy every blob that ``rows`` refer to and ``sink`` lacks."""
    with rows.reading() as connection:
        counts = [select(func.count()).select_from(table) for table in (images, model_files)]
        total = sum(int(connection.execute(count).scalar_one()) for count in counts)

    def copy(sha256: str) -> int | str:
        if sink.has(sha256):
            return -1
        try:
            content = source.get(sha256)
        except (NotFound, Damaged) as failure:
            return str(failure)
        sink.put(content)
        return len(content)

    names, done = _blob_names(rows, source, copied), 0
    with ThreadPoolExecutor(COPIERS, thread_name_prefix="copy") as copiers:
        while some := list(islice(names, BATCH)):
            for outcome in copiers.map(copy, some):
                _count(copied, outcome)
                done += 1
            progress(done, max(total, done))


def _count(copied: CopyCounts, outcome: int | str) -> None:
    if isinstance(outcome, str):
        copied.broken.append(outcome)
    elif outcome >= 0:
        copied.blobs += 1
        copied.size += outcome


def _blob_names(rows: Database, source: Blobs, copied: CopyCounts) -> Iterator[str]:
    """Every blob that the rows refer to: images, students, and parts of snapshots."""
    after = 0
    while True:
        query = select(images.c.id, images.c.sha256).where(images.c.id > after)
        with rows.reading() as connection:
            page = connection.execute(query.order_by(images.c.id).limit(BATCH)).all()
        if not page:
            break
        after = page[-1].id
        yield from (row.sha256.hex() for row in page)
    with rows.reading() as connection:
        yield from model_blobs(connection)
        roots = connection.execute(select(snapshots.c.manifest)).scalars().all()
    for root in sorted(set(roots)):
        try:
            yield from manifest_blobs(source, root)
        except (NotFound, Damaged):
            continue  # the root itself is reported as broken


def _claim(folder: Path) -> None:
    make_private_folder(folder)
    if any(folder.iterdir()) and not (folder / ABOUT_FILE).exists():
        raise AlreadyExists(f"{folder} is not empty and holds no backup; give another folder")
    if not (folder / ABOUT_FILE).exists():
        _write_about(folder, {"backup": 0})


def _write_about(folder: Path, about: dict[str, Any]) -> None:
    with open_private(folder / ABOUT_FILE, "wb") as file:
        file.write(json.dumps(about).encode() + b"\n")


def _remove_database(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal", COMMITS, LOST):
        remove(path.with_name(path.name + suffix))


def _make_one_file(path: Path) -> None:
    """Checkpoint SQLite's log into the file, which then can be moved and read without writing."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")


def _is_empty(connection: Connection) -> bool:
    """Whether there is no row in any table."""
    return all(
        connection.execute(select(table).limit(1)).first() is None
        for table in metadata.sorted_tables
    )


def _copy_rows(source: Connection, sink: Connection) -> int:
    """Copy every row with its id; how many. ``sink`` is empty and of the same schema.

    ``sink`` never generates an id that ``source`` has generated, even of deleted rows.
    """
    total = sum(_copy_table(source, sink, table) for table in metadata.sorted_tables)
    for table in _STABLE_IDS:
        _continue_ids_after(sink, table, _last_id(source, table))
    if sink.dialect.name == "postgresql":
        for table in metadata.sorted_tables:
            if "id" in table.c and table not in _STABLE_IDS:
                _continue_ids_after(sink, table, 0)
    return total


def _copy_table(source: Connection, sink: Connection, table: Table) -> int:
    # In the order of their ids, so that a run comes after the one it refers to.
    query = select(table).order_by(*table.primary_key.columns)
    copied = 0
    for rows in source.execution_options(yield_per=BATCH).execute(query).partitions():
        sink.execute(insert(table), [dict(row._mapping) for row in rows])
        copied += len(rows)
    return copied


_STABLE_IDS = [
    table for table in metadata.sorted_tables if table.kwargs.get("sqlite_autoincrement")
]
"""Tables whose ids are used outside of the store, in label ids and cursors."""


def _last_id(connection: Connection, table: Table) -> int:
    """The highest id that was ever generated."""
    if connection.dialect.name == "sqlite":
        query = text("SELECT seq FROM sqlite_sequence WHERE name = :name")
        return int(connection.execute(query, {"name": table.name}).scalar() or 0)
    sequence = connection.execute(_sequence_of(table)).scalar_one()
    quoted = connection.dialect.identifier_preparer.quote(str(sequence).rpartition(".")[2])
    row = connection.execute(text(f"SELECT last_value, is_called FROM {quoted}")).one()
    return int(row.last_value) if row.is_called else 0


def _continue_ids_after(connection: Connection, table: Table, last_id: int) -> None:
    highest = connection.execute(select(func.max(table.c.id))).scalar() or 0
    last = max(last_id, highest)
    if not last:
        return
    if connection.dialect.name == "postgresql":
        sequence = _sequence_of(table).scalar_subquery()
        connection.execute(select(func.setval(sequence, last)))
        return
    values = {"name": table.name, "last": last}
    connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), values)
    connection.execute(text("INSERT INTO sqlite_sequence VALUES (:name, :last)"), values)


def _sequence_of(table: Table) -> Select[tuple[str]]:
    return select(cast(func.pg_get_serial_sequence(table.name, "id"), REGCLASS))
