"""FiftyOne's own dataset on disk: ``metadata.json``, ``samples.json`` and ``data/SPLIT/``.

``fiftyone.Dataset.from_dir(dataset_dir=…, dataset_type=fiftyone.types.FiftyOneDataset)`` loads it.
It is the layout without a ``version``, which every FiftyOne reads. A sample has its split as a tag,
and its labels in the field ``secondlook``: detections whose ``confidence`` is the probability that
they are right, with their scores and what else belongs to them beside it (``label_fields``), so
that views can be filtered and sorted by them. An unsure label has the tag ``unsure``.

A mask covers exactly the bounding box of its detection, so that is the tight box of the mask; the
label's own box is its field ``box``. The sample has the reviews of its image, too.
"""

import base64
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from secondlook.core.boxes import Xyxy
from secondlook.core.files import name_to_text
from secondlook.core.masks import cropped
from secondlook.core.version import installed_version
from secondlook.datasets.label_fields import MASK_DIGEST, PROPOSED_BOX, fields_of, mask_digest
from secondlook.datasets.writers.label_set import (
    FreeNames,
    LabelledImage,
    Labels,
    portable_name,
)
from secondlook_client.masks import Mask
from secondlook_client.values import Judgement, LabelResult, Outcome

FIELD = "secondlook"
"""The field of a sample that holds the labels."""
SHA256, NAME, EMPTY, REVIEWS = "sha256", "original_name", "empty", "reviews"
"""Further fields of a sample."""
UNSURE = Outcome.UNSURE.value
"""The tag of an unsure label."""


def write(splits: Mapping[str, Labels], folder: Path) -> None:
    """Write everything into ``folder``, which exists and is empty."""
    with (folder / "samples.json").open("w", encoding="utf-8") as file:
        file.write('{"samples": [')
        separator = "\n"
        for split, labels in splits.items():
            for sample in _samples(split, labels, folder):
                file.write(separator + json.dumps(sample))
                separator = ",\n"
        file.write("\n]}\n")
    labels = next(iter(splits.values()))
    text = json.dumps({"media_type": "image", "info": _info(labels)}, indent=1)
    (folder / "metadata.json").write_text(text, encoding="utf-8")


def _info(labels: Labels) -> dict[str, Any]:
    about: dict[str, Any] = {"version": installed_version()}
    if labels.provenance:
        classes = [asdict(spec) for spec in labels.provenance.ontology.classes]
        about |= {"models": [*labels.provenance.models], "classes": classes}
    return {"default_classes": [*labels.classes], "secondlook": about}


def _samples(split: str, labels: Labels, folder: Path) -> Iterator[dict[str, Any]]:
    """Those of a split, whose images are put into its folder."""
    images = folder / "data" / split
    images.mkdir(parents=True)
    names = FreeNames(images)
    for image in labels.images():
        result = image.result
        place = names.take(PurePosixPath(portable_name(image.name)))
        (images / place).parent.mkdir(parents=True, exist_ok=True)
        labels.place_image(image.name, result, images / place)
        said = labels.reviews(result.sha256) if labels.reviews else ()
        yield {
            "filepath": str(PurePosixPath("data", split, place)),
            "tags": [split],
            "metadata": {"_cls": "ImageMetadata", "width": result.width, "height": result.height},
            SHA256: result.sha256,
            NAME: name_to_text(image.name),
            EMPTY: labels.why_empty(result) or None,
            REVIEWS: [json.dumps(one.to_dict()) for one in said],
            FIELD: {"_cls": "Detections", "detections": [*_detections(image)]},
        }


def _detections(image: LabelledImage) -> Iterator[dict[str, Any]]:
    for place, judgement in enumerate(image.result.judgements):
        if judgement.outcome is not Outcome.REJECT:
            yield _detection(judgement, image.label_id(place), image.result)


def _detection(judgement: Judgement, label_id: str, result: LabelResult) -> dict[str, Any]:
    fields = fields_of(judgement, label_id)
    box, mask = judgement.box, judgement.mask
    if mask and mask.box:
        fields |= {PROPOSED_BOX: [*map(float, box)], MASK_DIGEST: mask_digest(mask)}
        fields["mask"] = _array(mask)
        box = mask.box
    return {
        "_cls": "Detection",
        "tags": [UNSURE] if judgement.outcome is Outcome.UNSURE else [],
        "label": judgement.class_name,
        "bounding_box": _relative(box, result),
        "confidence": fields.pop("probability"),
        **fields,
    }


def _relative(box: Xyxy, result: LabelResult) -> list[float]:
    """Left, top, width and height as shares of the image's sides."""
    x1, y1, x2, y2 = map(float, box)
    width, height = result.width, result.height
    return [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]


def _array(mask: Mask) -> dict[str, Any]:
    """The pixels inside of the tight box, as FiftyOne keeps arrays: numpy's format, compressed, in
    the extended JSON of MongoDB."""
    content = io.BytesIO()
    np.save(content, cropped(mask)[0], allow_pickle=False)
    packed = base64.b64encode(zlib.compress(content.getvalue())).decode()
    return {"$binary": {"base64": packed, "subType": "00"}}
