"""The images on which a student did worst, with its mistakes to be drawn over them."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.core.boxes import Xyxy, iou
from secondlook.core.drawing import free_label_place
from secondlook.core.types import Boxes, Pixels
from secondlook.datasets.samples import Sample
from secondlook.detector.detections import Detections
from secondlook.evaluation.matching import match_detections
from secondlook.reports.page import data_uri, rect
from secondlook_client.errors import SecondlookError

SIDE, QUALITY = 480, 80
"""Of an image in the report: its longest side in pixels, and of the JPEG."""
MAX_BOXES = 150
"""Drawn on one image; a page must stay small whatever the data."""
HEIGHT = 280
"""About how high an image is shown, pixels: all in a row are equally high."""
MAX_STRETCH = 1.8
"""How far a row of few images is stretched to the width of the page."""
MAX_NAME = 120
"""Characters of a name that are written."""
CHARACTER = 6.0
"""Width of a name's character, pixels."""
SAME_BOX_IOU = 0.95
"""From which boxes of several classes are one object with several names."""

WORDS = {"missed": "missed", "false": "not there", "hit": "found"}
"""What each kind of box is called, by its class in the style sheet."""

LoadSample = Callable[[Sample], Pixels]
"""Gives the upright image of a sample; may raise ``SecondlookError``."""


@dataclass(frozen=True, eq=False)
class Mistakes:
    """What is wrong on one image at the thresholds."""

    place: int
    """Of the sample."""
    missed: NDArray[np.intp]
    """Rows of the sample's boxes."""
    false: NDArray[np.intp]
    """Rows of the detections."""
    right: NDArray[np.intp]
    """Rows of the detections."""

    @property
    def count(self) -> int:
        """Boxes missed and boxes that are not there."""
        return len(self.missed) + len(self.false)


def worst(
    samples: Sequence[Sample],
    found: Sequence[Detections],
    thresholds: Sequence[float],
    most: int,
) -> tuple[list[Mistakes], int]:
    """The ``most`` images with most mistakes, and how many images have one.

    ``thresholds`` are by class index. Of equal counts the first images.
    """
    made = [
        mistakes(place, sample, detections, thresholds)
        for place, (sample, detections) in enumerate(zip(samples, found, strict=True))
    ]
    made = [one for one in made if one.count]
    return heapq.nsmallest(most, made, key=lambda one: (-one.count, one.place)), len(made)


def mistakes(
    place: int, sample: Sample, detections: Detections, thresholds: Sequence[float]
) -> Mistakes:
    """Compare one image's detections at the thresholds to its boxes."""
    kept = detections.scores >= np.asarray(thresholds, dtype=np.float64)[detections.classes]
    matching = match_detections(sample, detections)
    matched = matching.truth >= 0
    return Mistakes(
        place,
        missed=np.flatnonzero(~matching.found(len(sample.boxes), kept)),
        false=np.flatnonzero(kept & ~matched & ~matching.ignored),
        right=np.flatnonzero(kept & matched),
    )


def card(
    made: Mistakes,
    sample: Sample,
    detections: Detections,
    classes: Sequence[str],
    load: LoadSample,
) -> dict[str, Any]:
    """One image as the template takes it; one that cannot be read any more has no ``source``."""
    name = sample.name[-MAX_NAME:]
    missed, false, right = len(made.missed), len(made.false), len(made.right)
    marks = _marks(made, sample, detections, classes)
    step = max(sample.width, sample.height) / 40
    ratio = min(max(sample.width / sample.height, 0.45), 4.0)
    try:
        source = data_uri(load(sample), SIDE, QUALITY)
    except SecondlookError:  # its message may name a path, and reports travel
        source = ""
    return {
        "name": name,
        "spoken": f"{name}: {missed} missed, {false} not there, {right} found",
        "counts": (("missed", missed), ("false", false), ("hit", right)),
        "source": source,
        "width": sample.width,
        "height": sample.height,
        "ratio": f"{ratio:.3f}",
        "basis": f"{HEIGHT * ratio:.0f}px",
        "max_width": f"{MAX_STRETCH * HEIGHT * ratio:.0f}px",
        "hatch": f"hatch{made.place}",
        "step": f"{step:.1f}",
        "half_step": f"{step / 2.5:.1f}",
        "regions": [rect(box) for box in sample.ignore[:MAX_BOXES].tolist()],
        "marks": marks,
        "tags": _tags(sample, [mark for mark in marks if mark.kind != "hit"]),
    }


@dataclass(frozen=True)
class _BoxMark:
    kind: str
    """``missed``, ``false`` or ``hit``."""
    box: Xyxy
    words: str
    """On the image."""


def _marks(
    made: Mistakes, sample: Sample, detections: Detections, classes: Sequence[str]
) -> list[_BoxMark]:
    """Found boxes first, so that mistakes are drawn over them."""
    marks = []
    for kind, boxes, rows in (
        ("hit", detections.boxes, made.right),
        ("missed", sample.boxes, made.missed),
        ("false", detections.boxes, made.false),
    ):
        for same in _same(boxes, rows[:MAX_BOXES]):
            of = sample if kind == "missed" else detections
            names = [classes[of.classes[row]] for row in same]
            if kind != "missed":
                names = [
                    f"{name} {detections.scores[row]:.2f}"
                    for name, row in zip(names, same, strict=True)
                ]
            marks.append(
                _BoxMark(kind, tuple(boxes[same[0]].tolist()), ", ".join(names)[:MAX_NAME])
            )
    return marks


def _same(boxes: Boxes, rows: NDArray[np.intp]) -> list[list[int]]:
    """The rows, those of the same box together."""
    groups: list[list[int]] = []
    firsts = iou(boxes[rows], boxes[rows]) >= SAME_BOX_IOU
    for place, row in enumerate(rows.tolist()):
        first = int(firsts[place].argmax())
        if first == place or not firsts[place, place]:
            groups.append([row])
        else:
            next(g for g in groups if rows[first] in g).append(row)
    return groups


def _tags(sample: Sample, marks: Sequence[_BoxMark]) -> list[tuple[_BoxMark, str]]:
    """The marks whose name has room at the box, and where; pointing at a box tells it always."""
    scale = HEIGHT / sample.height
    size = (sample.width * scale, sample.height * scale)
    taken: list[Xyxy] = []
    tags = []
    for mark in sorted(marks, key=lambda m: (m.box[2] - m.box[0]) * (m.box[3] - m.box[1])):
        x1, y1, x2, y2 = (side * scale for side in mark.box)
        width = min(len(mark.words) * CHARACTER + 8, size[0] * 0.6)
        if place := free_label_place((x1, y1, x2, y2), width, size, taken):
            taken.append(place)
            left, top = 100 * place[0] / size[0], 100 * place[1] / size[1]
            tags.append((mark, f"left:{left:.1f}%;top:{top:.1f}%"))
    return tags
