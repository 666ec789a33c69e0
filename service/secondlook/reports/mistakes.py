"""The images on which a student did worst, with its mistakes drawn over them."""

import base64
import heapq
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import Template

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from secondlook.core import boxes as box_ops
from secondlook.core import drawing
from secondlook.core.errors import SecondlookError
from secondlook.core.types import Boxes, Pixels
from secondlook.datasets.samples import Sample
from secondlook.detector.detections import Detections
from secondlook.evaluation.detector_matching import match_detections

SIDE = 480
"""Longest side of an image in the report, pixels."""
QUALITY = 80
MOST_BOXES = 150
"""Drawn on one image; a page must stay small whatever the data."""
TALL = 280
"""About how high an image is shown, pixels: all in a row are equally high."""
WIDEST = 1.8
"""How far a row of few images is stretched to the width of the page."""
LONGEST = 120
"""Characters of a name that are written."""
CHARACTER = 6.0
"""Width of a name's character, pixels."""
SAME = 0.95
"""IoU from which boxes of several classes are one object with several names."""

WORDS = {"missed": "missed", "false": "not there", "hit": "found"}

Load = Callable[[Sample], Pixels]
"""Gives the upright image of a sample; may raise ``SecondlookError``."""

CARD = Template("""<figure class="card" style="flex:$ratio 1 $basis;max-width:$widest">
<div class="frame" style="aspect-ratio:$ratio">$image
<svg viewBox="0 0 $width $height" preserveAspectRatio="none" role="img" aria-label="$spoken">\
<defs><pattern id="$hatch" width="$step" height="$step" patternUnits="userSpaceOnUse" \
patternTransform="rotate(45)"><rect class="hatch" width="$half" height="$step"/></pattern></defs>\
$boxes</svg>$tags</div>
<figcaption><span class="name">$name</span><span class="tally">$tally</span></figcaption>
</figure>
""")


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
        mistakes(place, sample, seen, thresholds)
        for place, (sample, seen) in enumerate(zip(samples, found, strict=True))
    ]
    made = [one for one in made if one.count]
    return heapq.nsmallest(most, made, key=lambda one: (-one.count, one.place)), len(made)


def mistakes(place: int, sample: Sample, seen: Detections, thresholds: Sequence[float]) -> Mistakes:
    """Compare one image's detections at the thresholds to its boxes."""
    kept = seen.scores >= np.asarray(thresholds, dtype=np.float64)[seen.classes]
    matching = match_detections(sample, seen)
    matched = matching.truth >= 0
    return Mistakes(
        place,
        missed=np.flatnonzero(~matching.found(len(sample.boxes), kept)),
        false=np.flatnonzero(kept & ~matched & ~matching.ignored),
        right=np.flatnonzero(kept & matched),
    )


def card(
    made: Mistakes, sample: Sample, seen: Detections, classes: Sequence[str], load: Load
) -> str:
    """One image as HTML; one that cannot be read any more is an empty frame with the reason."""
    name = sample.name[-LONGEST:]
    missed, false, right = len(made.missed), len(made.false), len(made.right)
    marks = _marks(made, sample, seen, classes)
    step = max(sample.width, sample.height) / 40
    ratio = min(max(sample.width / sample.height, 0.45), 4.0)
    return CARD.substitute(
        ratio=f"{ratio:.3f}",
        basis=f"{TALL * ratio:.0f}px",
        widest=f"{WIDEST * TALL * ratio:.0f}px",
        width=sample.width,
        height=sample.height,
        image=_image(sample, load),
        spoken=escape(f"{name}: {missed} missed, {false} not there, {right} found"),
        hatch=f"hatch{made.place}",
        step=f"{step:.1f}",
        half=f"{step / 2.5:.1f}",
        boxes="".join(_region(box, f"hatch{made.place}") for box in sample.ignore[:MOST_BOXES])
        + "".join(_mark(mark) for mark in marks),
        tags=_tags(sample, [mark for mark in marks if mark.kind != "hit"]),
        name=escape(name),
        tally=_tally((("missed", missed), ("false", false), ("hit", right))),
    )


@dataclass(frozen=True)
class _Mark:
    kind: str
    """``missed``, ``false`` or ``hit``."""
    box: tuple[float, float, float, float]
    words: str
    """On the image."""
    told: str
    """When pointed at."""


