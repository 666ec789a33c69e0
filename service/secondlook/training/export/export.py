"""From a trained student to the files that a device runs.

The graph takes images as they come out of ``stretch`` and gives scores and boxes (the contract is
in ``detector.runtime``). Everything is built beside the output and moved there only after the
parity check.
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

from secondlook.core.errors import BadSetting, InvalidInput, MissingExtra, ModelDrifted
from secondlook.core.files import explaining
from secondlook.core.types import Pixels
from secondlook.datasets.image_cache import read_pixels
from secondlook.datasets.samples import Sample
from secondlook.detector import self_test
from secondlook.detector.detections import Detections
from secondlook.detector.manifest import FP32, INT8, SELF_TEST, Manifest
from secondlook.detector.runtime import FILES, INPUT, OUTPUTS, OnnxDetector, stretch
from secondlook.evaluation.detector_scores import Scores
from secondlook.training.export import parity
from secondlook.training.export.inference_graph import LeanStudent
from secondlook.training.export.optimize import tidy
from secondlook.training.export.quantize import quantise
from secondlook.training.model import input_size_of, load_student

OPSET = 17
"""Old enough for onnxruntime 1.13, new enough for layer norms in one node."""
CALIBRATED_ON = 64
"""Images that int8's ranges are measured on."""
TIMED_ON, TIMED_S = 32, 3.0
"""Images and seconds of the speed that is reported."""
MAX_SELF_TEST = 300_000
"""Bytes: a device fetches it with every model."""


@dataclass(frozen=True, eq=False)
class Exported:
    """What was written, and how good it is."""

    files: tuple[str, ...]
    """Names in the output folder."""
    input_size: tuple[int, int]
    """Width and height of the images."""
    torch_scores: Scores
    """Of the trained model on the held-out images."""
    scores: Scores
    """Of ``model.onnx`` on the same."""
    found: Sequence[Detections]
    """What ``model.onnx`` found, an image each."""
    int8_scores: Scores | None
    """None where int8 was left out."""
    metrics: Mapping[str, float]
    """For the manifest: ``map``, ``map50``, ``torch_map``, ``int8_map``, ``int8_map50``,
    ``images_per_second`` (float32, on this machine, from pixels to boxes)."""
    parity: Mapping[str, float]
    """The same comparison in words for a person."""
    warnings: tuple[str, ...]
    """A sentence each."""


