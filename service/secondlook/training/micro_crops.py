"""Crops that a micro-model learns from: five labels, seen in a thousand ways.

What it must tell apart it mostly has not seen: of five frames, few look-alikes are known. So half
of what is not the target is made: the target itself in other colours (*recoloured*), and boxes that
hold a part of it or too much (*loose*). The other half are the boxes of the finder, and places of
the background, in the labelled frames. Every crop is moved, mirrored, lit and partly hidden.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from secondlook.core.boxes import Xyxy, iou
from secondlook.core.types import Boxes, Pixels
from secondlook.datasets.samples import boxes_array
from secondlook.models.micro import cut_crop
from secondlook.training.micro_labels import FrameLabels

ON_TARGET, OFF_TARGET = 0.6, 0.3
"""IoU with a label from which a box of the finder is the target, and below which it is not."""
LOOSE_IOU = (0.2, 0.5)
"""With the label that a loose box is made of."""
LOOSE_REACH, LOOSE_TRIES = 0.45, 20
"""How far its edges may lie from the label's, of its sides, and how many are tried for a label."""
BACKGROUND_BOXES, BACKGROUND_SIDES = 3, (0.06, 0.4)
"""Places of the background for each complete frame, and their sides as shares of the frame's."""
LOOSE_SHARE, RECOLOURED_SHARE = 0.2, 0.4
"""Of the crops that are not the target."""
HIDDEN_SHARE, HIDDEN = 0.4, (0.1, 0.4)
"""Share of the crops of which a part is hidden by another crop, and the shares of a side."""
LIGHT, TINT, CONTRAST, NOISE = 0.3, 0.08, 0.15, 8.0
"""Of the light: gain as a natural logarithm, colour, contrast (shares), and noise (grey levels)."""
PALETTE, LEAST_SHARE = 12, 0.012
"""Colours of a crop that are told apart, and the share of its pixels from which one counts."""
SAME_COLOUR, OTHER_COLOUR = 40.0, 80.0
"""Largest difference of a channel up to which two colours are one, and from which they differ."""
COMPARED = 48
"""Crops of either kind that colours are looked for in."""
COMMON = 0.8
"""Share of the labels that have a colour of the target."""

Place = tuple[int, Xyxy]
"""A frame's place among the frames, and a box in it."""
Crop = NDArray[np.float32]
"""(side, side, 3) in 0 … 255."""


@dataclass(frozen=True, eq=False)
class LabelledFrame:
    """A frame in even light, its labels, and the boxes of the finder."""

    pixels: Pixels
    labels: FrameLabels
    found: Boxes

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[0])


@dataclass(frozen=True, eq=False)
class CropPlaces:
    """Where crops are cut."""

    target: list[Place] = field(default_factory=list)
    """Labels first, then boxes of the finder on them."""
    others: list[Place] = field(default_factory=list)
    loose: list[Place] = field(default_factory=list)


def crop_places(frames: Sequence[LabelledFrame], rng: np.random.Generator) -> CropPlaces:
    """The places that labelled frames offer."""
    places = CropPlaces()
    for number, frame in enumerate(frames):
        labels = frame.labels
        places.target.extend((number, tuple(box)) for box in labels.boxes.tolist())
        places.others.extend((number, tuple(box)) for box in labels.negatives.tolist())
        overlap = iou(frame.found, labels.boxes).max(axis=1, initial=0)
        for box, share in zip(frame.found.tolist(), overlap.tolist(), strict=True):
            if share >= ON_TARGET:
                places.target.append((number, tuple(box)))
            elif share < OFF_TARGET and labels.complete:
                places.others.append((number, tuple(box)))
            elif OFF_TARGET <= share < LOOSE_IOU[1]:
                places.loose.append((number, tuple(box)))
        places.loose.extend((number, box) for box in _loose_boxes(frame, rng))
        if labels.complete:
            places.others.extend((number, box) for box in _background(frame, rng))
    return places


