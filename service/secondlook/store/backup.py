"""A copy of a store that servers are at work on, and a store from such a copy.

A backup is a folder that is a store itself: a SQLite file with every row as it was at one moment,
and the bytes that those rows name. Made again into the same folder it copies only bytes that are
new. It is restored into either database and either kind of blob store.
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

from sqlalchemy import Connection, Select, Table, cast, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import REGCLASS

from secondlook.core.errors import AlreadyExists, Damaged, NotFound
from secondlook.core.files import explaining, remove
from secondlook.store import BLOBS_FOLDER, DATABASE_FILE, Store
from secondlook.store.blobs import Blobs, FolderBlobs
from secondlook.store.database import Database, now
from secondlook.store.locks import forgetting, nothing_forgotten
from secondlook.store.migrations import CURRENT, revision_of, upgrade
from secondlook.store.model_versions import model_blobs
from secondlook.store.schema import images, jobs, metadata, model_files, snapshots, trainings
from secondlook.store.snapshots import manifest_blobs

# All rows of one database into another, whichever of the two kinds each is.

BLOBS_AT_ONCE = 500

_COUNTED = [table for table in metadata.sorted_tables if table.kwargs.get("sqlite_autoincrement")]
"""Tables whose numbers are known outside of the store, in label ids and cursors."""


def is_empty(connection: Connection) -> bool:
    """Whether there is no row in any table."""
    return all(
        connection.execute(select(table).limit(1)).first() is None
        for table in metadata.sorted_tables
    )


def copy_rows(source: Connection, sink: Connection) -> int:
    """Copy every row with its number; how many. ``sink`` is empty and of the same schema.

    Numbers that ``source`` has handed out before are handed out by ``sink`` no more, also those
    of rows that are gone.
    """
    total = sum(_copy_table(source, sink, table) for table in metadata.sorted_tables)
    for table in _COUNTED:
        _go_on_from(sink, table, _last_number(source, table))
    if sink.dialect.name == "postgresql":
        for table in metadata.sorted_tables:
            if "id" in table.c and table not in _COUNTED:
                _go_on_from(sink, table, 0)
    return total


def _copy_table(source: Connection, sink: Connection, table: Table) -> int:
    # In the order of their numbers, so that a run comes after the one it refers to.
    query = select(table).order_by(*table.primary_key.columns)
    copied = 0
    for rows in source.execution_options(yield_per=BLOBS_AT_ONCE).execute(query).partitions():
        sink.execute(insert(table), [dict(row._mapping) for row in rows])
        copied += len(rows)
    return copied


def _last_number(connection: Connection, table: Table) -> int:
    """The highest number that was ever handed out."""
    if connection.dialect.name == "sqlite":
        query = text("SELECT seq FROM sqlite_sequence WHERE name = :name")
        return int(connection.execute(query, {"name": table.name}).scalar() or 0)
    sequence = connection.execute(_sequence_of(table)).scalar_one()
    quoted = connection.dialect.identifier_preparer.quote(str(sequence).rpartition(".")[2])
    row = connection.execute(text(f"SELECT last_value, is_called FROM {quoted}")).one()
    return int(row.last_value) if row.is_called else 0


def _go_on_from(connection: Connection, table: Table, number: int) -> None:
    highest = connection.execute(select(func.max(table.c.id))).scalar() or 0
    last = max(number, highest)
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


ABOUT = "backup.json"
AT_ONCE = 500
COPIERS = 8
"""Blobs copied at a time: mostly they wait for a disk or a network."""

Progress = Callable[[int, int], None]
"""Told (done, total) blobs."""


def _silent(done: int, total: int) -> None:
    pass


@dataclass
class Copied:
    """What a backup or restore came to."""

    rows: int = 0
    blobs: int = 0
    """That were not there before."""
    size: int = 0
    """Bytes of those."""
    broken: list[str] = field(default_factory=list)
    """One sentence for each blob that could not be copied whole."""


def back_up(store: Store, folder: Path, progress: Progress = _silent) -> Copied:
    """Copy a live store into ``folder``, which is new or holds an earlier backup.

    An earlier backup stays as it is until the new one is whole. Bytes that are damaged or missing
    are told in ``broken`` and do not stop it. Raises ``AlreadyExists`` for a folder with anything
    else, ``Busy`` while results are being forgotten, ``StorageFull`` and ``StoreUnavailable``.
    """
    copied = Copied()
    with explaining(folder):
        _claim(folder)
        part = folder / f"{DATABASE_FILE}.part"
        _remove_database(part)
        with nothing_forgotten(store.database):
            with closing(Database.in_file(part)) as target:
                upgrade(target)
                with store.database.reading() as source, target.writing() as sink:
                    copied.rows = copy_rows(source, sink)
                blobs = FolderBlobs(folder / BLOBS_FOLDER)
                _copy_blobs(target, store.blobs, blobs, copied, progress)
            _make_one_file(part)
        part.replace(folder / DATABASE_FILE)
        about = {"backup": 1, "schema": CURRENT, "made_at": now(), "rows": copied.rows}
        (folder / ABOUT).write_text(json.dumps(about) + "\n", encoding="utf-8")
        os.sync()
    return copied


def restore(folder: Path, store: Store, progress: Progress = _silent) -> Copied:
    """Fill an empty store from a backup, which is only read.

    Jobs go on where they were when the backup was made. Raises ``NotFound`` when the folder holds
    no backup, ``AlreadyExists`` when the store is not empty, ``InvalidInput`` for a backup of a
    newer version, ``Damaged``, ``StorageFull`` and ``StoreUnavailable``.
    """
    copied = Copied()
    if not (folder / ABOUT).is_file() or not (folder / DATABASE_FILE).is_file():
        raise NotFound(f"{folder} holds no backup; name a folder that `secondlook backup` made")
    with forgetting(store.database), _readable(folder) as source:
        _check_empty(store)
        kept = FolderBlobs(folder / BLOBS_FOLDER, read_only=True)
        _copy_blobs(source, kept, store.blobs, copied, progress)
        with source.reading() as rows, store.database.writing() as sink:
            if not is_empty(sink):
                raise _not_empty()
            copied.rows = copy_rows(rows, sink)
            # Whoever was at work then is not now.
            for leased in (jobs, trainings):
                sink.execute(update(leased).values(owner="", lease_until=0.0))
    return copied


@contextmanager
def _readable(folder: Path) -> Iterator[Database]:
    """The rows of a backup in the present schema; the backup stays as it is."""
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
        if not is_empty(connection):
            raise _not_empty()


def _not_empty() -> AlreadyExists:
    return AlreadyExists(
        "the store that should be restored holds something already; give the --data of a new "
        "folder, or the URL of an empty database"
    )


def _copy_blobs(
    rows: Database, source: Blobs, sink: Blobs, copied: Copied, progress: Progress
) -> None:
    """Copy every blob that ``rows`` name and ``sink`` lacks."""
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

    names, done = _names(rows, source, copied), 0
    with ThreadPoolExecutor(COPIERS, thread_name_prefix="copy") as copiers:
        while some := list(islice(names, AT_ONCE)):
            for outcome in copiers.map(copy, some):
                _note(copied, outcome)
                done += 1
            progress(done, max(total, done))


def _note(copied: Copied, outcome: int | str) -> None:
    if isinstance(outcome, str):
        copied.broken.append(outcome)
    elif outcome >= 0:
        copied.blobs += 1
        copied.size += outcome


def _names(rows: Database, source: Blobs, copied: Copied) -> Iterator[str]:
    """Every blob that the rows name: images, students, and what snapshots are made of."""
    after = 0
    while True:
        query = select(images.c.id, images.c.sha256).where(images.c.id > after)
        with rows.reading() as connection:
            page = connection.execute(query.order_by(images.c.id).limit(AT_ONCE)).all()
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
            continue  # the root itself has been told


def _claim(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / ABOUT).exists():
        raise AlreadyExists(f"{folder} is not empty and holds no backup; give another folder")
    if not (folder / ABOUT).exists():
        (folder / ABOUT).write_text(json.dumps({"backup": 0}) + "\n", encoding="utf-8")


def _remove_database(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        remove(path.with_name(path.name + suffix))


def _make_one_file(path: Path) -> None:
    """Fold SQLite's log into the file, which then can be moved and read without writing."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
