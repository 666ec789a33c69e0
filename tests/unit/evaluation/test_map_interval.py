"""mAP50 with an interval: the same figure as COCO's, and intervals that mean what they say."""

from pathlib import Path

import numpy as np
import pytest

from secondlook.datasets.samples import Sample
from secondlook.detector.detections import Detections
from secondlook.evaluation.average_precision import average_precision
from secondlook.evaluation.map_interval import DRAWS, map_interval

CLASSES = ("a", "b", "c")


def some_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner = rng.uniform(0, 200, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(20, 80, (count, 2))], 1).astype(np.float32)


def detected(
    rng: np.random.Generator, images: int, noise: float
) -> tuple[list[Sample], list[Detections]]:
    """Images with ignore regions, and what a student of so much ``noise`` finds on them."""
    samples, found = [], []
    for place in range(images):
        boxes = some_boxes(rng, int(rng.integers(0, 6)))
        classes = rng.integers(0, 3, len(boxes))
        ignore = some_boxes(rng, int(place % 3 == 0))
        regions = np.full(len(ignore), -1 if place % 2 else 1)
        nothing = some_boxes(rng, 0), np.zeros(0, np.int64)
        samples.append(
            Sample(Path(), 300, 300, str(place), "", boxes, classes, ignore, regions, *nothing)
        )
        kept = rng.random(len(boxes)) < 0.8
        moved = boxes[kept] + rng.normal(0, noise, (int(kept.sum()), 4)).astype(np.float32)
        labels = np.concatenate([classes[kept], rng.integers(0, 3, 3)])
        scores = rng.random(len(labels)).astype(np.float32)
        order = np.argsort(-scores)
        every = np.concatenate([moved, some_boxes(rng, 3)])
        found.append(Detections(every[order], scores[order], labels[order]))
    return samples, found


@pytest.mark.parametrize("seed", range(3))
def test_the_figure_is_cocos(seed: int) -> None:
    samples, found = detected(np.random.default_rng(seed), 40, 6.0)
    measured = map_interval(samples, found, 3)
    assert measured.map50 == pytest.approx(average_precision(samples, found, CLASSES).map50)
    low, high = measured.interval
    assert low < measured.map50 < high and len(measured.draws) == DRAWS


def test_draws_of_two_students_are_paired() -> None:
    rng = np.random.default_rng(1)
    samples, good = detected(rng, 60, 3.0)
    # The same, but the two best detections of each image are of another class.
    bad = [
        Detections(one.boxes, one.scores, (one.classes + (np.arange(len(one)) < 2)) % 3)
        for one in good
    ]
    better, worse = map_interval(samples, good, 3), map_interval(samples, bad, 3)
    assert better.gain_over(worse)[0] > 0 and worse.gain_over(better)[1] < 0
    assert better.gain_over(better) == (0, 0)
    apart = better.interval[1] - better.interval[0]
    gained = better.gain_over(worse)
    assert gained[1] - gained[0] < apart, "on the same images the difference is surer"


def test_without_images_or_boxes_there_is_no_precision() -> None:
    assert map_interval([], [], 3).map50 == 0
    samples, found = detected(np.random.default_rng(2), 3, 1.0)
    nothing = [one.take(np.zeros(len(one), bool)) for one in found]
    assert map_interval(samples, nothing, 3).interval == (0, 0)
