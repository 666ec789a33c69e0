"""A trained student in torch, which says how it spreads the edges of its boxes.

The ONNX file of a student has no output for that (decision 0044).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.utils import logging

from secondlook.core.types import Pixels
from secondlook.detector.detections import Detections
from secondlook.detector.runtime import stretch
from secondlook.models.embedded import EMBEDDED
from secondlook.selection.expected_change import gradient_length
from secondlook.training.export.inference_graph import FeatureMaps
from secondlook.training.model import input_size_of, load_student
from secondlook.training.predict import BATCH, edge_bins, predict_images, to_pixel_values
from secondlook.training.progress import TORCH
from secondlook_client.errors import NotFound

DEMO = "demo"
"""The embedded student of the demo world."""
WEIGHTS = "model.safetensors"


class TorchStudent:
    """A student in torch, on the CPU."""

    def __init__(self, model: nn.Module, name: str) -> None:
        """``name`` says which student it is."""
        config: Any = model.config
        self.name = name
        self.classes: tuple[str, ...] = tuple(
            config.id2label[key] for key in sorted(config.id2label, key=int)
        )
        self._model, self._size = model, input_size_of(model)

    @classmethod
    def open(cls, folder: str) -> "TorchStudent":
        """The student in a folder that ``secondlook distill`` wrote, or in its ``torch`` folder;
        ``demo`` is the embedded one. Raises ``NotFound`` for a folder without weights of torch, and
        what ``load_student`` raises."""
        place = EMBEDDED / "student-pico" if folder == DEMO else Path(folder)
        found = next((one for one in (place, place / TORCH) if (one / WEIGHTS).is_file()), None)
        if found is None:
            raise NotFound(
                f"{folder} has no {WEIGHTS}; give the --out folder of `secondlook distill`, which "
                f"keeps the student's weights in {TORCH}/"
            )
        logging.disable_progress_bar()
        with (found / WEIGHTS).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(load_student(found), f"student {place.name or folder}@{digest[:12]}")

    @property
    def backbone(self) -> nn.Module:
        """Its feature extractor: (B, 3, H, W) pixels in [0, 1] to a list of maps (B, C, h, w)."""
        return FeatureMaps(self._model)

    def detect(self, images: Sequence[Pixels], floor: float = 0.05) -> list[Detections]:
        """Find objects on images of any size, (H, W, 3) uint8 RGB, with scores of ``floor`` and
        more; ``BATCH`` at a time."""
        found: list[Detections] = []
        for at in range(0, len(images), BATCH):
            some = images[at : at + BATCH]
            sizes = [(image.shape[1], image.shape[0]) for image in some]
            inputs = [stretch(image, self._size) for image in some]
            found += predict_images(self._model, inputs, sizes, floor)
        return found

    def expected_change(self, image: Pixels) -> float:
        """How much an image of any size would change the student, ≥ 0: see
        ``selection.expected_change``."""
        student: Any = self._model
        layers, seen = student.model.decoder.class_embed, list[Tensor]()
        hooks = [
            one.register_forward_hook(lambda _, given, out: seen.append(given[0])) for one in layers
        ]
        try:
            with torch.inference_mode():
                batch = torch.from_numpy(np.stack([stretch(image, self._size)]))
                output = student(pixel_values=to_pixel_values(batch.permute(0, 3, 1, 2)))
        finally:
            for hook in hooks:
                hook.remove()
        probabilities = output.logits[0].float().sigmoid().numpy()
        return gradient_length(seen[-1][0].float().numpy(), probabilities)

    def edge_bins(
        self, image: Pixels, found: Detections
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See ``predict.edge_bins``; ``image`` is of any size and ``found`` in its pixels."""
        size = (image.shape[1], image.shape[0])
        return edge_bins(self._model, stretch(image, self._size), found, size)
