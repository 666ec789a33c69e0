"""Bytes by their sha256: images and manifests. What was put is there for good, or said so."""

import errno
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from secondlook.core.errors import Damaged, NotFound, StorageFull, StoreUnavailable
from secondlook.core.files import FULL

log = logging.getLogger(__name__)

INCOMING = "incoming"
ABANDONED_S = 3600.0
"""After this long a file that is still on its way belongs to a process that has died."""


class Blobs(Protocol):
    """Where bytes are kept by content. A sha256 is 64 hexadecimal digits, lower case.

    Every method may raise ``StoreUnavailable``. Safe to use from several threads and processes.
    """

    def put(self, content: bytes) -> str:
        """Keep bytes; their sha256. They are durable on return, and putting them twice is once.

        Raises ``StorageFull``.
        """
        ...

    def get(self, sha256: str) -> bytes:
        """The bytes. Raises ``NotFound``, and ``Damaged`` when their hash is another."""
        ...

    def has(self, sha256: str) -> bool:
        """Whether there are bytes under that name; says nothing of their state."""
        ...

    def remove(self, sha256: str) -> None:
        """Remove the bytes, if they are there."""
        ...

    def remove_unless_new(self, sha256: str, age_s: float) -> bool:
        """Remove the bytes if nobody put them within ``age_s`` seconds; whether they are gone.

        Whoever put them again may be about to write the row that needs them.
        """
        ...

    def all(self) -> Iterator[str]:
        """The name of everything that is kept, in no order."""
        ...


class FolderBlobs:
    """Blobs as files of one folder: ``ab/ab12…``, read-only, each complete or not there."""

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        """``root`` is made when it is not there, unless it is only read.

        Raises ``StoreUnavailable``.
        """
        self._root = root
        if read_only:
            return
        with _explained():
            (root / INCOMING).mkdir(parents=True, exist_ok=True)
            _remove_abandoned(root / INCOMING)

    def put(self, content: bytes) -> str:
        """See ``Blobs``. Bytes that rotted on the disk are replaced by good ones."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self._path(sha256)
        with _explained():
            if not _renew(path, content):
                self._write(path, content)
            # Also when it was there: whoever wrote it may not have come to this line yet.
            _sync(path.parent)
        return sha256

    def get(self, sha256: str) -> bytes:
        """See ``Blobs``."""
        with _explained():
            try:
                content = self._path(sha256).read_bytes()
            except FileNotFoundError:
                (self._root / INCOMING).stat()  # raises where the whole folder is away
                raise lost(sha256) from None
        return checked(sha256, content)

    def has(self, sha256: str) -> bool:
        """See ``Blobs``."""
        with _explained():
            return self._path(sha256).is_file()

    def remove(self, sha256: str) -> None:
        """See ``Blobs``."""
        with _explained():
            self._path(sha256).unlink(missing_ok=True)

    def remove_unless_new(self, sha256: str, age_s: float) -> bool:
        """See ``Blobs``."""
        path = self._path(sha256)
        with _explained(), suppress(FileNotFoundError), _locked(path.parent):
            if path.stat().st_mtime > time.time() - age_s:
                return False
            path.unlink()
        return True

    def all(self) -> Iterator[str]:
        """See ``Blobs``."""
        with _explained():
            for shard in sorted(self._root.iterdir()):
                if shard.name != INCOMING and shard.is_dir():
                    yield from (entry.name for entry in os.scandir(shard) if is_name(entry.name))

    def _path(self, sha256: str) -> Path:
        return self._root / path_of(sha256)

    def _write(self, path: Path, content: bytes) -> None:
        part = self._root / INCOMING / uuid4().hex
        try:
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
            with open(handle, "wb") as file:  # noqa: PTH123 - of a handle
                file.write(content)
                file.flush()
                os.fsync(handle)
            # Never with parents: a folder whose disk is not mounted must not be made anew.
            with suppress(FileExistsError):
                path.parent.mkdir()
                _sync(self._root)
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise


def checked(sha256: str, content: bytes) -> bytes:
    """``content`` if that is its hash. Raises ``Damaged``."""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Damaged(
            f"blob {sha256[:12]} no longer matches its hash; put the same image in again, or "
            "restore it with `secondlook restore`"
        )
    return content


def lost(sha256: str) -> NotFound:
    """The error for a blob that is not there."""
    return NotFound(
        f"blob {sha256[:12]} is not in the blob store; put the same image in again, or restore "
        "it with `secondlook restore`"
    )


def path_of(sha256: str) -> str:
    """Where a blob is below its root. Raises ``NotFound`` for what is no sha256."""
    if not is_name(sha256):
        raise NotFound(f"{sha256[:80]!r} is no sha256 in hexadecimal digits")
    return f"{sha256[:2]}/{sha256}"


def is_name(text: str) -> bool:
    """Whether it is a sha256 as we write it."""
    return len(text) == 64 and not set(text) - set("0123456789abcdef")


def _renew(path: Path, content: bytes) -> bool:
    """True when the file holds ``content``; it is as new then."""
    try:
        with _locked(path.parent):
            if path.stat().st_size != len(content) or path.read_bytes() != content:
                return False
            os.utime(path)
            return True
    except FileNotFoundError:
        return False


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One at a time looks at a file's age and does something about it."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_abandoned(incoming: Path) -> None:
    for entry in os.scandir(incoming):
        with suppress(FileNotFoundError):
            if entry.stat().st_mtime < time.time() - ABANDONED_S:
                Path(entry.path).unlink()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as failure:
        log.warning("the blob store failed: %s", failure)
        if failure.errno in FULL:
            raise StorageFull(
                "the disk of the blob store is full; free some space and try again, what was kept "
                "before is intact"
            ) from failure
        raise StoreUnavailable(
            f"the blob store's folder fails ({_word(failure)}); what waits for it goes on once it "
            "works again"
        ) from failure


def _word(failure: OSError) -> str:
    return errno.errorcode.get(failure.errno or 0, type(failure).__name__)
