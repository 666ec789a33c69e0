"""Labelled images with names that are hard to write, for our readers and those of other people."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from labelled import judged, result
from PIL import Image

from secondlook.datasets.writers import UNSPLIT, Labels, linked_images, write_format
from secondlook_client.values import Outcome

CLASSES = ("dog", "été: <&>")
DOG, ETE = (4.0, 5.0, 20.0, 25.0), (30.0, 6.0, 60.0, 40.0)
UNSURE_NAME = "a.jpg"
"""The image whose second box is unsure."""
NAMES = (
    UNSURE_NAME,
    "a.png",
    "A.jpg",
    "sub/images/b c.jpg",
    "sub/images/a.jpg",
    "NFC é.jpg",
    "NFD e\u0301.jpg",
    "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}.jpg",
    "no\N{NO-BREAK SPACE}break.jpg",
    " blank.jpg",
    "q'\"uote.jpg",
    "new\nline.jpg",
    "u\u2028l.jpg",
    "#hash.jpg",
    "per%20cent%.jpg",
    "\udcff.jpg",
    "back\\slash.jpg",
    "c:drive.jpg",
    "x" * 251 + ".jpg",
    "y" * 250 + ".jpeg",
    "one.jfif",
)
SIZE = (64, 48)


@dataclass(frozen=True)
class StrangeNames:
    """The folders of each format, beside each other."""

    coco: Path
    yolo: Path
    voc: Path


def written(tmp_path: Path) -> StrangeNames:
    """Write the images, and in every format their labels: ``DOG`` and ``ETE`` on each."""
    root = tmp_path / "images"
    rows = []
    for place, name in enumerate(NAMES):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((SIZE[1], SIZE[0], 3), 10 * place, np.uint8)
        Image.fromarray(pixels).save(path, "PNG" if name.endswith("png") else "JPEG")
        outcome = Outcome.UNSURE if name == UNSURE_NAME else Outcome.ACCEPT
        boxes = judged(CLASSES[0], DOG), judged(CLASSES[1], ETE, outcome)
        rows.append((name, result(*boxes, width=SIZE[0], height=SIZE[1])))
    labels = Labels(CLASSES, lambda: iter(rows), linked_images(root))
    names = [field.name for field in fields(StrangeNames)]
    return StrangeNames(*(write_format(name, {UNSPLIT: labels}, tmp_path) for name in names))
