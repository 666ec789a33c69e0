"""Samples as training batches: augmented views, their targets, and the loader.

A batch is a function of seed and step alone, so a training that was killed goes on with the same
images and nothing of their order must be saved.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from secondlook.core.boxes import iou
from secondlook.core.processors import available_cpus
from secondlook.core.types import Boxes, Pixels
from secondlook.datasets.image_cache import PixelCache, read_pixels, reason_of
from secondlook.datasets.samples import Sample, bad_sample
from secondlook.detector.runtime import stretch
from secondlook.training.augment import AnnotatedImage, annotated_image, augmented, plain_view
from secondlook.training.settings import TrainingSettings
from secondlook_client.errors import NotFound, SecondlookError

SAME_OBJECT_IOU = 0.95
"""IoU from which two labels of different classes are one object."""
CACHE_SCALE = 3
"""Decoded images are cached at no more than this many times the student's input: enough for the
smallest window, and a photo of 12 megapixels is 1.4 MB instead of 36."""
CACHE_BYTES = 512 * 2**20
"""Of decoded images, in all loader processes together."""
MAX_WORKERS = 8

Target = dict[str, Tensor]
"""What one image teaches, see ``targets_of``."""
BadRows = dict[int, str]
"""Samples that could not be read, by their place, with the cause."""
View = tuple[Tensor, Target, BadRows]
"""One image (3, H, W) uint8, its target, and what could not be read on the way to it."""
MAX_SUBSTITUTES = 10
"""Images that are tried in place of a bad one; with more the training ends soon anyway."""


class Batch(NamedTuple):
    """What one step learns from."""

    images: Tensor
    """(B, 3, H, W) uint8."""
    targets: list[Target]
    """One an image."""
    bad: BadRows


def loader(
    samples: Sequence[Sample],
    classes: int,
    size: tuple[int, int],
    settings: TrainingSettings,
    *,
    steps: range,
    workers: int,
    part: tuple[int, int] = (0, 1),
    pin: bool = False,
) -> Iterator[Batch]:
    """The batches of ``steps``, with ``settings.batch`` images of ``size`` (width, height) each.

    ``part`` (rank, processes) takes every so many of a batch, for a training on several devices;
    each gets at least one. ``workers`` processes prepare them; 0: this one.
    """
    rank, processes = part
    batch = settings.batch
    places = (
        [*range(step * batch, (step + 1) * batch)][rank::processes] or [step * batch + rank % batch]
        for step in steps
    )
    views = Views(samples, classes, size, settings, CACHE_BYTES // max(1, workers))
    data: DataLoader[View] = DataLoader(
        views,
        batch_sampler=places,
        num_workers=workers,
        collate_fn=_collated,
        pin_memory=pin,
    )
    return iter(data)


def workers_for(asked: int, device: str, processes: int) -> int:
    """Loader processes: as ``asked``, or what helps on this machine for -1.

    On a CPU the training itself takes all cores; a GPU waits for images otherwise.
    """
    if asked >= 0:
        return asked
    if device == "cpu":
        return 0
    return max(1, min(MAX_WORKERS, available_cpus() // processes - 1))


class Views(Dataset[View]):
    """An endless row of views; every ``len(samples)`` of them show each image once.

    In place of an image that cannot be read any more the next one is shown.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        classes: int,
        size: tuple[int, int],
        settings: TrainingSettings,
        cache_bytes: int,
    ) -> None:
        """``size``: width and height of the student's images."""
        # Before any view: labels that a window cuts stay regions to ignore in either case.
        self._samples = samples if settings.use_ignore else [*map(_without_ignore, samples)]
        self._classes, self._size, self._settings = classes, size, settings
        self._cache = PixelCache(cache_bytes)
        self._order: tuple[int, NDArray[np.intp]] = (-1, np.zeros(0, np.intp))

    def __getitem__(self, place: int) -> View:
        """The view at ``place`` of the row."""
        epoch, within = divmod(place, len(self._samples))
        if self._order[0] != epoch:
            rng = np.random.default_rng([self._settings.seed, 1, epoch])
            self._order = (epoch, rng.permutation(len(self._samples)))
        image, bad = self._image(within)
        if self._settings.augment:
            rng = np.random.default_rng([self._settings.seed, 2, place])
            view = augmented(image, self._size, rng)
        else:
            view = plain_view(image, self._size)
        planes = torch.from_numpy(np.require(view.pixels, requirements="W")).permute(2, 0, 1)
        return planes, targets_of(view, self._classes), bad

    def _image(self, within: int) -> tuple[AnnotatedImage, BadRows]:
        """The image at a place of the epoch, or the first behind it that can be read."""
        bad: BadRows = {}
        rows = self._order[1]
        for place in range(within, within + min(len(rows), MAX_SUBSTITUTES)):
            row = int(rows[place % len(rows)])
            sample = self._samples[row]
            try:
                pixels = self._cache.get(row, lambda sample=sample: _shrunk(sample, self._size))  # type: ignore[misc]
                return annotated_image(sample, pixels), bad
            except SecondlookError as cause:
                bad[row] = sample.problem or reason_of(cause)
        width, height = self._size
        nothing = replace(bad_sample(Path(), "", ""), width=width, height=height)
        return annotated_image(nothing, np.zeros((height, width, 3), np.uint8)), bad


