"""A trained detector as stage two: ``onnx:PATH``, asked "Is this a <class>?" about crops.

The detector looks at the crop of a box, twice: as it is, and small in a grey frame, since detectors
are trained on whole scenes. Yes is what it sees of the class that is asked about, no is the
strongest other class; boxes count only where they are about where the object is in a crop. What it
has no class for it cannot be asked: it abstains, and the box is unsure. ``PATH`` is that of
``onnx_detector``, with the same options behind it.

It knows what kind of object it sees and not much of where: a box that is half beside its object is
often answered with yes. Attributes ("is the dog wet?") it does not know.
"""

import itertools
import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from secondlook.config.settings import ModelSettings
from secondlook.core import boxes as box_ops
from secondlook.core.types import Pixels, Proposals, VQAQuery
from secondlook.labeling.verifier import CROP_MARGIN
from secondlook.models import onnx_detector
from secondlook.models.onnx_detector import GREY, DetectorProposer
from secondlook_client.values import Answer

FLOOR = 0.001
"""Of the detector's scores: weak ones tell classes apart too."""
FRAME = 2.6
"""How many times as wide and high as the crop its grey frame is."""
FRAMED_SIDE = 256
"""Longer side of the crop in its frame, pixels at most."""
INNER = (1 / (1 + 2 * CROP_MARGIN), 1 / (1 + 2 * CROP_MARGIN) / FRAME)
"""The share of each view's sides that the object has, which is in the middle."""
MATCH_IOU = 0.3
"""IoU from which a detection is about the object that the crop is of."""
SLOPE, OFFSET = 1.4, 3.5
NOISE, FAINT = 0.005, 0.02
"""P(yes) is the logistic function of

    SLOPE · log((own + NOISE) / (other + NOISE)) + OFFSET · most / (most + FAINT)

with the best scores of the class that is asked about and of any other, and the larger of the two.
The second term is there because the best of 79 other classes is high by chance alone; where nothing
is seen, P(yes) is one half. Fitted to YOLOX-Nano on every second image of COCO128, each box asked
about as its own class and as another one; the figures of ``bench verify_labels`` are of the other
images."""
_QUESTION = re.compile(r"\s*is this an? (.+?)\s*\?\s*", re.IGNORECASE)


class DetectorVerifier:
    """Answers "Is this a <class>?" by what a detector sees on the crop. Thread-safe."""

    min_side = 32

    def __init__(self, detector: DetectorProposer) -> None:
        self._detector = detector
        self.name = detector.name
        self.digest = detector.digest

    def answer(self, queries: Sequence[VQAQuery]) -> list[tuple[Answer, ...]]:
        """See ``labeling.verifier.Verifier``."""
        views = [view for query in queries for view in (query.pixels, framed(query.pixels))]
        found = self._detector.detect(views, FLOOR)
        strengths = [
            _strengths(pixels, one, inner)
            for pixels, one, inner in zip(views, found, itertools.cycle(INNER), strict=False)
        ]
        answers = []
        for place, query in enumerate(queries):
            mean = (strengths[2 * place] + strengths[2 * place + 1]) / 2
            answers.append(tuple(self._one(question, mean) for question in query.questions))
        return answers

    def _one(self, question: str, strengths: NDArray[np.floating]) -> Answer:
        asked = _QUESTION.fullmatch(question)
        column = self._detector.vocabulary.find(asked[1]) if asked else None
        if column is None:
            return Answer(None, raw="no class of the detector; ask 'Is this a <class>?'")
        own = float(strengths[column])
        others = np.delete(strengths, column)
        other = float(others.max(initial=0))
        most = max(own, other)
        ratio = math.log((own + NOISE) / (other + NOISE))
        p_yes = _logistic(SLOPE * ratio + OFFSET * most / (most + FAINT))
        if own >= other:
            return Answer(p_yes, raw=f"yes ({own:.2f})")
        best = int(strengths.argmax())
        return Answer(p_yes, raw=f"{self._detector.classes[best]} ({other:.2f}, not {own:.2f})")


def framed(pixels: Pixels) -> Pixels:
    """The crop in the middle of a grey frame ``FRAME`` times as large, (h, w, 3)."""
    height, width = pixels.shape[:2]
    factor = min(1.0, FRAMED_SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = np.asarray(PILImage.fromarray(pixels).resize(size, PILImage.Resampling.BILINEAR))
    canvas = np.full((round(size[1] * FRAME), round(size[0] * FRAME), 3), GREY, np.uint8)
    left, top = (canvas.shape[1] - size[0]) // 2, (canvas.shape[0] - size[1]) // 2
    canvas[top : top + size[1], left : left + size[0]] = small
    return canvas


def _strengths(pixels: Pixels, found: Proposals, inner: float) -> NDArray[np.float32]:
    """(classes,): the best score of each class where the object is: in the middle of the view."""
    height, width = pixels.shape[:2]
    low, high = (1 - inner) / 2, (1 + inner) / 2
    middle = np.array([[width * low, height * low, width * high, height * high]], np.float32)
    matching = box_ops.iou(found.boxes, middle)[:, 0] >= MATCH_IOU
    best: NDArray[np.float32] = found.scores[matching].max(axis=0, initial=0)
    return best


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def load(argument: str, options: ModelSettings) -> DetectorVerifier:
    """The detector at ``argument``. Raises what ``onnx_detector.load`` raises."""
    return DetectorVerifier(onnx_detector.load(argument, options))
