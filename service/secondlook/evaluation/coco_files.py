"""COCO files of anyone as detections and true boxes.

Predictions may be a results list (``[{"image_id", "category_id", "bbox", "score"}, …]``) or a
whole data set such as ``coco.json``. Two data sets are joined by file name and class name, since
ids mean nothing outside their own file; a results list is joined by the ids of the truth.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secondlook.core.boxes import Xyxy
from secondlook.datasets.readers.coco_json import (
    CocoEntry,
    CocoFile,
    coco_entry,
    entry_value,
    read_json,
    refuse_duplicates,
)
from secondlook.evaluation.matching import ScoredBox, ScoredImage, TrueBox
from secondlook_client.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Joined:
    """Predictions and truth about the same images and classes."""

    classes: tuple[str, ...]
    """In the order of the truth's categories; those that the predictions know too."""
    images: Mapping[str, ScoredImage]
    """By the truth's file name (or id, where it has none)."""
    without_truth: int
    """Predictions left out because the truth lacks their image or class."""
    classes_left_out: tuple[str, ...]
    """Classes of the truth that the predictions' file does not list."""


def join(predictions: Path, truth: Path) -> Joined:
    """Read both files. Raises ``NotFound`` or ``InvalidInput`` naming the file and the entry."""
    true_set = _NamedCoco(truth, read_json(truth))
    plain = read_json(predictions)
    if isinstance(plain, list):
        guesses, known = list(_results(predictions, plain, true_set)), None
    else:
        own = _NamedCoco(predictions, plain)
        guesses, known = list(own.rows()), set(own.names.values())
    return _joined(guesses, known, true_set)


def truth_of(path: Path) -> Mapping[str, Sequence[TrueBox]]:
    """The boxes of a COCO data set by file name. Raises as ``join`` does."""
    return _NamedCoco(path, read_json(path)).boxes()


@dataclass(frozen=True)
class _Row:
    """An entry by names."""

    image: str
    class_name: str
    box: Xyxy
    score: float
    ignore: bool


class _NamedCoco(CocoFile):
    """A COCO data set whose images are told apart by name."""

    def __init__(self, path: Path, plain: Any) -> None:
        super().__init__(path, plain)
        self.image_names = {
            key: str(entry.get("file_name", key)) for key, entry in self.images.items()
        }
        refuse_duplicates(path, "names of images", list(self.image_names.values()))

    def rows(self) -> Iterator[_Row]:
        """Every annotation, by names."""
        for entry in self.annotations():
            yield _row(entry, self.image_names[entry.image_id], self.names[entry.category_id])

    def boxes(self) -> dict[str, list[TrueBox]]:
        """By image; one without boxes has an empty list."""
        found: dict[str, list[TrueBox]] = {name: [] for name in self.image_names.values()}
        for row in self.rows():
            found[row.image].append(TrueBox(row.class_name, row.box, row.ignore))
        return found


def _results(path: Path, plain: list[Any], truth: _NamedCoco) -> Iterator[_Row]:
    """A results list; what the truth does not list keeps a name that matches nothing."""
    for place, result in enumerate(plain):
        where = f"{path}: [{place}]"
        entry_value(result, "score", where)
        entry = coco_entry(result, where)
        yield _row(
            entry,
            truth.image_names.get(entry.image_id, f"image_id {entry.image_id!r}"),
            truth.names.get(entry.category_id, f"category_id {entry.category_id!r}"),
        )


def _row(entry: CocoEntry, image: str, class_name: str) -> _Row:
    score = entry.plain.get("score", 1.0)
    if not isinstance(score, int | float) or not math.isfinite(score):
        raise InvalidInput(f"{entry.where}: expected a number as score, got {score!r}")
    x1, y1, x2, y2 = entry.box
    if x2 < x1 or y2 < y1:
        raise InvalidInput(
            f"{entry.where}: a bbox cannot have a negative side, got {entry.plain['bbox']!r}"
        )
    return _Row(image, class_name, entry.box, float(score), entry.ignore)


def _joined(guesses: Sequence[_Row], known: set[str] | None, truth: _NamedCoco) -> Joined:
    classes = tuple(n for n in truth.names.values() if known is None or n in known)
    if not classes:
        raise InvalidInput(
            f"{truth.path}: none of its classes ({_some(truth.names.values())}) is a class of "
            f"the predictions ({_some(known or ())}); name the classes alike in both files"
        )
    real = truth.boxes()
    found: dict[str, list[ScoredBox]] = {name: [] for name in real}
    kept = [g for g in guesses if not g.ignore]
    usable = [g for g in kept if g.image in real and g.class_name in classes]
    if kept and not any(g.image in real for g in kept):
        raise InvalidInput(
            f"{truth.path}: it has none of the predictions' images (they name {kept[0].image!r}"
            f", it names {_some(real)}); both files must name images alike: label the "
            "folder that the names in the truth are relative to"
        )
    for g in usable:
        found[g.image].append(ScoredBox(g.class_name, g.box, g.score))
    left_out = tuple(n for n in truth.names.values() if n not in classes)
    images = {name: (tuple(found[name]), tuple(real[name])) for name in real}
    return Joined(classes, images, len(kept) - len(usable), left_out)


def _some(names: Iterable[object]) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:5]) + (", …" if len(listed) > 5 else "")
