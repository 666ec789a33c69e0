"""What every reader of a dataset returns, and the checks of images and boxes that they share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from secondlook.core import boxes as box_ops
from secondlook.core.boxes import Xyxy
from secondlook.datasets.image_cache import size_of
from secondlook.datasets.samples import Sample, boxes_array, class_array
from secondlook_client.errors import InvalidInput

MAX_IMAGES = 1_000_000
MAX_CLASSES = 2_000
MAX_BOXES = 1_000
"""Boxes on one image; the cost of comparing them is quadratic."""
MAX_MISSING = 0.1
"""Share of the images that may be missing: a few were removed; more means a wrong folder."""
EVERY_CLASS = -1
"""The class of an ignore region for all classes."""

ClassBox = tuple[Xyxy, int]
"""A box in pixels and the index of its class."""


@dataclass(frozen=True, eq=False)
class ImageBoxes:
    """The boxes of one image as a dataset has them; they may lie outside of it or have no area."""

    labels: Sequence[ClassBox] = ()
    ignore: Sequence[ClassBox] = ()
    negatives: Sequence[ClassBox] = ()

    def __len__(self) -> int:
        return len(self.labels) + len(self.ignore) + len(self.negatives)


@dataclass(frozen=True, eq=False)
class ParsedDataset:
    """A dataset as it was read, before a training split and a held-out split are chosen."""

    name: str
    classes: tuple[str, ...]
    samples: Mapping[str, tuple[Sample, ...]]
    """By split, e.g. ``train`` and ``val``; ``""`` where the dataset names none."""
    warnings: tuple[str, ...] = ()
    ontology: str = ""
    digest: str = ""
    """The dataset's own hash, where it has one."""


class SkipCounter:
    """Makes samples, and counts what is skipped, for one warning at the end."""

    def __init__(self) -> None:
        self._images = 0
        self._without_area = 0
        self._missing: list[str] = []

    def sample(
        self,
        path: Path,
        name: str,
        size: tuple[int, int],
        boxes: ImageBoxes,
        sha256: str = "",
        group: str = "",
    ) -> Sample:
        """The sample of an image of ``size`` (width, height), its boxes clipped to the image.

        Boxes without area are skipped and counted. Raises ``InvalidInput`` for too many boxes.
        """
        if len(boxes) > MAX_BOXES:
            raise InvalidInput(
                f"image '{name}' has {len(boxes):,} boxes, more than {MAX_BOXES:,}; cut it into "
                "tiles"
            )
        self._images += 1
        labels, ignore, negatives = (
            self._clip(rows, size) for rows in (boxes.labels, boxes.ignore, boxes.negatives)
        )
        width, height = size
        return Sample(path, width, height, name, sha256, *labels, *ignore, *negatives, group)

    def is_there(self, path: Path, name: str) -> bool:
        """Whether the image's file exists; counted when it does not."""
        if path.is_file():
            return True
        self._missing.append(name)
        return False

    def warnings(self, where: Path) -> tuple[str, ...]:
        """What was skipped. Raises ``InvalidInput`` if too many images of ``where`` are missing."""
        missing, warnings = len(self._missing), []
        if missing > MAX_MISSING * (missing + self._images):
            raise InvalidInput(
                f"{missing:,} of the {missing + self._images:,} images that {where} names are "
                f"missing, the first is '{self._missing[0]}'; put the images beside their labels, "
                "in images/ or in a folder named like the split"
            )
        if missing:
            warnings.append(
                f"{missing:,} images are missing, the first is '{self._missing[0]}'; they are "
                "left out"
            )
        if self._without_area:
            warnings.append(
                f"{self._without_area:,} boxes have no area inside their image; they are left out"
            )
        return tuple(warnings)

    def _clip(
        self, rows: Sequence[ClassBox], size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        boxes = box_ops.clip(boxes_array(box for box, _ in rows), *size)
        with_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        self._without_area += int((~with_area).sum())
        return boxes[with_area], class_array(index for _, index in rows)[with_area]


def checked_size(path: Path, name: str, declared: tuple[int, int] | None) -> tuple[int, int]:
    """Width and height of the image at ``path``, in pixels, upright.

    Raises ``BadImage``, and ``InvalidInput`` when its labels are for another size (``declared``).
    """
    size = size_of(path)
    if declared is not None and declared != size:
        raise InvalidInput(
            f"the labels of '{name}' are for {declared[0]}×{declared[1]} pixels and the file has "
            f"{size[0]}×{size[1]} (upright): it was resized or rotated; give the images that the "
            "boxes were drawn on"
        )
    return size


def safe_join(root: Path, name: str) -> Path:
    """``root / name``. Raises ``InvalidInput`` for a name that would lead out of ``root``."""
    plain = PurePosixPath(name.replace("\\", "/"))
    if not _is_file_name(name) or plain.is_absolute() or ".." in plain.parts or ":" in name[:3]:
        raise InvalidInput(
            f"invalid image name {name[:80]!a}: expected a path below the dataset's folder, "
            "without '..'"
        )
    return root / plain


def _is_file_name(name: str) -> bool:
    """JSON can spell null characters and halves of surrogate pairs, which no file name holds."""
    return bool(name) and "\0" not in name and not any("\ud800" <= c <= "\udfff" for c in name)


def at_most(names: Iterable[str], what: str, most: int) -> Iterator[str]:
    """``names`` unchanged. Raises ``InvalidInput`` when there are more than ``most``."""
    for place, name in enumerate(names):
        if place >= most:
            raise InvalidInput(f"there are more than {most:,} {what}; split the dataset")
        yield name
