"""Which files of a student a device needs, and opening them."""

import logging
from collections.abc import Iterable
from pathlib import Path

from secondlook.detector.manifest import FP32, INT8, SELF_TEST, read_manifest
from secondlook.detector.onnx_detector import OnnxDetector

log = logging.getLogger(__name__)

PRECISIONS = ("auto", "fp32", "int8")


def files_needed(names: Iterable[str], precision: str) -> tuple[str, ...]:
    """Of the files that a student has, those that a device fetches.

    Without an int8 model, which an export may have left out, int8 means fp32.
    """
    model = INT8 if precision == "int8" and INT8 in set(names) else FP32
    return (model, SELF_TEST)


def open_student(folder: Path, precision: str = "auto", threads: int = 0) -> OnnxDetector:
    """Open a student folder, with its hashes checked and its self-test run.

    Raises ``NotFound``, ``Damaged``, ``BadSetting`` and ``MissingExtra``.
    """
    if precision == "int8" and INT8 not in read_manifest(folder).files:
        log.warning("this student has no int8 model; fp32 is used")
        precision = "fp32"
    return OnnxDetector.open(folder, precision, threads)
