"""Finds the images in files and folders, in a fixed order, and reads them safely.

A folder of a user may hold named pipes that block whoever opens them, links that
lead out of it, and names in any script or none. Nothing here opens anything but regular files.

Two kinds of entries are left out everywhere: hidden ones with what systems and tools add
(``is_hidden``), and folders that secondlook wrote itself, which carry a tag (``tag_output``): an
image in them is a copy of one that is labelled already. ``LeftOut`` counts both, and videos: only
of a video that is named itself, in a selection with ``clips``, the frames are images too.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import IO, TYPE_CHECKING

from secondlook.core.files import FolderRoot, one_line
from secondlook_client.errors import BadImage, ImageTooLarge, InvalidInput, NotAllowed, NotFound

if TYPE_CHECKING:
    from secondlook.core.clips import ClipFrames

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif")
)
"""Suffixes of images in a folder, in any case; a file that is named itself is always taken."""
VIDEO_SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts"),
        *(".m2ts", ".wmv", ".flv", ".3gp", ".ogv"),
    )
)
"""Suffixes of videos, in any case."""
UNREADABLE_FORMATS = {".heic": "HEIC", ".heif": "HEIF", ".avif": "AVIF", ".jxl": "JPEG XL"}
"""Images that cannot be decoded: each is refused with a reason, rather than left out silently."""
OUTPUT_TAG = ".secondlook-output"
"""A file in each folder of images that secondlook wrote; such a folder is not walked into."""
_SYSTEM_NAMES = frozenset(
    (
        "__macosx",  # of archives made on a Mac
        "@eadir",  # thumbnails by a Synology
        "#recycle",
        "#snapshot",
        "@recycle",  # of a QNAP
        "@recently-snapshot",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
        "__pycache__",
        "thumbs.db",
        "desktop.ini",
    )
)
"""In lower case."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or a copy that a system or tool made.

    Such names are ``._photo.jpg``, ``.ipynb_checkpoints``, ``__MACOSX`` and ``@eaDir``. Every
    search of a folder leaves them out; a path that is given itself, or listed in a file, is taken.
    """
    return name.startswith(".") or name.casefold() in _SYSTEM_NAMES


def tag_output(folder: Path) -> None:
    """Mark ``folder``, which exists, as written by secondlook, so that no run labels it."""
    text = "Written by secondlook. Images in this folder are copies; no search finds them.\n"
    (folder / OUTPUT_TAG).write_text(text, encoding="ascii")


class LeftOut:
    """Counts what a walk leaves out, for one line."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def hidden(self, path: Path) -> None:
        """Count a hidden folder, or a hidden file with the suffix of an image; others are none."""
        if path.suffix.lower() in IMAGE_SUFFIXES or os.path.isdir(path):  # noqa: PTH112
            self._add("hidden", path)

    def output(self, folder: Path) -> None:
        """Count a folder that secondlook wrote."""
        self._add("written by secondlook", folder)

    def video(self, path: Path) -> None:
        """Count a video in a folder; one that is named itself is labelled frame by frame."""
        self._add("video", path)

    def _add(self, what: str, path: Path) -> None:
        self._counts[what] = self._counts.get(what, 0) + 1
        self._first.setdefault(what, path.name)

    def __str__(self) -> str:
        """For example ``2 hidden (such as ._a.jpg), 1 written by secondlook (such as yolo)``."""
        return ", ".join(
            f"{count:,} {what} (such as {one_line(self._first[what])})"
            for what, count in self._counts.items()
        )

    def __bool__(self) -> bool:
        return bool(self._counts)


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
    root: Path | None = None
    """The folder that it must lie beneath when it is read; None for a file that was given itself,
    which may be a link to anywhere."""
    frame_ms: int | None = None
    """Of a frame of the video ``path``: its time, milliseconds. None for a file."""

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
    clips: "ClipFrames | None" = None
    """Reads the frames of videos among the sources; None: videos are no images."""

    @property
    def are_files(self) -> bool:
        """Whether each image is a file in ``root``, which others may link to."""
        return self.clips is None

    def walk(self, left_out: LeftOut | None = None) -> Iterator[ImageFile]:
        """Every image once: sources in the order given, each folder sorted by name.

        Holds the names of one chain of folders at a time. Hidden files and folders, folders that
        secondlook wrote and files whose name is not an image's are left out; ``left_out`` counts
        the first two.
        """
        left_out = LeftOut() if left_out is None else left_out
        for source in self.sources:
            if source.is_dir():
                yield from self._walk_folder(source, left_out)
            elif self.clips and source.suffix.lower() in VIDEO_SUFFIXES:
                yield from self.clips.frames(self._source(source))
            else:
                yield self._source(source)

    def read(self, image: ImageFile, max_bytes: int) -> bytes:
        """The bytes of an image that ``walk`` gave. Raises what ``read_image_file`` raises."""
        if image.frame_ms is not None and self.clips:
            return self.clips.read(image, max_bytes)
        return read_image_file(image, max_bytes)

    def _walk_folder(self, folder: Path, left_out: LeftOut) -> Iterator[ImageFile]:
        # A stack of its own: folders nest deeper than calls may.
        waiting = [self._entries(folder, left_out)]
        while waiting:
            entry = next(waiting[-1], None)
            if entry is None:
                waiting.pop()
                continue
            if isinstance(entry, ImageFile):
                yield entry
                continue
            path, found = entry
            if stat.S_ISLNK(found.st_mode):
                yield from self._walk_link(path)
            elif stat.S_ISDIR(found.st_mode):
                waiting.append(self._entries(path, left_out))
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                yield self._found(path, found)
            elif form := UNREADABLE_FORMATS.get(path.suffix.lower()):
                yield self._refused(path, f"{form} is not read; convert it to JPEG")
            elif path.suffix.lower() in VIDEO_SUFFIXES:
                left_out.video(path)

    def _entries(
        self, folder: Path, left_out: LeftOut
    ) -> Iterator[tuple[Path, os.stat_result] | ImageFile]:
        root, place = FolderRoot(self.root), folder.relative_to(self.root)
        try:
            names = root.names(place)
            if OUTPUT_TAG in names:
                left_out.output(folder)
                return
            for name, found in root.stats(place, names):
                path = folder / name
                if is_hidden(name):
                    left_out.hidden(path)
                elif path == self.skip:
                    left_out.output(path)
                else:
                    yield path, found
        except OSError as failure:
            yield self._refused(folder, f"the folder cannot be read: {failure.strerror}")

    def _walk_link(self, path: Path) -> Iterator[ImageFile]:
        """A link to an image of this folder is an image; one to a folder of it is seen there."""
        is_image = path.suffix.lower() in IMAGE_SUFFIXES
        root = FolderRoot(self.root)
        try:
            place = root.resolve(self._name(path))
            (found,) = (found for _, found in root.stats(place.parent, [place.name]))
        except NotAllowed as refusal:
            if is_image or path.is_dir():
                yield self._refused(path, str(refusal))
        except (OSError, ValueError):
            if is_image:
                yield self._refused(path, "a link to something that is not there")
        else:
            if is_image and stat.S_ISLNK(found.st_mode):
                yield self._refused(path, "a link to itself")
            elif is_image and not stat.S_ISDIR(found.st_mode):
                yield self._found(path, found)

    def _source(self, path: Path) -> ImageFile:
        try:
            found = path.stat()
        except OSError as failure:
            if failure.errno == errno.ENOENT and path.is_symlink():
                return self._refused(path, "a link to something that is not there")
            return self._refused(path, f"it cannot be read: {failure.strerror}")
        return replace(self._found(path, found), root=None)

    def _found(self, path: Path, found: os.stat_result) -> ImageFile:
        if not stat.S_ISREG(found.st_mode):
            kind = "a named pipe" if stat.S_ISFIFO(found.st_mode) else "a device or socket"
            return self._refused(path, f"{kind}, not a file")
        name = self._name(path)
        return ImageFile(name, path, found.st_size, found.st_mtime_ns, root=self.root)

    def _refused(self, path: Path, why: str) -> ImageFile:
        return ImageFile(self._name(path), path, 0, 0, refusal=why)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def select_images(
    paths: Sequence[Path], out: Path | None = None, clips: "ClipFrames | None" = None
) -> ImageSelection:
    """What ``paths`` (files and folders) name; names are relative to their common folder.

    A path inside another one that is given too counts once; ``out`` is left out. With ``clips``,
    a video that is named stands for its frames. Raises ``NotFound`` for a path that does not exist
    and ``InvalidInput`` for none at all.
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
    return ImageSelection(Path(os.path.commonpath(roots)), tuple(kept), skip, clips)


def select_files(paths: Sequence[Path]) -> ImageSelection:
    """Files that are known already, however many; names are relative to their common folder."""
    kept = tuple(dict.fromkeys(_upright(path) for path in paths))
    if not kept:
        raise InvalidInput("no image is given; name some files")
    return ImageSelection(Path(os.path.commonpath([path.parent for path in kept])), kept)


def _upright(path: Path) -> Path:
    """Absolute, with the folder's links resolved and the file's own name kept."""
    return Path(os.path.realpath(path.parent)) / path.name


def read_image_file(source: ImageFile, max_bytes: int) -> bytes:
    """The file's bytes; never blocks on a pipe and never leads out of the file's root.

    Raises ``BadImage`` with the cause, or ``ImageTooLarge`` (over ``max_bytes``).
    """
    if source.refusal:
        raise BadImage(source.refusal)
    path = Path(os.path.realpath(source.path))
    root, name = (source.root, source.name) if source.root else (path.parent, path.name)
    try:
        handle = FolderRoot(root).open(name)
    except NotAllowed as refusal:
        raise BadImage(str(refusal)) from None
    except OSError as failure:
        raise BadImage(f"the file cannot be opened: {failure.strerror}") from None
    with os.fdopen(handle, "rb") as file:
        return read_opened(file, max_bytes)


def read_opened(file: IO[bytes], max_bytes: int) -> bytes:
    """The bytes of an open file. Raises what ``read_image_file`` raises."""
    found = os.fstat(file.fileno())
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
