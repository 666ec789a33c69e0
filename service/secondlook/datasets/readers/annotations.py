"""What every reader of a dataset returns, and the checks of images and boxes that they share."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from secondlook.core import boxes as box_ops
from secondlook.core.boxes import Xyxy
from secondlook.core.files import name_to_text
from secondlook.datasets.image_cache import size_of
from secondlook.datasets.samples import Sample, bad_sample, boxes_array, class_array
from secondlook_client.errors import InvalidInput, NotFound
from secondlook_client.masks import Mask

MAX_IMAGES = 1_000_000
MAX_CLASSES = 2_000
MAX_BOXES = 1_000
"""Boxes on one image; the cost of comparing them is quadratic."""
EVERY_CLASS = -1
"""The class of an ignore region for all classes."""

ClassBox = tuple[Xyxy, int]
"""A box in pixels and the index of its class."""
Size = tuple[int, int]
"""Width and height of an image, pixels, upright."""
_SPLIT = re.compile(
    r"(?<![a-z])(train|val|test)(?:ing|id|idation)?(?:[-_ ]?set)?(?![a-z])", re.IGNORECASE
)
"""A word in the name of a file or folder, and its split."""


@dataclass(frozen=True, eq=False)
class ImageBoxes:
    """The boxes of one image as a dataset has them; they may lie outside of it or have no area."""

    labels: Sequence[ClassBox] = ()
    ignore: Sequence[ClassBox] = ()
    negatives: Sequence[ClassBox] = ()
    masks: Sequence[Mask | None] = ()
    """Of the labels, one for each; () where there are none."""

    def __len__(self) -> int:
        return len(self.labels) + len(self.ignore) + len(self.negatives)


@dataclass(frozen=True, eq=False)
class ParsedDataset:
    """A dataset as it was read, before a training split and a held-out split are chosen."""

    name: str
    classes: tuple[str, ...]
    samples: Mapping[str, tuple[Sample, ...]]
    """By split, e.g. ``train`` and ``val``; ``""`` where the dataset names none. Images that
    cannot be used are among them, with their ``problem``."""
    warnings: tuple[str, ...] = ()
    ontology: str = ""
    digest: str = ""
    """The dataset's own hash, where it has one."""
    format: str = ""
    """``coco``, ``yolo``, ``voc``, ``cvat`` or ``fiftyone``; empty for a snapshot."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """The COCO files by split; empty for other formats."""


class SampleMaker:
    """Makes samples, and counts the boxes that are left out, for one warning at the end."""

    def __init__(self) -> None:
        self._without_area = 0

    def sample(
        self,
        path: Path,
        name: str,
        size: Size,
        boxes: ImageBoxes,
        sha256: str = "",
        group: str = "",
    ) -> Sample:
        """The sample of an image of ``size``, its boxes clipped to the image.

        Boxes without area are skipped and counted. Raises ``InvalidInput`` for too many boxes.
        """
        if len(boxes) > MAX_BOXES:
            raise InvalidInput(
                f"it has {len(boxes):,} boxes, more than {MAX_BOXES:,}; cut it into tiles"
            )
        labels, ignore, negatives = (
            self._clip(rows, size) for rows in (boxes.labels, boxes.ignore, boxes.negatives)
        )
        found = (*labels[:2], *ignore[:2], *negatives[:2])
        masks = zip(boxes.masks, labels[2], strict=False)
        kept = tuple(mask for mask, has_area in masks if has_area)
        return Sample(path, *size, name, sha256, *found, group, masks=kept)

    def checked_sample(
        self,
        path: Path,
        name: str,
        declared: Size | None,
        boxes: Callable[[Size], ImageBoxes],
    ) -> Sample:
        """The sample of the image at ``path``, whose size its header tells.

        ``declared`` is the size that its labels are for, where the dataset says. An image that is
        missing, cannot be read or has another size, and one whose ``boxes`` cannot be read, gives a
        sample with a ``problem``.
        """
        try:
            size = checked_size(path, declared)
            return self.sample(path, name, size, boxes(size))
        except (InvalidInput, NotFound) as cause:
            return bad_sample(path, name, str(cause))

    def warnings(self) -> tuple[str, ...]:
        """What was skipped, a sentence each."""
        if not self._without_area:
            return ()
        return (f"{self._without_area:,} boxes have no area inside their image; they are left out",)

    def _clip(
        self, rows: Sequence[ClassBox], size: Size
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes and classes of the rows that have an area, and which ones these are."""
        boxes = box_ops.clip(boxes_array(box for box, _ in rows), *size)
        with_area = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
        self._without_area += int((~with_area).sum())
        return boxes[with_area], class_array(index for _, index in rows)[with_area], with_area


