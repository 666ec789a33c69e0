"""Persistence: rows in SQLite or PostgreSQL, bytes in a folder or an object store.

    DIR/store.db         the SQLite database, unless there is a ``database_url``
    DIR/store.db-commits how many transactions it has acknowledged: see ``commit_witness``
    DIR/blobs/           images, manifests and students by sha256, unless there is a ``blob_url``
    DIR/server.lock      locked by the one server that works on the SQLite database

Everything is for the user of the server only. This package is the only place with SQL.
"""

import logging
import os
import stat
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from secondlook.store.blobs import Blobs, FolderBlobs
from secondlook.store.database import Database
from secondlook.store.locks import BlobStoreLock, ProcessLock
from secondlook.store.migrations import upgrade
from secondlook_client.errors import BadSetting
from secondlook_client.private_files import FILE_MODE, make_private_folder

if TYPE_CHECKING:
    from secondlook.store.calibrators import Calibrators
    from secondlook.store.decoys import Decoys
    from secondlook.store.embeddings import Embeddings
    from secondlook.store.guarantees import Guarantees
    from secondlook.store.model_versions import ModelVersions
    from secondlook.store.object_blobs import ObjectBlobs
    from secondlook.store.queue import JobQueue
    from secondlook.store.results import Results
    from secondlook.store.reviews import Reviews
    from secondlook.store.snapshots import Snapshots
    from secondlook.store.tokens import Tokens
    from secondlook.store.training_jobs import TrainingJobs
    from secondlook.store.uncertainties import Uncertainties

log = logging.getLogger(__name__)

DATABASE_FILE, BLOBS_FOLDER, LOCK_FILE = "store.db", "blobs", "server.lock"
PROBE_BYTES = 2**18
"""Written to see whether there is room on the disk."""
SAMPLED_BLOBS = 20
"""Images of which at least one must be in the blob store of a server that starts."""


class Store:
    """A database and a blob store that belong together. A context manager; safe for threads."""

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        lock: ProcessLock | BlobStoreLock | None = None,
    ) -> None:
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
        """Evidence of the models and decisions of the runs, with reviews applied."""
        from secondlook.store.results import Results

        return Results(self.database)

    @cached_property
    def reviews(self) -> "Reviews":
        """What people said of boxes and images, and the queues that ask for it."""
        from secondlook.store.reviews import Reviews

        return Reviews(self.database)

    @cached_property
    def snapshots(self) -> "Snapshots":
        """Named, immutable datasets."""
        from secondlook.store.snapshots import Snapshots

        return Snapshots(self.database, self.blobs)

    @cached_property
    def calibrators(self) -> "Calibrators":
        """Calibrators, by digest or name."""
        from secondlook.store.calibrators import Calibrators

        return Calibrators(self.database)

    @cached_property
    def decoys(self) -> "Decoys":
        """Decoys of the runs, with what the verifier answered."""
        from secondlook.store.decoys import Decoys

        return Decoys(self.database)

    @cached_property
    def uncertainties(self) -> "Uncertainties":
        """How uncertain judgements are, by several methods."""
        from secondlook.store.uncertainties import Uncertainties

        return Uncertainties(self.database)

    @cached_property
    def embeddings(self) -> "Embeddings":
        """What images and boxes look like, as vectors of models."""
        from secondlook.store.embeddings import Embeddings

        return Embeddings(self.database)

    @cached_property
    def guarantees(self) -> "Guarantees":
        """Guaranteed precision of runs, and its history."""
        from secondlook.store.guarantees import Guarantees

        return Guarantees(self.database)

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

    @cached_property
    def tokens(self) -> "Tokens":
        """Who may call the server."""
        from secondlook.store.tokens import Tokens

        return Tokens(self.database)

    def probe(self) -> None:
        """Try whether the store can be used, as a call that stores an image would find it.

        Reads from the database, or commits to it on PostgreSQL, and writes and removes an image's
        worth of bytes where that is a folder; object storage is only asked. Raises
        ``StoreUnavailable``, ``StorageFull`` or ``Damaged``.
        """
        self.database.probe()
        if isinstance(self.blobs, FolderBlobs):
            self.blobs.probe(PROBE_BYTES)
        else:
            self.blobs.has("0" * 64)

    def close(self) -> None:
        """Close the connections; no write is ever pending."""
        if isinstance(self._lock, BlobStoreLock):
            self._lock.release()  # while there is a connection
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
    database = Database(database_url) if database_url else Database.in_file(data / DATABASE_FILE)
    file = _database_file(database)
    with ExitStack() as undone:
        lock: ProcessLock | BlobStoreLock | None = None
        if serving and file:
            lock = ProcessLock(_lock_file(file))
            undone.callback(lock.release)
        undone.callback(database.close)
        if file:
            _make_private(file)
        if serving:
            _warn_if_shared(data)
            database.check_quickly()
        upgrade(database)
        _tell_lost_commits(database, always=serving)
        blobs = _open_blobs(data, blob_url)
        if serving and not file:
            lock = BlobStoreLock(database, blobs.identity())
            undone.callback(lock.release)
        store = Store(database, blobs, lock)
        if serving and (database_url or blob_url):
            _check_blobs_belong(store)
        if isinstance(lock, ProcessLock):  # the server that had leases is dead: it has no lock
            store.queue.clear_leases()
            store.training_jobs.clear_leases()
        undone.pop_all()
    return store


