"""Two small published detectors as proposers, written as somebody else would plug theirs in.

They know a fixed list of classes instead of free words, so a phrase must be one of them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image as PILImage

from secondlook.config.settings import ModelSettings
from secondlook.core.types import Image, Proposals
from secondlook.models.loading import digest_of
from secondlook_client.errors import BadOntology

COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote",
    "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book",
    "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip


class OnnxDetector:
    """What both have in common: one image at a time, a fixed input, a fixed list of classes."""

    classes: tuple[str, ...]
    size: tuple[int, int]
    """Width and height of the input."""

    def __init__(self, argument: str, options: ModelSettings) -> None:
        """``argument`` is the path of the ``.onnx`` file."""
        path = Path(argument)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        settings.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), settings)
        self.name = path.stem
        self.digest = digest_of([path])

    def propose(
        self, images: Sequence[Image], phrases: Sequence[str], floor: float
    ) -> list[Proposals]:
        """See ``secondlook.labeling.proposer.Proposer``."""
        unknown = [phrase for phrase in phrases if phrase not in self.classes]
        if unknown:
            raise BadOntology(f"{self.name} does not know {unknown}; it knows {self.classes}")
        columns = [self.classes.index(phrase) for phrase in phrases]
        found = []
        for image in images:
            relative, scores = self.detect(self._resized(image))
            kept = scores[:, columns].max(axis=1) >= floor
            scale = np.array([image.width, image.height] * 2, np.float32)
            boxes = (relative[kept] * scale).astype(np.float32)
            found.append(Proposals(boxes, scores[kept][:, columns].astype(np.float32)))
        return found

    def detect(
        self, pixels: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Relative xyxy boxes (N, 4) and scores (N, classes) of RGB pixels (H, W, 3), 0 … 255."""
        raise NotImplementedError

    def run(self, pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The network's outputs, without the batch's dimension."""
        batch = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)
        name = self._session.get_inputs()[0].name
        return [output[0] for output in self._session.run(None, {name: batch})]

    def _resized(self, image: Image) -> NDArray[np.float32]:
        full = PILImage.fromarray(image.pixels)
        return np.asarray(full.resize(self.size, PILImage.Resampling.BILINEAR), np.float32)


class FastestDet(OnnxDetector):
    """COCO's 80 classes from one 22 × 22 grid; a cell holds one box and one class."""

    classes = COCO
    size = (352, 352)

    def detect(
        self, pixels: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Trained on BGR in 0 … 1; the score is objectness^0.6 · class^0.4, as published."""
        (grid,) = self.run(pixels[..., ::-1] / 255)
        rows, columns = np.indices(grid.shape[1:], dtype=np.float32)
        sides = 1 / (1 + np.exp(-grid[3:5]))
        middle = (np.stack([columns, rows]) + np.tanh(grid[1:3])) / np.float32(grid.shape[1])
        boxes = np.concatenate([middle - sides / 2, middle + sides / 2]).reshape(4, -1).T
        scores = (grid[:1] ** 0.6 * grid[5:] ** 0.4).reshape(len(self.classes), -1).T
        best = scores.argmax(axis=1)
        return boxes, np.where(np.arange(scores.shape[1]) == best[:, None], scores, 0)


class RfbFaces(OnnxDetector):
    """Faces; gives relative boxes and the probabilities of background and face."""

    classes = ("face",)
    size = (320, 240)

    def detect(
        self, pixels: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Trained on RGB, brought to about -1 … 1."""
        scores, boxes = self.run((pixels - 127) / 128)
        return boxes, scores[:, 1:]
