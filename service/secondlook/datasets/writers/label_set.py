"""What a writer of a format is given, and where it puts an image."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from secondlook.core.files import FolderRoot
from secondlook.core.image_folder import is_hidden
from secondlook_client.errors import NotAllowed
from secondlook_client.values import LabelResult

_MOST_BYTES = 255
"""Of the name of a file or folder, on the file systems in use."""
_LONGEST_PATH = 1500
"""Bytes of a path in a dataset; the system's limit of 4,096 counts the folders above it too."""
_UNPORTABLE = re.compile("[\0-\x1f\x7f-\x9f\\\\\u2028\u2029\ud800-\udfff\ufffe\uffff]")
"""Line ends, which lists and XML cannot hold; a backslash, which many take for a slash; and bytes
that are not UTF-8, with which one name makes a whole file unreadable for others."""
_COMMON = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"))
_SAME = {".jfif": ".jpg", ".jpe": ".jpg", ".dib": ".bmp"}
"""Suffixes that few programs know, and common ones of the same formats."""
_DRIVE = re.compile("^(.):")
"""At the start of a path it means a drive to many programs."""


@dataclass(frozen=True)
class Labels:
    """Every image's result, readable as often as a format needs."""

    classes: Sequence[str]
    """Of the ontology, in order."""
    results: Callable[[], Iterator[tuple[str, LabelResult]]]
    """Gives (path of the image, with forward slashes; result) anew at each call."""
    place_image: Callable[[str, LabelResult, Path], None]
    """Puts the image of a name and result at a path, whose folder exists."""
    hard_negatives: bool = False
    """Whether rejected boxes are wanted, where the format has a place for them."""
    image_bytes: Callable[[str], bytes] | None = None
    """Gives the bytes of an image by its sha256, for formats that hold the images themselves."""


def linked_images(root: Path) -> Callable[[str, LabelResult, Path], None]:
    """A ``place_image`` that links to the images in ``root`` and copies nothing.

    Hard links, because some readers of datasets refuse a symbolic link that leads out of their
    folder; a relative symbolic link where the file system, or a limit on files of others, allows
    no hard one.
    """
    root = Path(os.path.realpath(root))

    def place(name: str, _: LabelResult, path: Path) -> None:
        image = os.path.realpath(root / name)
        try:
            # Results come from a server, so their names may lead anywhere: no copy of what is
            # outside gets into a dataset. (A file that was given itself may be a link to there.)
            os.link(root / FolderRoot(root).resolve(name), path)
        except (OSError, NotAllowed):
            # Relative to where the folder really is: a link in its own path would lead elsewhere.
            path.symlink_to(os.path.relpath(image, os.path.realpath(path.parent)))

    return place


def portable_name(name: str) -> str:
    """The path of an image as any reader of a dataset can take it; nearly always ``name`` itself.

    What others cannot read becomes ``_``, with a hash of the original, so that no two become one.
    """
    if len(os.fsencode(name)) > _LONGEST_PATH:
        name = f"long/{_hash(name)}{PurePosixPath(name).suffix[:8]}"
    parts = name.split("/")
    parts[0] = _with_hash(_DRIVE.sub(r"\1_", parts[0]), parts[0])
    return "/".join(_with_hash(_UNPORTABLE.sub("_", part), part) for part in parts)


def flat_name(name: str) -> PurePosixPath:
    """``portable_name`` as one file name that is not hidden and has a suffix that is known.

    Many readers do not look into folders of folders, and find images by their suffix only; what a
    file really is, they learn from its content.
    """
    path = PurePosixPath(portable_name(name))
    flat, suffix = "__".join(path.parts), path.suffix.lower()
    if suffix in _SAME:
        flat = flat[: -len(suffix)] + _SAME[suffix]
    elif suffix not in _COMMON:
        flat += ".jpg"
    path = PurePosixPath(f"_{flat}" if is_hidden(flat) else flat)
    return PurePosixPath(_cut(path.stem, path.suffix))


class FreeNames:
    """Gives names to the images of a folder, no two of which have the same stem.

    ``a.jpg`` and ``a.png`` would share ``a.txt``, and some readers know an image by its stem.
    """

    def __init__(self, folder: Path, suffix: str = "") -> None:
        """``suffix``: of the file that each image has elsewhere, for which its stem leaves room."""
        self._folder = folder
        self._suffix = suffix
        self._stems: set[int] = set()
        """Hashes, which take a fraction of the memory; two stems with one cost a number only."""

    def take(self, name: PurePosixPath) -> PurePosixPath:
        """``name``, or a similar one, which is not free any more."""
        number, found = 1, name.with_name(_cut(name.stem, name.suffix, self._suffix))
        # A file system that does not tell cases apart knows of names that look free.
        while hash(found.with_suffix("")) in self._stems or os.path.lexists(self._folder / found):
            number += 1
            ends = (f"-{number}{name.suffix}", f"-{number}{self._suffix}")
            found = name.with_name(_cut(name.stem, *ends))
        self._stems.add(hash(found.with_suffix("")))
        return found


def _cut(stem: str, *ends: str) -> str:
    """``stem`` with the first of ``ends``, short enough for any of them."""
    room = _MOST_BYTES - max(len(end.encode()) for end in ends)
    return stem.encode()[:room].decode("utf-8", "ignore") + ends[0]


def _with_hash(changed: str, original: str) -> str:
    if changed == original:
        return original
    path = PurePosixPath(changed)
    return _cut(path.stem, f"-{_hash(original)[:8]}{path.suffix}")


def _hash(name: str) -> str:
    return hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()
