"""Persistence: rows in SQLite or PostgreSQL, bytes in a folder or an object store.

    DIR/store.db    the SQLite database, unless there is a ``database_url``
    DIR/blobs/      images, manifests and students by sha256, unless there is a ``blob_url``
    DIR/server.lock locked by the one server that works on the SQLite database

This package is the only place with SQL.
"""

import os
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from secondlook.store.blobs import Blobs, FolderBlobs
from secondlook.store.database import Database
from secondlook.store.locks import ProcessLock
from secondlook.store.migrations import upgrade
from secondlook_client.errors import BadSetting

if TYPE_CHECKING:
    from secondlook.store.model_versions import ModelVersions
    from secondlook.store.queue import JobQueue
    from secondlook.store.results import Results
    from secondlook.store.snapshots import Snapshots
    from secondlook.store.training_jobs import TrainingJobs

DATABASE_FILE, BLOBS_FOLDER, LOCK_FILE = "store.db", "blobs", "server.lock"


class Store:
    """A database and a blob store that belong together. A context manager; safe for threads."""

    def __init__(self, database: Database, blobs: Blobs, lock: ProcessLock | None = None) -> None:
        """``database`` has the current schema: use ``open_store``. ``close`` releases ``lock``."""
        self.database = database
        self.blobs = blobs
        self._lock = lock

    @cached_property
    def queue(self) -> "JobQueue":
        """Jobs and their items."""
        from secondlook.store.queue import JobQueue

        return JobQueue(self.database)

    @cached_property
    def results(self) -> "Results":
        """Evidence of the models, decisions of the runs and corrections of people."""
        from secondlook.store.results import Results

        return Results(self.database)

    @cached_property
    def snapshots(self) -> "Snapshots":
        """Named, immutable datasets."""
        from secondlook.store.snapshots import Snapshots

        return Snapshots(self.database, self.blobs)

    @cached_property
    def model_versions(self) -> "ModelVersions":
        """Versions of student detectors."""
        from secondlook.store.model_versions import ModelVersions

        return ModelVersions(self.database, self.blobs)

    @cached_property
    def training_jobs(self) -> "TrainingJobs":
        """Trainings of students, queued and running."""
        from secondlook.store.training_jobs import TrainingJobs

        return TrainingJobs(self.database)

    def close(self) -> None:
        """Close the connections; no write is ever pending."""
        self.database.close()
        if self._lock:
            self._lock.release()

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
    """Open the store in the folder ``data``; create it or migrate its schema where needed.

    ``database_url`` (PostgreSQL) and ``blob_url`` (``s3://bucket/prefix`` and the like) replace
    what would be in the folder. ``serving`` is for a process that works on jobs: with SQLite
    there may be one, and the leases of a server that died are cleared.

    Raises ``AlreadyExists`` when another server uses the folder, ``BadSetting``, ``InvalidInput``
    for a store that a newer version made, ``Damaged``, ``StoreUnavailable`` and ``StorageFull``.
    """
    if not (database_url and blob_url):
        _make_folder(data)
    lock = ProcessLock(data / LOCK_FILE) if serving and not database_url else None
    try:
        database = _open_database(data, database_url)
        try:
            blobs = _open_blobs(data, blob_url)
            store = Store(database, blobs, lock)
            if lock:  # the server that had leases is dead: it no longer locks the folder
                store.queue.clear_leases()
                store.training_jobs.clear_leases()
            return store
        except BaseException:
            database.close()
            raise
    except BaseException:
        if lock:
            lock.release()
        raise


def _open_database(data: Path, database_url: str) -> Database:
    database = Database(database_url) if database_url else Database.in_file(data / DATABASE_FILE)
    try:
        upgrade(database)
    except BaseException:
        database.close()
        raise
    return database


def _open_blobs(data: Path, blob_url: str) -> Blobs:
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
