"""What a student in torch finds: on held-out images while it learns, and for the parity check."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from secondlook.core.types import Pixels
from secondlook.datasets.image_cache import PixelCache, read_pixels
from secondlook.datasets.samples import Sample
from secondlook.detector.detections import Detections, detections_of
from secondlook.detector.runtime import stretch
from secondlook.evaluation.average_precision import average_precision

FLOOR = 0.01
"""Scores below it change no figure that anyone reads."""
AT_ONCE = 16
LOOKED_AT, KEPT_BYTES = 500, 256 * 2**20
"""Of the held-out images while it learns; all of them count in the end."""


def as_input(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 RGB as ``pixel_values``: float32 in [0, 1], channels last."""
    return images.to(torch.float32, memory_format=torch.channels_last) / 255


def seen(sample: Sample, size: tuple[int, int]) -> Pixels:
    """(H, W, 3): what a student with images of ``size`` (width, height) is shown of a sample."""
    return stretch(read_pixels(sample), size)


def predict(
    model: nn.Module,
    samples: Sequence[Sample],
    size: tuple[int, int],
    *,
    floor: float = FLOOR,
    show: Callable[[int], Pixels] | None = None,
    told: Callable[[int], None] | None = None,
) -> list[Detections]:
    """What ``model`` finds on each sample, with scores of ``floor`` and more.

    ``size`` is the width and height of the model's images. ``show(i)`` may give the pixels of
    sample ``i`` at that size where somebody has them already; ``told`` hears how many are done.
    Raises what ``read_pixels`` raises. The model is used as it is: put it into ``eval()`` first.
    """
    place = show or (lambda row: seen(samples[row], size))
    found: list[Detections] = []
    for first in range(0, len(samples), AT_ONCE):
        rows = range(first, min(first + AT_ONCE, len(samples)))
        sizes = [(samples[row].width, samples[row].height) for row in rows]
        found += found_on(model, [place(row) for row in rows], sizes, floor)
        if told:
            told(len(found))
    return found


@torch.inference_mode()
def found_on(
    model: nn.Module,
    images: Sequence[Pixels],
    sizes: Sequence[tuple[int, int]],
    floor: float = FLOOR,
) -> list[Detections]:
    """What ``model`` finds on images of its own input size, all at once.

    ``sizes``: width and height that each image had before; the boxes are in those pixels.
    """
    device = next(model.parameters()).device
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    said = model(pixel_values=as_input(batch.to(device)))
    scores = said.logits.float().sigmoid().cpu().numpy()
    boxes = _corners(said.pred_boxes.float()).cpu().numpy()
    return [
        detections_of(of_image, places, *size, floor)
        for of_image, places, size in zip(scores, boxes, sizes, strict=True)
    ]


class HeldOut:
    """The held-out images that are looked at again and again while a student learns."""

    def __init__(
        self, samples: Sequence[Sample], classes: Sequence[str], size: tuple[int, int]
    ) -> None:
        """``size``: width and height of the student's images. Of many samples every so many are
        used: those of a folder come in its order, and the first may all be of one place."""
        self._samples = samples[:: math.ceil(len(samples) / LOOKED_AT)]
        self._classes, self._size = classes, size
        self._kept = PixelCache(KEPT_BYTES)

    def map50(self, model: nn.Module) -> float:
        """What ``model`` finds of them, [0, 1]."""
        found = predict(model, self._samples, self._size, show=self._show)
        return average_precision(self._samples, found, self._classes).map50

    def _show(self, row: int) -> Pixels:
        return self._kept.get(row, lambda: seen(self._samples[row], self._size))


def _corners(boxes: Tensor) -> Tensor:
    """Centre and size to xyxy, both relative to the image."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)
