"""From a trained student to the files that a device runs.

The graph takes images as ``stretch`` returns them and gives scores and boxes (its inputs and
outputs are defined in ``detector.runtime``). Everything is built beside the output and moved there
only after the parity check.
"""

import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from secondlook.config.extras import missing_extra
from secondlook.core.files import explain_write_errors
from secondlook.core.types import Pixels
from secondlook.datasets.image_cache import read_pixels
from secondlook.datasets.samples import Sample
from secondlook.detector import self_test
from secondlook.detector.detections import Detections
from secondlook.detector.manifest import FP32, INT8, SELF_TEST, StudentManifest
from secondlook.detector.runtime import FILES, INPUT, OUTPUTS, OnnxDetector, stretch
from secondlook.evaluation.calibration import Fit
from secondlook.evaluation.contrasts import group_calibration
from secondlook.evaluation.detector_scores import Scores
from secondlook.training.export import parity
from secondlook.training.export.inference_graph import InferenceGraph
from secondlook.training.export.optimize import simplify_onnx
from secondlook.training.export.quantize import quantise
from secondlook.training.model import input_size_of, load_student
from secondlook_client.errors import BadSetting, InvalidInput, ModelDrifted

OPSET = 17
"""Old enough for onnxruntime 1.13, new enough for layer norms in one node."""
CALIBRATION_IMAGES = 64
"""Images on which the ranges of int8 are measured."""
TIMING_IMAGES, TIMING_S = 32, 3.0
"""Images and seconds of the speed measurement."""
MAX_SELF_TEST_BYTES = 300_000
"""Bytes: a device fetches it with every model."""


@dataclass(frozen=True, eq=False)
class ExportResult:
    """The files that were written, and their scores."""

    files: tuple[str, ...]
    """Names in the output folder."""
    input_size: tuple[int, int]
    """Width and height of the images."""
    torch_scores: Scores
    """Of the trained model on the held-out images."""
    scores: Scores
    """Of ``model.onnx`` on the same images."""
    group_calibration: tuple[Fit, ...]
    """By which the classes of one contrast group are compared, a class each; () without groups."""
    detections: Sequence[Detections]
    """Of ``model.onnx``, an image each."""
    int8_scores: Scores | None
    """None where int8 was left out."""
    metrics: Mapping[str, float]
    """For the manifest: ``map``, ``map50``, ``torch_map``, ``int8_map``, ``int8_map50``,
    ``images_per_second`` (float32, on this machine, from pixels to boxes)."""
    parity: Mapping[str, float]
    """The same comparison for a person: figures by a readable name."""
    warnings: tuple[str, ...]
    """A sentence each."""


def export_student(
    torch_folder: Path,
    out: Path,
    held_out: Sequence[Sample],
    classes: Sequence[str],
    groups: Sequence[str] = (),
    *,
    int8: str = "auto",
    on_compared: Callable[[int], None] | None = None,
) -> ExportResult:
    """Write ``model.onnx``, ``model.int8.onnx`` and ``self_test.npz`` into ``out``.

    ``torch_folder`` holds ``config.json`` and ``model.safetensors``; ``held_out`` are images that
    it was not trained on, with their labels. ``groups``, as in a manifest, are resolved as on a
    device before anything is scored. ``int8``: ``auto`` leaves that model out, with a warning, when
    it drifts; ``required`` raises instead; ``never`` makes none. ``on_compared`` gets the number of
    images compared so far. Raises ``ModelDrifted``, ``InvalidInput`` without a labelled held-out
    image or for other classes than the model's, ``BadSetting``, ``MissingExtra``, ``StorageFull``,
    and what reading images raises.
    """
    if int8 not in ("auto", "required", "never"):
        raise BadSetting(f"int8 {int8!r} is unknown; known are auto, required and never")
    _check_installed()
    parity.check_has_labels(held_out)
    out.mkdir(parents=True, exist_ok=True)
    with explain_write_errors(out), tempfile.TemporaryDirectory(prefix=".export-", dir=out) as name:
        building = Path(name)
        size = write_onnx(torch_folder, building / FP32, len(classes))
        sample = _CalibrationImages(held_out, size)
        notes: list[str] = []
        if int8 != "never" and not quantise(building / FP32, building / INT8, sample.images()):
            _without_int8(int8, notes, "the model has no convolutions that int8 makes faster")
        exported = _compare(
            torch_folder, building, size, held_out, classes, groups, int8, on_compared, notes
        )
        _write_self_test(building, size, sample, len(classes))
        for path in sorted(building.iterdir()):
            shutil.move(path, out / path.name)
        if INT8 not in exported.files:
            (out / INT8).unlink(missing_ok=True)  # of an earlier export
    return exported


