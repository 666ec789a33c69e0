"""COCO: one JSON file.

Beyond the format's own fields an image says whether it is ``verified_empty`` (both stages ran and
left neither a label nor an unsure box) and which ``path`` made its labels (``teachers``,
``student`` or ``audit``: teachers with a student compared). An annotation carries ``score`` (the
probability that the label is right) and both stages' scores under ``attributes``. An unsure box
has ``iscrowd`` 1, as COCO marks regions that training and evaluation skip, and ``ignore`` 1. Where
they are wanted, rejected boxes are in a list of their own, ``hard_negatives``, which readers of
COCO ignore.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from secondlook.core.boxes import to_xywh
from secondlook.core.files import replacing
from secondlook.datasets.writers.label_set import Labels
from secondlook_client.values import Judgement, LabelResult, Outcome


def write(labels: Labels, out: Path) -> Path:
    """Write ``out/coco.json``, replacing an older one only once the new one is complete."""
    return _write_file(labels, out / "coco.json")


def write_splits(splits: Mapping[str, Labels], out: Path) -> None:
    """Write ``out/annotations/SPLIT.json`` for each split."""
    (out / "annotations").mkdir()
    for split, labels in splits.items():
        _write_file(labels, out / "annotations" / f"{split}.json")


def _write_file(labels: Labels, path: Path) -> Path:
    ids = {name: place for place, name in enumerate(labels.classes, start=1)}
    categories = [{"id": place, "name": name} for name, place in ids.items()]
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        head = {"info": {"description": "labels by secondlook"}, "categories": categories}
        file.write(json.dumps(head)[:-1])
        _write_list(file, "images", _images(labels.results()))
        kept = (Outcome.ACCEPT, Outcome.UNSURE)
        _write_list(file, "annotations", _annotations(labels.results(), ids, kept))
        if labels.hard_negatives:
            rejected = _annotations(labels.results(), ids, (Outcome.REJECT,))
            _write_list(file, "hard_negatives", rejected)
        file.write("}\n")
    return path


def _write_list(file: TextIO, key: str, entries: Iterator[dict[str, Any]]) -> None:
    file.write(f',\n"{key}": [')
    for place, entry in enumerate(entries):
        file.write(("," if place else "") + "\n" + json.dumps(entry))
    file.write("\n]")


def _images(results: Iterator[tuple[str, LabelResult]]) -> Iterator[dict[str, Any]]:
    for place, (name, result) in enumerate(results, start=1):
        yield {
            "id": place,
            "file_name": name,
            "width": result.width,
            "height": result.height,
            "sha256": result.sha256,
            "verified_empty": not (result.labels or result.of(Outcome.UNSURE)),
            "path": result.path.value,
        }


def _annotations(
    results: Iterator[tuple[str, LabelResult]], ids: dict[str, int], kept: Sequence[Outcome]
) -> Iterator[dict[str, Any]]:
    number = 0
    for place, (_, result) in enumerate(results, start=1):
        for judgement in result.judgements:
            if judgement.outcome in kept:
                number += 1
                entry = _annotation(judgement, ids[judgement.class_name])
                yield {"id": number, "image_id": place, **entry}


def _annotation(judgement: Judgement, category: int) -> dict[str, Any]:
    x, y, width, height = (round(value, 2) for value in to_xywh(judgement.box))
    unsure = int(judgement.outcome is Outcome.UNSURE)
    return {
        "category_id": category,
        "bbox": [x, y, width, height],
        "area": round(width * height, 2),
        "iscrowd": unsure,
        "ignore": unsure,
        "score": round(judgement.probability, 4),
        "attributes": {
            "proposer_score": round(judgement.score, 4),
            "p_yes": None if judgement.p_yes is None else round(judgement.p_yes, 4),
            "reason": judgement.reason,
        },
    }
