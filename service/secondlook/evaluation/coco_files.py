"""COCO files of anyone: read for evaluation, and scored by the COCO evaluation library.

Predictions may be a results list (``[{"image_id", "category_id", "bbox", "score"}, …]``) or a
whole data set such as ``coco.json``. Two data sets are joined by file name and class name, since
ids mean nothing outside their own file; a results list is joined by the ids of the truth.
"""

import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secondlook.core.errors import InvalidInput, MissingExtra
from secondlook.datasets.readers.coco_json import entry_value, read_json
from secondlook.evaluation.matching import Box, Detection, ScoredImage, TrueBox


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


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's figures, [0, 1]; None where the truth holds no box for them."""

    ap: float | None
    """Mean over IoU 0.50 to 0.95."""
    ap50: float | None
    ap75: float | None
    by_class: Mapping[str, float | None]
    """``ap`` of each class."""


def join(predictions: Path, truth: Path) -> Joined:
    """Read both files. Raises ``NotFound`` or ``InvalidInput`` naming the file and the entry."""
    true_set = _DataSet(truth, read_json(truth))
    plain = read_json(predictions)
    if isinstance(plain, list):
        guesses, known = _of_results(predictions, plain, true_set), None
    else:
        own = _DataSet(predictions, plain)
        guesses, known = list(own.rows()), set(own.classes.values())
    return _joined(guesses, known, true_set)


def truth_of(path: Path) -> Mapping[str, Sequence[TrueBox]]:
    """The boxes of a COCO data set by file name. Raises as ``join`` does."""
    return _DataSet(path, read_json(path)).boxes()


@dataclass(frozen=True)
class _Row:
    image: str
    class_name: str
    box: Box
    score: float
    ignore: bool


def _joined(guesses: Sequence[_Row], known: set[str] | None, truth: "_DataSet") -> Joined:
    classes = tuple(n for n in truth.classes.values() if known is None or n in known)
    if not classes:
        raise InvalidInput(
            f"{truth.path}: none of its classes ({_some(truth.classes.values())}) is a class of "
            f"the predictions ({_some(known or ())}); name the classes alike in both files"
        )
    real = truth.boxes()
    found: dict[str, list[Detection]] = {name: [] for name in real}
    kept = [g for g in guesses if not g.ignore]
    usable = [g for g in kept if g.image in real and g.class_name in classes]
    if kept and not any(g.image in real for g in kept):
        raise InvalidInput(
            f"{truth.path}: it has none of the predictions' images (they name {kept[0].image!r}"
            f", it names {_some(real)}); both files must name images alike: label the "
            "folder that the names in the truth are relative to"
        )
    for g in usable:
        found[g.image].append(Detection(g.class_name, g.box, g.score))
    left = tuple(n for n in truth.classes.values() if n not in classes)
    images = {name: (tuple(found[name]), tuple(real[name])) for name in real}
    return Joined(classes, images, len(kept) - len(usable), left)


class _DataSet:
    """A COCO data set, checked entry by entry."""

    def __init__(self, path: Path, plain: Any) -> None:
        if not isinstance(plain, dict):
            raise InvalidInput(
                f"{path}: expected a COCO data set (an object with images, annotations and "
                f"categories), got a {type(plain).__name__}"
            )
        self.path = path
        for key in ("images", "annotations", "categories"):
            if not isinstance(plain.get(key), list):
                raise InvalidInput(f"{path}: its '{key}' is not a list; it is no COCO data set")
        self.classes: dict[Any, str] = {}
        for place, entry in enumerate(plain["categories"]):
            where = f"{path}: categories[{place}]"
            self.classes[entry_value(entry, "id", where)] = str(entry_value(entry, "name", where))
        self.images: dict[Any, str] = {}
        for place, entry in enumerate(plain["images"]):
            key = entry_value(entry, "id", f"{path}: images[{place}]")
            self.images[key] = str(entry.get("file_name", key))
        _refuse_twins(path, "categories", list(self.classes.values()))
        _refuse_twins(path, "images", list(self.images.values()))
        self._annotations = plain["annotations"]

    def rows(self) -> Iterator[_Row]:
        """Every annotation, by names."""
        for place, entry in enumerate(self._annotations):
            where = f"{self.path}: annotations[{place}]"
            image, category = (
                entry_value(entry, "image_id", where),
                entry_value(entry, "category_id", where),
            )
            if image not in self.images:
                raise InvalidInput(f"{where}: image_id {image!r} is not among its images")
            if category not in self.classes:
                raise InvalidInput(f"{where}: category_id {category!r} is not among its categories")
            yield _row(entry, where, self.images[image], self.classes[category])

    def boxes(self) -> dict[str, list[TrueBox]]:
        """By image; one without boxes has an empty list."""
        found: dict[str, list[TrueBox]] = {name: [] for name in self.images.values()}
        for row in self.rows():
            found[row.image].append(TrueBox(row.class_name, row.box, row.ignore))
        return found


