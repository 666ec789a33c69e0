"""Label Studio: ``tasks.json`` with predictions, ``label_config.xml`` and ``images/SPLIT/``.

Every label and unsure box is a rectangle with its score, and a mask is a brush stroke in Label
Studio's own run-length code. What else belongs to a label (``label_fields``) is under ``meta``, and
the hash, name and reviews of an image under ``data``, so that they come back with an annotation.
To import the tasks, set ``LOCAL_FILES_DOCUMENT_ROOT`` to the folder that ``label-studio`` lies in
and ``LOCAL_FILES_SERVING_ENABLED`` to true, make a project with the config, and import them.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from secondlook.core.files import name_to_text
from secondlook.core.masks import cropped
from secondlook.datasets.label_fields import MASK_DIGEST, fields_of, mask_digest
from secondlook.datasets.writers.label_set import FreeNames, LabelledImage, Labels, flat_name
from secondlook_client.masks import Mask
from secondlook_client.values import Judgement, LabelResult, Outcome

FOLDER = "label-studio"
FIELDS = "secondlook"
"""Under ``meta`` of a region: what belongs to its label."""
SHA256, NAME, REVIEWS = "sha256", "original_name", "reviews"
"""Under ``data`` of a task."""
_CHANNELS = 4
"""Of the pixels that are coded: red, green, blue, alpha, which are all the same."""
_LENGTH_BITS = (3, 4, 8, 16)
"""In which the length of a run may be written; the shortest that fits is."""


@dataclass(frozen=True)
class RegionNames:
    """The controls of a labelling config that regions belong to."""

    image: str = "image"
    rectangles: str = "box"
    brush: str = "mask"
    """Empty where the config has none; then there are no regions of its kind."""


def write(splits: Mapping[str, Labels], folder: Path) -> None:
    """Write everything into ``folder``, which exists and is empty."""
    with (folder / "tasks.json").open("w", encoding="utf-8") as file:
        file.write("[")
        separator = "\n"
        for split, labels in splits.items():
            names = FreeNames(folder / "images" / split)
            (folder / "images" / split).mkdir(parents=True)
            for image in labels.images():
                place = PurePosixPath("images", split, names.take(flat_name(image.name)))
                labels.place_image(image.name, image.result, folder / place)
                file.write(separator + json.dumps(_task(place, image, labels)))
                separator = ",\n"
        file.write("\n]\n")
    config = ElementTree.ElementTree(_config(next(iter(splits.values())).classes))
    ElementTree.indent(config)
    config.write(folder / "label_config.xml", encoding="utf-8")


def _config(classes: Any) -> ElementTree.Element:
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image", zoom="true")
    for tag, name in (("RectangleLabels", "box"), ("BrushLabels", "mask")):
        labels = ElementTree.SubElement(view, tag, name=name, toName="image")
        for class_name in classes:
            ElementTree.SubElement(labels, "Label", value=class_name)
    return view


def _task(place: PurePosixPath, image: LabelledImage, labels: Labels) -> dict[str, Any]:
    models = labels.provenance.models if labels.provenance else ()
    prediction = {
        "model_version": " ".join(("secondlook", *models)),
        "result": [*regions(image)],
    }
    path = quote(f"{FOLDER}/{place}")
    data: dict[str, Any] = {"image": f"/data/local-files/?d={path}"}
    data |= {SHA256: image.result.sha256, NAME: name_to_text(image.name)}
    if said := labels.reviews(image.result.sha256) if labels.reviews else ():
        data[REVIEWS] = [one.to_dict() for one in said]
    return {"data": data, "predictions": [prediction]}


def regions(
    image: LabelledImage,
    names: RegionNames = RegionNames(),
    classes: Collection[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """A rectangle for each label and unsure box, and its mask if it has one; each only where the
    labelling config has a control of its kind. ``classes``: only of these (None: of all)."""
    for place, judgement in enumerate(image.result.judgements):
        left_out = classes is not None and judgement.class_name not in classes
        if judgement.outcome is Outcome.REJECT or left_out:
            continue
        rectangle: dict[str, Any] = _rectangle(judgement, image.result)
        label_id = image.label_id(place)
        fields = fields_of(judgement, label_id)
        fields |= {MASK_DIGEST: mask_digest(judgement.mask)} if judgement.mask else {}
        values = [("box", names.rectangles, "rectangle", rectangle)] if names.rectangles else []
        if judgement.mask and names.brush:
            stroke = {"format": "rle", "rle": brush_code(judgement.mask)}
            values.append(("mask", names.brush, "brush", stroke))
        for what, control, kind, value in values:
            yield {
                "id": f"{place}-{what}",
                "from_name": control,
                "to_name": names.image,
                "type": f"{kind}labels",
                "original_width": image.result.width,
                "original_height": image.result.height,
                "image_rotation": 0,
                "score": round(judgement.probability, 4),
                "meta": {
                    "text": [judgement.outcome.value, label_id],
                    FIELDS: fields,
                },
                "value": {**value, f"{kind}labels": [judgement.class_name]},
            }


def _rectangle(judgement: Judgement, result: LabelResult) -> dict[str, float]:
    """In hundredths of the image's sides."""
    x1, y1, x2, y2 = judgement.box
    across, down = 100 / result.width, 100 / result.height
    return {
        "x": x1 * across,
        "y": y1 * down,
        "width": (x2 - x1) * across,
        "height": (y2 - y1) * down,
        "rotation": 0,
    }


def brush_code(mask: Mask) -> list[int]:
    """Label Studio's run-length code of a mask, as bytes.

    Bits: 32 with the number of values, 5 with the bits of a value less one, four times 4 with the
    ``_LENGTH_BITS`` less one; then for each run 1, 2 with the place of its length's bits, the
    length less one, and the value (0 or 255). The values are the pixels row by row, four channels
    each.
    """
    bits = [f"{mask.width * mask.height * _CHANNELS:032b}", f"{7:05b}"]
    bits += [f"{size - 1:04b}" for size in _LENGTH_BITS]
    value = 0
    for length in _runs_by_row(mask):
        bits += _run_bits(length * _CHANNELS, value)
        value = 255 - value
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8))


def _run_bits(length: int, value: int) -> Iterator[str]:
    while length > 0:
        part = min(length, 1 << _LENGTH_BITS[-1])
        place = next(at for at, size in enumerate(_LENGTH_BITS) if part <= 1 << size)
        yield f"1{place:02b}{part - 1:0{_LENGTH_BITS[place]}b}{value:08b}"
        length -= part


def _runs_by_row(mask: Mask) -> list[int]:
    """Lengths of the runs, row by row, background first."""
    pixels, left, top = cropped(mask)
    padded = np.zeros((pixels.shape[0], pixels.shape[1] + 2), np.int8)
    padded[:, 1:-1] = pixels
    rows, columns = np.nonzero(np.diff(padded, axis=1))
    changes = (rows + top) * mask.width + columns + left
    places, counts = np.unique(changes, return_counts=True)  # a run that goes on in the next row
    edges = places[counts == 1].tolist()
    runs = np.diff([0, *edges, mask.width * mask.height]).tolist()
    return [int(length) for length in runs]