def _marks(made: Mistakes, sample: Sample, seen: Detections, classes: Sequence[str]) -> list[_Mark]:
    """Found boxes first, so that mistakes are drawn over them."""
    marks = []
    for kind, boxes, rows in (
        ("hit", seen.boxes, made.right),
        ("missed", sample.boxes, made.missed),
        ("false", seen.boxes, made.false),
    ):
        for same in _same(boxes, rows[:MOST_BOXES]):
            names = [classes[(sample if kind == "missed" else seen).classes[row]] for row in same]
            if kind != "missed":
                names = [f"{n} {seen.scores[r]:.2f}" for n, r in zip(names, same, strict=True)]
            words = ", ".join(names)[:LONGEST]
            marks.append(_Mark(kind, _box(boxes[same[0]]), words, f"{words}: {WORDS[kind]}"))
    return marks


def _same(boxes: Boxes, rows: NDArray[np.intp]) -> list[list[int]]:
    """The rows, those of the same box together."""
    groups: list[list[int]] = []
    firsts = box_ops.iou(boxes[rows], boxes[rows]) >= SAME
    for place, row in enumerate(rows.tolist()):
        first = int(firsts[place].argmax())
        if first == place or not firsts[place, place]:
            groups.append([row])
        else:
            next(g for g in groups if rows[first] in g).append(row)
    return groups


def _box(row: NDArray[np.float32]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = row.tolist()
    return x1, y1, x2, y2


def _rectangle(box: Sequence[float], more: str) -> str:
    x1, y1, x2, y2 = box
    size = f'width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
    return f'<rect x="{x1:.1f}" y="{y1:.1f}" {size} {more}/>'


def _region(row: NDArray[np.float32], hatch: str) -> str:
    title = "<title>a region to ignore: nobody is sure what is here</title>"
    drawn = _rectangle(_box(row), f'class="unsure" style="fill:url(#{hatch})"')
    return f"<g>{title}{drawn}</g>"


def _mark(mark: _Mark) -> str:
    halo, line = _rectangle(mark.box, 'class="halo"'), _rectangle(mark.box, 'class="line"')
    return f'<g class="{mark.kind}"><title>{escape(mark.told)}</title>{halo}{line}</g>'


def _tags(sample: Sample, marks: Sequence[_Mark]) -> str:
    """The names at the mistakes, where there is room; pointing at a box tells it in any case."""
    scale = TALL / sample.height
    size = (sample.width * scale, sample.height * scale)
    taken: list[drawing.Box] = []
    tags = []
    for mark in sorted(marks, key=lambda m: (m.box[2] - m.box[0]) * (m.box[3] - m.box[1])):
        x1, y1, x2, y2 = (side * scale for side in mark.box)
        wide = min(len(mark.words) * CHARACTER + 8, size[0] * 0.6)
        if place := drawing.free_place((x1, y1, x2, y2), wide, size, taken):
            taken.append(place)
            at = f"left:{100 * place[0] / size[0]:.1f}%;top:{100 * place[1] / size[1]:.1f}%"
            words = escape(mark.words)
            tags.append(f'<span class="tag {mark.kind}" style="{at}">{words}</span>')
    return "".join(tags)


def _tally(counts: Sequence[tuple[str, int]]) -> str:
    return "".join(f'<i class="{kind}">{n} {WORDS[kind]}</i>' for kind, n in counts if n)


def _image(sample: Sample, load: Load) -> str:
    try:
        pixels = load(sample)
    except SecondlookError:  # its message may name a path, and reports travel
        return '<p class="gone">this image could not be read when the report was made</p>'
    return f'<img alt="" loading="lazy" decoding="async" src="{_data_uri(pixels)}">'


def _data_uri(pixels: Pixels) -> str:
    small = PILImage.fromarray(np.ascontiguousarray(pixels))
    small.thumbnail((SIDE, SIDE), PILImage.Resampling.LANCZOS)
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()


def legend() -> Mapping[str, str]:
    """What each kind of box is, by its class in the style sheet."""
    return {
        "missed": "in the labels, missed by the student",
        "false": "seen by the student, not in the labels",
        "hit": "found",
        "unsure": "region to ignore",
    }
