"""Content-addressed bytes: images, manifests and models under their sha256, in a folder.

``put`` acknowledges only what is durable: the file and its folder are fsynced. obstore's local
store was tried in its place and is not enough: it neither fsyncs (0.12 has no option for it) nor
notices an unmounted disk, and it cannot renew the age of bytes that are put again.
"""

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

from secondlook.core.files import DISK_FULL
from secondlook_client.errors import Damaged, NotFound, StorageFull, StoreUnavailable
from secondlook_client.private_files import (
    FOLDER_MODE,
    is_sha256,
    make_private_folder,
    open_private,
)

log = logging.getLogger(__name__)

INCOMING = "incoming"
IDENTITY = "identity"
"""A file with a number that no other blob store has."""
ABANDONED_S = 3600.0
"""A partial file older than this was left by a process that died."""


class Blobs(Protocol):
    """A content-addressed store. A sha256 is 64 lower-case hexadecimal digits.

    Every method may raise ``StoreUnavailable``. Safe to use from several threads and processes.
    """

    def put(self, content: bytes) -> str:
        """Store bytes durably; returns their sha256. Idempotent.

        Raises ``StorageFull``.
        """
        ...

    def get(self, sha256: str) -> bytes:
        """The bytes. Raises ``NotFound``, and ``Damaged`` when they do not match their hash."""
        ...

    def has(self, sha256: str) -> bool:
        """Whether the bytes exist; they are not read."""
        ...

    def remove(self, sha256: str) -> None:
        """Delete the bytes, if they exist."""
        ...

    def remove_unless_new(self, sha256: str, age_s: float) -> bool:
        """Delete the bytes unless they were put within ``age_s`` seconds; whether it was done.

        Whoever put them again may be about to insert the row that refers to them.
        """
        ...

    def all(self) -> Iterator[str]:
        """The sha256 of every blob, in no order."""
        ...


class FolderBlobs:
    """Blobs as files of one folder: ``ab/ab12…``, read-only, written atomically."""

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        """``root`` is created if missing, unless ``read_only``.

        Raises ``StoreUnavailable``.
        """
        self._root = root
        if read_only:
            return
        with _translated_errors():
            make_private_folder(root / INCOMING)
            _remove_abandoned(root / INCOMING)

    def identity(self) -> str:
        """The same for all servers that have this folder, wherever it is mounted, and no others.

        Raises ``StoreUnavailable``.
        """
        path = self._root / IDENTITY
        with _translated_errors():
            if not path.exists():
                part = self._root / INCOMING / uuid4().hex
                with open_private(part, "wb") as file:
                    file.write(uuid4().hex.encode())
                    file.flush()
                    os.fsync(file.fileno())
                with suppress(FileExistsError):  # another server was faster
                    os.link(part, path)
                part.unlink()
                _fsync_folder(self._root)
            return path.read_bytes()[:32].hex()

    def put(self, content: bytes) -> str:
        """See ``Blobs``. Bytes that were corrupted on the disk are replaced."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self._path(sha256)
        with _translated_errors():
            if not _renew(path, content):
                self._write(path, content)
            # Also when it existed: whoever wrote it may not have reached this line yet.
            _fsync_folder(path.parent)
        return sha256

    def get(self, sha256: str) -> bytes:
        """See ``Blobs``."""
        with _translated_errors():
            try:
                content = self._path(sha256).read_bytes()
            except FileNotFoundError:
                (self._root / INCOMING).stat()  # raises where the whole folder is missing
                raise blob_not_found(sha256) from None
        return verify_hash(sha256, content)

    def has(self, sha256: str) -> bool:
        """See ``Blobs``."""
        with _translated_errors():
            return self._path(sha256).is_file()

    def remove(self, sha256: str) -> None:
        """See ``Blobs``."""
        with _translated_errors():
            self._path(sha256).unlink(missing_ok=True)

    def remove_unless_new(self, sha256: str, age_s: float) -> bool:
        """See ``Blobs``."""
        path = self._path(sha256)
        with _translated_errors(), suppress(FileNotFoundError), _locked(path.parent):
            if path.stat().st_mtime > time.time() - age_s:
                return False
            path.unlink()
        return True

    def all(self) -> Iterator[str]:
        """See ``Blobs``."""
        with _translated_errors():
            for shard in sorted(self._root.iterdir()):
                if shard.name != INCOMING and shard.is_dir():
                    yield from (entry.name for entry in os.scandir(shard) if is_sha256(entry.name))

    def _path(self, sha256: str) -> Path:
        return self._root / blob_path(sha256)

    def probe(self, size: int) -> None:
        """Write that many bytes durably, and delete them. Raises what ``put`` raises."""
        part = self._root / INCOMING / uuid4().hex
        with _translated_errors():
            try:
                with part.open("xb") as file:
                    file.write(bytes(size))
                    file.flush()
                    os.fsync(file.fileno())
            finally:
                part.unlink(missing_ok=True)

    def _write(self, path: Path, content: bytes) -> None:
        part = self._root / INCOMING / uuid4().hex
        try:
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
            with open(handle, "wb") as file:  # noqa: PTH123 - of a handle
                file.write(content)
                file.flush()
                os.fsync(handle)
            # Never with parents: a folder whose disk is not mounted must not be created anew.
            with suppress(FileExistsError):
                path.parent.mkdir(FOLDER_MODE)
                _fsync_folder(self._root)
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise


def verify_hash(sha256: str, content: bytes) -> bytes:
    """``content``, if its hash is ``sha256``. Raises ``Damaged``."""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Damaged(
            f"blob {sha256[:12]} no longer matches its hash; put the same image in again, or "
            "restore it with `secondlook restore`"
        )
    return content


def blob_not_found(sha256: str) -> NotFound:
    """The error for a missing blob."""
    return NotFound(
        f"blob {sha256[:12]} is not in the blob store; put the same image in again, or restore "
        "it with `secondlook restore`"
    )


def blob_path(sha256: str) -> str:
    """Path of a blob below the root. Raises ``NotFound`` for what is not a sha256."""
    if not is_sha256(sha256):
        raise NotFound(f"{sha256[:80]!r} is not a sha256 of 64 hexadecimal digits")
    return f"{sha256[:2]}/{sha256}"


def _renew(path: Path, content: bytes) -> bool:
    """Whether the file holds ``content``; its age starts anew then."""
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
    """Serialize renewals and age-dependent deletions in a folder, across processes."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _fsync_folder(folder: Path) -> None:
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
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except OSError as failure:
        log.warning("the blob store failed: %s", failure)
        if failure.errno in DISK_FULL:
            raise StorageFull(
                "the disk of the blob store is full; free some space and try again, what was "
                "stored before is intact"
            ) from failure
        raise StoreUnavailable(
            f"the blob store's folder fails ({_error_name(failure)}); pending work resumes once it "
            "works again"
        ) from failure


def _error_name(failure: OSError) -> str:
    return errno.errorcode.get(failure.errno or 0, type(failure).__name__)