def checked_size(path: Path, declared: Size | None) -> Size:
    """Width and height of the image at ``path``, in pixels, upright.

    Raises ``NotFound``, ``BadImage``, and ``InvalidInput`` when its labels are for another size
    (``declared``).
    """
    size = size_of(path)
    if declared is not None and declared != size:
        raise InvalidInput(
            f"its labels are for {declared[0]}×{declared[1]} pixels and the file has "
            f"{size[0]}×{size[1]} (upright): it was resized or rotated; give the images that the "
            "boxes were drawn on"
        )
    return size


def safe_join(root: Path, name: str) -> Path:
    """``root / name``. Raises ``InvalidInput`` for a name that would lead out of ``root``."""
    plain = PurePosixPath(name.replace("\\", "/"))
    if not is_file_name(name) or plain.is_absolute() or ".." in plain.parts or name[1:2] == ":":
        raise InvalidInput(
            f"invalid image name {name[:80]!a}: expected a path below the dataset's folder, "
            "without '..'"
        )
    return root / plain


def below(name: str, roots: Sequence[Path]) -> Path | None:
    """The path that ``name`` means below one of ``roots``, the first that exists; None: none does.

    ``name`` may come from another machine: leading ``..`` and ``.`` are dropped, as Roboflow writes
    ``../train/images``, a backslash is a slash, and of an absolute path the longest end that exists
    is taken. Nothing outside of ``roots`` is looked at.
    """
    if not is_file_name(name):
        return None
    plain = name.replace("\\", "/")
    absolute = plain.startswith("/") or plain[1:2] == ":"
    parts = [part for part in os.path.normpath(plain).split("/") if part]
    while parts and parts[0] in ("..", "."):
        parts.pop(0)
    last = len(parts) if absolute else 1
    for start in range(last or 1):
        for root in roots:
            path = root.joinpath(*parts[start:])
            # The method of a path raises for names that are too long.
            if (parts[start:] or not absolute) and os.path.exists(path):  # noqa: PTH110
                return path
    return None


def is_file_name(name: str) -> bool:
    """Whether a file can be called that: JSON spells null characters and halves of surrogate pairs.

    Those that stand for a byte that is not UTF-8 are names here, see ``core.files``.
    """
    return (
        bool(name)
        and "\0" not in name
        and not any("\ud800" <= c <= "\udfff" and not "\udc80" <= c <= "\udcff" for c in name)
    )


def display_name(name: str) -> str:
    """A name as text that can be printed and stored, also where no file can be called so."""
    return name_to_text(name) if is_file_name(name) else ascii(name)[1:-1]


def split_of_word(word: str) -> str:
    """The split that the name of a file or folder tells: train, val, test; or nothing."""
    found = _SPLIT.search(word)
    return found[1].lower() if found else ""


def at_most(names: Iterable[str], what: str, most: int) -> Iterator[str]:
    """``names`` unchanged. Raises ``InvalidInput`` when there are more than ``most``."""
    for place, name in enumerate(names):
        if place >= most:
            raise InvalidInput(f"there are more than {most:,} {what}; split the dataset")
        yield name
