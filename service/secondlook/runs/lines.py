"""Append-only files of JSON lines that survive a crash at any moment."""

import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from secondlook.atomic import explaining
from secondlook.errors import OutputExists


class Lines:
    """A file of JSON objects, one a line, that is only ever added to.

    Each object has a ``key``. Opening it cuts off a line that a crash left unfinished; a damaged
    one further up raises ``OutputExists`` when it is read, and nothing is removed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with explaining(path):
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._size = self._repair()

    def _repair(self) -> int:
        """Cut off a line that a crash left unfinished; returns the size in bytes."""
        size = os.fstat(self._handle).st_size
        end = size
        while end:
            start = max(0, end - 65_536)
            newline = os.pread(self._handle, end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._handle, end)
        return end

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(place, object) of every line."""
        place = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield place, self._parse(line, f"line {number}")
                place += len(line)

    def append(self, plain: Mapping[str, Any]) -> int:
        """Add a line whole or not at all; returns its place."""
        line, place = memoryview(as_line(plain)), self._size
        with explaining(self._path):
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._handle, line[written:])
            except BaseException:
                os.ftruncate(self._handle, place)
                raise
        self._size = place + len(line)
        return place

    def at(self, place: int) -> dict[str, Any]:
        """The object whose line begins at byte ``place``."""
        with io.FileIO(self._handle, closefd=False) as file:
            file.seek(place)
            return self._parse(io.BufferedReader(file, 16_384).readline(), f"byte {place}")

    def sync(self) -> None:
        """Make what was added survive a power cut."""
        with explaining(self._path):
            os.fsync(self._handle)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._handle)

    def _parse(self, line: bytes, where: str) -> dict[str, Any]:
        try:
            plain = json.loads(line)
            plain["key"]
        except (ValueError, TypeError, KeyError):
            raise OutputExists(
                f"{self._path}: {where} is damaged; remove that line to keep the rest, or start "
                "over with --fresh"
            ) from None
        return dict(plain)


def as_line(plain: Mapping[str, Any]) -> bytes:
    """One line of JSON, whatever is in the texts."""
    return json.dumps(plain, separators=(",", ":")).encode("ascii") + b"\n"
