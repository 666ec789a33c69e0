"""Locks between processes: one server a SQLite file, one blob store a PostgreSQL database, and no
deletion while others rely on rows.

``ProcessLock`` is exclusive and names its holder. The deletion lock is shared or exclusive: readers
that rely on rows and bytes staying (backup, check, re-deciding, snapshots) share it, and whoever
deletes takes it alone. On SQLite it is a ``flock`` on a file, on PostgreSQL an advisory lock; the
system releases either one when its process ends, however it ends.
"""

import errno
import fcntl
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sqlalchemy import func, select, text

from secondlook.core.cancellation import check_cancelled
from secondlook.store.database import Database
from secondlook_client.errors import AlreadyExists, BadSetting, Busy, StoreUnavailable
from secondlook_client.private_files import FILE_MODE

DELETION_LOCK_FILE = "deletion.lock"
"""Beside the SQLite file."""
DELETION_LOCK_NUMBER = 7_236_912
"""Of the advisory lock on PostgreSQL; any number that nobody else uses."""
BLOB_STORE_LOCK_NUMBER = 7_236_913
"""Of the advisory locks that say which blob store a server has."""
TIMEOUT_S = 10.0
POLL_S = 0.1


class ProcessLock:
    """An exclusive lock on a file, released by the system when the process ends."""

    def __init__(self, path: Path) -> None:
        """Take the lock. Raises ``AlreadyExists`` when another process has it."""
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._handle: int | None = os.open(path, flags, FILE_MODE)
        except OSError as failure:
            raise BadSetting(
                f"{path.parent} cannot be written ({os.strerror(failure.errno or 0)}); give a "
                "folder of your own with --data"
            ) from failure
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as failure:
            if failure.errno in (errno.EWOULDBLOCK, errno.EACCES):
                holder = os.pread(self._handle, 32, 0).decode("ascii", "replace").strip()
                os.close(self._handle)
                raise AlreadyExists(
                    f"{path.parent} is in use by another server (process {holder or 'unknown'}); "
                    "stop that one, or give another --data"
                ) from None
            # A file system without locks: better unguarded than not at all.
        with suppress(OSError):  # a full disk: the number is only for the message above
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Release the lock; calling it again does nothing."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class BlobStoreLock:
    """Held by each server of a PostgreSQL database, so that all of them have one blob store.

    A server with another one would fail the images that the others have stored.
    """

    def __init__(self, database: Database, identity: str) -> None:
        """``identity`` of the blob store of this server.

        Raises ``BadSetting`` while a server with another one is at work.
        """
        number = zlib.crc32(identity.encode()) & 0x7FFFFFFF
        self._held = ExitStack()
        self._connection = self._held.enter_context(database.session())
        try:
            lock = func.pg_advisory_lock_shared(BLOB_STORE_LOCK_NUMBER, number)
            self._connection.execute(select(lock))
            numbers = {"ours": BLOB_STORE_LOCK_NUMBER, "number": number}
            if self._connection.execute(_OTHER_BLOB_STORES, numbers).scalar_one():
                raise BadSetting(
                    "another server works on this database with another blob store: give both the "
                    "same folder of --data (or the same --blob-url), or stop the other one"
                )
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Release the lock; calling it again does nothing."""
        with suppress(StoreUnavailable), self._held.pop_all():  # the system has released it then
            if not self._connection.closed:
                self._connection.execute(select(func.pg_advisory_unlock_all()))


_OTHER_BLOB_STORES = text(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND classid::bigint = :ours AND objid::bigint <> :number"
)


@contextmanager
def deletion_lock(database: Database, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    """Exclusive: nobody else deletes, or relies on nothing being deleted, until the block ends.

    Raises ``Busy`` when others hold the lock for longer than ``timeout_s`` seconds.
    """
    holder = "the store is being backed up, checked, decided again, frozen or cleared"
    with _deletion_lock(database, False, timeout_s, holder):
        yield


@contextmanager
def deletion_blocked(database: Database, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    """Shared: nothing is deleted from the store until the block ends, so what was read stays true.

    Any number of such blocks may be open at once. Raises ``Busy`` when a deletion lasts longer
    than ``timeout_s`` seconds.
    """
    with _deletion_lock(database, True, timeout_s, "older results are being deleted"):
        yield


@contextmanager
def _deletion_lock(
    database: Database, shared: bool, timeout_s: float, holder: str
) -> Iterator[None]:
    lock = _file_lock if database.file else _advisory_lock
    deadline = time.monotonic() + timeout_s
    with lock(database, shared) as acquire:
        while not acquire():
            check_cancelled()
            if time.monotonic() >= deadline:
                raise Busy(
                    f"{holder} at the moment; try again once that is over", retry_after_s=30.0
                )
            time.sleep(POLL_S)
        yield


@contextmanager
def _file_lock(database: Database, shared: bool) -> Iterator[Callable[[], bool]]:
    assert database.file is not None
    path = Path(os.path.realpath(database.file)).with_name(DELETION_LOCK_FILE)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)

    def acquire() -> bool:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    try:
        yield acquire
    finally:
        os.close(handle)


@contextmanager
def _advisory_lock(database: Database, shared: bool) -> Iterator[Callable[[], bool]]:
    take = func.pg_try_advisory_lock_shared if shared else func.pg_try_advisory_lock
    with database.session() as connection:

        def acquire() -> bool:
            return bool(connection.execute(select(take(DELETION_LOCK_NUMBER))).scalar_one())

        try:
            yield acquire
        finally:
            connection.execute(select(func.pg_advisory_unlock_all()))
