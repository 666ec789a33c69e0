"""Opening a student on a device."""

import logging
from pathlib import Path

from secondlook.detector.manifest import INT8, read_manifest
from secondlook.detector.onnx_detector import OnnxDetector

log = logging.getLogger(__name__)


def open_student(folder: Path, precision: str = "auto", threads: int = 0) -> OnnxDetector:
    """Open a student folder, with its hashes checked and its self-test run.

    Raises ``NotFound``, ``Damaged``, ``BadSetting`` and ``MissingExtra``.
    """
    if precision == "int8" and INT8 not in read_manifest(folder).files:
        log.warning("this student has no int8 model; fp32 is used")
        precision = "fp32"
    return OnnxDetector.open(folder, precision, threads)