def _database_file(database: Database) -> Path | None:
    """The SQLite file itself, whatever links lead to it; None on PostgreSQL.

    Raises ``BadSetting`` for a file with several names: SQLite keeps its log beside the name that
    it was given, so writers that use different ones destroy the database.
    """
    if not database.file:
        return None
    file = Path(os.path.realpath(database.file))
    try:
        names = file.stat().st_nlink
    except OSError:  # a new one
        return file
    if names > 1:
        raise BadSetting(
            f"the database file {file} has {names} names (hard links), and SQLite would keep a log "
            "of its own for each; remove the others, or use a copy"
        )
    return file


def _lock_file(file: Path) -> Path:
    """Beside the database itself, so that it is the same by whatever URL the file is named."""
    return file.with_name(LOCK_FILE if file.name == DATABASE_FILE else f"{file.name}.{LOCK_FILE}")


def _make_private(file: Path) -> None:
    """Create a missing database file for this user only; SQLite gives its log the same rights."""
    if file.exists():
        return
    try:
        file.touch(FILE_MODE)
    except OSError as failure:
        raise BadSetting(
            f"{file} cannot be the database ({os.strerror(failure.errno or 0)}); give another "
            "--data or --database-url"
        ) from failure


def _warn_if_shared(data: Path) -> None:
    """A folder keeps the rights that somebody gave it, perhaps on purpose."""
    if data.is_dir() and stat.S_IMODE(data.stat().st_mode) & 0o077:
        log.warning(
            "other users of this machine may look into %s, which has images and labels; run "
            "`chmod 700` on it if that is not meant",
            data,
        )


def _tell_lost_commits(database: Database, always: bool) -> None:
    """Log it when transactions are missing that were not before; ``always``: also older losses."""
    new = database.note_lost_commits()
    if database.witness and (new or always):
        count = sum(lost.count for lost in database.witness.losses())
        if count:
            log.error(
                "%d transactions that were acknowledged are missing from the database: its log was "
                "damaged, or an older copy of the file was put in its place; `secondlook check` "
                "says what to do",
                count,
            )


def _check_blobs_belong(store: Store) -> None:
    """Raises ``BadSetting`` where the newest images of the database are not in this blob store."""
    from sqlalchemy import select

    from secondlook.store.schema import images

    newest = select(images.c.sha256).order_by(images.c.id.desc()).limit(SAMPLED_BLOBS)
    with store.database.reading() as connection:
        sha256s = [row.sha256.hex() for row in connection.execute(newest)]
    if sha256s and not any(map(store.blobs.has, sha256s)):
        raise BadSetting(
            "the images of this database are in another blob store: servers that share a database "
            "share the folder of --data or the --blob-url too; correct them, or mount the disk"
        )


def _open_blobs(data: Path, blob_url: str) -> "FolderBlobs | ObjectBlobs":
    if not blob_url:
        return FolderBlobs(data / BLOBS_FOLDER)
    from secondlook.store.object_blobs import ObjectBlobs

    return ObjectBlobs(blob_url)


def _make_folder(data: Path) -> None:
    try:
        make_private_folder(data)
    except OSError as failure:
        raise BadSetting(
            f"{data} cannot be the data folder ({os.strerror(failure.errno or 0)}); give another "
            "--data"
        ) from failure
