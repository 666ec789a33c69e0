"""Whether an exported model gives the detections of the trained one, on held-out images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from secondlook.core.boxes import iou
from secondlook.datasets.image_cache import read_pixels
from secondlook.datasets.samples import Sample
from secondlook.detector.detections import Detections
from secondlook.detector.runtime import BATCH, OnnxDetector, stretch
from secondlook.evaluation.calibration import Fit
from secondlook.evaluation.contrasts import without_contradictions
from secondlook.evaluation.detector_scores import Scores, score
from secondlook_client.errors import InvalidInput, ModelDrifted

MAX_MAP_LOSS = {"fp32": 0.001, "int8": 0.01}
"""Largest loss of mAP: a tenth of a point, and a point."""
CONFIDENT_SCORE = 0.3
"""Detections from this score on are compared one by one."""
SAME_IOU, SAME_SCORE = 0.95, 0.02
MAX_MISMATCHED = 0.01
"""Share of the confident detections of a float32 model that may lack a counterpart. Two queries
whose scores agree to the last digits may change places; more than that is another model."""
_WAY_OUT = {
    "fp32": "export again, with the versions of torch and transformers it was trained with",
    "int8": "use the float32 model, or train longer",
}


@dataclass(frozen=True, eq=False)
class Predictions:
    """Detections of the trained model and of each exported one on the same images."""

    trained: Sequence[Detections]
    exported: Mapping[str, Sequence[Detections]]
    """By precision."""

    def without_contradictions(self, groups: Sequence[str], fits: Sequence[Fit]) -> "Predictions":
        """What a device keeps of them, by the ``group_calibration`` of the float32 model."""
        return Predictions(
            without_contradictions(self.trained, groups, fits),
            {
                name: without_contradictions(of_one, groups, fits)
                for name, of_one in self.exported.items()
            },
        )


def check_has_labels(held_out: Sequence[Sample]) -> None:
    """Raises ``InvalidInput`` when there is nothing to compare on."""
    if not any(len(sample.boxes) for sample in held_out):
        raise InvalidInput(
            f"the held-out part has {len(held_out)} image(s) and no labelled box: an export is "
            "checked on such images and cannot be trusted without; hold some out"
        )


def predict_all(
    trained: Any,
    detectors: Mapping[str, OnnxDetector],
    held_out: Sequence[Sample],
    on_compared: Callable[[int], None] | None = None,
) -> Predictions:
    """Run all models on all images; each image is read once. ``on_compared`` gets their
    number so far.

    ``trained`` is a freshly loaded transformers model, in evaluation mode: one that was exported
    gives other outputs afterwards.
    """
    from secondlook.training.predict import FLOOR, predict

    size = next(iter(detectors.values())).manifest.input_size
    by_torch: list[Detections] = []
    by_onnx: dict[str, list[Detections]] = {precision: [] for precision in detectors}
    for start in range(0, len(held_out), BATCH):
        some = held_out[start : start + BATCH]
        images = [read_pixels(sample) for sample in some]
        stretched = [stretch(pixels, size) for pixels in images]
        by_torch += predict(trained, some, size, pixels=stretched.__getitem__)
        for precision, detector in detectors.items():
            by_onnx[precision] += detector.detect(images, floor=FLOOR)
        if on_compared:
            on_compared(len(by_torch))
    return Predictions(by_torch, by_onnx)


def compare(
    predictions: Predictions, held_out: Sequence[Sample], classes: Sequence[str]
) -> tuple[Scores, dict[str, Scores]]:
    """The scores of the trained model, and of each exported one."""
    return (
        score(held_out, predictions.trained, classes),
        {name: score(held_out, of_one, classes) for name, of_one in predictions.exported.items()},
    )


def check_drift(precision: str, trained: Scores, exported: Scores, mismatched: float) -> None:
    """Raises ``ModelDrifted`` when an exported model is not the trained one.

    ``mismatched``: their ``mismatch_share``; checked for fp32 only.
    """
    loss, most = trained.map - exported.map, MAX_MAP_LOSS[precision]
    if loss > most:
        raise ModelDrifted(
            f"the exported {precision} model loses {100 * loss:.2f} points of mAP on the held-out "
            f"images ({100 * trained.map:.1f} to {100 * exported.map:.1f}; at most "
            f"{100 * most:g} are allowed), so it was not kept; {_WAY_OUT[precision]}"
        )
    if precision == "fp32" and mismatched > MAX_MISMATCHED:
        raise ModelDrifted(
            f"{100 * mismatched:.1f} % of the confident detections of the exported and the trained "
            f"model differ (at most {100 * MAX_MISMATCHED:g} % may), so it was not kept; "
            f"{_WAY_OUT[precision]}"
        )


def mismatch_share(trained: Sequence[Detections], exported: Sequence[Detections]) -> float:
    """Share of the confident detections of either model that the other lacks, [0, 1].

    Compared as sets, as the order of queries with equal scores is arbitrary. A single mismatch
    counts as none.
    """
    mismatched = total = 0
    for ours, theirs in zip(trained, exported, strict=True):
        for sure, others in ((ours, theirs), (theirs, ours)):
            rows = np.flatnonzero(sure.scores >= CONFIDENT_SCORE)
            total += len(rows)
            mismatched += int((~_matched(sure.take(rows), others)).sum())
    return mismatched / total if mismatched > 1 else 0.0


def _matched(some: Detections, others: Detections) -> np.ndarray:
    """(N,) bool: whether ``others`` has the same object with nearly the same score."""
    same = iou(some.boxes, others.boxes) >= SAME_IOU
    same &= some.classes[:, None] == others.classes[None]
    same &= np.abs(some.scores[:, None] - others.scores[None]) <= SAME_SCORE
    return np.asarray(same.any(axis=1))
