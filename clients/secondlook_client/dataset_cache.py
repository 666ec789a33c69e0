"""The cache of a dataset: images by hash, and the labels of each pulled part by number.

    CACHE/images/ab/ab12…                        bytes of one image
    CACHE/snapshots/MANIFEST/train-0-of-1          labels, one message after the other
    CACHE/snapshots/MANIFEST/train-0-of-1.places   where each begins, 8 bytes a message

Everything appears whole or not at all and is checked when it is read, so any number of processes
may share a cache, and one that was killed leaves nothing that must be cleaned.
"""

import hashlib
import os
import sys
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from secondlook_client.errors import CacheUnusable, Damaged
from secondlook_client.private_files import checked_sha256, make_private_folder
from secondlook_client.v1 import datasets_pb2 as pb


def default_cache() -> Path:
    """``secondlook`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base) / "secondlook" if base else Path.home() / ".cache" / "secondlook"


class ImageCache:
    """Bytes of images in a folder, by the hash that a server gave.

    Raises ``CacheUnusable`` where the disk refuses, and ``Damaged`` for a hash that is none.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def has(self, sha256: str) -> bool:
        """Whether there is a file for it, which may yet be damaged."""
        return self._path(sha256).is_file()

    def get(self, sha256: str) -> bytes | None:
        """The bytes; None when there are none, or others than the hash says."""
        with _explained(self.root):
            try:
                content = self._path(sha256).read_bytes()
            except FileNotFoundError:
                return None
        return content if hashlib.sha256(content).hexdigest() == sha256 else None

    def put(self, sha256: str, content: bytes) -> None:
        """Keep the bytes of that hash."""
        with _replacing(self._path(sha256)) as file:
            file.write(content)

    def _path(self, sha256: str) -> Path:
        checked_sha256(sha256, "an image of the snapshot")
        return self.root / "images" / sha256[:2] / sha256


class Index:
    """The labels of a part of a snapshot, read by number; holds 8 bytes an image in memory."""

    def __init__(self, path: Path, places: "array[int]") -> None:
        self._path = path
        self._places = places

    @classmethod
    def open(
        cls, path: Path, count: int, pull: Callable[[], Iterable[pb.SnapshotImage]]
    ) -> "Index":
        """The ``count`` images at ``path``; what ``pull`` gives is written there if need be.

        Raises ``Damaged`` when it gives another number.
        """
        for _ in range(2):
            with _explained(path):
                places = _read_places(path)
            if len(places) == count + 1:
                return cls(path, places)
            _write(path, pull())
        raise Damaged(
            f"the server gave {len(places) - 1} images where the snapshot has {count}; run "
            "`secondlook check` where its store is"
        )

    def __len__(self) -> int:
        return len(self._places) - 1

    def __getitem__(self, number: int) -> pb.SnapshotImage:
        start, end = self._places[number], self._places[number + 1]
        # Opened each time: a handle that is shared through a fork would share its position too.
        with _explained(self._path), self._path.open("rb") as file:
            file.seek(start)
            return pb.SnapshotImage.FromString(file.read(end - start))


def _places_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.places")


def _read_places(path: Path) -> "array[int]":
    """Where each message begins and the last one ends; empty when the files are not whole."""
    places = array("Q")
    try:
        places.frombytes(_places_path(path).read_bytes())
        if sys.byteorder == "big":
            places.byteswap()
        whole = path.stat().st_size == places[-1]
    except (FileNotFoundError, ValueError, IndexError):
        whole = False
    return places if whole else array("Q")


def _write(path: Path, pulled: Iterable[pb.SnapshotImage]) -> None:
    places = array("Q", [0])
    with _replacing(path) as file:
        for message in pulled:
            written = file.write(message.SerializeToString())
            places.append(places[-1] + written)
    if sys.byteorder == "big":
        places.byteswap()
    with _replacing(_places_path(path)) as file:
        file.write(places.tobytes())


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file beside ``path`` that takes its place when everything is written."""
    with _explained(path):
        make_private_folder(path.parent)
        handle, part = tempfile.mkstemp(prefix=".", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
            Path(part).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(part).unlink()
            raise


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as failure:
        raise CacheUnusable(
            f"the dataset's cache at {path} cannot be used ({failure.strerror}); make room, or "
            "give another folder with cache="
        ) from failure
