"""Everything that is kept: rows in SQLite or PostgreSQL, bytes in a folder or an object store.

    DIR/store.db    the SQLite database, unless there is a ``database_url``
    DIR/blobs/      images, manifests and students by sha256, unless there is a ``blob_url``
    DIR/server.lock held by the one server that works on the SQLite database

This package is the only place with SQL.
"""

import os
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from secondlook.core.errors import BadSetting
from secondlook.store.blobs import Blobs, FolderBlobs
from secondlook.store.database import Database
from secondlook.store.locks import Hold
from secondlook.store.migrations import upgrade

if TYPE_CHECKING:
    from secondlook.store.model_versions import Students
    from secondlook.store.queue import Queue
    from secondlook.store.results import Records
    from secondlook.store.snapshots import Snapshots
    from secondlook.store.training_jobs import Trainings

DATABASE_FILE, BLOBS_FOLDER, LOCK_FILE = "store.db", "blobs", "server.lock"


class Store:
    """A database and a blob store that belong together. A context manager; safe for threads."""

    def __init__(self, database: Database, blobs: Blobs, hold: Hold | None = None) -> None:
        """``database`` has the present schema: use ``open_store``. ``hold`` ends with the store."""
        self.database = database
        self.blobs = blobs
        self._hold = hold

    @cached_property
    def queue(self) -> "Queue":
        """Jobs and their items."""
        from secondlook.store.queue import Queue

        return Queue(self.database)

    @cached_property
    def records(self) -> "Records":
        """What models, runs and persons said of images."""
        from secondlook.store.results import Records

        return Records(self.database)

    @cached_property
    def snapshots(self) -> "Snapshots":
        """Datasets with a name."""
        from secondlook.store.snapshots import Snapshots

        return Snapshots(self.database, self.blobs)

    @cached_property
    def students(self) -> "Students":
        """Versions of small detectors."""
        from secondlook.store.model_versions import Students

        return Students(self.database, self.blobs)

    @cached_property
    def trainings(self) -> "Trainings":
        """Students in the making."""
        from secondlook.store.training_jobs import Trainings

        return Trainings(self.database)

    def close(self) -> None:
        """Close the connections; nothing is pending, ever."""
        self.database.close()
        if self._hold:
            self._hold.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_store(
    data: Path, database_url: str = "", blob_url: str = "", *, serving: bool = False
) -> Store:
    """The store in the folder ``data``, made or brought to the present schema where needed.

    ``database_url`` (PostgreSQL) and ``blob_url`` (``s3://bucket/prefix`` and the like) take
    the place of what would be in the folder. ``serving`` is for a process that works on jobs:
    with SQLite there may be one, and what a dead one was at work on is free again.

    Raises ``AlreadyExists`` when another server has the folder, ``BadSetting``, ``InvalidInput``
    for a store that a newer version made, ``Damaged``, ``StoreUnavailable`` and ``StorageFull``.
    """
    if not (database_url and blob_url):
        _make_folder(data)
    hold = Hold(data / LOCK_FILE) if serving and not database_url else None
    try:
        database = _database(data, database_url)
        try:
            blobs = _blobs(data, blob_url)
            store = Store(database, blobs, hold)
            if hold:  # whoever had leases is dead: its lock on the folder is gone
                store.queue.clear_leases()
                store.trainings.clear_leases()
            return store
        except BaseException:
            database.close()
            raise
    except BaseException:
        if hold:
            hold.release()
        raise


def _database(data: Path, database_url: str) -> Database:
    database = Database(database_url) if database_url else Database.in_file(data / DATABASE_FILE)
    try:
        upgrade(database)
    except BaseException:
        database.close()
        raise
    return database


def _blobs(data: Path, blob_url: str) -> Blobs:
    if not blob_url:
        return FolderBlobs(data / BLOBS_FOLDER)
    from secondlook.store.object_blobs import ObjectBlobs

    return ObjectBlobs(blob_url)


def _make_folder(data: Path) -> None:
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise BadSetting(
            f"{data} cannot be the data folder ({os.strerror(failure.errno or 0)}); give another "
            "--data"
        ) from failure
