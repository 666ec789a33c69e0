"""COCO's average precision of detections on labelled images, by faster-coco-eval.

A region to ignore is a crowd region of its class, or of every class where it names none: what a
detector says there counts neither for nor against it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.core.errors import MissingExtra
from secondlook.core.types import Boxes
from secondlook.datasets.samples import Sample
from secondlook.detector.detections import Detections
from secondlook.evaluation.detector_matching import ignores

MOST = 100
"""Detections of one class that count on one image, the best first; COCO's number."""
EVERY_SIZE = (0.0, 1e10)
"""Areas of boxes that count, square pixels."""


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """COCO's figures, [0, 1]; of a class None where it has no true box."""

    map: float
    """Mean over IoU 0.50 to 0.95 and the classes that have a true box; 0 when none has."""
    map50: float
    """The same at IoU 0.50."""
    map_per_class: Mapping[str, float | None]
    map50_per_class: Mapping[str, float | None]
    curves: Mapping[str, NDArray[np.float64] | None]
    """(101,) precision at recall 0, 0.01 … 1 at IoU 0.50, as COCO interpolates it (it never
    rises with recall, and is 0 where that recall is not reached)."""


def average_precision(
    samples: Sequence[Sample], found: Sequence[Detections], classes: Sequence[str]
) -> AveragePrecision:
    """What ``found[i]`` on ``samples[i]`` is worth; ``classes`` gives the names of the indices.

    Raises ``MissingExtra`` when faster-coco-eval is not installed.
    """
    precision = _precision(samples, found, len(classes))  # IoU, recall, class
    per_class = {name: _mean(precision[:, :, k]) for k, name in enumerate(classes)}
    at_half = {name: _mean(precision[0, :, k]) for k, name in enumerate(classes)}
    curves = {
        name: None if at_half[name] is None else precision[0, :, k]
        for k, name in enumerate(classes)
    }
    whole, whole_at_half = _mean(precision), _mean(precision[0])
    return AveragePrecision(whole or 0.0, whole_at_half or 0.0, per_class, at_half, curves)


def _precision(
    samples: Sequence[Sample], found: Sequence[Detections], classes: int
) -> NDArray[np.float64]:
    """(10, 101, classes) precision by IoU, recall and class; -1 where there is no true box."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise MissingExtra(
            'scoring a student needs faster-coco-eval: pip install "secondlook[distill]"'
        ) from None
    shared = {
        "images": [{"id": place} for place in range(1, len(samples) + 1)],
        "categories": [{"id": place, "name": str(place)} for place in range(1, classes + 1)],
    }
    if not samples or not classes:
        return np.full((10, 101, classes), -1.0)
    truth = COCO({**shared, "annotations": list(_truth(samples, found))})
    guesses = COCO({**shared, "annotations": list(_guesses(found))})
    scored = COCOeval_faster(truth, guesses, "bbox")
    scored.params.maxDets = [MOST]
    scored.params.areaRng, scored.params.areaRngLbl = [list(EVERY_SIZE)], ["all"]
    scored.evaluate()
    scored.accumulate()
    return np.asarray(scored.eval["precision"], dtype=np.float64)[..., 0, 0]


def _truth(samples: Sequence[Sample], found: Sequence[Detections]) -> Iterator[dict[str, Any]]:
    number = 0
    for image, (sample, seen) in enumerate(zip(samples, found, strict=True), start=1):
        real = list(zip(_xywh(sample.boxes), sample.classes.tolist(), strict=True))
        for box, place in real:
            number += 1
            yield _entry(number, image, place, box) | {"iscrowd": 0}
        # Only for the classes detected there: a crowd region does nothing else, and classes times
        # regions can be many.
        for place in np.unique(seen.classes):
            for box in _xywh(sample.ignore[ignores(sample, place)]):
                number += 1
                yield _entry(number, image, int(place), box) | {"iscrowd": 1}


def _guesses(found: Sequence[Detections]) -> Iterator[dict[str, Any]]:
    number = 0
    for image, seen in enumerate(found, start=1):
        for box, place, score in zip(
            _xywh(seen.boxes), seen.classes.tolist(), seen.scores.tolist(), strict=True
        ):
            number += 1
            yield _entry(number, image, place, box) | {"score": score}


def _entry(number: int, image: int, place: int, box: list[float]) -> dict[str, Any]:
    area = box[2] * box[3]
    return {
        "id": number,
        "image_id": image,
        "category_id": place + 1,
        "bbox": box,
        "area": area,
    }


def _xywh(boxes: Boxes) -> list[list[float]]:
    corners = boxes.astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()


def _mean(precision: NDArray[np.float64]) -> float | None:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None