def _loose_boxes(frame: LabelledFrame, rng: np.random.Generator) -> list[Xyxy]:
    boxes = [
        moved(box, LOOSE_REACH, frame.size, rng)
        for box in frame.labels.boxes.tolist()
        for _ in range(LOOSE_TRIES)
    ]
    overlap = iou(boxes_array(boxes), frame.labels.boxes).max(axis=1, initial=0)
    low, high = LOOSE_IOU
    return [box for box, share in zip(boxes, overlap, strict=True) if low < share < high]


def _background(frame: LabelledFrame, rng: np.random.Generator) -> list[Xyxy]:
    size = np.array(frame.size)
    found: list[Xyxy] = []
    for _ in range(BACKGROUND_BOXES):
        sides = rng.uniform(*BACKGROUND_SIDES, 2) * size
        corner = rng.uniform(0, size - sides)
        box = (*corner.tolist(), *(corner + sides).tolist())
        if iou(boxes_array([box]), frame.labels.boxes).max(initial=0) < LOOSE_IOU[0]:
            found.append(box)
    return found


def moved(
    box: Sequence[float], reach: float, size: tuple[int, int], rng: np.random.Generator
) -> Xyxy:
    """The box with each edge moved by up to ``reach`` of its sides, cut to a frame of ``size``."""
    x0, y0, x1, y1 = box
    wide, tall = x1 - x0, y1 - y0
    by = rng.uniform(-reach, reach, 4) * (wide, tall, wide, tall)
    left, top, right, bottom = (float(edge) for edge in np.asarray(box) + by)
    left, right = max(0.0, left), min(float(size[0]), right)
    top, bottom = max(0.0, top), min(float(size[1]), bottom)
    if right - left < 2 or bottom - top < 2:
        return x0, y0, x1, y1
    return left, top, right, bottom


