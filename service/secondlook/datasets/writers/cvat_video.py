"""CVAT for video 1.1: ``SPLIT/SEQUENCE/annotations.xml`` with the frames in ``images/``.

Make a task of the images, and upload the annotations to it. A track is an object of one class; of
an object that has several classes there are several, with one ``group_id``. A track is outside in
each frame in which it has no label, so nothing is interpolated. Unsure boxes are left out.
"""

from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from secondlook.datasets.writers.label_set import Labels
from secondlook.datasets.writers.sequences import (
    Sequence,
    SequenceFolders,
    tracked,
    untracked_note,
)
from secondlook_client.values import Outcome

FOLDER = "cvat-video"
Boxes = dict[tuple[int, str], "array[float]"]
"""By (track, class) five numbers a box: its frame, and pixel xyxy; 40 bytes."""


def write(splits: Mapping[str, Labels], folder: Path) -> list[str]:
    """Write everything into ``folder``, which exists and is empty. Returns sentences about what
    is left out.

    The boxes of a split are in memory, for a track is one element.
    """
    notes: dict[str, None] = {}
    for split, labels in splits.items():
        sequences = SequenceFolders(folder / split, "images", 6, 0)
        boxes: dict[str, Boxes] = {}
        for sequence, number, image in sequences.frames(labels):
            of_sequence = boxes.setdefault(sequence.name, {})
            for one in tracked(image, Outcome.ACCEPT):
                key = one.track, one.class_name
                of_sequence.setdefault(key, array("d")).extend((number, *one.box))
            notes |= dict.fromkeys(untracked_note(image))
        for sequence in sequences.all:
            path = sequence.folder / "annotations.xml"
            with path.open("w", encoding="utf-8") as file:
                file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n')
                file.write(f"<version>1.1</version>\n{_meta(sequence, labels)}\n")
                for number, (key, of_track) in enumerate(sorted(boxes[sequence.name].items())):
                    file.writelines(_track(number, *key, of_track, sequence.frames))
                file.write("</annotations>\n")
    return [*notes]


def _meta(sequence: Sequence, labels: Labels) -> str:
    meta = ElementTree.Element("meta")
    task = ElementTree.SubElement(meta, "task")
    facts = {
        "name": sequence.name,
        "size": sequence.frames,
        "mode": "interpolation",
        "start_frame": 0,
        "stop_frame": sequence.frames - 1,
    }
    for name, value in facts.items():
        ElementTree.SubElement(task, name).text = str(value)
    listed = ElementTree.SubElement(task, "labels")
    for name in labels.classes:
        ElementTree.SubElement(ElementTree.SubElement(listed, "label"), "name").text = name
    size = ElementTree.SubElement(task, "original_size")
    ElementTree.SubElement(size, "width").text = str(sequence.width)
    ElementTree.SubElement(size, "height").text = str(sequence.height)
    return ElementTree.tostring(meta, "unicode")


def _track(
    number: int, track: int, class_name: str, boxes: "array[float]", frames: int
) -> Iterator[str]:
    """The lines of one track."""
    label = quoteattr(class_name)
    yield f'<track id="{number}" label={label} source="auto" group_id="{track}">\n'
    rows = [boxes[at : at + 5] for at in range(0, len(boxes), 5)]
    for at, (frame, *box) in enumerate(rows):
        yield _box(int(frame), box, outside=0)
        gone = int(frame) + 1
        following = rows[at + 1][0] if at + 1 < len(rows) else frames
        if gone < following:
            yield _box(gone, box, outside=1)
    yield "</track>\n"


def _box(frame: int, box: "list[float]", outside: int) -> str:
    edges = " ".join(
        f'{name}="{value:.2f}"'
        for name, value in zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True)
    )
    return (
        f'<box frame="{frame}" outside="{outside}" occluded="0" keyframe="1" {edges} '
        'z_order="0"></box>\n'
    )
