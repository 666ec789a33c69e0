"""Frames on disk until the server has them: what lets a device be offline, or be switched off.

One file a frame, written aside and then renamed, so a frame is there whole or not at all. Each
begins with its length and a checksum: after a power cut a file may be there with nothing in it.
"""

import contextlib
import logging
import os
import struct
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from secondlook_client.errors import InvalidInput, SpoolFull, SpoolUnusable
from secondlook_client.folder_lock import lock_folder

log = logging.getLogger(__name__)

WHEN_FULL = ("drop_oldest", "drop_newest", "raise")
SUFFIX = ".frame"
_HEAD = struct.Struct(">4sIHI")
"""Mark, checksum of the rest, bytes of the name, bytes of the image."""
_MARK = b"slf1"


@dataclass(frozen=True)
class SpoolLimits:
    """How much a spool holds, and what happens when more comes."""

    max_bytes: int = 2**30
    when_full: str = "drop_oldest"
    """``drop_oldest``, ``drop_newest`` or ``raise`` (``SpoolFull``)."""
    sync: bool = True
    """Wait until the disk has each frame, so that it survives a power cut. Without, it survives
    the end of the process only, and ``send`` is quicker."""

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise InvalidInput(f"expected max_bytes of at least 1, got {self.max_bytes}")
        if self.when_full not in WHEN_FULL:
            raise InvalidInput(
                f"expected when_full to be {', '.join(WHEN_FULL)}, got '{self.when_full}'"
            )


@dataclass(frozen=True)
class SpooledFrame:
    """One frame as it was given."""

    sequence: int
    name: str
    data: bytes


class Spool:
    """A folder of frames in the order of their numbers. Thread-safe; for one process at a time.

    Raises ``SpoolUnusable`` when the folder cannot be had, or another process has it.
    """

    def __init__(self, folder: Path, limits: SpoolLimits | None = None) -> None:
        self.folder = folder
        self.limits = limits or SpoolLimits()
        self.dropped = 0
        """Frames given up for want of room, since the spool was opened."""
        self._lock = threading.Lock()
        with self._explaining():
            folder.mkdir(parents=True, exist_ok=True)
            in_use = f"the spool {folder} is in use by another process; give each its own folder"
            self._handle = lock_folder(folder, SpoolUnusable(in_use))
            self._sizes = self._found()
        self._bytes = sum(self._sizes.values())
        self._last = next(reversed(self._sizes), -1)

    def put(self, data: bytes, name: str = "") -> int | None:
        """Keep a frame and return its number; None when it was dropped for want of room.

        Numbers rise for ever, also where the spool was emptied or lost in between: they are the
        milliseconds since 1970, or one more than the last where that is higher.
        """
        body = name.encode("utf-8", "replace")[: 2**16 - 1] + data
        content = _HEAD.pack(_MARK, zlib.crc32(body), len(body) - len(data), len(data)) + body
        with self._lock:
            if not self._make_room(len(content)):
                return None
            sequence = max(self._last + 1, time.time_ns() // 1_000_000)
            with self._explaining():
                self._write(self._path(sequence), content)
            self._sizes[sequence] = len(content)
            self._bytes += len(content)
            self._last = sequence
            return sequence

    def after(self, sequence: int) -> SpooledFrame | None:
        """The first frame numbered above ``sequence``; a damaged one is left out for good."""
        with self._lock:
            while (found := self._first_above(sequence)) is not None:
                with self._explaining():
                    frame = _read(self._path(found), found)
                if frame is not None:
                    return frame
                self._forget(found)
                self.dropped += 1
            return None

    def remove(self, sequence: int) -> None:
        """Forget a frame, because the server has it; one that is not there is no error."""
        with self._lock:
            self._forget(sequence)

    def number_above(self, sequence: int) -> None:
        """Frames to come are numbered above this, which the server has seen."""
        with self._lock:
            self._last = max(self._last, sequence)

    @property
    def frames(self) -> int:
        """Frames in the spool."""
        return len(self._sizes)

    @property
    def total_bytes(self) -> int:
        """Their size on the disk."""
        return self._bytes

    def close(self) -> None:
        """Let another process have the folder; the frames stay."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _make_room(self, size: int) -> bool:
        limits = self.limits
        if size > limits.max_bytes:
            raise SpoolFull(
                f"a frame of {size:,} bytes is more than the whole spool may hold "
                f"({limits.max_bytes:,}); raise max_bytes"
            )
        if self._bytes + size <= limits.max_bytes:
            return True
        if limits.when_full == "raise":
            raise SpoolFull(
                f"the spool {self.folder} holds {self._bytes:,} of {limits.max_bytes:,} bytes "
                "that the server has not got yet; try again later, or let it drop frames"
            )
        if limits.when_full == "drop_newest":
            self.dropped += 1
            return False
        while self._bytes + size > limits.max_bytes:
            self._forget(next(iter(self._sizes)))
            self.dropped += 1
        return True

    def _first_above(self, sequence: int) -> int | None:
        """Almost always at the front: what was sent and not acknowledged is little."""
        return next((found for found in self._sizes if found > sequence), None)

    def _forget(self, sequence: int) -> None:
        size = self._sizes.pop(sequence, None)
        if size is None:
            return
        self._bytes -= size
        try:
            self._path(sequence).unlink(missing_ok=True)
        except OSError as failure:  # sent again after the next start, and stored once all the same
            log.warning("%s cannot be deleted: %s", self._path(sequence), failure.strerror)

    def _path(self, sequence: int) -> Path:
        return self.folder / f"{sequence:019d}{SUFFIX}"

    def _found(self) -> "OrderedDict[int, int]":
        """Sizes by number, in order; what a killed process left half written goes."""
        sizes: dict[int, int] = {}
        for path in self.folder.iterdir():
            if path.suffix == ".part":
                path.unlink(missing_ok=True)
            elif path.suffix == SUFFIX and path.stem.isdecimal():
                sizes[int(path.stem)] = path.stat().st_size
        return OrderedDict(sorted(sizes.items()))

    def _write(self, path: Path, content: bytes) -> None:
        part = path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                file.write(content)
                if self.limits.sync:
                    file.flush()
                    os.fsync(file.fileno())
            part.replace(path)
            if self.limits.sync and self._handle is not None:
                os.fsync(self._handle)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except OSError as failure:
            raise SpoolUnusable(
                f"the spool {self.folder} cannot be used: {failure.strerror or failure}; free some "
                "space, mend its permissions or choose another folder"
            ) from failure


def _read(path: Path, sequence: int) -> SpooledFrame | None:
    """The frame in a file, or None where it is damaged or gone."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(content) < _HEAD.size:
        return None
    mark, checksum, name_bytes, data_bytes = _HEAD.unpack_from(content)
    body = content[_HEAD.size :]
    if mark != _MARK or len(body) != name_bytes + data_bytes or zlib.crc32(body) != checksum:
        return None
    name = body[:name_bytes].decode("utf-8", "replace")
    return SpooledFrame(sequence, name, body[name_bytes:])