def targets_of(image: AnnotatedImage, classes: int) -> Target:
    """What one image teaches about so many classes.

    ``class_labels`` (N,) and ``boxes`` (N, 4) cxcywh in [0, 1] are what the models ask for, N
    objects; ``hot`` (N, classes) has every class of an object, ``ignore`` (M, 4) and ``negatives``
    (K, 4), xyxy in [0, 1], come with the classes they speak of, ``ignore_hot`` and
    ``negative_hot``.
    """
    objects, hot = _merged(image.boxes, image.classes, classes)
    scale = np.array([*image.size, *image.size], np.float32)
    corners = image.boxes[objects] / scale
    low, high = corners[:, :2], corners[:, 2:]
    return {
        "class_labels": torch.from_numpy(image.classes[objects].astype(np.int64)),
        "boxes": torch.from_numpy(np.concatenate([(low + high) / 2, high - low], 1)).float(),
        "hot": torch.from_numpy(hot),
        "ignore": torch.from_numpy(image.ignore / scale).float(),
        "ignore_hot": torch.from_numpy(_one_hot(image.ignore_classes, classes)),
        "negatives": torch.from_numpy(image.negatives / scale).float(),
        "negative_hot": torch.from_numpy(_one_hot(image.negative_classes, classes)),
    }


def _merged(
    boxes: Boxes, classes: NDArray[np.int64], count: int
) -> tuple[list[int], NDArray[np.float32]]:
    """One row an object, the first of its labels standing for it, and all its classes."""
    alike = iou(boxes, boxes) >= SAME_OBJECT_IOU
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
    """(N, count); a row of ones for class -1, which stands for every class."""
    eye = np.vstack([np.eye(count, dtype=np.float32), np.ones((1, count), np.float32)])
    return eye[classes]


def _without_ignore(sample: Sample) -> Sample:
    return replace(sample, ignore=sample.ignore[:0], ignore_classes=sample.ignore_classes[:0])


def _shrunk(sample: Sample, size: tuple[int, int]) -> Pixels:
    if sample.problem:
        raise NotFound(sample.problem)
    pixels = read_pixels(sample)
    height, width = pixels.shape[:2]
    scale = max(size[0] * CACHE_SCALE / width, size[1] * CACHE_SCALE / height)
    if scale >= 1:
        return pixels
    return stretch(pixels, (max(1, round(width * scale)), max(1, round(height * scale))))


def _collated(views: Sequence[View]) -> Batch:
    bad = {row: cause for _, _, found in views for row, cause in found.items()}
    return Batch(torch.stack([image for image, _, _ in views]), [t for _, t, _ in views], bad)
