"""The images on which a student did worst, with its mistakes to be drawn over them."""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.core.types import Pixels
from secondlook.datasets.samples import Sample
from secondlook.detector.detections import Detections
from secondlook.evaluation.matching import match_detections
from secondlook.reports.viewer import DASHED, DOTTED, SOLID, PageBox, PageImage, PageKind

KINDS = (
    PageKind("missed", "−", DASHED),
    PageKind("not in the labels", "✕", DOTTED),
    PageKind("found", "", SOLID),
    PageKind("region to ignore", "~", DOTTED, shown=False),
)
MISSED, FALSE, FOUND, IGNORED = range(4)
MEANINGS = (
    "in the labels, missed by the student",
    "seen by the student, not in the labels",
    "",
    "nobody is sure what is here",
)
"""Of the kinds."""
ORDERS = ("most mistakes",)

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


def page_image(
    made: Mistakes, sample: Sample, detections: Detections, classes: Sequence[str]
) -> PageImage:
    """One image with its boxes as a page shows them."""
    return PageImage(
        sample.name,
        sample.width,
        sample.height,
        list(_boxes(made, sample, detections, classes)),
        flags=[
            KINDS[kind].word
            for kind, rows in ((MISSED, made.missed), (FALSE, made.false))
            if len(rows)
        ],
        ranks=(-made.count,),
    )


def _boxes(
    made: Mistakes, sample: Sample, detections: Detections, classes: Sequence[str]
) -> Iterator[PageBox]:
    for row in made.missed:
        name = classes[sample.classes[row]]
        yield PageBox(name, tuple(sample.boxes[row].tolist()), MISSED, reason=MEANINGS[MISSED])
    for kind, rows in ((FALSE, made.false), (FOUND, made.right)):
        for row in rows:
            yield PageBox(
                classes[detections.classes[row]],
                tuple(detections.boxes[row].tolist()),
                kind,
                score=float(detections.scores[row]),
                reason=MEANINGS[kind],
            )
    for box in sample.ignore.tolist():
        yield PageBox("", tuple(box), IGNORED, reason=MEANINGS[IGNORED])
