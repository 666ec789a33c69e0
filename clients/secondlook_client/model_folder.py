"""A model's folder on this disk: read to be sent, or written by a download that may break off.

FOLDER.part/manifest.json   which version is being downloaded
FOLDER.part/model.onnx      as much of it as has arrived
FOLDER/                     appears with all of its files, each checked by size and hash
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from secondlook_client.errors import Damaged, FolderUnusable, InvalidInput, NotFound
from secondlook_client.folder_lock import lock_folder
from secondlook_client.private_files import (
    FILE_MODE,
    is_plain_name,
    is_sha256,
    make_private_folder,
    open_private,
)
from secondlook_client.v1 import models_pb2 as pb
from secondlook_client.values import ModelVersion
from secondlook_client.wire import MANIFEST

CHUNK = 256 * 2**10


class PartFolder:
    """A download in progress. Use ``opened``, which keeps other processes out."""

    def __init__(self, part: Path, model: ModelVersion) -> None:
        self._part = part
        self._model = model

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, model: ModelVersion) -> "Iterator[PartFolder]":
        """The download of ``model`` into ``folder``, new or resumed.

        Raises ``FolderUnusable`` where the disk refuses or another process uses it.
        """
        part = folder.with_name(f"{folder.name}.part")
        with explained(folder):
            make_private_folder(part)
            in_use = (
                f"another process is downloading into {part}; wait for it, or give another folder"
            )
            lock = lock_folder(part, FolderUnusable(in_use))
            try:
                opened = cls(part, model)
                opened._begin()
                yield opened
            finally:
                if lock is not None:
                    os.close(lock)

    def have(self, name: str) -> int:
        """Bytes of a file that are here; a file that is too long is removed."""
        path, (_, size) = self._part / name, self._model.files[name]
        there = path.stat().st_size if path.is_file() else 0
        if there > size:
            path.unlink()
            return 0
        return there

    def add(self, name: str, data: bytes) -> int:
        """Append to a file; how long it is then. Raises ``Damaged`` once it is too long."""
        with explained(self._part), open_private(self._part / name, "ab") as file:
            file.write(data)
            there = file.tell()
        if there > self._model.files[name][1]:
            self.discard(name)
            raise self._wrong(name)
        return there

    def whole(self, name: str) -> bool:
        """Whether a file is complete and correct; it is durable then."""
        sha256, size = self._model.files[name]
        path = self._part / name
        if not size and not path.exists():
            path.touch(FILE_MODE)
        return is_whole(path, sha256, size, sync=True)

    def discard(self, name: str) -> None:
        """Remove what was downloaded of a file."""
        with explained(self._part):
            (self._part / name).unlink(missing_ok=True)

    def finish(self, folder: Path, names: Collection[str]) -> None:
        """Rename the part to its folder, with these files and the manifest and nothing else."""
        with explained(folder):
            for path in self._part.iterdir():
                if path.name not in names and path.name != MANIFEST:
                    _remove(path)
            with suppress(FileNotFoundError):
                folder.rmdir()  # an empty one, as somebody may have made it
            self._part.rename(folder)
            _sync(folder)
            _sync(folder.parent)

    def _begin(self) -> None:
        """Resume this version; files of another are removed."""
        manifest = self._part / MANIFEST
        text = self._model.manifest_json.encode()
        with explained(self._part):
            if manifest.is_file() and manifest.read_bytes() == text:
                return
            for path in self._part.iterdir():
                _remove(path)
            written = manifest.with_name(f"{MANIFEST}.new")
            with open_private(written, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            written.rename(manifest)

    def _wrong(self, name: str) -> Damaged:
        return wrong(name, self._model)


def wrong(name: str, model: ModelVersion) -> Damaged:
    """The error for a file that arrived with other bytes than its hash says."""
    return Damaged(
        f"{name} of version {model.version} of '{model.name}' came with other bytes than its hash "
        "says and was discarded; run `secondlook check` where the server's store is"
    )


def is_complete(folder: Path, model: ModelVersion, names: Collection[str]) -> bool:
    """Whether the folder holds these files of this very version."""
    with explained(folder):
        manifest = folder / MANIFEST
        if not manifest.is_file() or manifest.read_bytes() != model.manifest_json.encode():
            return False
        return all(is_whole(folder / name, *model.files[name]) for name in names)


def prepare_folder(folder: Path, model: ModelVersion) -> None:
    """Make sure that ``folder`` can be created; a damaged copy of this version is resumed.

    Raises ``FolderUnusable`` when there is something else in its place.
    """
    with explained(folder):
        if is_complete(folder, model, ()):  # a file is missing or damaged
            part = folder.with_name(f"{folder.name}.part")
            if part.exists():
                _remove(part)
            folder.rename(part)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FolderUnusable(
                f"{folder} holds something other than this version; give a new folder"
            )


def is_whole(path: Path, sha256: str, size: int, *, sync: bool = False) -> bool:
    """Whether a file has this size and hash; with ``sync`` it survives a loss of power then."""
    with explained(path):
        if not path.is_file() or path.stat().st_size != size:
            return False
        with path.open("rb") as file:
            if sync:
                os.fsync(file.fileno())
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256


class SentFolder:
    """A student folder as it is sent; checked before the first byte leaves."""

    def __init__(self, folder: Path, name: str) -> None:
        """``name`` empty takes the manifest's.

        Raises ``NotFound`` for a folder without a manifest, ``InvalidInput`` for files that are
        not as it says, and ``FolderUnusable``.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise NotFound(f"{folder} holds no {MANIFEST}; name what `secondlook distill` wrote")
        with explained(folder):
            self._manifest = path.read_text(encoding="utf-8", errors="replace")
            report = folder / "report.json"
            self._report = report.read_text(encoding="utf-8") if report.is_file() else ""
        self._folder = folder
        plain = self._read()
        self.name = name or str(plain["name"])
        self._files: dict[str, Any] = plain["files"]
        for file, entry in self._files.items():
            if not is_whole(folder / file, entry["sha256"], entry["size"]):
                raise InvalidInput(
                    f"{folder / file} is missing or not the one that the manifest names; export "
                    "the student again"
                )

    def _read(self) -> dict[str, Any]:
        try:
            plain = json.loads(self._manifest)
            for file, entry in plain["files"].items():
                sound = is_plain_name(file) and is_sha256(str(entry["sha256"]))
                if not sound or not isinstance(entry["size"], int):
                    raise ValueError(file)
                str(plain["name"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as failure:
            raise InvalidInput(
                f"{self._folder / MANIFEST} is no manifest of a student; export it again"
            ) from failure
        return dict(plain)

    def messages(self) -> Iterator[pb.AddVersionRequest]:
        """The header, then every file in chunks. Raises ``OSError``."""
        header = pb.AddVersionHeader(
            name=self.name, manifest_json=self._manifest, report_json=self._report
        )
        yield pb.AddVersionRequest(header=header)
        for name in sorted(self._files):
            with (self._folder / name).open("rb") as file:
                while data := file.read(CHUNK):
                    yield pb.AddVersionRequest(chunk=pb.ModelChunk(file=name, data=data))


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """The disk's refusal as an error that says what to do."""
    try:
        yield
    except OSError as failure:
        raise FolderUnusable(
            f"{path} cannot be used ({failure.strerror or type(failure).__name__}); make room, or "
            "give a folder of your own"
        ) from failure


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
