"""COCO's average precision, by faster-coco-eval, of students and of COCO files.

An ignore region is a crowd region of its class, or of every class where it names none: what a
detector says there counts neither for nor against it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.config.extras import missing_extra
from secondlook.core.boxes import Xyxy
from secondlook.core.types import Boxes
from secondlook.datasets.samples import Sample
from secondlook.detector.detections import Detections
from secondlook.evaluation.matching import ScoredImage

MAX_DETECTIONS = 100
"""Detections of one class that count on one image, the best first; COCO's number."""
EVERY_SIZE = (0.0, 1e10)
"""Areas of boxes that count, square pixels."""


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """COCO's figures, [0, 1]; None where there is no true box for them."""

    map: float | None
    """Mean over IoU 0.50 to 0.95 and the classes that have a true box."""
    map50: float | None
    """The same at IoU 0.50."""
    map75: float | None
    """The same at IoU 0.75."""
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
    return _average_precision(len(samples), classes, _truth(samples, found), _guesses(found))


def average_precision_of_images(
    images: Sequence[ScoredImage], classes: Sequence[str]
) -> AveragePrecision:
    """The same of detections and true boxes by class name; other classes are left out."""
    places = {name: place for place, name in enumerate(classes)}
    truth = (
        _entry(image, places[t.class_name], t.box, iscrowd=int(t.ignore))
        for image, (_, real) in enumerate(images, start=1)
        for t in real
        if t.class_name in places
    )
    guesses = (
        _entry(image, places[d.class_name], d.box, score=d.score)
        for image, (detections, _) in enumerate(images, start=1)
        for d in detections
        if d.class_name in places
    )
    return _average_precision(len(images), classes, truth, guesses)


def _average_precision(
    images: int,
    classes: Sequence[str],
    truth: Iterable[dict[str, Any]],
    guesses: Iterable[dict[str, Any]],
) -> AveragePrecision:
    precision = _precision(images, len(classes), truth, guesses)
    at_half = {name: _mean(precision[0, :, k]) for k, name in enumerate(classes)}
    return AveragePrecision(
        map=_mean(precision),
        map50=_mean(precision[0]),
        map75=_mean(precision[5]),
        map_per_class={name: _mean(precision[:, :, k]) for k, name in enumerate(classes)},
        map50_per_class=at_half,
        curves={
            name: None if at_half[name] is None else precision[0, :, k]
            for k, name in enumerate(classes)
        },
    )


def _precision(
    images: int, classes: int, truth: Iterable[dict[str, Any]], guesses: Iterable[dict[str, Any]]
) -> NDArray[np.float64]:
    """(10, 101, classes) precision by IoU, recall and class; -1 where there is no true box."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise missing_extra("average precision", "evaluate") from None
    if not images or not classes:
        return np.full((10, 101, classes), -1.0)
    shared = {
        "images": [{"id": place} for place in range(1, images + 1)],
        "categories": [{"id": place, "name": str(place)} for place in range(1, classes + 1)],
    }
    both = (
        COCO({**shared, "annotations": [{**e, "id": n} for n, e in enumerate(entries, start=1)]})
        for entries in (truth, guesses)
    )
    scored = COCOeval_faster(*both, "bbox")
    scored.params.maxDets = [MAX_DETECTIONS]
    scored.params.areaRng, scored.params.areaRngLbl = [list(EVERY_SIZE)], ["all"]
    scored.evaluate()
    scored.accumulate()
    return np.asarray(scored.eval["precision"], dtype=np.float64)[..., 0, 0]


def _truth(samples: Sequence[Sample], found: Sequence[Detections]) -> Iterator[dict[str, Any]]:
    for image, (sample, detections) in enumerate(zip(samples, found, strict=True), start=1):
        for box, place in zip(_rows(sample.boxes), sample.classes.tolist(), strict=True):
            yield _entry(image, place, box, iscrowd=0)
        # Only for the classes detected there: a crowd region does nothing else, and classes times
        # regions can be many.
        for place in np.unique(detections.classes).tolist():
            of_class = (sample.ignore_classes == place) | (sample.ignore_classes < 0)
            for box in _rows(sample.ignore[of_class]):
                yield _entry(image, place, box, iscrowd=1)


def _guesses(found: Sequence[Detections]) -> Iterator[dict[str, Any]]:
    for image, detections in enumerate(found, start=1):
        for box, place, score in zip(
            _rows(detections.boxes),
            detections.classes.tolist(),
            detections.scores.tolist(),
            strict=True,
        ):
            yield _entry(image, place, box, score=score)


def _entry(image: int, place: int, box: Xyxy, **more: float) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    return {
        "image_id": image,
        "category_id": place + 1,
        "bbox": [x1, y1, width, height],
        "area": width * height,
        **more,
    }


def _rows(boxes: Boxes) -> list[Xyxy]:
    return boxes.astype(np.float64).tolist()


def _mean(precision: NDArray[np.float64]) -> float | None:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None
