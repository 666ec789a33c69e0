"""How many transactions a SQLite database has committed, written down outside of the database.

Where SQLite's log is damaged, everything behind that place is gone without a word, acknowledged
or not: 22 of 44 commits once, and the rest was consistent. So each transaction counts itself in the
database (``PRAGMA user_version``), and before it is acknowledged the count is written to a file
beside it. A database that has counted less than its file says has lost commits.

The file is not synced: to sync two files for each commit took a third of the commits a second. When
the power fails it may stay behind the database by the last seconds, never be ahead of it.

    DIR/store.db-commits   the count, one line
    DIR/store.db-lost      a line for each loss that was noticed, until a person has dealt with it

Unused blobs were considered as evidence: every image is durable before its row. But a crash leaves
some of them too, and a person's answers, jobs and promotions have none.
"""

import fcntl
import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from secondlook_client.private_files import FILE_MODE

COMMITS, LOST = "-commits", "-lost"
"""What the names of these files end with, behind the database's."""
WRAP = 2**31 - 1
"""The count starts again from 0 here: ``user_version`` has 32 bits with a sign."""
_LINE = "commits {count:010d} {checksum:08x}\n"
_LENGTH = len(_LINE.format(count=0, checksum=0))


@dataclass(frozen=True)
class LostCommits:
    """Acknowledged transactions that a database no longer holds."""

    count: int
    noticed_at: float
    """Seconds since 1970."""


class CommitWitness:
    """The count beside one database file. Safe to use from several threads and processes."""

    def __init__(self, database: Path) -> None:
        """``database`` is the file itself, no link to it. Nothing is opened yet."""
        self._path = database.with_name(database.name + COMMITS)
        self._lost = database.with_name(database.name + LOST)
        self._lock = threading.Lock()
        self._handle: int | None = None
        self._confirmed: int | None = None

    def count_commit(self, connection: sqlite3.Connection) -> int:
        """Count the transaction that is about to be committed; its number."""
        number = (read_count(connection) + 1) % WRAP
        connection.execute(f"PRAGMA user_version = {number}").close()
        return number

    def confirm(self, number: int) -> None:
        """Write down that this transaction is committed. Raises ``OSError``."""
        with self._lock:
            if self._confirmed is not None and not _is_behind(self._confirmed, number):
                return  # a later one was faster
            handle = self._opened()
            fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                before = _parsed(os.pread(handle, _LENGTH, 0))
                if before is None or _is_behind(before, number):
                    os.pwrite(handle, _line(number), 0)
                    self._confirmed = number
                else:  # another process was faster
                    self._confirmed = before
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)

    def missing(self, connection: sqlite3.Connection) -> int:
        """How many confirmed transactions the database does not hold; 0 where nothing is known."""
        try:
            with self._path.open("rb") as file:
                confirmed = _parsed(file.read(_LENGTH))  # before the count, which may rise
        except FileNotFoundError:
            return 0
        behind = 0 if confirmed is None else (confirmed - read_count(connection)) % WRAP
        return behind if behind < WRAP // 2 else 0

    def note_loss(self, connection: sqlite3.Connection, at: float) -> LostCommits | None:
        """Note what is missing and count on from above it, so that the next loss is seen as well.

        Inside a writing transaction. None when nothing is missing (any more). Raises ``OSError``.
        """
        missing = self.missing(connection)
        if not missing:
            return None
        lost = LostCommits(missing, at)
        line = json.dumps(asdict(lost)) + "\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        handle = os.open(self._lost, flags, FILE_MODE)
        try:
            os.write(handle, line.encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        number = (read_count(connection) + missing) % WRAP
        connection.execute(f"PRAGMA user_version = {number}").close()
        return lost

    def losses(self) -> Sequence[LostCommits]:
        """What was lost and not dealt with yet, the oldest first."""
        try:
            lines = self._lost.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return ()
        return tuple(map(_loss, lines))

    def forget_losses(self) -> None:
        """A person has dealt with what was lost."""
        self._lost.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; it is opened again where need be."""
        with self._lock:
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None

    def _opened(self) -> int:
        if self._handle is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._handle = os.open(self._path, flags, FILE_MODE)
        return self._handle


def read_count(connection: sqlite3.Connection) -> int:
    """How many transactions the database has counted."""
    row = connection.execute("PRAGMA user_version").fetchone()
    return int(row[0]) % WRAP


def _is_behind(one: int, other: int) -> bool:
    return 0 < (other - one) % WRAP < WRAP // 2


def _line(count: int) -> bytes:
    checksum = zlib.crc32(f"{count:010d}".encode())
    return _LINE.format(count=count, checksum=checksum).encode()


def _parsed(content: bytes) -> int | None:
    """The count; None for anything but a whole line."""
    words = content.decode("ascii", "replace").split()
    if len(words) != 3 or not words[1].isdecimal():
        return None
    count = int(words[1][:10])
    return count if content == _line(count) else None


def _loss(line: str) -> LostCommits:
    """A line as it was noted, or as much as can be read: a damaged note is still one."""
    try:
        plain: Any = json.loads(line)
        count, at = int(plain["count"]), float(plain["noticed_at"])
        return LostCommits(count, at if 0 <= at < 1e11 else 0.0)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return LostCommits(0, 0.0)