def _of_results(path: Path, plain: list[Any], truth: _DataSet) -> list[_Row]:
    """A results list; what the truth does not list keeps a name that matches nothing."""
    rows = []
    for place, entry in enumerate(plain):
        where = f"{path}: [{place}]"
        entry_value(entry, "score", where)
        image, category = (
            entry_value(entry, "image_id", where),
            entry_value(entry, "category_id", where),
        )
        image_name = truth.images.get(image, f"image_id {image!r}")
        class_name = truth.classes.get(category, f"category_id {category!r}")
        rows.append(_row(entry, where, image_name, class_name))
    return rows


def _row(entry: dict[str, Any], where: str, image: str, class_name: str) -> _Row:
    score = entry.get("score", 1.0)
    if not isinstance(score, int | float) or not math.isfinite(score):
        raise InvalidInput(f"{where}: expected a number as score, got {score!r}")
    ignore = bool(entry.get("iscrowd") or entry.get("ignore"))
    box = _xyxy(entry_value(entry, "bbox", where), where)
    return _Row(image, class_name, box, float(score), ignore)


def _xyxy(bbox: Any, where: str) -> Box:
    numbers = isinstance(bbox, list) and all(isinstance(v, int | float) for v in bbox)
    if not numbers or len(bbox) != 4 or not all(math.isfinite(v) for v in bbox):
        raise InvalidInput(f"{where}: expected bbox [x, y, width, height], got {bbox!r}")
    x, y, width, height = map(float, bbox)
    if width < 0 or height < 0:
        raise InvalidInput(f"{where}: a bbox cannot have a negative side, got {bbox!r}")
    return x, y, x + width, y + height


def _refuse_twins(path: Path, what: str, names: list[str]) -> None:
    if len(set(names)) < len(names):
        twin = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(f"{path}: {twin!r} stands twice among its {what}; names must differ")


def _some(names: Any) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:5]) + (", …" if len(listed) > 5 else "")


def average_precision(joined: Joined) -> AveragePrecision:
    """COCO average precision by ``pycocotools`` (100 detections an image).

    Raises ``MissingExtra`` when that package is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise MissingExtra(
            'average precision needs pycocotools: pip install "secondlook[evaluate]"'
        ) from None
    truth, guesses = COCO(), COCO()
    truth.dataset, guesses.dataset = _plain(joined)
    with contextlib.redirect_stdout(io.StringIO()):  # the library prints its progress
        truth.createIndex()
        guesses.createIndex()
        scored = COCOeval(truth, guesses, "bbox")
        scored.evaluate()
        scored.accumulate()
    table = scored.eval["precision"][..., 0, 2]  # IoU, recall, class; all areas, 100 detections
    by_class = {name: _mean(table[:, :, i]) for i, name in enumerate(joined.classes)}
    return AveragePrecision(_mean(table), _mean(table[0]), _mean(table[5]), by_class)


def _plain(joined: Joined) -> tuple[dict[str, Any], dict[str, Any]]:
    """Truth and predictions as COCO data sets with ids of our own."""
    ids = {name: place for place, name in enumerate(joined.classes, start=1)}
    images = [{"id": place} for place in range(1, len(joined.images) + 1)]
    categories = [{"id": place, "name": name} for name, place in ids.items()]
    real: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for place, (detections, truth) in enumerate(joined.images.values(), start=1):
        for t in truth:
            if t.class_name in ids:
                entry = _entry(len(real) + 1, place, ids[t.class_name], t.box)
                real.append({**entry, "iscrowd": int(t.ignore)})
        for d in detections:
            entry = _entry(len(found) + 1, place, ids[d.class_name], d.box)
            found.append({**entry, "iscrowd": 0, "score": d.score})
    shared = {"images": images, "categories": categories}
    return {**shared, "annotations": real}, {**shared, "annotations": found}


def _entry(number: int, image: int, category: int, box: Box) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    area = (x2 - x1) * (y2 - y1)
    bbox = [x1, y1, x2 - x1, y2 - y1]
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "area": area}


def _mean(precision: Any) -> float | None:
    known = precision[precision > -1]  # -1 is the library's "no true box"
    return float(np.mean(known)) if known.size else None
