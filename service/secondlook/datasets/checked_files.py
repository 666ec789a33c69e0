"""Verified annotations as files: the dataset without what was rejected, and a list of findings.

A COCO file stays what it was: rejected entries are left out, everything else of it is kept as it
is, and each entry that was asked about tells the answer under ``secondlook``. Other formats are
written anew from the boxes, by the same writers as for ``secondlook label``.
"""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from secondlook.core import boxes as box_ops
from secondlook.core.boxes import Xyxy, to_xywh
from secondlook.core.files import name_to_text, replacing
from secondlook.datasets.annotated_images import AnnotatedSet, ImageAnnotations
from secondlook.datasets.checked_boxes import CheckedBox, annotations_of
from secondlook.datasets.readers.annotations import display_name
from secondlook.datasets.readers.coco_json import CocoEntry, CocoFile, coco_entry, read_json
from secondlook.datasets.samples import boxes_array
from secondlook.datasets.writers import UNSPLIT, DoubtfulImages, Labels, linked_images
from secondlook_client.masks import Mask, Segmentation
from secondlook_client.values import Decision, Judgement, LabelResult, Outcome

ANNOTATED = "annotation"
"""The model of a mask that the dataset came with."""
TABLE, LINES = "findings.csv", "findings.jsonl"
COLUMNS = (
    "finding",
    "image",
    "annotation_id",
    "class",
    "x1",
    "y1",
    "x2",
    "y2",
    "outcome",
    "p_yes",
    "question",
    "answer",
    "suggested_class",
    "suggested_p_yes",
    "suggested_box",
    "reason",
    "label_id",
)
"""Of ``findings.csv``."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a text begins with that a spreadsheet would compute."""

Key = tuple[str, str, Xyxy]
"""Image, class and box of an annotation."""
CheckedBoxes = Mapping[Key, Sequence[CheckedBox]]
"""Of one key several where an annotation is there twice."""


@dataclass(frozen=True, eq=False)
class LabelFinding:
    """A box that a person should look at, with where its annotation stands."""

    image: str
    """The name of the image below the root of the set."""
    annotation_id: int | str | None
    """In a COCO file; None elsewhere, and for missing objects."""
    checked: CheckedBox
    label_id: str = ""
    """For ``secondlook explain``; empty for a box that was not asked about."""

    def row(self) -> dict[str, Any]:
        """Plain values by the names of ``COLUMNS``."""
        checked, judgement = self.checked, self.checked.judgement
        suggested, better = checked.suggested, checked.better
        answered = suggested or better
        x1, y1, x2, y2 = (round(value, 2) for value in checked.box)
        return {
            "finding": str(checked.kind),
            "image": name_to_text(self.image),
            "annotation_id": self.annotation_id,
            "class": checked.class_name,
            **{"x1": x1, "y1": y1, "x2": x2, "y2": y2},
            "outcome": "" if checked.missing else checked.outcome.value,
            "p_yes": _rounded(judgement.p_yes if judgement else None),
            "question": judgement.question if judgement else "",
            "answer": judgement.raw_answer if judgement else "",
            "suggested_class": suggested.class_name if suggested else "",
            "suggested_p_yes": _rounded(answered.p_yes if answered else None),
            "suggested_box": [round(value, 2) for value in better.box] if better else None,
            "reason": checked.reason,
            "label_id": self.label_id,
        }


def write_findings(findings: Sequence[LabelFinding], out: Path) -> tuple[Path, Path]:
    """Write ``findings.csv`` and ``findings.jsonl`` into ``out``. Raises ``StorageFull``."""
    table, lines = out / TABLE, out / LINES
    with replacing(table) as part, part.open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS)
        rows.writeheader()
        rows.writerows({k: _cell(v) for k, v in found.row().items()} for found in findings)
    with replacing(lines) as part, part.open("w", encoding="ascii") as file:
        file.writelines(json.dumps(found.row()) + "\n" for found in findings)
    return table, lines


def verified_name(split: str) -> str:
    """What the COCO file of a split is called when what was rejected has been left out."""
    return f"verified-{split}.json" if split else "verified.json"


VERIFIED_FILES = (TABLE, LINES, *(verified_name(split) for split in ("", "train", "val", "test")))
"""Everything that is written here in one file each."""