def export_student(
    torch_folder: Path,
    out: Path,
    held_out: Sequence[Sample],
    classes: Sequence[str],
    *,
    int8: str = "auto",
    tell: Callable[[int], None] | None = None,
) -> Exported:
    """Write ``model.onnx``, ``model.int8.onnx`` and ``self_test.npz`` into ``out``.

    ``torch_folder`` holds ``config.json`` and ``model.safetensors``; ``held_out`` are images that
    it was not trained on, with their labels. ``int8``: ``auto`` leaves that model out, with a
    warning, when it drifts; ``required`` raises instead; ``never`` makes none. ``tell`` hears how
    many images were compared. Raises ``ModelDrifted``, ``InvalidInput`` without a labelled
    held-out image or for other classes than the model's, ``BadSetting``, ``MissingExtra``,
    ``StorageFull``, and what reading images raises.
    """
    if int8 not in ("auto", "required", "never"):
        raise BadSetting(f"int8 {int8!r} is unknown; known are auto, required and never")
    _check_installed()
    parity.check_enough(held_out)
    out.mkdir(parents=True, exist_ok=True)
    with explaining(out), tempfile.TemporaryDirectory(prefix=".export-", dir=out) as name:
        building = Path(name)
        size = write_onnx(torch_folder, building / FP32, len(classes))
        sample = _Spread(held_out, size)
        told: list[str] = []
        if int8 != "never" and not quantise(building / FP32, building / INT8, sample.images()):
            _no_int8(int8, told, "the model has no convolutions that int8 makes faster")
        exported = _check(torch_folder, building, size, held_out, classes, int8, tell, told)
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
            f"the model knows {student.config.num_labels} classes and the data {classes}: it was "
            "trained on another ontology; train it on this data"
        )
    width, height = input_size_of(student)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: what it took as constant is constant
        lean = LeanStudent(student, (width, height)).eval()
        example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
        names = (INPUT, *OUTPUTS)
        # The tracing exporter: the other one fails on a run-time check inside of transformers.
        torch.onnx.export(
            lean,
            (example,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_axes={name: {0: "B"} for name in names},
        )
    tidy(path)
    return width, height


def _check(
    torch_folder: Path,
    building: Path,
    size: tuple[int, int],
    held_out: Sequence[Sample],
    classes: Sequence[str],
    int8: str,
    tell: Callable[[int], None] | None,
    told: list[str],
) -> Exported:
    """Compare the files in ``building`` with the trained model; removes an int8 that drifted."""
    detectors = {
        precision: _open(building, precision, size, len(classes))
        for precision, name in FILES.items()
        if (building / name).exists()
    }
    # A model that was exported gives other outputs afterwards, so this is another copy.
    trained = load_student(torch_folder).float().cpu().eval()
    found = parity.find(trained, detectors, held_out, tell)
    by_torch, by_onnx = parity.compare(found, held_out, classes)
    odd = parity.odd_share(found.trained, found.exported["fp32"])
    parity.check_drift("fp32", by_torch, by_onnx["fp32"], odd)
    if "int8" in by_onnx:
        try:
            parity.check_drift("int8", by_torch, by_onnx["int8"], 0.0)
        except ModelDrifted as drift:
            _no_int8(int8, told, str(drift))
            (building / INT8).unlink()
            del by_onnx["int8"]
    speed = _images_a_second(detectors["fp32"], held_out)
    names = [FILES[precision] for precision in by_onnx]
    return Exported(
        files=(*names, SELF_TEST),
        input_size=size,
        torch_scores=by_torch,
        scores=by_onnx["fp32"],
        found=found.exported["fp32"],
        int8_scores=by_onnx.get("int8"),
        metrics=_metrics(by_torch, by_onnx, speed),
        parity=_in_words(by_torch, by_onnx, odd),
        warnings=tuple(told),
    )


def _no_int8(int8: str, told: list[str], reason: str) -> None:
    if int8 == "required":
        raise ModelDrifted(f"there is no int8 model: {reason}")
    told.append(f"there is no int8 model: {reason}")


def _open(building: Path, precision: str, size: tuple[int, int], classes: int) -> OnnxDetector:
    """A detector on a file that has no manifest yet."""
    manifest = Manifest(
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
    model = (building / FILES[precision]).read_bytes()
    return OnnxDetector(model, manifest, precision)


class _Spread:
    """Some of the held-out images, evenly over all of them, at the input's size."""

    def __init__(self, held_out: Sequence[Sample], size: tuple[int, int]) -> None:
        step = max(1, len(held_out) // CALIBRATED_ON)
        self._samples = held_out[::step][:CALIBRATED_ON]
        self._size = size

    def images(self) -> list[Pixels]:
        """(H, W, 3) uint8 each."""
        return [stretch(read_pixels(sample), self._size) for sample in self._samples]


def _write_self_test(building: Path, size: tuple[int, int], sample: _Spread, classes: int) -> None:
    """Take the image with most to see, as coarse as it must be to stay small."""
    detectors = {
        precision: _open(building, precision, size, classes)
        for precision, name in FILES.items()
        if (building / name).exists()
    }
    images = sample.images()
    seen = detectors["fp32"].detect(images, floor=parity.SURE)
    best = images[max(range(len(images)), key=lambda row: float(seen[row].scores.sum()))]
    for coarse in (1, 2, 4, 8):
        image = _mosaic(best, coarse)
        found = {p: d.detect([image], floor=0.0)[0] for p, d in detectors.items()}
        self_test.write_self_test(building / SELF_TEST, self_test.SelfTest(image, found))
        if (building / SELF_TEST).stat().st_size <= MAX_SELF_TEST:
            return


def _mosaic(pixels: Pixels, coarse: int) -> Pixels:
    """Squares of ``coarse`` pixels of one colour, which compress well."""
    if coarse == 1:
        return pixels
    height, width = pixels.shape[:2]
    small = stretch(pixels, (max(1, width // coarse), max(1, height // coarse)))
    rows = [row * small.shape[0] // height for row in range(height)]
    columns = [column * small.shape[1] // width for column in range(width)]
    return small[rows][:, columns]


def _images_a_second(detector: OnnxDetector, held_out: Sequence[Sample]) -> float:
    """From pixels in memory to boxes, by the clock, on as many threads as a device would use."""
    images = [read_pixels(sample) for sample in held_out[:TIMED_ON]]
    detector.detect(images[:1])
    done, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < TIMED_S and done < 10 * TIMED_ON:
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


def _in_words(by_torch: Scores, by_onnx: Mapping[str, Scores], odd: float) -> dict[str, float]:
    words = {"trained model, mAP": by_torch.map}
    for precision, scores in by_onnx.items():
        words[f"{precision}, mAP"] = scores.map
        words[f"{precision}, points of mAP lost"] = 100 * (by_torch.map - scores.map)
    words["fp32, sure detections that differ, %"] = 100 * odd
    return {name: round(float(value), 4) for name, value in words.items()}


def _check_installed() -> None:
    try:
        import onnx
        import onnxruntime.quantization  # noqa: F401
    except ImportError as cause:
        raise MissingExtra(
            "an export needs onnx and onnxruntime; `pip install 'secondlook[serve,distill]'`"
        ) from cause
    del onnx
