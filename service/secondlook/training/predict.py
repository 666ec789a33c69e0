"""A torch student's detections: on held-out images while it learns, and for the parity check."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secondlook.core.boxes import clip, iou
from secondlook.core.types import Pixels
from secondlook.datasets.image_cache import PixelCache, read_pixels, reason_of
from secondlook.datasets.samples import Sample
from secondlook.detector.detections import Detections, resolve_contrasts, select_detections
from secondlook.detector.runtime import stretch
from secondlook.evaluation.average_precision import average_precision
from secondlook_client.errors import SecondlookError

FLOOR = 0.01
"""Scores below it change no figure that anyone reads."""
BATCH = 16
VALIDATED, CACHE_BYTES = 500, 256 * 2**20
"""Held-out images that are looked at while a student learns (all of them count in the end), and
what their pixels may take."""


class Validator:
    """Measures a student on the same held-out images again and again while it learns."""

    def __init__(
        self,
        samples: Sequence[Sample],
        classes: Sequence[str],
        groups: Sequence[str],
        size: tuple[int, int],
        on_bad: Callable[[Sample, str], None],
    ) -> None:
        """``groups`` as in a student's manifest. ``size``: width and height of the student's
        images. Of many samples every n-th is used: those of a folder come in its order, and the
        first may all be of one place. ``on_bad`` is called with one that cannot be read, which is
        not measured."""
        some = samples[:: math.ceil(len(samples) / VALIDATED)]
        self._samples = [sample for sample in some if not sample.problem]
        self._classes, self._groups = classes, groups
        self._size, self._on_bad = size, on_bad
        self._bad: set[int] = set()
        self._cache = PixelCache(CACHE_BYTES)

    def map50(self, model: nn.Module) -> float:
        """Mean average precision of ``model`` at IoU 0.5, [0, 1]."""
        found = predict(model, self._samples, self._size, groups=self._groups, pixels=self._pixels)
        rows = [row for row in range(len(found)) if row not in self._bad]
        samples, found = [self._samples[row] for row in rows], [found[row] for row in rows]
        return average_precision(samples, found, self._classes).map50 or 0.0

    def _pixels(self, row: int) -> Pixels:
        sample = self._samples[row]
        try:
            pixels = self._cache.get(row, lambda: model_input(sample, self._size))
        except SecondlookError as cause:
            self._bad.add(row)
            self._on_bad(sample, reason_of(cause))
            return np.zeros((self._size[1], self._size[0], 3), np.uint8)
        self._bad.discard(row)
        return pixels


def predict(
    model: nn.Module,
    samples: Sequence[Sample],
    size: tuple[int, int],
    *,
    floor: float = FLOOR,
    groups: Sequence[str] = (),
    pixels: Callable[[int], Pixels] | None = None,
) -> list[Detections]:
    """What ``model`` finds on each sample, with scores of ``floor`` and more.

    ``size`` is the width and height of the model's images. Of contrast ``groups``, as in a
    student's manifest, the class with the best score is kept: a device goes by calibrated
    probabilities, which a model in training has not. ``pixels(i)`` may give those of sample
    ``i`` at that size where the caller has them already. Raises what ``read_pixels`` raises. The
    model is used as it is: put it into ``eval()`` first.
    """
    read = pixels or (lambda row: model_input(samples[row], size))
    found: list[Detections] = []
    for first in range(0, len(samples), BATCH):
        rows = range(first, min(first + BATCH, len(samples)))
        sizes = [(samples[row].width, samples[row].height) for row in rows]
        found += predict_images(model, [read(row) for row in rows], sizes, floor)
    if groups:
        found = [resolve_contrasts(one, one.scores, groups) for one in found]
    return found


@torch.inference_mode()
def predict_images(
    model: nn.Module,
    images: Sequence[Pixels],
    sizes: Sequence[tuple[int, int]],
    floor: float = FLOOR,
) -> list[Detections]:
    """What ``model`` finds on images of its own input size, in one batch.

    ``sizes``: width and height that each image had before; the boxes are in those pixels.
    """
    device = next(model.parameters()).device
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    output = model(pixel_values=to_pixel_values(batch.to(device)))
    scores = output.logits.float().sigmoid().cpu().numpy()
    boxes = _corners(output.pred_boxes.float()).cpu().numpy()
    return [
        select_detections(of_image, places, *size, floor)
        for of_image, places, size in zip(scores, boxes, sizes, strict=True)
    ]


@torch.inference_mode()
def edge_bins(
    model: nn.Module, image: Pixels, found: Detections, size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How a model spreads the edges of the N boxes that it ``found`` on one image.

    ``image`` is of the model's input size and was ``size`` (width, height) before. Gives (N, 4, K)
    probabilities of the K distances by which left, top, right and bottom may lie outside of the
    model's first guess, and these distances, (K,), in sides of that guess.
    """
    from transformers.models.d_fine.modeling_d_fine import weighting_function

    student: Any = model
    decoder = student.model.decoder
    batch = torch.from_numpy(np.stack([image])).permute(0, 3, 1, 2)
    output = student(pixel_values=to_pixel_values(batch.to(student.device)))
    boxes = _corners(output.pred_boxes[0].float()).cpu().numpy()
    pixel = clip(boxes * np.array([*size, *size], np.float32), *size)
    queries = iou(found.boxes, pixel).argmax(axis=1)
    logits = output.intermediate_predicted_corners[0, -1].float()
    bins = logits.reshape(len(pixel), 4, -1).softmax(dim=2).cpu().numpy()[queries]
    distances = weighting_function(decoder.max_num_bins, decoder.up, decoder.reg_scale)
    return bins, (distances / decoder.reg_scale.abs()).flatten().cpu().numpy()


def to_pixel_values(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 RGB as ``pixel_values``: float32 in [0, 1], channels last."""
    return images.to(torch.float32, memory_format=torch.channels_last) / 255


def model_input(sample: Sample, size: tuple[int, int]) -> Pixels:
    """(H, W, 3) uint8: a sample stretched to a student's images of ``size`` (width, height)."""
    return stretch(read_pixels(sample), size)


def _corners(boxes: Tensor) -> Tensor:
    """Centre and size to xyxy, both relative to the image."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)
