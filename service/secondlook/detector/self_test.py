"""The self-test of a student: an image, and the detections of the model when it was exported.

A device runs it before it uses a model. The hashes show that the bytes are right; this shows that
onnxruntime, on this processor, computes from them what it computed where they were exported.
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secondlook.core.boxes import iou
from secondlook.core.files import replacing
from secondlook.core.types import Pixels
from secondlook.detector.detections import NMS_IOU, Detections
from secondlook_client.errors import Damaged

MAX_EXPECTED = 8
"""Detections expected of an image: the best ones."""
MIN_EXPECTED_SCORE = 0.1
"""Lowest score of an expected detection, besides the best: rounding ranks those near zero."""
MAX_UNPACKED = 2**25
"""Bytes; the image of the largest input takes half of it."""


@dataclass(frozen=True)
class Tolerance:
    """How far a detection may be from the expected one."""

    score: float
    iou: float


TOLERANCES = {"fp32": Tolerance(0.02, NMS_IOU), "int8": Tolerance(0.15, 0.6)}
"""Processors sum in another order, so scores differ in the last digits; where two queries
nearly agree, the other one may be kept. int8 differs more: x86 without VNNI adds pairs of
products in 16 bits, which saturate."""


@dataclass(frozen=True, eq=False)
class SelfTest:
    """An image at the input's size and what each precision found on it."""

    image: Pixels
    expected: Mapping[str, Detections]
    """By precision, ``fp32`` or ``int8``; at most ``MAX_EXPECTED``, in pixels of ``image``."""


def write_self_test(path: Path, test: SelfTest) -> None:
    """Write it, compressed, atomically. Raises ``StorageFull``.

    Of the detections, best first, only those that can be expected again are kept.
    """
    arrays: dict[str, NDArray[np.generic]] = {"image": test.image}
    for precision, found in test.expected.items():
        count = min(MAX_EXPECTED, max(1, int((found.scores >= MIN_EXPECTED_SCORE).sum())))
        arrays[f"{precision}_boxes"] = found.boxes[:count]
        arrays[f"{precision}_scores"] = found.scores[:count]
        arrays[f"{precision}_classes"] = found.classes[:count]
    with replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_self_test(content: bytes, precision: str, input_size: tuple[int, int]) -> SelfTest:
    """The image and what one precision is expected to find.

    Raises ``Damaged`` whatever the bytes.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_UNPACKED:
                raise ValueError("too large")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            image = arrays["image" if "image" in arrays else "picture"]  # as older exports say
            found = Detections(
                np.asarray(arrays[f"{precision}_boxes"], np.float32),
                np.asarray(arrays[f"{precision}_scores"], np.float32),
                np.asarray(arrays[f"{precision}_classes"], np.int64),
            )
        width, height = input_size
        if image.shape != (height, width, 3) or image.dtype != np.uint8:
            raise ValueError("an image of another size")
    except Exception as cause:  # zip and npy readers raise what they like
        raise Damaged("the self-test of the student cannot be read; fetch it again") from cause
    return SelfTest(image, {precision: found})


def check(found: Detections, expected: Detections, tolerance: Tolerance) -> None:
    """Compare what was found on the image with what is expected, as sets.

    Each expected detection needs one of its class, at nearly its place, with nearly its score; and
    nothing may be found with a clearly better score than the best expected one. Raises ``Damaged``.
    """
    free = np.ones(len(found), dtype=bool)
    overlaps = iou(expected.boxes, found.boxes)
    for row in range(len(expected)):
        fits = free & (found.classes == expected.classes[row]) & (overlaps[row] >= tolerance.iou)
        fits &= np.abs(found.scores - expected.scores[row]) <= tolerance.score
        if not fits.any():
            raise _failed()
        free[int(np.argmax(np.where(fits, overlaps[row], -1)))] = False
    most = float(expected.scores.max(initial=0.0)) + tolerance.score
    if (found.scores > most).any():
        raise _failed()


def _failed() -> Damaged:
    return Damaged(
        "the model does not find on the self-test's image what it found when it was exported; "
        "fetch or export the student again, or use another version of onnxruntime"
    )
