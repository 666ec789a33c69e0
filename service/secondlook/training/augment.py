"""Augmentation: each image moved, scaled, mirrored and in other light every time it is learnt.

Geometry and colour are torchvision's (``transforms.v2``). A view is a function of its random
generator alone, whichever process makes it, so a training that was killed goes on with the same
images. What is cut off teaches nothing: a label of which too little is left becomes a region to
ignore, since it is neither the whole object nor background.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import BoundingBoxes

from secondlook.core.boxes import clip
from secondlook.core.types import Boxes, Pixels
from secondlook.datasets.samples import Sample, boxes_array, class_array
from secondlook.detector.runtime import stretch

KEPT_SHARE = 0.3
"""An object cut by the window stays a label while this share of its box is inside."""
MIN_SIDE = 1.0
"""Pixels of the student's input that a label's sides must have."""
SCALES = (0.6, 1.3)
"""Of the window against the image's sides; above 1 the image stands in a black frame."""
ASPECT = 0.15
"""How far the window's sides may part, as a natural logarithm."""
WHOLE_SHARE = 0.25
"""Share of the views without a window: whole images are what the student will see."""
BRIGHTNESS, SATURATION, HUE = 0.35, 0.4, 0.04
"""Largest change of brightness and contrast, of saturation (shares), and of hue (turns)."""
JITTERED_SHARE, HUE_SHARE = 0.8, 0.3
"""Share of the views in other light, and of those the share with another hue, which costs most."""
NO_BOXES, NO_CLASSES = boxes_array(()), class_array(())


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """Pixels with what is on them, as in a ``Sample``; boxes are pixel xyxy of these pixels."""

    pixels: Pixels
    boxes: Boxes
    classes: NDArray[np.int64]
    ignore: Boxes = field(default_factory=lambda: NO_BOXES)
    ignore_classes: NDArray[np.int64] = field(default_factory=lambda: NO_CLASSES)
    negatives: Boxes = field(default_factory=lambda: NO_BOXES)
    negative_classes: NDArray[np.int64] = field(default_factory=lambda: NO_CLASSES)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[0])


@dataclass(frozen=True)
class Window:
    """A part of an image in its pixels, which may reach beyond its edges."""

    left: int
    top: int
    width: int
    height: int


def annotated_image(sample: Sample, pixels: Pixels) -> AnnotatedImage:
    """The sample on ``pixels``, which may be smaller than the original."""
    height, width = pixels.shape[:2]
    scale = np.array([width / sample.width, height / sample.height] * 2, np.float32)
    return AnnotatedImage(
        pixels,
        sample.boxes * scale,
        sample.classes,
        sample.ignore * scale,
        sample.ignore_classes,
        sample.negatives * scale,
        sample.negative_classes,
    )


def plain_view(image: AnnotatedImage, size: tuple[int, int]) -> AnnotatedImage:
    """The whole image stretched to ``size`` (width, height), as a student sees it in use."""
    return _view(image, Window(0, 0, *image.size), size, mirrored=False)


def augmented(
    image: AnnotatedImage, size: tuple[int, int], rng: np.random.Generator
) -> AnnotatedImage:
    """A view of ``size`` (width, height) that differs at every call and depends only on ``rng``."""
    window = _window(*image.size, rng)
    view = _view(image, window, size, mirrored=rng.random() < 0.5)
    return (
        replace(view, pixels=_jittered_light(view.pixels, rng))
        if rng.random() < JITTERED_SHARE
        else view
    )


def _window(width: int, height: int, rng: np.random.Generator) -> Window:
    if rng.random() < WHOLE_SHARE:
        return Window(0, 0, width, height)
    scale = np.log(SCALES[0]) + rng.random() * (np.log(SCALES[1]) - np.log(SCALES[0]))
    tilt = rng.uniform(-ASPECT, ASPECT)
    wide = max(1, round(width * np.exp(scale + tilt / 2)))
    high = max(1, round(height * np.exp(scale - tilt / 2)))
    # Inside the image where it is smaller, around it where it is larger: never past both.
    left = rng.integers(min(0, width - wide), max(0, width - wide), endpoint=True)
    top = rng.integers(min(0, height - high), max(0, height - high), endpoint=True)
    return Window(int(left), int(top), wide, high)


def _view(
    image: AnnotatedImage, window: Window, size: tuple[int, int], *, mirrored: bool
) -> AnnotatedImage:
    pixels = _cut(image.pixels, window)
    pixels = stretch(pixels, size)
    if mirrored:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    labels, shares = _moved(image.boxes, image, window, size, mirrored)
    ignore, _ = _moved(image.ignore, image, window, size, mirrored)
    negatives, left = _moved(image.negatives, image, window, size, mirrored)
    whole = (shares >= KEPT_SHARE) & _large(labels, MIN_SIDE)
    cut = ~whole & _large(labels, 0)
    clear, seen = _large(ignore, 0), (left >= KEPT_SHARE) & _large(negatives, MIN_SIDE)
    return AnnotatedImage(
        pixels,
        labels[whole],
        image.classes[whole],
        np.concatenate([ignore[clear], labels[cut]]),
        np.concatenate([image.ignore_classes[clear], image.classes[cut]]),
        negatives[seen],
        image.negative_classes[seen],
    )


def _cut(pixels: Pixels, window: Window) -> Pixels:
    if (window.left, window.top) == (0, 0) and pixels.shape[:2] == (window.height, window.width):
        return pixels
    image = PILImage.fromarray(pixels)
    return np.asarray(F.crop(image, window.top, window.left, window.height, window.width))


def _moved(
    boxes: Boxes, image: AnnotatedImage, window: Window, size: tuple[int, int], mirrored: bool
) -> tuple[Boxes, NDArray[np.float32]]:
    """The boxes in the view, cut to it, and what share of each is inside."""
    width, height = image.size
    before = BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=(height, width))
    cut = F.crop(before, window.top, window.left, window.height, window.width)
    shares = _area(cut) / _area(before).clamp(min=1e-9)
    moved = F.resize(cut, [size[1], size[0]])
    if mirrored:
        moved = F.horizontal_flip(moved)
    # Rounding may have left a corner slightly outside.
    return clip(moved.as_subclass(torch.Tensor).numpy(), *size), shares.numpy()


def _area(boxes: BoundingBoxes) -> torch.Tensor:
    corners = boxes.as_subclass(torch.Tensor)
    return (corners[:, 2:] - corners[:, :2]).clamp(min=0).prod(dim=1)


def _large(boxes: Boxes, least: float) -> NDArray[np.bool_]:
    """Whether both sides have ``least`` pixels, and at least some extent."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.asarray(((sides >= least) & (sides > 0)).all(axis=1))


def _jittered_light(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    # Pillow's arithmetic takes a third of the time of torch's on images of this size.
    image = PILImage.fromarray(pixels)
    bright, contrast = 1 + rng.uniform(-BRIGHTNESS, BRIGHTNESS, 2)
    image = F.adjust_contrast(F.adjust_brightness(image, bright), contrast)
    image = F.adjust_saturation(image, 1 + rng.uniform(-SATURATION, SATURATION))
    if rng.random() < HUE_SHARE:
        image = F.adjust_hue(image, rng.uniform(-HUE, HUE))
    return np.asarray(image)
