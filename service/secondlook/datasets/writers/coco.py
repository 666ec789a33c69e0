"""COCO: ``annotations/instances_SPLIT.json`` and ``images/SPLIT/``.

A label's mask is its ``segmentation``: as a compressed run-length code, or with ``polygons`` as
polygons that are the very same mask when they are filled. A polygon that the format cannot hold
(noise) stays a code. A box without a mask has its own outline as ``segmentation``, as other
programs write it too. Beyond the format's own fields

- an image says why it is ``empty`` (``nothing_proposed``, ``all_rejected`` or ``verified_empty``;
  null where it has a label or an unsure box), which ``path`` made its labels (``teachers``,
  ``student`` or ``audit``: teachers with a student compared), and its ``original_name`` where that
  cannot be a ``file_name``;
- an annotation has ``score`` (the probability that the label is right), all stages' scores under
  ``attributes``, and ``label_id``, which ``secondlook explain`` takes; of an object that was
  followed through a video also its ``track_id``, which is among the ``attributes`` too, as CVAT has
  it;
- ``info`` has the models, the version of secondlook, the date of the run or snapshot (so that the
  same labels are always the same bytes), and the classes with their questions and thresholds. Its
  ``nothing_proposed`` says whether images of that kind are meant as ``background``; else no
  training should take them for it.

An unsure box has ``iscrowd`` 1, as COCO marks regions that training and evaluation skip, with its
mask, or the whole box, as an uncompressed run-length code, and ``ignore`` 1. Where they are wanted,
rejected boxes are in a list of their own, ``hard_negatives``, which readers of COCO ignore.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from secondlook.core.boxes import to_xywh
from secondlook.core.files import name_to_text
from secondlook.core.masks import box_mask, mask_polygons
from secondlook.core.version import installed_version
from secondlook.datasets.writers.label_set import (
    FreeNames,
    Labels,
    Provenance,
    portable_name,
)
from secondlook.labeling.duplicates import hard_negatives
from secondlook_client.errors import InvalidInput
from secondlook_client.masks import Mask
from secondlook_client.values import Judgement, LabelResult, Outcome


def write(splits: Mapping[str, Labels], folder: Path) -> None:
    """Write ``annotations/`` and ``images/`` into ``folder``, which exists and is empty."""
    _write(splits, folder, Mask.to_coco)


def write_polygons(splits: Mapping[str, Labels], folder: Path) -> None:
    """The same, with masks as polygons."""
    _write(splits, folder, _polygons)


MaskField = Callable[[Mask], Any]
"""Gives the ``segmentation`` of a mask."""


def _write(splits: Mapping[str, Labels], folder: Path, mask_field: MaskField) -> None:
    (folder / "annotations").mkdir()
    for split, labels in splits.items():
        (folder / "images" / split).mkdir(parents=True)
        path = folder / "annotations" / f"instances_{split}.json"
        _write_file(labels, path, folder / "images" / split, mask_field)


def _write_file(labels: Labels, path: Path, images: Path, mask_field: MaskField) -> None:
    ids = {name: place for place, name in enumerate(labels.classes, start=1)}
    categories = [{"id": i, "name": name, "supercategory": ""} for name, i in ids.items()]
    info: dict[str, Any] = {"description": "labels by secondlook", "version": installed_version()}
    info["nothing_proposed"] = labels.nothing_proposed.value
    if labels.provenance:
        info |= _info(labels.provenance)
    with path.open("w", encoding="utf-8") as file:
        head = {"info": info, "licenses": [], "categories": categories}
        file.write(json.dumps(head)[:-1])
        _write_list(file, "images", _images(labels, images))
        _write_list(file, "annotations", _annotations(labels, ids, _labels, mask_field))
        if labels.hard_negatives:
            rejected = _annotations(labels, ids, hard_negatives, mask_field)
            _write_list(file, "hard_negatives", rejected)
        file.write("}\n")


def _info(provenance: Provenance) -> dict[str, Any]:
    created = datetime.fromtimestamp(provenance.created_at, UTC)
    return {
        "year": created.year,
        "date_created": created.isoformat(timespec="seconds"),
        "models": list(provenance.models),
        "ontology": {
            "digest": provenance.ontology.digest,
            "classes": [asdict(spec) for spec in provenance.ontology.classes],
        },
    }


def _write_list(file: TextIO, key: str, entries: Iterator[dict[str, Any]]) -> None:
    file.write(f',\n"{key}": [')
    for place, entry in enumerate(entries):
        file.write(("," if place else "") + "\n" + json.dumps(entry))
    file.write("\n]")


def _images(labels: Labels, folder: Path) -> Iterator[dict[str, Any]]:
    """Entries of the images, each put into ``folder``."""
    names = FreeNames(folder)
    for number, image in enumerate(labels.images(), start=1):
        name, result = image.name, image.result
        place = names.take(PurePosixPath(portable_name(name)))
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        labels.place_image(name, result, folder / place)
        original = {} if str(place) == name else {"original_name": name_to_text(name)}
        yield {
            "id": number,
            "file_name": str(place),
            "width": result.width,
            "height": result.height,
            "sha256": result.sha256,
            "empty": result.empty,
            "path": result.path.value,
            **original,
        }


def _annotations(
    labels: Labels,
    ids: dict[str, int],
    kept: Callable[[Sequence[Judgement]], set[int]],
    mask_field: MaskField,
) -> Iterator[dict[str, Any]]:
    number = 0
    for image_id, image in enumerate(labels.images(), start=1):
        places = kept(image.result.judgements)
        for place, judgement in enumerate(image.result.judgements):
            if place in places:
                number += 1
                category = ids[judgement.class_name]
                entry = _annotation(judgement, category, image.result, mask_field)
                if label_id := image.label_id(place):
                    entry["label_id"] = label_id
                yield {"id": number, "image_id": image_id, **entry}


def _labels(judgements: Sequence[Judgement]) -> set[int]:
    """Places of those that are no rejections."""
    return {at for at, one in enumerate(judgements) if one.outcome is not Outcome.REJECT}


def _annotation(
    judgement: Judgement, category: int, result: LabelResult, mask_field: MaskField
) -> dict[str, Any]:
    x, y, width, height = (round(value, 2) for value in to_xywh(judgement.box))
    right, lower = round(x + width, 2), round(y + height, 2)
    unsure, mask = judgement.outcome is Outcome.UNSURE, judgement.mask
    attributes: dict[str, Any] = {}
    segmentation: Any
    if unsure:
        segmentation = _run_lengths(mask or box_mask(judgement.box, result.width, result.height))
    elif mask:
        segmentation = mask_field(mask)
    else:
        segmentation = [[x, y, right, y, right, lower, x, lower]]
    if found := judgement.segmentation:
        attributes = {
            "mask_quality": round(found.quality, 4),
            "mask_stability": round(found.stability, 4),
            "mask_model": found.model,
        }
    track = {"track_id": judgement.track} if judgement.track else {}
    return {
        **track,
        "category_id": category,
        "bbox": [x, y, width, height],
        "area": mask.area if mask else round(width * height, 2),
        "segmentation": segmentation,
        "iscrowd": int(unsure),
        "ignore": int(unsure),
        "score": round(judgement.probability, 4),
        "attributes": {
            "proposer_score": round(judgement.score, 4),
            "p_yes": None if judgement.p_yes is None else round(judgement.p_yes, 4),
            "reason": judgement.reason,
            **track,
            **attributes,
        },
    }


def _polygons(mask: Mask) -> Any:
    """The polygons of a mask; its code where it has too many corners for them."""
    try:
        return [polygon.ravel().tolist() for polygon in mask_polygons(mask)]
    except InvalidInput:
        return mask.to_coco()


def _run_lengths(mask: Mask) -> dict[str, Any]:
    """A mask as COCO has crowds: runs of zeros and ones, column by column.

    Uncompressed, as in COCO's own files; some programs read crowds in no other form.
    """
    return {"size": [mask.height, mask.width], "counts": mask.runs.tolist()}
