"""Labelled pictures and what a student says of them, for tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from secondlook.detector.found import Detections
from secondlook.distill.samples import Sample, boxes_array, class_array

BOX = (5.0, 5.0, 30.0, 35.0)


def sample(
    boxes: Sequence,
    classes: Sequence,
    ignore: Sequence = (),
    name: str = "a.jpg",
    group: str = "",
    path: Path = Path("a.jpg"),
    size: tuple[int, int] = (100, 100),
    ignore_classes: Sequence | None = None,
) -> Sample:
    """One picture; boxes are pixel xyxy, ``size`` is width, height; regions are for every class
    unless ``ignore_classes`` says which."""
    regions = class_array([-1] * len(ignore) if ignore_classes is None else ignore_classes)
    return Sample(
        path=path,
        width=size[0],
        height=size[1],
        name=name,
        sha256="",
        boxes=boxes_array(boxes),
        classes=class_array(classes),
        ignore=boxes_array(ignore),
        ignore_classes=regions,
        negatives=boxes_array([]),
        negative_classes=class_array([]),
        group=group,
    )


def detections(boxes: Sequence, scores: Sequence, classes: Sequence) -> Detections:
    """What was found on one picture, put in order."""
    values = np.asarray([*scores], dtype=np.float32)
    best = np.argsort(-values, kind="stable")
    return Detections(boxes_array(boxes)[best], values[best], class_array(classes)[best])
