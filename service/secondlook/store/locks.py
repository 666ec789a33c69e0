"""Who may remove things, and when nobody may: one lock a store, shared or not."""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, func, select

from secondlook.core.errors import AlreadyExists, BadSetting, Busy
from secondlook.store.database import Database

_NUMBER = 7_236_912
"""Names the lock on PostgreSQL; any number does that nobody else uses."""
_FILE = "care.lock"
PATIENCE_S = 10.0
_LOOK_S = 0.1


@contextmanager
def nothing_forgotten(database: Database, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Nothing is removed from the store before the block ends: what was read stays true.

    Any number of such blocks may be open at once. Raises ``Busy`` when things are being removed
    for longer than ``patience_s`` seconds.
    """
    with _locked(database, True, patience_s, "older results are being removed from the store"):
        yield


@contextmanager
def forgetting(database: Database, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Nobody else removes anything or relies on its staying. Raises ``Busy`` like the above."""
    told = "the store is being backed up, decided again, frozen or cleared"
    with _locked(database, False, patience_s, told):
        yield


@contextmanager
def _locked(database: Database, shared: bool, patience_s: float, told: str) -> Iterator[None]:
    lock = _file_lock if database.file else _server_lock
    end = time.monotonic() + patience_s
    with lock(database, shared) as taken:
        while not taken():
            if time.monotonic() >= end:
                raise Busy(f"{told} at the moment; try again once that is over", 30.0)
            time.sleep(_LOOK_S)
        yield


@contextmanager
def _file_lock(database: Database, shared: bool) -> Iterator[Callable[[], bool]]:
    assert database.file is not None
    handle = os.open(Path(database.file).with_name(_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        yield lambda: _take_file(handle, shared)
    finally:
        os.close(handle)


def _take_file(handle: int, shared: bool) -> bool:
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _server_lock(database: Database, shared: bool) -> Iterator[Callable[[], bool]]:
    with database.session() as connection:
        try:
            yield lambda: _take_on_server(connection, shared)
        finally:
            connection.execute(select(func.pg_advisory_unlock_all()))


def _take_on_server(connection: Connection, shared: bool) -> bool:
    take = func.pg_try_advisory_lock_shared if shared else func.pg_try_advisory_lock
    return bool(connection.execute(select(take(_NUMBER))).scalar_one())


# One server at a time on a data folder, also after one was killed.


class Hold:
    """A lock on a file, which the system lets go of when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        """Take the lock. Raises ``AlreadyExists`` when another process has it."""
        try:
            self._handle: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
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
        """Let go; once is enough."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
