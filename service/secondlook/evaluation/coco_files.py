"""COCO files of anyone as detections and true boxes.

Predictions may be a results list (``[{"image_id", "category_id", "bbox", "score"}, …]``) or a
whole data set as ``secondlook label`` writes it. Two data sets are joined by file name and class
name, since ids mean nothing outside their own file; a results list is joined by the ids of the
truth.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from secondlook.core.boxes import Xyxy
from secondlook.datasets.readers.coco import coco_files, only_coco_file
from secondlook.datasets.readers.coco_json import CocoEntry, CocoFile, Id, coco_entry, read_json
from secondlook.datasets.readers.fields import RowChecks
from secondlook.datasets.readers.segmentations import coco_mask
from secondlook.evaluation.matching import ScoredBox, ScoredImage, TrueBox
from secondlook_client.errors import InvalidInput
from secondlook_client.masks import Mask


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
    warnings: tuple[str, ...] = ()
    """What was left out of either file or put together, a sentence each."""


def join(predictions: Path, truth: Path) -> Joined:
    """Read both files, or the only COCO file of a folder; of predictions that of every split.

    Raises ``NotFound`` or ``InvalidInput`` naming the file and the entry.
    """
    true_set = _open(only_coco_file(truth))
    notes: list[str] = []
    guesses: list[_Row] = []
    known: set[str] | None = set()
    for file in coco_files(predictions):
        rows, names = _guesses(file, true_set, notes)
        guesses += rows
        known = None if known is None or names is None else known | names
    joined = _joined(guesses, known, true_set)
    warnings = [*notes, *true_set.warnings(), *true_set.without_area()]
    return replace(joined, warnings=tuple(dict.fromkeys(warnings)))


def truth_of(path: Path) -> Mapping[str, Sequence[TrueBox]]:
    """The boxes of a COCO data set by file name. Raises as ``join`` does."""
    return _open(path).boxes()


def truth_and_classes(
    path: Path, *, masks: bool = False
) -> tuple[Mapping[str, Sequence[TrueBox]], tuple[str, ...]]:
    """``truth_of``, and the classes that the file lists, also those without a box.

    With ``masks`` each box has its mask, where the file has one that can be read.
    """
    found = _open(path)
    return found.boxes(masks=masks), found.classes()


def _guesses(
    file: Path, truth: "_NamedCoco", notes: list[str]
) -> tuple[list["_Row"], set[str] | None]:
    """The predictions of a file, and the classes that it lists (None: it lists none)."""
    told: list[str] = []
    plain = read_json(file, told)
    if isinstance(plain, list):
        check = RowChecks("results")
        rows = [*_results(plain, truth, check)]
        check.check(file)
        notes += [*told, *(f"{file.name}: {sentence}" for sentence in check.warnings())]
        return rows, None
    own = _NamedCoco(file, plain, told)
    notes += own.warnings()
    return [*own.rows()], set(own.names.values())


def _open(path: Path) -> "_NamedCoco":
    notes: list[str] = []
    return _NamedCoco(path, read_json(path, notes), notes)


@dataclass(frozen=True)
class _Row:
    """An entry by names."""

    image: str
    class_name: str
    box: Xyxy
    score: float
    ignore: bool


class _NamedCoco(CocoFile):
    """A COCO data set whose images are told apart by name, or by id where one has none."""

    def image_name(self, key: Id) -> str:
        """Of the image ``key``, as it came to its labeller."""
        image = self.images[key]
        return image.original_name or image.name or str(key)

    def rows(self) -> Iterator[_Row]:
        """Every annotation, by names; one without a score is certain."""
        for entry in self.annotations:
            yield _row(entry, self.image_name(entry.image_id), self.names[entry.category_id])

    def boxes(self, *, masks: bool = False) -> dict[str, list[TrueBox]]:
        """Those with an area, by image; one without boxes has an empty list."""
        found: dict[str, list[TrueBox]] = {self.image_name(key): [] for key in self.images}
        for entry, row in zip(self.annotations, self.rows(), strict=True):
            x1, y1, x2, y2 = row.box
            if x2 > x1 and y2 > y1:
                mask = self._mask(entry) if masks else None
                found[row.image].append(TrueBox(row.class_name, row.box, row.ignore, mask))
        return found

    def _mask(self, entry: CocoEntry) -> Mask | None:
        size = self.images[entry.image_id].size
        with suppress(ValueError):  # the box is of use without it
            return coco_mask(entry.segmentation, size, entry.box) if size else None
        return None

    def without_area(self) -> Iterator[str]:
        """A sentence of the boxes that ``boxes`` leaves out, as a training does."""
        boxes = (entry.box for entry in self.annotations)
        if count := sum(x2 <= x1 or y2 <= y1 for x1, y1, x2, y2 in boxes):
            yield f"{self.path.name}: {count:,} boxes have no area; they are left out"


def _results(plain: list[Any], truth: _NamedCoco, check: RowChecks) -> Iterator[_Row]:
    """A results list; what the truth does not list keeps a name that matches nothing."""
    for place, result in enumerate(plain):
        try:
            entry = coco_entry(result)
            if entry.score is None:
                raise ValueError("it has no 'score'")
        except ValueError as cause:
            check.bad(f"[{place}]", cause)
            continue
        check.good()
        first = truth.first_id(entry.image_id)
        yield _row(
            entry,
            f"image_id {entry.image_id!r}" if first is None else truth.image_name(first),
            truth.names.get(entry.category_id, f"category_id {entry.category_id!r}"),
        )


def _row(entry: CocoEntry, image: str, class_name: str) -> _Row:
    score = 1.0 if entry.score is None else entry.score
    return _Row(image, class_name, entry.box, score, entry.ignore)


def _joined(guesses: Sequence[_Row], known: set[str] | None, truth: _NamedCoco) -> Joined:
    names = truth.classes()
    classes = tuple(n for n in names if known is None or n in known)
    if not classes:
        raise InvalidInput(
            f"{truth.path}: none of its classes ({_some(names)}) is a class of "
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
    left_out = tuple(n for n in names if n not in classes)
    images = {name: (tuple(found[name]), tuple(real[name])) for name in real}
    return Joined(classes, images, len(kept) - len(usable), left_out)


def _some(names: Iterable[object]) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:5]) + (", …" if len(listed) > 5 else "")
