"""Batches of augmented images, each a function of seed and place alone, so nothing of their
order must be kept to go on with a training that was killed."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from secondlook.core import boxes as box_ops
from secondlook.core.types import Boxes, Pixels
from secondlook.datasets.image_cache import PixelCache, read_pixels
from secondlook.datasets.samples import Sample
from secondlook.detector.runtime import stretch
from secondlook.training.augment import Scene, augmented, plain_view, scene_of
from secondlook.training.settings import TrainingSettings

# A sample as the loss wants it: boxes normalised, several classes an object.

SAME = 0.95
"""IoU from which two labels of different classes are one object."""


def targets_of(
    size: tuple[int, int],
    boxes: Boxes,
    classes: NDArray[np.int64],
    ignore: Boxes,
    ignore_classes: NDArray[np.int64],
    negatives: Boxes,
    negative_classes: NDArray[np.int64],
    count: int,
) -> dict[str, Tensor]:
    """What one image of ``size`` (width, height) teaches about ``count`` classes.

    Boxes are pixel xyxy. ``class_labels`` (N,) and ``boxes`` (N, 4) cxcywh in [0, 1] are what the
    models ask for, N objects; ``hot`` (N, count) has every class of an object, ``ignore`` (M, 4)
    and ``negatives`` (K, 4), xyxy in [0, 1], come with the classes they speak of; -1 is each class.
    """
    objects, hot = _merged(boxes, classes, count)
    scale = np.array([*size, *size], np.float32)
    corners = boxes[objects] / scale
    low, high = corners[:, :2], corners[:, 2:]
    return {
        "class_labels": torch.from_numpy(classes[objects].astype(np.int64)),
        "boxes": torch.from_numpy(np.concatenate([(low + high) / 2, high - low], 1)).float(),
        "hot": torch.from_numpy(hot),
        "ignore": torch.from_numpy(ignore / scale).float(),
        "ignore_hot": torch.from_numpy(_one_hot(ignore_classes, count)),
        "negatives": torch.from_numpy(negatives / scale).float(),
        "negative_hot": torch.from_numpy(_one_hot(negative_classes, count)),
    }


def _merged(
    boxes: Boxes, classes: NDArray[np.int64], count: int
) -> tuple[list[int], NDArray[np.float32]]:
    """One row an object, the first of its labels standing for it, and all its classes."""
    alike = box_ops.iou(boxes, boxes) >= SAME if len(boxes) else np.zeros((0, 0), bool)
    objects: list[int] = []
    hot: list[NDArray[np.float32]] = []
    for row in range(len(boxes)):
        for place, first in enumerate(objects):
            if alike[first, row] and not hot[place][classes[row]]:
                hot[place][classes[row]] = 1
                break
        else:
            objects.append(row)
            hot.append(_one_hot(classes[row : row + 1], count)[0])
    return objects, np.stack(hot) if hot else np.zeros((0, count), np.float32)


def _one_hot(classes: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    """(N, count); a row of ones for class -1."""
    eye = np.vstack([np.eye(count, dtype=np.float32), np.ones((1, count), np.float32)])
    return eye[classes]


REACH = 3
"""Decoded images are kept at no more than this many times the student's input: enough for the
smallest window, and a photo of 12 megapixels is 1.4 MB instead of 36."""
CACHED_BYTES = 512 * 2**20
"""Of decoded images, in all processes that prepare them together."""
MOST_WORKERS = 8

Batch = tuple[Tensor, list[dict[str, Tensor]]]
"""Images (B, 3, H, W) uint8 and a target of each, see ``targets.targets_of``."""


@dataclass(frozen=True)
class Look:
    """How samples become views."""

    classes: int
    size: tuple[int, int]
    """Width and height of the student's images."""
    seed: int
    augment: bool = True
    use_ignore: bool = True


def look_of(settings: TrainingSettings, classes: int, size: tuple[int, int]) -> Look:
    """The look of a training, of images of ``size`` (width, height)."""
    return Look(classes, size, settings.seed, settings.augment, settings.use_ignore)


class Views(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """An endless row of views; every ``len(samples)`` of them show each image once."""

    def __init__(self, samples: Sequence[Sample], look: Look, cached_bytes: int) -> None:
        # Before any view: labels that a window cuts stay regions to ignore in either case.
        self._samples = samples if look.use_ignore else [*map(_without_ignore, samples)]
        self._look = look
        self._cache = PixelCache(cached_bytes)
        self._order: tuple[int, NDArray[np.intp]] = (-1, np.zeros(0, np.intp))

    def __getitem__(self, place: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The image (3, H, W) uint8 at ``place`` of the row, and its target."""
        epoch, within = divmod(place, len(self._samples))
        if self._order[0] != epoch:
            rng = np.random.default_rng([self._look.seed, 1, epoch])
            self._order = (epoch, rng.permutation(len(self._samples)))
        row = int(self._order[1][within])
        sample = self._samples[row]
        scene = scene_of(sample, self._cache.get(row, lambda: _shrunk(sample, self._look.size)))
        if self._look.augment:
            rng = np.random.default_rng([self._look.seed, 2, place])
            seen = augmented(scene, self._look.size, rng)
        else:
            seen = plain_view(scene, self._look.size)
        planes = torch.from_numpy(np.require(seen.pixels, requirements="W")).permute(2, 0, 1)
        return planes, self._target(seen)

    def _target(self, seen: Scene) -> dict[str, Tensor]:
        return targets_of(
            seen.size,
            seen.boxes,
            seen.classes,
            seen.ignore,
            seen.ignore_classes,
            seen.negatives,
            seen.negative_classes,
            self._look.classes,
        )


def _without_ignore(sample: Sample) -> Sample:
    return replace(sample, ignore=sample.ignore[:0], ignore_classes=sample.ignore_classes[:0])


def _shrunk(sample: Sample, size: tuple[int, int]) -> Pixels:
    pixels = read_pixels(sample)
    height, width = pixels.shape[:2]
    least = min(1.0, max(size[0] * REACH / width, size[1] * REACH / height))
    if least == 1.0:
        return pixels
    return stretch(pixels, (max(1, round(width * least)), max(1, round(height * least))))


def loader(
    samples: Sequence[Sample],
    look: Look,
    *,
    batch: int,
    steps: range,
    workers: int,
    part: tuple[int, int] = (0, 1),
    pin: bool = False,
) -> Iterator[Batch]:
    """The batches of ``steps``, ``batch`` images each in all.

    ``part`` (rank, processes) takes every so many of a batch, for a training on several devices;
    each gets at least one. ``workers`` processes prepare them; 0: this one.
    """
    rank, processes = part
    places = (
        [*range(step * batch, (step + 1) * batch)][rank::processes] or [step * batch + rank % batch]
        for step in steps
    )
    views = Views(samples, look, CACHED_BYTES // max(1, workers))
    data: DataLoader[tuple[Tensor, dict[str, Tensor]]] = DataLoader(
        views,
        batch_sampler=places,
        num_workers=workers,
        collate_fn=_collated,
        pin_memory=pin,
    )
    return iter(data)


def workers_for(asked: int, device: str, processes: int) -> int:
    """Processes that prepare images: as ``asked``, or what helps on this machine for -1.

    On a CPU the training itself takes all cores; a GPU waits for images otherwise.
    """
    if asked >= 0:
        return asked
    if device == "cpu":
        return 0
    return max(1, min(MOST_WORKERS, (os.cpu_count() or 1) // processes - 1))


def _collated(rows: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> Batch:
    return torch.stack([image for image, _ in rows]), [target for _, target in rows]
