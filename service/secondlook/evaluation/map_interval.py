"""mAP50 with an interval over the images it was measured on, by bootstrap.

Images are drawn again with replacement (Efron 1979), and each draw counts the detections and true
boxes of an image as often as it was drawn. The draws depend on the number of images and the seed
alone, so those of two students on the same images are paired: their differences are a bootstrap of
the difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.datasets.samples import Sample
from secondlook.detector.detections import Detections
from secondlook.evaluation.matching import match_detections

DRAWS = 400
LEVEL = 0.95
RECALLS = np.linspace(0, 1, 101)
"""At which COCO reads the precision."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MapInterval:
    """mAP50 and what it could have been with other images of the same kind."""

    map50: float
    """[0, 1]; 0 where there is no true box."""
    draws: tuple[float, ...]
    """The same of each draw."""

    @property
    def interval(self) -> tuple[float, float]:
        """From which to which value ``LEVEL`` of the draws lie."""
        low, high = np.quantile(self.draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)

    def gain_over(self, other: "MapInterval") -> tuple[float, float]:
        """The interval of the difference to ``other``, which was measured on the same images."""
        apart = np.subtract(self.draws, other.draws)
        low, high = np.quantile(apart, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)


def map_interval(
    samples: Sequence[Sample],
    found: Sequence[Detections],
    classes: int,
    seed: int = 0,
    draws: int = DRAWS,
) -> MapInterval:
    """mAP50 of ``found[i]`` on ``samples[i]``, of so many classes."""
    images = len(samples)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(images, np.full(images, 1 / images), draws) if images else None
    weights = np.ones((1, images)) if drawn is None else np.vstack([np.ones(images), drawn])
    of_classes = [
        _average_precision(one, weights) for one in _judged_classes(samples, found, classes)
    ]
    sums = np.nansum(of_classes, axis=0) if of_classes else np.zeros(len(weights))
    counts = np.isfinite(of_classes).sum(axis=0) if of_classes else np.zeros(len(weights))
    maps = (sums / np.maximum(counts, 1)).tolist()
    return MapInterval(maps[0], tuple(maps[1:]) or (maps[0],))


@dataclass(frozen=True, eq=False)
class _JudgedClass:
    """The detections of one class that count, best first."""

    images: NDArray[np.intp]
    """(N,) on which each was made."""
    right: NDArray[np.bool_]
    """(N,)."""
    boxes: Floats
    """(images,) true boxes of the class."""


def _judged_classes(
    samples: Sequence[Sample], found: Sequence[Detections], classes: int
) -> list[_JudgedClass]:
    matchings = [match_detections(*pair) for pair in zip(samples, found, strict=True)]
    images = np.repeat(np.arange(len(found)), [len(one) for one in found])
    scores, labels, right, ignored = (
        np.concatenate([np.zeros(0), *parts])
        for parts in (
            [one.scores for one in found],
            [one.classes for one in found],
            [one.truth >= 0 for one in matchings],
            [one.ignored for one in matchings],
        )
    )
    boxes = np.zeros((classes, len(samples)))
    for image, sample in enumerate(samples):
        boxes[:, image] = np.bincount(sample.classes, minlength=classes)
    order = np.argsort(-scores, kind="stable")
    order = order[ignored[order] == 0]
    judged = []
    for place in range(classes):
        rows = order[labels[order] == place]
        judged.append(_JudgedClass(images[rows], right[rows] > 0, boxes[place]))
    return judged


def _average_precision(judged: _JudgedClass, weights: Floats) -> Floats:
    """(W,) with images weighed by each of (W, images); NaN where no true box is left."""
    found = np.full(len(weights), np.nan)
    boxes = weights @ judged.boxes
    for row, of_images in enumerate(weights):
        if boxes[row]:
            counted = of_images[judged.images]
            right = np.cumsum(counted * judged.right)
            precision = right / np.maximum(np.cumsum(counted), 1)
            # COCO's: at each recall the best precision from there on.
            precision = np.maximum.accumulate(precision[::-1])[::-1]
            at = np.searchsorted(right, RECALLS * boxes[row] - 1e-9)
            reached = at < len(precision)
            found[row] = precision[at[reached]].sum() / len(RECALLS)
    return found