class CocoRewriter:
    """One COCO file of a set: its annotation ids, and the same file without what was rejected."""

    def __init__(self, path: Path, split: str, annotated: AnnotatedSet) -> None:
        self.path, self._split = path, split
        self._plain: dict[str, Any] = read_json(path)
        self._file = CocoFile(path, self._plain)
        self._images = {
            name: image for image in annotated.images for of, name in image.entries if of == split
        }

    def ids(self) -> dict[Key, list[int | str]]:
        """The ids of the annotations of each key; several where one is there twice."""
        found: dict[Key, list[int | str]] = {}
        for plain, entry, key in self._entries():
            if key and not entry.ignore and isinstance(plain.get("id"), int | str):
                found.setdefault(key, []).append(plain["id"])
        return found

    def without_area(self) -> Iterator[tuple[Key, int | str | None]]:
        """The annotations that have no area inside their image, with their ids."""
        for plain, entry, key in self._entries():
            if key and not entry.ignore and not _has_area(key[2]):
                number = plain.get("id")
                yield key, number if isinstance(number, int | str) else None

    def write(self, path: Path, checked: CheckedBoxes) -> None:
        """Write the file to ``path``, with an answer beside each annotation that was asked about.

        Raises ``StorageFull``.
        """
        keys = {id(plain): key for plain, entry, key in self._entries() if not entry.ignore}
        copies: Counter[Key] = Counter()
        kept = []
        for plain in self._plain["annotations"]:
            key = keys.get(id(plain))
            if key is None or (key not in checked and _has_area(key[2])):
                kept.append(plain)  # not asked about, or not readable: as it was
            elif found := checked.get(key):
                one = found[min(copies[key], len(found) - 1)]
                copies[key] += 1
                if one.outcome is not Outcome.REJECT:
                    kept.append({**plain, "secondlook": _answer(one)})
        with replacing(path) as part, part.open("w", encoding="utf-8") as file:
            json.dump({**self._plain, "annotations": kept}, file)

    def _entries(self) -> Iterator[tuple[dict[str, Any], CocoEntry, Key | None]]:
        """Every annotation that can be read, with its key; None where its image cannot be read."""
        for plain in self._plain["annotations"]:
            with suppress(ValueError):
                entry = coco_entry(plain)
                first = self._file.first_id(entry.image_id)
                name = self._file.names.get(entry.category_id)
                if first is not None and name is not None:
                    image = self._images.get(display_name(self._file.images[first].name))
                    yield plain, entry, key_of(image, name, entry.box) if image else None


def key_of(image: ImageAnnotations, class_name: str, box: Xyxy) -> Key:
    """By which an annotation is known: its box is clipped to the image, in float32."""
    clipped = box_ops.clip(boxes_array([box]), image.sample.width, image.sample.height)
    x1, y1, x2, y2 = clipped[0].tolist()
    return image.name, class_name, (x1, y1, x2, y2)


def kept_labels(
    annotated: AnnotatedSet, checked: CheckedBoxes, hashes: Mapping[str, str | None]
) -> dict[str, Labels]:
    """What was kept, by split, for the writers of formats.

    Unsure annotations and ignore regions are unsure, what was not asked about is accepted as it is.
    ``hashes`` by name: the SHA-256 of images as far as known, None for one that could not be
    decoded, which is left out.
    """
    splits: dict[str, list[ImageAnnotations]] = {}
    for image in annotated.images:
        if hashes.get(image.name, "") is not None:
            splits.setdefault(image.split or UNSPLIT, []).append(image)
    labels = partial(
        Labels,
        annotated.classes,
        place_image=linked_images(annotated.root),
        # Who annotated the others left these empty.
        nothing_proposed=DoubtfulImages.BACKGROUND,
    )

    def results(images: list[ImageAnnotations]) -> Iterator[tuple[str, LabelResult]]:
        for image in images:
            sha256 = hashes.get(image.name) or _hash(image.sample.path)
            yield image.name, _result(image, annotated.classes, checked, sha256)

    return {split: labels(partial(results, images)) for split, images in splits.items()}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _result(
    image: ImageAnnotations, classes: Sequence[str], checked: CheckedBoxes, sha256: str
) -> LabelResult:
    sample, judgements = image.sample, []
    masks = sample.masks or (None,) * len(sample.boxes)
    for (box, name), mask in zip(annotations_of(image, classes), masks, strict=True):
        key = image.name, name, box
        found = checked[key][0] if key in checked else None
        outcome = found.outcome if found else Outcome.ACCEPT
        reason = found.reason if found else "not asked about"
        judgements.append(_judgement(key, outcome, reason, found, mask))
    for box, number in zip(sample.ignore, sample.ignore_classes.tolist(), strict=True):
        for name in classes if number < 0 else (classes[number],):
            key = key_of(image, name, tuple(box.tolist()))
            judgements.append(_judgement(key, Outcome.UNSURE, "an ignore region", None))
    size = sample.width, sample.height
    return LabelResult(image.name, sha256, *size, len(judgements), tuple(judgements), "", "")


def _judgement(
    key: Key, outcome: Outcome, reason: str, found: CheckedBox | None, mask: Mask | None = None
) -> Judgement:
    """``mask``: that of the annotation, which stands before one that was found now."""
    own = found.judgement if found else None
    sure = own.probability if own else 1.0
    verdict = own.verdict if own else None
    segmentation = own.segmentation if own else None
    if mask is not None:
        segmentation = Segmentation(mask, 1.0, 1.0, ANNOTATED)
    decision = Decision(outcome, sure, reason)
    return Judgement(key[1], key[2], 1.0, verdict, decision, segmentation=segmentation)


def _answer(found: CheckedBox) -> dict[str, Any]:
    """What a kept annotation tells about itself."""
    p_yes = found.judgement.p_yes if found.judgement else None
    answer: dict[str, Any] = {
        "outcome": found.outcome.value,
        "p_yes": _rounded(p_yes),
        "reason": found.reason,
    }
    if found.duplicate:
        answer["duplicate"] = True
    if found.suggested:
        answer["suggested_class"] = found.suggested.class_name
    if found.better:
        answer["suggested_bbox"] = [round(value, 2) for value in to_xywh(found.better.box)]
    return answer


def _has_area(box: Xyxy) -> bool:
    return box[2] > box[0] and box[3] > box[1]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _cell(value: Any) -> Any:
    """A cell of a table that a spreadsheet takes for text, whatever strangers called a class."""
    if isinstance(value, list):
        return " ".join(f"{number:g}" for number in value)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