def write_onnx(torch_folder: Path, path: Path, classes: int) -> tuple[int, int]:
    """Write the float32 graph of a trained student to ``path``; gives the input's width and height.

    Nothing is compared here. Raises ``InvalidInput`` when the model has another number of classes.
    """
    student: Any = load_student(torch_folder).float().cpu().eval()
    if student.config.num_labels != classes:
        raise InvalidInput(
            f"the model has {student.config.num_labels} classes and the data {classes}: it was "
            "trained on another ontology; train it on this data"
        )
    width, height = input_size_of(student)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: what it takes as constant is constant
        graph = InferenceGraph(student, (width, height)).eval()
        example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
        names = (INPUT, *OUTPUTS)
        # The tracing exporter: the other one fails on a run-time check inside of transformers.
        torch.onnx.export(
            graph,
            (example,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_axes={name: {0: "B"} for name in names},
        )
    simplify_onnx(path)
    return width, height


def _compare(
    torch_folder: Path,
    building: Path,
    size: tuple[int, int],
    held_out: Sequence[Sample],
    classes: Sequence[str],
    groups: Sequence[str],
    int8: str,
    on_compared: Callable[[int], None] | None,
    notes: list[str],
) -> ExportResult:
    """Compare the files in ``building`` with the trained model; removes an int8 that drifted."""
    detectors = _open_detectors(building, size, len(classes))
    # A model that was exported gives other outputs afterwards, so this is another copy.
    trained = load_student(torch_folder).float().cpu().eval()
    predictions = parity.predict_all(trained, detectors, held_out, on_compared)
    mismatched = parity.mismatch_share(predictions.trained, predictions.exported["fp32"])
    fits: Sequence[Fit] = ()
    if groups:
        fits = group_calibration(held_out, predictions.exported["fp32"], groups)
        predictions = predictions.without_contradictions(groups, fits)
    by_torch, by_onnx = parity.compare(predictions, held_out, classes)
    parity.check_drift("fp32", by_torch, by_onnx["fp32"], mismatched)
    if "int8" in by_onnx:
        try:
            parity.check_drift("int8", by_torch, by_onnx["int8"], 0.0)
        except ModelDrifted as drift:
            _without_int8(int8, notes, str(drift))
            (building / INT8).unlink()
            del by_onnx["int8"]
    speed = _images_a_second(detectors["fp32"], held_out)
    names = [FILES[precision] for precision in by_onnx]
    return ExportResult(
        files=(*names, SELF_TEST),
        input_size=size,
        torch_scores=by_torch,
        scores=by_onnx["fp32"],
        group_calibration=tuple(fits),
        detections=predictions.exported["fp32"],
        int8_scores=by_onnx.get("int8"),
        metrics=_metrics(by_torch, by_onnx, speed),
        parity=_parity_figures(by_torch, by_onnx, mismatched),
        warnings=tuple(notes),
    )


def _without_int8(int8: str, notes: list[str], reason: str) -> None:
    if int8 == "required":
        raise ModelDrifted(f"there is no int8 model: {reason}")
    notes.append(f"there is no int8 model: {reason}")


def _open_detectors(building: Path, size: tuple[int, int], classes: int) -> dict[str, OnnxDetector]:
    """By precision; the files have no manifest yet."""
    manifest = StudentManifest(
        name="export",
        architecture="",
        size="",
        classes=tuple(map(str, range(classes))),
        input_size=size,
        thresholds=(),
        calibration=(),
        ontology="",
        snapshot="",
        split="",
        metrics={},
        files={},
        created_at=0.0,
    )
    return {
        precision: OnnxDetector((building / name).read_bytes(), manifest, precision)
        for precision, name in FILES.items()
        if (building / name).exists()
    }


class _CalibrationImages:
    """Some of the held-out images, spread evenly over all of them, at the input's size."""

    def __init__(self, held_out: Sequence[Sample], size: tuple[int, int]) -> None:
        step = max(1, len(held_out) // CALIBRATION_IMAGES)
        self._samples = held_out[::step][:CALIBRATION_IMAGES]
        self._size = size

    def images(self) -> list[Pixels]:
        """(H, W, 3) uint8 each."""
        return [stretch(read_pixels(sample), self._size) for sample in self._samples]


def _write_self_test(
    building: Path, size: tuple[int, int], sample: _CalibrationImages, classes: int
) -> None:
    """Use the image with most detections, as coarse as it must be to stay small."""
    detectors = _open_detectors(building, size, classes)
    images = sample.images()
    detections = detectors["fp32"].detect(images, floor=parity.CONFIDENT_SCORE)
    best = images[max(range(len(images)), key=lambda row: float(detections[row].scores.sum()))]
    for coarse in (1, 2, 4, 8):
        image = _pixelate(best, coarse)
        found = {p: d.detect([image], floor=0.0)[0] for p, d in detectors.items()}
        self_test.write_self_test(building / SELF_TEST, self_test.SelfTest(image, found))
        if (building / SELF_TEST).stat().st_size <= MAX_SELF_TEST_BYTES:
            return


def _pixelate(pixels: Pixels, coarse: int) -> Pixels:
    """Squares of ``coarse`` pixels of one colour, which compress well."""
    if coarse == 1:
        return pixels
    height, width = pixels.shape[:2]
    small = stretch(pixels, (max(1, width // coarse), max(1, height // coarse)))
    rows = [row * small.shape[0] // height for row in range(height)]
    columns = [column * small.shape[1] // width for column in range(width)]
    return small[rows][:, columns]


def _images_a_second(detector: OnnxDetector, held_out: Sequence[Sample]) -> float:
    """From pixels in memory to boxes, in wall-clock time, on as many threads as on a device."""
    images = [read_pixels(sample) for sample in held_out[:TIMING_IMAGES]]
    detector.detect(images[:1])
    done, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < TIMING_S and done < 10 * TIMING_IMAGES:
        detector.detect(images)
        done += len(images)
    return done / max(passed, 1e-9)


def _metrics(
    by_torch: Scores, by_onnx: Mapping[str, Scores], images_per_second: float
) -> dict[str, float]:
    figures = {
        "map": by_onnx["fp32"].map,
        "map50": by_onnx["fp32"].map50,
        "torch_map": by_torch.map,
        "images_per_second": images_per_second,
    }
    if "int8" in by_onnx:
        figures |= {"int8_map": by_onnx["int8"].map, "int8_map50": by_onnx["int8"].map50}
    return {name: float(value) for name, value in figures.items()}


def _parity_figures(
    by_torch: Scores, by_onnx: Mapping[str, Scores], mismatched: float
) -> dict[str, float]:
    figures = {"trained model, mAP": by_torch.map}
    for precision, scores in by_onnx.items():
        figures[f"{precision}, mAP"] = scores.map
        figures[f"{precision}, points of mAP lost"] = 100 * (by_torch.map - scores.map)
    figures["fp32, confident detections that differ, %"] = 100 * mismatched
    return {name: round(float(value), 4) for name, value in figures.items()}


def _check_installed() -> None:
    try:
        import onnx
        import onnxruntime.quantization  # noqa: F401
    except ImportError as cause:
        raise missing_extra("an export", "distill") from cause
    del onnx
