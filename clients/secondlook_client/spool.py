"""Frames on disk until the server has them: what lets a device be offline, or be switched off.

One file a frame, written aside and then renamed, so a frame is there whole or not at all. Each
begins with its length and a checksum: after a power cut a file may be there with nothing in it.

A frame's number is its file's name, and rises with time. Numbers that no device reaches by
counting come from a stranger or a broken clock; they are given up here, never the frame.
"""

import contextlib
import logging
import os
import re
import stat
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
from secondlook_client.private_files import make_private_folder, open_private

log = logging.getLogger(__name__)

WHEN_FULL = ("drop_oldest", "drop_newest", "raise")
SUFFIX = ".frame"
MAX_SEQUENCE = 2**48 - 1
"""The highest number that a server stores: milliseconds since 1970 until the year 10889."""
SEQUENCE_TAKEN = "sequence_taken"
"""The server's reason for not storing a frame: another image has its number."""
STRANGE_SEQUENCE = 2**47
"""A frame found in a spool with a number from here on is numbered anew."""
MAX_FOLLOWED = 2**46
"""The highest number of a server or clock that is counted on from. The room above is never used
up: seventy million million frames lie between this and ``STRANGE_SEQUENCE``."""
_FRAME_FILE = re.compile(r"[0-9]{19,20}\.frame", re.ASCII)
_PART_FILE = re.compile(r"[0-9]{19,20}\.part", re.ASCII)
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
        self._by_clock = True
        """Whether the clock gives the numbers, as it does until a server refuses one of them."""
        with self._explaining():
            make_private_folder(folder)
            in_use = f"the spool {folder} is in use by another process; give each its own folder"
            self._handle = lock_folder(folder, SpoolUnusable(in_use))
            self._sizes = self._found()
            self._bytes = sum(self._sizes.values())
            self._last = next(reversed(self._sizes), -1)
            self._renumber_from(STRANGE_SEQUENCE, self._highest_below(STRANGE_SEQUENCE))

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
            sequence = self._next_number()
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
        """Frames to come are numbered above this, which the server has seen.

        One that no device reaches by counting is left out of account.
        """
        if sequence > MAX_FOLLOWED:
            log.warning(
                "the server has a frame numbered %d of this stream, which no device has sent; "
                "numbers go on by the clock",
                sequence,
            )
            return
        with self._lock:
            self._last = max(self._last, sequence)

    def renumber(self, sequence: int, step: int = 1) -> int | None:
        """Put a frame whose number is taken behind all others; its new number, None if it is gone.

        ``step`` is how far above the last number it goes.
        """
        with self._lock:
            if sequence not in self._sizes:
                return None
            return self._move(sequence, self._next_number() + step - 1)

    def renumber_from(self, sequence: int, above: int) -> None:
        """Number this frame and all behind it anew, from ``above`` + 1 on, in their order.

        For numbers that the server refuses as too high, so the clock is not trusted from now on.
        """
        with self._lock:
            self._by_clock = False
            self._renumber_from(sequence, max(above, self._highest_below(sequence)))

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

    def _next_number(self) -> int:
        clock = time.time_ns() // 1_000_000 if self._by_clock else 0
        number = max(self._last + 1, min(clock, MAX_FOLLOWED))
        while number in self._sizes:
            number += 1
        return number

    def _highest_below(self, sequence: int) -> int:
        return next((found for found in reversed(self._sizes) if found < sequence), -1)

    def _renumber_from(self, sequence: int, above: int) -> None:
        """One rename a frame, the lowest first: after a kill the order is still the right one."""
        moved = [found for found in self._sizes if found >= sequence]
        if moved:
            log.warning("%d frames in %s are numbered anew", len(moved), self.folder)
            self._last = above
        for found in moved:
            self._move(found, self._next_number())

    def _move(self, sequence: int, new: int) -> int:
        """Give a frame another number, above all that are not to be moved."""
        with self._explaining():
            self._path(sequence).replace(self._path(new))
        self._sizes[new] = self._sizes.pop(sequence)
        self._last = new
        return new

    def _path(self, sequence: int) -> Path:
        return self.folder / f"{sequence:019d}{SUFFIX}"

    def _found(self) -> "OrderedDict[int, int]":
        """Sizes by number, in order; what a killed process left half written goes.

        A file that no spool has written stays where it is and is never sent.
        """
        sizes: dict[int, int] = {}
        strange = 0
        for path in self.folder.iterdir():
            found = path.lstat()
            if _PART_FILE.fullmatch(path.name) and not stat.S_ISDIR(found.st_mode):
                path.unlink(missing_ok=True)
            elif self._is_frame(path) and stat.S_ISREG(found.st_mode):
                sizes[int(path.stem)] = found.st_size
            else:
                strange += path.suffix == SUFFIX
        if strange:
            log.warning("%d files in %s are no frames of this spool", strange, self.folder)
        return OrderedDict(sorted(sizes.items()))

    def _is_frame(self, path: Path) -> bool:
        return bool(_FRAME_FILE.fullmatch(path.name)) and path == self._path(int(path.stem))

    def _write(self, path: Path, content: bytes) -> None:
        part = path.with_suffix(".part")
        try:
            with open_private(part, "wb") as file:
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
        with path.open("rb") as file:
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                return None
            mark, checksum, name_bytes, data_bytes = _HEAD.unpack(head)
            # Compared before it is read: a strange file may be larger than the memory.
            whole = os.fstat(file.fileno()).st_size == len(head) + name_bytes + data_bytes
            body = file.read() if mark == _MARK and whole else b""
    except FileNotFoundError:
        return None
    if len(body) != name_bytes + data_bytes or zlib.crc32(body) != checksum:
        return None
    name = body[:name_bytes].decode("utf-8", "replace")
    return SpooledFrame(sequence, name, body[name_bytes:])
