"""What every reader of a dataset gives, and the checks on images and boxes that all share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from secondlook.core import boxes as box_ops
from secondlook.core.errors import InvalidInput
from secondlook.datasets.image_cache import size_of
from secondlook.datasets.samples import Sample, boxes_array, class_array

MAX_IMAGES = 1_000_000
MAX_CLASSES = 2_000
MAX_BOXES = 1_000
"""On one image; comparing them costs their square."""
MAX_GONE = 0.1
"""Share of the images that may be missing: a few were sorted out, more is another folder."""
EVERY_CLASS = -1
"""The class of an ignore region that speaks of all of them."""

Corners = tuple[float, float, float, float]
"""Pixel xyxy."""
Named = tuple[Corners, int]
"""A box and the number of its class."""


@dataclass(frozen=True, eq=False)
class Known:
    """What a dataset says of one image; boxes may lie outside of it or have no area."""

    labels: Sequence[Named] = ()
    ignore: Sequence[Named] = ()
    negatives: Sequence[Named] = ()

    def __len__(self) -> int:
        return len(self.labels) + len(self.ignore) + len(self.negatives)


@dataclass(frozen=True, eq=False)
class Parts:
    """A dataset as it was read, before it is known what is learnt and what is held out."""

    name: str
    classes: tuple[str, ...]
    samples: Mapping[str, tuple[Sample, ...]]
    """By part, e.g. ``train`` and ``val``; one that is nameless has the name ``""``."""
    warnings: tuple[str, ...] = ()
    ontology: str = ""
    digest: str = ""
    """The dataset's own hash, where it has one."""


class Tally:
    """Makes samples, and counts what had to be left out, to be told once at the end."""

    def __init__(self) -> None:
        self._no_area = 0
        self._images = 0
        self._gone: list[str] = []

    def sample(
        self,
        path: Path,
        name: str,
        size: tuple[int, int],
        known: Known,
        sha256: str = "",
        group: str = "",
    ) -> Sample:
        """The sample of an image of ``size`` (width, height), its boxes cut to the image.

        Boxes without area are left out and counted. Raises ``InvalidInput`` for too many.
        """
        if len(known) > MAX_BOXES:
            raise InvalidInput(
                f"image '{name}' has {len(known):,} boxes; at most {MAX_BOXES:,} are taken: cut "
                "it into tiles"
            )
        self._images += 1
        labels, ignore, negatives = (
            self._cut(rows, size) for rows in (known.labels, known.ignore, known.negatives)
        )
        width, height = size
        return Sample(path, width, height, name, sha256, *labels, *ignore, *negatives, group)

    def is_there(self, path: Path, name: str) -> bool:
        """Whether the image's file exists; counted when it does not."""
        if path.is_file():
            return True
        self._gone.append(name)
        return False

    def warnings(self, where: Path) -> tuple[str, ...]:
        """What was left out. Raises ``InvalidInput`` when too much of ``where`` is gone."""
        gone, told = len(self._gone), []
        if gone > MAX_GONE * (gone + self._images):
            raise InvalidInput(
                f"{gone:,} of the {gone + self._images:,} images that {where} names are not "
                f"there, the first '{self._gone[0]}'; put the images beside their labels, in "
                "images/ or in a folder named like the split"
            )
        if gone:
            told.append(
                f"{gone:,} images are named and not there, the first '{self._gone[0]}'; they are "
                "left out"
            )
        if self._no_area:
            told.append(f"{self._no_area:,} boxes have no area inside their image; left out")
        return tuple(told)

    def _cut(self, rows: Sequence[Named], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        boxes = box_ops.clip(boxes_array(box for box, _ in rows), *size)
        whole = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        self._no_area += int((~whole).sum())
        return boxes[whole], class_array(number for _, number in rows)[whole]


def measured(path: Path, name: str, declared: tuple[int, int] | None) -> tuple[int, int]:
    """Width and height of an image that lies at ``path``, in pixels, upright.

    Raises ``BadImage``, and ``InvalidInput`` when its labels were made for another size.
    """
    size = size_of(path)
    if declared is not None and declared != size:
        raise InvalidInput(
            f"the labels of '{name}' are for {declared[0]}×{declared[1]} pixels and the file has "
            f"{size[0]}×{size[1]} (upright): it was resized or turned since; give the images "
            "that the boxes were drawn on"
        )
    return size


def below(root: Path, name: str) -> Path:
    """``root / name``. Raises ``InvalidInput`` for a name that would lead out of ``root``."""
    plain = PurePosixPath(name.replace("\\", "/"))
    if not _is_file_name(name) or plain.is_absolute() or ".." in plain.parts or ":" in name[:3]:
        raise InvalidInput(
            f"{name[:80]!a} is no name of an image: expected a path below the dataset's folder, "
            "without '..'"
        )
    return root / plain


def _is_file_name(name: str) -> bool:
    """JSON can spell null characters and halves of surrogate pairs, which no file name holds."""
    return bool(name) and "\0" not in name and not any("\ud800" <= c <= "\udfff" for c in name)


def bounded(names: Iterable[str], what: str, most: int) -> Iterator[str]:
    """``names`` as they come. Raises ``InvalidInput`` at the one that is too many."""
    for place, name in enumerate(names):
        if place >= most:
            raise InvalidInput(f"there are more than {most:,} {what}; split the dataset")
        yield name