class CropSampler:
    """Draws crops, a batch half of the target and half of all else."""

    def __init__(self, frames: Sequence[LabelledFrame], side: int, seed: int) -> None:
        """``side``: pixels of a crop."""
        self._rng = np.random.default_rng([seed, 0x3C0])
        self._frames = frames
        self._images = [PILImage.fromarray(frame.pixels) for frame in frames]
        self._side = side
        self.places = crop_places(frames, self._rng)
        self._target = [self._cut(place) for place in self.places.target]
        self._others = [self._cut(place) for place in self.places.others]
        self._colours = target_colours(self._target, self._others)
        """Of each place of the target."""

    def batch(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(count, side, side, 3) crops in 0 … 255, and (count,) 1 for the target, 0 for others."""
        truth = np.arange(count, dtype=np.float32) % 2
        crops = [self._varied(self._one_target() if wanted else self._other()) for wanted in truth]
        return np.stack(crops), truth

    def _one_target(self) -> Crop:
        row = int(self._rng.integers(len(self.places.target)))
        return self._cut(self.places.target[row], 0.07)

    def _other(self) -> Crop:
        kind = self._rng.random()
        if kind < LOOSE_SHARE and self.places.loose:
            return self._cut(self._any(self.places.loose), 0.03)
        row = int(self._rng.integers(len(self.places.target)))
        wanted = kind < LOOSE_SHARE + RECOLOURED_SHARE or not self.places.others
        if wanted and self._colours[row]:
            crop = self._cut(self.places.target[row], 0.07)
            return recoloured(crop, self._colours[row], self._rng)
        return self._cut(self._any(self.places.others or self.places.loose), 0.1)

    def _any(self, places: Sequence[Place]) -> Place:
        return places[int(self._rng.integers(len(places)))]

    def _cut(self, place: Place, reach: float = 0.0) -> Crop:
        number, box = place
        if reach:
            box = moved(box, reach, self._frames[number].size, self._rng)
        return cut_crop(self._images[number], box, self._side).astype(np.float32)

    def _varied(self, crop: Crop) -> Crop:
        """Partly hidden, in another light, perhaps mirrored."""
        rng = self._rng
        if self._others and rng.random() < HIDDEN_SHARE:
            crop = _hidden(crop, self._others[int(rng.integers(len(self._others)))], rng)
        gain = np.exp(rng.uniform(-LIGHT, LIGHT))
        tint = rng.uniform(-TINT, TINT)
        crop = crop * np.array([gain * (1 + tint), gain, gain * (1 - tint)], np.float32)
        middle = crop.mean()
        crop = (crop - middle) * np.float32(1 + rng.uniform(-CONTRAST, CONTRAST)) + middle
        if rng.random() < 0.5:
            noise = rng.standard_normal(crop.shape, dtype=np.float32)
            crop = crop + noise * np.float32(rng.uniform(0, NOISE))
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        return np.clip(crop, 0, 255).astype(np.float32)


def target_colours(
    target: Sequence[Crop], others: Sequence[Crop]
) -> list[list[NDArray[np.float32]]]:
    """Of each crop of the target the colours, (3,) each, that make it what it is: nearly all crops
    of the target have them, and fewer of the others do."""
    own, foreign = _pixels_of(target), _pixels_of(others)
    return [
        [
            colour
            for colour in _palette(crop)
            if _share_with(colour, own) >= COMMON
            and _share_with(colour, own) > _share_with(colour, foreign)
        ]
        for crop in target
    ]


def recoloured(
    crop: Crop, colours: Sequence[NDArray[np.float32]], rng: np.random.Generator
) -> Crop:
    """The crop with one of its colours replaced by another one; shades stay."""
    old = colours[int(rng.integers(len(colours)))]
    new = rng.uniform(20, 235, 3).astype(np.float32)
    while np.abs(new - old).max() < OTHER_COLOUR:
        new = rng.uniform(20, 235, 3).astype(np.float32)
    there = (np.abs(crop - old).max(axis=2) < SAME_COLOUR)[..., None]
    return np.where(there, np.clip(crop - old + new, 0, 255), crop).astype(np.float32)


def _palette(crop: Crop) -> list[NDArray[np.float32]]:
    """The mean of each of the crop's main colours."""
    image = PILImage.fromarray(crop.astype(np.uint8))
    method, dither = PILImage.Quantize.MEDIANCUT, PILImage.Dither.NONE
    numbers = np.asarray(image.quantize(PALETTE, method=method, dither=dither))
    masks = (numbers == number for number in range(PALETTE))
    return [crop[mask].mean(axis=0) for mask in masks if mask.mean() >= LEAST_SHARE]


def _pixels_of(crops: Sequence[Crop]) -> NDArray[np.float32]:
    """(M, P, 3): some pixels inside of the border of at most ``COMPARED`` crops."""
    some = crops[:: max(1, -(-len(crops) // COMPARED))]
    if not some:
        return np.zeros((0, 1, 3), np.float32)
    border, step = len(some[0]) // 16, max(1, len(some[0]) // 40)
    return np.stack([one[border:-border:step, border:-border:step].reshape(-1, 3) for one in some])


def _share_with(colour: NDArray[np.float32], pixels: NDArray[np.float32]) -> float:
    """Share of the crops with these pixels that have a colour."""
    alike = np.abs(pixels - colour).max(axis=2) < SAME_COLOUR
    return float((alike.mean(axis=1) > LEAST_SHARE / 2).mean()) if len(pixels) else 0.0


def _hidden(crop: Crop, by: Crop, rng: np.random.Generator) -> Crop:
    """A strip at the left, the right or the bottom is that of another crop."""
    strip = max(1, int(rng.uniform(*HIDDEN) * len(crop)))
    ways: tuple[Callable[[Crop], Crop], ...] = (
        lambda one: one[:, :strip],
        lambda one: one[:, -strip:],
        lambda one: one[-strip:],
    )
    part = ways[int(rng.integers(len(ways)))]
    covered = crop.copy()
    part(covered)[:] = part(by)
    return covered
