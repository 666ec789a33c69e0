"""Pascal VOC as a devkit: ``JPEGImages``, ``Annotations``, ``ImageSets/Main``, ``labelmap.txt``.

Boxes are whole pixels counted from 1, as the format has them. An unsure box is an object with
``difficult`` 1, which VOC's evaluation and most trainers skip. ``labelmap.txt`` has the classes in
the form that CVAT and Datumaro read, which has no place for a colon: it becomes ``_`` in names.
Beyond the format's own elements an image without objects has ``empty``, the reason of that (unless
it is meant as background), and an object ``label_id``, which ``secondlook explain`` takes. An image
on which nothing was proposed is in no list of ``Main``, but in one of ``nothing_proposed``.

An image with a mask has ``segmented`` 1, is in ``ImageSets/Segmentation`` and has its
``SegmentationClass`` and ``SegmentationObject``, see ``voc_masks``.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from secondlook.datasets.writers.label_set import (
    FreeNames,
    LabelledImage,
    Labels,
    flat_name,
)
from secondlook.datasets.writers.voc_masks import CLASS_FOLDER, OBJECT_FOLDER, object_images
from secondlook.datasets.writers.xml_text import xml_text
from secondlook_client.values import EmptyReason, Judgement, LabelResult, Outcome

_NOT_IN_LISTS = re.compile(r'[\s"#]')
"""Some readers of ``ImageSets`` take a blank for the end of a name and ``#`` for a comment."""


def write(splits: Mapping[str, Labels], folder: Path) -> None:
    """Write everything into ``folder``, which exists and is empty."""
    images, annotations = folder / "JPEGImages", folder / "Annotations"
    lists = folder / "ImageSets" / "Main"
    for path in (images, annotations, lists):
        path.mkdir(parents=True)
    names = FreeNames(images, ".xml")
    class_names = _class_names(next(iter(splits.values())).classes)
    for split, labels in splits.items():
        with (lists / f"{split}.txt").open("w", encoding="utf-8") as listed:
            for image in labels.images():
                place = names.take(_listable(flat_name(image.name)))
                file = annotations / place.with_suffix(".xml")
                labels.place_image(image.name, image.result, images / place)
                root = _annotation(place, image, class_names)
                if reason := labels.why_empty(image.result):
                    _add(root, "empty", reason)
                tree = ElementTree.ElementTree(root)
                ElementTree.indent(tree)
                tree.write(file, encoding="utf-8", xml_declaration=True)
                if _is_segmented(image.result):
                    _write_masks(folder, place, image.result, labels.classes)
                    _list_elsewhere(lists.with_name("Segmentation"), split, place)
                if reason == EmptyReason.NOTHING_PROPOSED:
                    _list_elsewhere(lists.with_name("nothing_proposed"), split, place)
                else:
                    listed.write(f"{place.with_suffix('')}\n")
    (folder / "labelmap.txt").write_text(_label_map(class_names), encoding="utf-8")


def _is_segmented(result: LabelResult) -> bool:
    return any(j.mask for j in result.judgements if j.outcome is not Outcome.REJECT)


def _write_masks(
    folder: Path, place: PurePosixPath, result: LabelResult, classes: Sequence[str]
) -> None:
    images = object_images(result, classes)
    for name, image in zip((CLASS_FOLDER, OBJECT_FOLDER), images, strict=True):
        (folder / name).mkdir(exist_ok=True)
        # Hardly larger than at the usual level, which takes many times as long.
        image.save(folder / name / place.with_suffix(".png"), compress_level=1)


def _list_elsewhere(lists: Path, split: str, place: PurePosixPath) -> None:
    """Trainers take what ``Main`` lists, and background wherever an image has no object; a list of
    another kind has its own folder."""
    path = lists / f"{split}.txt"
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as listed:
        listed.write(f"{place.with_suffix('')}\n")


def _listable(name: PurePosixPath) -> PurePosixPath:
    return name.with_name(_NOT_IN_LISTS.sub("_", name.name))


def _class_names(classes: Sequence[str]) -> dict[str, str]:
    """What each class is called here; never like another one."""
    names: dict[str, str] = {}
    for class_name in classes:
        name = re.sub("^#|:", "_", class_name)
        while name != class_name and (name in classes or name in names.values()):
            name += "_"
        names[class_name] = name
    return names


def _label_map(class_names: Mapping[str, str]) -> str:
    """A line a class: name, colour (none, so that readers choose), parts, actions."""
    lines = ["# label:color_rgb:parts:actions", "background:::"]
    return "\n".join([*lines, *(f"{name}:::" for name in class_names.values())]) + "\n"


def _annotation(
    place: PurePosixPath, image: LabelledImage, class_names: Mapping[str, str]
) -> ElementTree.Element:
    result = image.result
    root = ElementTree.Element("annotation")
    _add(root, "folder", "JPEGImages")
    _add(root, "filename", str(place))
    size = ElementTree.SubElement(root, "size")
    for key, value in (("width", result.width), ("height", result.height), ("depth", 3)):
        _add(size, key, str(value))
    _add(root, "segmented", str(int(_is_segmented(result))))
    for number, judgement in enumerate(result.judgements):
        if judgement.outcome is not Outcome.REJECT:
            found = _add_object(root, judgement, result, class_names[judgement.class_name])
            if label_id := image.label_id(number):
                _add(found, "label_id", label_id)
    return root


def _add_object(
    root: ElementTree.Element, judgement: Judgement, result: LabelResult, class_name: str
) -> ElementTree.Element:
    found = ElementTree.SubElement(root, "object")
    _add(found, "name", class_name)
    _add(found, "pose", "Unspecified")
    _add(found, "truncated", "0")
    _add(found, "difficult", str(int(judgement.outcome is Outcome.UNSURE)))
    x1, y1, x2, y2 = (round(value) for value in judgement.box)
    x1, y1 = min(x1, result.width - 1), min(y1, result.height - 1)
    bounds = ElementTree.SubElement(found, "bndbox")
    corners = (x1 + 1, y1 + 1, max(x2, x1 + 1), max(y2, y1 + 1))
    for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
        _add(bounds, key, str(value))
    return found


def _add(parent: ElementTree.Element, key: str, text: str) -> None:
    ElementTree.SubElement(parent, key).text = xml_text(text)
