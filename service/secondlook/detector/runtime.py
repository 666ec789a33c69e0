"""The student in onnxruntime: from images of any size to detections.

Also what decides how it runs: the precision (int8 where this processor is faster with it), the
threads, and ``stretch``, the one way in which images reach a student.
"""

import platform
import sys
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from secondlook.config.extras import missing_extra
from secondlook.core.processors import available_cpus
from secondlook.core.types import Pixels
from secondlook.detector import self_test
from secondlook.detector.detections import (
    Detections,
    calibrated,
    resolve_contrasts,
    select_detections,
)
from secondlook.detector.manifest import (
    FP32,
    INT8,
    SELF_TEST,
    StudentManifest,
    read_manifest,
    read_verified,
)
from secondlook.detector.onnx_safety import refuse_unsafe
from secondlook_client.errors import BadSetting, Damaged, NotFound

BATCH = 8
"""Images in one run: larger batches gain nothing on a CPU and take memory."""
MAX_THREADS = 4
"""Of one detector, unless more are set."""
SHARED_THREADS_BYTES = 6 * 2**20
"""Size of a model from which threads share the work on one image. In a smaller one the steps are so
short that handing them over costs more than it gains; there each thread has images of its own."""
INPUT = "images"
"""(B, H, W, 3) uint8 RGB at the manifest's input size; B is free."""
OLDER_INPUT = "pictures"
"""The input's name in older exports."""
OUTPUTS = ("scores", "boxes")
"""(B, Q, C) in [0, 1] and (B, Q, 4) xyxy relative to the image, both float32."""
FILES = {"fp32": FP32, "int8": INT8}
PRECISIONS = ("auto", *FILES)
_INT8_FLAGS = {"avx512_vnni", "avx_vnni", "asimddp"}
"""Linux's names for instructions that sum products of bytes in one step, on x86 and on ARM."""
_CPUINFO_BYTES = 2**16
"""Enough for the first processors; the others are alike."""


