"""CVAT for images 1.1: ``SPLIT/annotations.xml``, ``SPLIT/images/`` and ``labels.json``.

Make a task of the images with the labels of ``labels.json`` (the constructor's *Raw*), and upload
the annotations to it. A label is a box, or a mask where it has one; its scores and what else
belongs to it are attributes (``label_fields``), so they come back with it. A mask has CVAT's own
run-length code: runs row by row inside of its tight box, background first.

What belongs to an image is on tags of the label ``secondlook``: the hash of its bytes, the name
that it came with, why it is empty, and its reviews as JSON. CVAT keeps 4,096 characters of an
attribute, so a longer text is on several tags.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from secondlook.core.files import name_to_text
from secondlook.core.masks import cropped
from secondlook.datasets.label_fields import (
    LABEL_FIELDS,
    MASK_DIGEST,
    PROPOSED_BOX,
    fields_of,
    mask_digest,
)
from secondlook.datasets.writers.label_set import (
    FreeNames,
    LabelledImage,
    Labels,
    portable_name,
)
from secondlook.datasets.writers.xml_text import xml_text
from secondlook_client.masks import Mask
from secondlook_client.values import Judgement, Outcome

FILE = "annotations.xml"
"""What CVAT calls its own."""
IMAGE_LABEL = "secondlook"
"""The label of the tags of an image."""
IMAGE_FIELDS = ("sha256", "name", "empty", "reviews", "part")
LONGEST = 4000
"""Characters of one attribute."""
CHOICES: Mapping[str, Sequence[str]] = {"outcome": (Outcome.ACCEPT.value, Outcome.UNSURE.value)}
"""Of attributes that a person may want to change."""


def write(splits: Mapping[str, Labels], folder: Path) -> None:
    """Write everything into ``folder``, which exists and is empty."""
    described = _labels(next(iter(splits.values())).classes)
    (folder / "labels.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
    for split, labels in splits.items():
        images = folder / split / "images"
        images.mkdir(parents=True)
        with (folder / split / FILE).open("w", encoding="utf-8") as file:
            file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n')
            file.write(f"<version>1.1</version>\n{_meta(split, described)}\n")
            file.writelines(_images(labels, images))
            file.write("</annotations>\n")


def _labels(classes: Sequence[str]) -> list[dict[str, Any]]:
    """As CVAT's constructor takes them."""
    of_boxes = [*LABEL_FIELDS, PROPOSED_BOX, MASK_DIGEST]
    named = [{"name": xml_text(name), "type": "any"} for name in classes]
    found = [label | {"attributes": [*map(_attribute, of_boxes)]} for label in named]
    about_image = {"name": IMAGE_LABEL, "type": "tag"}
    return [*found, about_image | {"attributes": [*map(_attribute, IMAGE_FIELDS)]}]


def _attribute(name: str) -> dict[str, Any]:
    values = [*CHOICES.get(name, ("",))]
    kind = "select" if name in CHOICES else "text"
    about = {"mutable": False, "input_type": kind, "default_value": values[0]}
    return {"name": name, **about, "values": values}


def _meta(split: str, described: Sequence[Mapping[str, Any]]) -> str:
    meta = ElementTree.Element("meta")
    task = ElementTree.SubElement(meta, "task")
    for name, value in (("name", split), ("mode", "annotation")):
        ElementTree.SubElement(task, name).text = value
    listed = ElementTree.SubElement(task, "labels")
    for label in described:
        entry = ElementTree.SubElement(listed, "label")
        for name in ("name", "type"):
            ElementTree.SubElement(entry, name).text = label[name]
        attributes = ElementTree.SubElement(entry, "attributes")
        for one in label["attributes"]:
            attribute = ElementTree.SubElement(attributes, "attribute")
            for name, value in one.items():
                text = "\n".join(value) if isinstance(value, list) else str(value)
                ElementTree.SubElement(attribute, name).text = text
    return ElementTree.tostring(meta, "unicode")


def _images(labels: Labels, folder: Path) -> Iterator[str]:
    """The elements of the images, each put into ``folder``."""
    names = FreeNames(folder)
    for number, image in enumerate(labels.images()):
        result = image.result
        place = names.take(PurePosixPath(portable_name(image.name)))
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        labels.place_image(image.name, result, folder / place)
        sides = f'width="{result.width}" height="{result.height}"'
        yield f'<image id="{number}" name={quoteattr(xml_text(str(place)))} {sides}>\n'
        for at, judgement in enumerate(result.judgements):
            if judgement.outcome is not Outcome.REJECT:
                yield from _shape(judgement, image.label_id(at))
        yield from _about(image, labels)
        yield "</image>\n"


def _shape(judgement: Judgement, label_id: str) -> Iterator[str]:
    fields = fields_of(judgement, label_id)
    if mask := judgement.mask:
        name, where = "mask", _code(mask)
        fields |= {PROPOSED_BOX: " ".join(map(repr, map(float, judgement.box)))}
        fields |= {MASK_DIGEST: mask_digest(mask)}
    else:
        edges = zip(("xtl", "ytl", "xbr", "ybr"), judgement.box, strict=True)
        name, where = "box", {edge: repr(float(value)) for edge, value in edges}
    about = {"label": judgement.class_name, "source": "auto", "occluded": 0, **where, "z_order": 0}
    yield from _element(name, about, fields)


def _code(mask: Mask) -> dict[str, Any]:
    """Where a mask is, and its runs there."""
    pixels, left, top = cropped(mask)
    height, width = pixels.shape
    flat = pixels.ravel()
    edges = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
    runs = [*([0] if flat.size and flat[0] else []), *np.diff(edges).tolist()]
    place = {"left": left, "top": top, "width": width, "height": height}
    return {"rle": ", ".join(map(str, runs)), **place}


def _about(image: LabelledImage, labels: Labels) -> Iterator[str]:
    """The tags of an image."""
    about = {"sha256": image.result.sha256, "name": name_to_text(image.name)}
    if reason := labels.why_empty(image.result):
        about["empty"] = reason
    tag = {"label": IMAGE_LABEL, "source": "auto"}
    yield from _element("tag", tag, about)
    said = labels.reviews(image.result.sha256) if labels.reviews else ()
    text = json.dumps([one.to_dict() for one in said], separators=(",", ":")) if said else ""
    for part, start in enumerate(range(0, len(text), LONGEST), start=1):
        yield from _element("tag", tag, {"reviews": text[start : start + LONGEST], "part": part})


def _element(name: str, about: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[str]:
    """A shape or a tag with its attributes."""
    written = (f" {key}={quoteattr(xml_text(str(value)))}" for key, value in about.items())
    yield f"<{name}{''.join(written)}>\n"
    for key, value in fields.items():
        yield f'<attribute name="{key}">{escape(xml_text(str(value)))}</attribute>\n'
    yield f"</{name}>\n"
