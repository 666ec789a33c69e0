"""Pascal VOC: one XML file an image below ``Annotations/``.

Boxes are whole pixels counted from 1, as the format has them. An unsure box is an object with
``difficult`` 1, which VOC's evaluation and most trainers skip.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from secondlook.core.files import replacing
from secondlook.datasets.writers.label_set import Labels
from secondlook_client.values import Judgement, LabelResult, Outcome

NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(labels: Labels, out: Path) -> Path:
    """Write ``out/voc``, replacing an older one only once the new one is complete."""
    folder = out / "voc"
    with replacing(folder) as part:
        (part / "Annotations").mkdir(parents=True)
        for name, result in labels.results():
            path = _free_path(part / "Annotations", PurePosixPath(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            tree = ElementTree.ElementTree(_annotation(name, result))
            ElementTree.indent(tree)
            tree.write(path, encoding="utf-8", xml_declaration=True)
    return folder


def write_splits(splits: Mapping[str, Labels], out: Path) -> None:
    """Write ``out/voc`` with a folder of annotations and a list of images for each split."""

    def results() -> Iterator[tuple[str, LabelResult]]:
        for split, labels in splits.items():
            for name, result in labels.results():
                yield f"{split}/{name}", result

    classes = next(iter(splits.values())).classes
    folder = write(Labels(out / "images", classes, results), out)
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split, labels in splits.items():
        names = (PurePosixPath(name).stem for name, _ in labels.results())
        lines = "".join(f"{split}/{name}\n" for name in names)
        (lists / f"{split}.txt").write_text(lines, encoding="utf-8")


def _free_path(annotations: Path, name: PurePosixPath) -> Path:
    """``a.jpg`` and ``a.png`` must not share ``a.xml``."""
    path, number = annotations / name.with_suffix(".xml"), 1
    while path.exists():
        number += 1
        path = path.with_name(f"{name.stem}-{number}.xml")
    return path


def _annotation(name: str, result: LabelResult) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    place = PurePosixPath(name)
    folder = "" if place.parent == PurePosixPath(".") else str(place.parent)
    _add(root, "folder", folder)
    _add(root, "filename", place.name)
    size = ElementTree.SubElement(root, "size")
    for key, value in (("width", result.width), ("height", result.height), ("depth", 3)):
        _add(size, key, str(value))
    _add(root, "segmented", "0")
    for judgement in result.judgements:
        if judgement.outcome is not Outcome.REJECT:
            _add_object(root, judgement)
    return root


def _add_object(root: ElementTree.Element, judgement: Judgement) -> None:
    found = ElementTree.SubElement(root, "object")
    _add(found, "name", judgement.class_name)
    _add(found, "pose", "Unspecified")
    _add(found, "truncated", "0")
    _add(found, "difficult", str(int(judgement.outcome is Outcome.UNSURE)))
    x1, y1, x2, y2 = (round(value) for value in judgement.box)
    bounds = ElementTree.SubElement(found, "bndbox")
    corners = (x1 + 1, y1 + 1, max(x2, x1 + 1), max(y2, y1 + 1))
    for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
        _add(bounds, key, str(value))


def _add(parent: ElementTree.Element, key: str, text: str) -> None:
    ElementTree.SubElement(parent, key).text = NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)