class OnnxDetector:
    """A small detector, ready to run. Thread-safe; calls from several threads run side by side."""

    def __init__(
        self, model: bytes, manifest: StudentManifest, precision: str, threads: int = 0
    ) -> None:
        """Checks neither hashes nor the self-test; ``open`` is the usual way.

        Raises ``Damaged`` for a model whose inputs and outputs are not ``INPUT`` and
        ``OUTPUTS``, and ``MissingExtra``.
        """
        self.manifest = manifest
        self.precision = precision
        """``fp32`` or ``int8``."""
        count = threads if threads > 0 else min(available_cpus(), MAX_THREADS)
        within = count if len(model) >= SHARED_THREADS_BYTES else 1
        self._workers = count // within
        self._pool = ThreadPoolExecutor(self._workers, "student") if self._workers > 1 else None
        self._session = _open_session(model, manifest, within)

    @classmethod
    def open(cls, folder: Path, precision: str = "auto", threads: int = 0) -> "OnnxDetector":
        """Open a student folder, compare its files with their hashes and run its self-test.

        ``precision``: ``fp32``, ``int8`` or ``auto``, the faster one of those in the folder.
        ``threads``: 0 for as many as this process may use, at most
        ``MAX_THREADS``. Raises ``NotFound`` for a folder or a precision that is not there,
        ``Damaged`` for files that are not what the manifest names or a model that fails its
        self-test, ``BadSetting`` and ``MissingExtra``.
        """
        manifest = read_manifest(folder)
        precision = choose_precision(
            precision, [n for n in manifest.files if (folder / n).is_file()]
        )
        if FILES[precision] not in manifest.files:
            raise NotFound(
                f"the student {manifest.name} has no {precision} model (its export left it out); "
                "open it with fp32"
            )
        model = read_verified(folder, manifest, FILES[precision])
        test = self_test.read_self_test(
            read_verified(folder, manifest, SELF_TEST), precision, manifest.input_size
        )
        detector = cls(model, manifest, precision, threads)
        try:
            # Without contrasts: of two nearly equal sides another processor may keep the other.
            found = detector._detections([test.image], floor=0.0)[0]
            self_test.check(found, test.expected[precision], self_test.TOLERANCES[precision])
        except BaseException:
            detector.close()
            raise
        return detector

    def detect(self, images: Sequence[Pixels], floor: float = 0.05) -> list[Detections]:
        """Find objects on images of any size, (H, W, 3) uint8 RGB; ``BATCH`` at a time.

        Kept are scores of at least ``floor``, at most 100 an image, and of each contrast group of
        the manifest the most probable class of an object. Raises ``Damaged`` when the model fails
        or its output is not that of a detector; use another model then.
        """
        found = self._detections(images, floor)
        groups, fits = self.manifest.groups, self.manifest.group_calibration
        if not groups:
            return found
        return [resolve_contrasts(one, calibrated(one, fits), groups) for one in found]

    def _detections(self, images: Sequence[Pixels], floor: float) -> list[Detections]:
        """``detect`` before one class of a contrast group is chosen."""
        session, pool = self._session, self._pool
        if session is None:
            raise ValueError("this detector is closed")
        size = min(BATCH, max(1, -(-len(images) // self._workers)))
        parts = [images[at : at + size] for at in range(0, len(images), size)]
        if pool is None or len(parts) < 2:
            found = [self._detect(session, part, floor) for part in parts]
        else:
            found = list(pool.map(lambda part: self._detect(session, part, floor), parts))
        return [of_image for of_part in found for of_image in of_part]

    def probability(self, found: Detections) -> NDArray[np.float32]:
        """(N,) the probability that each detection is right, [0, 1], by the manifest's calibration.

        Measured on the held-out images of the training: another camera may have another one.
        """
        return calibrated(found, self.manifest.calibration)

    def close(self) -> None:
        """Free the model's memory. A ``detect`` that is running ends as usual."""
        self._session = self._pool = None  # an unreferenced pool ends its threads

    def _detect(self, session: Any, images: Sequence[Pixels], floor: float) -> list[Detections]:
        size = self.manifest.input_size
        scores, boxes = self._run(session, np.stack([stretch(pixels, size) for pixels in images]))
        return [
            select_detections(of_scores, of_boxes, pixels.shape[1], pixels.shape[0], floor)
            for pixels, of_scores, of_boxes in zip(images, scores, boxes, strict=True)
        ]

    def _run(
        self, session: Any, batch: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(B, Q, C) scores and (B, Q, 4) boxes of (B, H, W, 3) pixels."""
        try:
            scores, boxes = session.run(list(OUTPUTS), {session.get_inputs()[0].name: batch})
        except Exception as cause:  # onnxruntime's own errors, and MemoryError
            raise Damaged("the model fails while it runs; fetch the student again") from cause
        count, classes = len(batch), len(self.manifest.classes)
        queries = scores.shape[1] if scores.ndim == 3 else 0
        if scores.shape != (count, queries, classes) or boxes.shape != (count, queries, 4):
            raise Damaged(
                f"the model gives {scores.shape} scores and {boxes.shape} boxes for {count} "
                f"image(s) and {classes} class(es): it does not belong to its manifest"
            )
        if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
            raise Damaged("the model gives numbers that are not finite; use the version before it")
        return scores, boxes


def stretch(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """The image stretched to ``size`` (width, height), (H, W, 3) uint8, contiguous.

    Training's evaluation, the parity check and the device share it, since another filter costs a
    point of mAP. Far larger images are first averaged down by whole factors (``reducing_gap``),
    which is several times faster than filtering every pixel and hard to tell from it.
    """
    width, height = size
    if pixels.shape[:2] == (height, width):
        return np.ascontiguousarray(pixels)
    image = PILImage.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize(size, PILImage.Resampling.BILINEAR, reducing_gap=2.0))


def choose_precision(asked: str, names: Collection[str]) -> str:
    """``fp32`` or ``int8``, of a student that has the files ``names``.

    ``auto`` is int8 where this processor is fast at it and there is such a model, or no other.
    Raises ``BadSetting``.
    """
    if asked not in PRECISIONS:
        raise BadSetting(f"precision {asked!r} is unknown; known are {', '.join(PRECISIONS)}")
    if asked != "auto":
        return asked
    if INT8 in names and (has_fast_int8() or FP32 not in names):
        return "int8"
    return "fp32"


def required_files(asked: str, names: Collection[str]) -> tuple[str, ...]:
    """Of the files that a student has, those that it runs with, besides its manifest.

    Without an int8 model, which an export may have left out, int8 means fp32.
    """
    model = FILES[choose_precision(asked, names)]
    return (model if model in names else FP32, SELF_TEST)


@cache
def has_fast_int8() -> bool:
    """Whether int8 is faster than float32 on this processor; False where that is not known."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as file:
            return not _INT8_FLAGS.isdisjoint(file.read(_CPUINFO_BYTES).split())
    except OSError:
        return False


def _open_session(model: bytes, manifest: StudentManifest, threads: int) -> Any:
    """A session of a student's model."""
    refuse_unsafe(model)
    session = open_session(model, threads)
    _check_contract(session, manifest)
    return session


def open_session(model: bytes, threads: int) -> Any:
    """An onnxruntime session of a model that ``refuse_unsafe`` let through; it reads no file.

    Raises ``Damaged`` for a model that onnxruntime does not read, and ``MissingExtra``.
    """
    runtime = _import_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised; a device's log need not hold them twice
    # The bytes were checked as ONNX; onnxruntime would also detect and take its own format.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Threads that wait in a loop for more work would take the cores of the camera and the network.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as cause:
        raise Damaged(
            "onnxruntime cannot read the model: it is damaged, or made for a newer onnxruntime "
            f"than {runtime.__version__}"
        ) from cause


def _check_contract(session: Any, manifest: StudentManifest) -> None:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    taken = [value.name for value in inputs]
    given = sorted(value.name for value in outputs)
    if taken not in ([INPUT], [OLDER_INPUT]) or given != sorted(OUTPUTS):
        raise Damaged("the model has other inputs and outputs than a student; export it again")
    if any(value.type != "tensor(float)" for value in outputs):
        raise Damaged("the model gives other types than a student; export it again")
    width, height = manifest.input_size
    images = inputs[0]
    if images.type != "tensor(uint8)" or list(images.shape[1:]) != [height, width, 3]:
        raise Damaged(
            f"the model takes {images.type} {images.shape}, and its manifest says "
            f"{width}×{height}: it does not belong to it"
        )


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as cause:
        raise missing_extra("running an ONNX model", "edge") from cause
    return onnxruntime
