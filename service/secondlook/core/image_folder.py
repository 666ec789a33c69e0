"""Finds the images in files and folders, in a fixed order, and reads them safely.

A folder of a user may hold named pipes that block whoever opens them, links that
lead out of it, and names in any script or none. Nothing here opens anything but regular files.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from secondlook_client.errors import BadImage, ImageTooLarge, InvalidInput, NotFound

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif")
)
"""Suffixes of images in a folder, in any case; a file that is named itself is always taken."""
UNREADABLE_FORMATS = {".heic": "HEIC", ".heif": "HEIF", ".avif": "AVIF", ".jxl": "JPEG XL"}
"""Images that cannot be decoded: each is refused with a reason, rather than left out silently."""


@dataclass(frozen=True)
class ImageFile:
    """One image to label, as it was when it was found."""

    name: str
    """Path relative to the root, with forward slashes; unique in a run."""
    path: Path
    size: int
    """Bytes."""
    mtime_ns: int
    refusal: str = ""
    """Why it cannot be opened at all; empty for a regular file."""

    @property
    def key(self) -> int:
        """Identity of (name, size, modification time), signed 64 bits: it changes with the file."""
        content = f"{self.name}\0{self.size}\0{self.mtime_ns}"
        digest = blake2b(os.fsencode(content), digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)


@dataclass(frozen=True)
class ImageSelection:
    """The files and folders that a run is about, resolved."""

    root: Path
    """The folder that every name is relative to."""
    sources: tuple[Path, ...]
    skip: Path | None = None
    """A folder that is left out: the run's own output."""

    def walk(self) -> Iterator[ImageFile]:
        """Every image once: sources in the order given, each folder sorted by name.

        Holds the names of one chain of folders at a time. Hidden files and folders are left
        out, and so are files whose name is not an image's.
        """
        for source in self.sources:
            if source.is_dir():
                yield from self._walk_folder(source)
            else:
                yield self._source(source)

    def _walk_folder(self, folder: Path) -> Iterator[ImageFile]:
        waiting = [self._entries(folder)]  # a stack of its own: folders nest deeper than calls may
        while waiting:
            path = next(waiting[-1], None)
            if path is None:
                waiting.pop()
            elif isinstance(path, ImageFile):
                yield path
            elif path.is_symlink():
                yield from self._walk_link(path)
            elif path.is_dir():
                waiting.append(self._entries(path))
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                yield self._source(path)
            elif form := UNREADABLE_FORMATS.get(path.suffix.lower()):
                yield self._refused(path, f"{form} is not read; convert it to JPEG")

    def _entries(self, folder: Path) -> Iterator[Path | ImageFile]:
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208 (names alone weigh less than paths)
        except OSError as failure:
            yield self._refused(folder, f"the folder cannot be read: {failure.strerror}")
            return
        for name in names:
            path = folder / name
            if not name.startswith(".") and path != self.skip:
                yield path

    def _walk_link(self, path: Path) -> Iterator[ImageFile]:
        """A link to an image of this folder is an image; one to a folder of it is seen there."""
        target = Path(os.path.realpath(path))
        if target.is_dir():
            if not target.is_relative_to(self.root):
                yield self._refused(path, "a link that leads out of the folder is not followed")
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            if not target.is_relative_to(self.root):
                yield self._refused(path, "a link that leads out of the folder is not followed")
            else:
                yield self._source(path)

    def _source(self, path: Path) -> ImageFile:
        try:
            found = path.stat()
        except OSError as failure:
            if failure.errno == errno.ENOENT and path.is_symlink():
                return self._refused(path, "a link to something that is not there")
            return self._refused(path, f"it cannot be read: {failure.strerror}")
        if not stat.S_ISREG(found.st_mode):
            kind = "a named pipe" if stat.S_ISFIFO(found.st_mode) else "a device or socket"
            return self._refused(path, f"{kind}, not a file")
        return ImageFile(self._name(path), path, found.st_size, found.st_mtime_ns)

    def _refused(self, path: Path, why: str) -> ImageFile:
        return ImageFile(self._name(path), path, 0, 0, refusal=why)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def select_images(paths: Sequence[Path], out: Path | None = None) -> ImageSelection:
    """What ``paths`` (files and folders) name; names are relative to their common folder.

    A path inside another one that is given too counts once; ``out`` is left out. Raises
    ``NotFound`` for a path that does not exist and ``InvalidInput`` for none at all.
    """
    if not paths:
        raise InvalidInput("no image is given; name a folder or some files")
    for path in paths:
        if not os.path.lexists(path):
            raise NotFound(f"{path} does not exist; name a folder or some files")
    whole = [Path(os.path.realpath(p)) if p.is_dir() else _upright(p) for p in paths]
    kept = [p for p in dict.fromkeys(whole) if not any(o in p.parents for o in whole)]
    roots = [p if p.is_dir() else p.parent for p in kept]
    skip = Path(os.path.realpath(out)) if out else None
    return ImageSelection(Path(os.path.commonpath(roots)), tuple(kept), skip)


def _upright(path: Path) -> Path:
    """Absolute, with the folder's links resolved and the file's own name kept."""
    return Path(os.path.realpath(path.parent)) / path.name


def read_image_file(source: ImageFile, max_bytes: int) -> bytes:
    """The file's bytes; never blocks on a pipe and never follows a link put there since.

    Raises ``BadImage`` with the cause, or ``ImageTooLarge`` (over ``max_bytes``).
    """
    if source.refusal:
        raise BadImage(source.refusal)
    try:
        path = os.path.realpath(source.path)
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as failure:
        raise BadImage(f"the file cannot be opened: {failure.strerror}") from None
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise BadImage("it is no longer a regular file")
        if found.st_size > max_bytes:
            raise ImageTooLarge(
                f"the file has {found.st_size:,} bytes; at most {max_bytes:,} are allowed "
                "(--max-image-bytes)"
            )
        try:
            return file.read(max_bytes)
        except OSError as failure:
            raise BadImage(f"the file cannot be read: {failure.strerror}") from None
