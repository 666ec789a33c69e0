"""What a writer of a format is given, and where it puts an image."""

import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

from secondlook.core.files import FolderRoot
from secondlook.core.image_folder import is_hidden
from secondlook.core.sorted_numbers import NumberSet
from secondlook.core.types import LabelledImage
from secondlook_client.errors import Damaged, NotAllowed
from secondlook_client.ontology import Ontology
from secondlook_client.values import EmptyReason, LabelResult, Review

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


class DoubtfulImages(StrEnum):
    """What a format that has no mark for doubt makes of the images in doubt.

    Such a format is YOLO: what has no label on an image is learnt as background.
    """

    SEPARATE = "separate"
    """They are in a folder of their own, where no training finds them."""
    LEAVE_OUT = "leave-out"
    """They are not written."""
    BACKGROUND = "background"
    """They are images like any other, so that the doubtful regions are learnt as background."""
    LABEL = "label"
    """Their unsure boxes are labels."""


@dataclass(frozen=True)
class Provenance:
    """How the labels of a dataset came to be. It is the same whenever they are written again."""

    created_at: float
    """When the run or snapshot was made, seconds since 1970."""
    models: Sequence[str]
    """Proposers, verifiers and students, each by its name and digest."""
    ontology: Ontology
    """The classes with their questions and thresholds."""


@dataclass(frozen=True)
class Labels:
    """Every image's result, readable as often as a format needs."""

    classes: Sequence[str]
    """Of the ontology, in order."""
    results: Callable[[], Iterator[tuple[str, LabelResult]]]
    """Gives (path of the image, with forward slashes; result) anew at each call."""
    place_image: "PlaceImage"
    """Puts the image of a name and result at a path, whose folder exists."""
    hard_negatives: bool = False
    """Whether rejected boxes are wanted, where the format has a place for them."""
    image_bytes: Callable[[str], bytes] | None = None
    """Gives the bytes of an image by its sha256, for formats that hold the images themselves."""
    provenance: Provenance | None = None
    unsure: DoubtfulImages = DoubtfulImages.SEPARATE
    """What formats without ignore regions make of images with an unsure box."""
    nothing_proposed: DoubtfulImages = DoubtfulImages.SEPARATE
    """The same of images on which nothing was proposed, so that nobody looked twice."""
    cursors: Callable[[], Iterator[int]] | None = None
    """Gives the cursor of each result in its job, in the same order; None: they are not known."""
    reviews: Callable[[str], Sequence[Review]] | None = None
    """Gives all reviews of an image by its sha256, the oldest first; None: they are not known."""

    def why_empty(self, result: LabelResult) -> str:
        """Why an image has no object, unless it is meant as background; empty where it has one."""
        background = self.nothing_proposed is DoubtfulImages.BACKGROUND
        if result.empty is EmptyReason.NOTHING_PROPOSED and background:
            return ""
        return result.empty.value if result.empty else ""

    def images(self) -> Iterator[LabelledImage]:
        """Every image, one at a time."""
        cursors = self.cursors() if self.cursors else itertools.repeat(None)
        for (name, result), cursor in zip(self.results(), cursors, strict=False):
            yield LabelledImage(name, result, cursor)


PlaceImage = Callable[[str, LabelResult, Path], None]
_SHA256 = re.compile("[0-9a-f]{64}")


def copied_images(staged: Path, read: Callable[[str, LabelResult], bytes]) -> PlaceImage:
    """A ``place_image`` that copies: ``read`` gives the bytes of an image.

    Each image is written into the folder ``staged`` once, and linked from there, so that every
    format is complete and the disk has an image once. Raises ``Damaged`` when the bytes are not
    those that were labelled.
    """

    def place(name: str, result: LabelResult, path: Path) -> None:
        if not _SHA256.fullmatch(result.sha256):
            raise Damaged(f"image '{name:.200}' has no SHA-256: {result.sha256[:80]!a}")
        image = staged / result.sha256
        if not image.exists():
            content = read(name, result)
            if hashlib.sha256(content).hexdigest() != result.sha256:
                raise Damaged(
                    f"image '{name:.200}' was changed after it was labelled; run the same command "
                    "again"
                )
            image.write_bytes(content)
        try:
            os.link(image, path)
        except OSError:  # a file system without hard links, or one with too many of this file
            shutil.copyfile(image, path)

    return place


def linked_images(root: Path) -> PlaceImage:
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
        self._stems = NumberSet()
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
