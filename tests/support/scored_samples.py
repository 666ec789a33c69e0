"""Labelled images and what a student says of them, for tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from secondlook.datasets.samples import Sample, boxes_array, class_array
from secondlook.detector.detections import Detections
from secondlook.evaluation.matching import JudgedDetections

CLASSES = ("person", "dog", "tree")
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
    """One image; boxes are pixel xyxy, ``size`` is width, height; regions are for every class
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
    """What was found on one image, put in order."""
    values = np.asarray([*scores], dtype=np.float32)
    best = np.argsort(-values, kind="stable")
    return Detections(boxes_array(boxes)[best], values[best], class_array(classes)[best])


def judged(
    scores: Sequence, right: Sequence, boxes: int = 1, fold: Sequence | None = None
) -> JudgedDetections:
    """Detections of one class; every other one in the other fold unless ``fold`` says which."""
    values = np.array(scores, dtype=np.float64)
    halves = np.arange(len(values)) % 2 if fold is None else np.array(fold)
    return JudgedDetections(values, np.array(right, dtype=bool), halves, boxes, np.zeros(0))


def boxes_at_random(rng: np.random.Generator, count: int, side: int = 100) -> np.ndarray:
    """On a coarse grid, so that equal boxes, equal IoUs and IoUs of exactly 0.5 are common."""
    low = rng.integers(0, side // 2, (count, 2)) // 5 * 5
    size = rng.integers(1, 8, (count, 2)) * 5
    return np.concatenate([low, low + size], axis=1).astype(np.float32)


def jittered(rng: np.random.Generator, boxes: np.ndarray) -> np.ndarray:
    """Moved by some pixels."""
    moved = boxes + rng.normal(0, 3, boxes.shape).astype(np.float32)
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    return moved.astype(np.float32)


def world(
    seed: int, images: int, classes: int = 3, ties: bool = False, ignore: int = 2
) -> tuple[list[Sample], list[Detections]]:
    """Images with random truth and regions to ignore; about half of the detections are near."""
    rng = np.random.default_rng(seed)
    samples, found = [], []
    for place in range(images):
        boxes = boxes_at_random(rng, int(rng.integers(0, 6)))
        kinds = rng.integers(0, classes, len(boxes))
        regions = boxes_at_random(rng, int(rng.integers(0, ignore + 1)))
        near = jittered(rng, boxes) if rng.random() < 0.7 else boxes
        guesses = np.concatenate([near, near[:2], boxes_at_random(rng, int(rng.integers(0, 6)))])
        guessed = np.concatenate([kinds, kinds[:2], rng.integers(0, classes, len(guesses))])
        scores = rng.random(len(guesses))
        scores = np.round(scores, 1) if ties else scores
        of = rng.integers(-1, classes, len(regions))
        group = str(place // 2)
        samples.append(sample(boxes, kinds, regions, group=group, ignore_classes=of))
        found.append(detections(guesses, scores, guessed[: len(guesses)]))
    return samples, found
