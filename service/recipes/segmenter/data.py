"""Scenes with masks for the embedded segmenter, rendered once, and the batches of a step.

A scene is one of the demo world without the held-out kinds, or a textured backdrop; random shapes
are put onto both. Batches are functions of (seed, step) alone, so a run that was killed goes on
exactly where it stood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from recipes.segmenter import shapes
from recipes.segmenter.model import MEAN, SIZE, STD, STRIDES
from secondlook.demo.world import scene_masks

HELD_OUT_KINDS = frozenset({"dog", "ball", "glasses"})
"""Nouns that no prompt of the training means; dogs and balls are in no image of it either."""
CHUNK = 250
LEAST_PIXELS = 24
"""Objects of fewer visible pixels are no objects."""


@dataclass(frozen=True)
class MaskedScene:
    """One scene: image (H, W, 3) uint8, masks (N, H, W) bool, and a kind for each mask: a noun of
    the world, or "shape"."""

    image: np.ndarray
    masks: np.ndarray
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class SegmenterBatch:
    """Objects of a few images.

    pixels: (B, 3, S, S) float32, normalised; corners: (B, 2) int64, where in the square of SIZE
    these windows of S pixels are said to lie, in cells of STRIDES[-1]; masks: (M, S, S) bool;
    image: (M,) int64, the image of each object; ids: (B, S, S) int64, the smallest object at each
    pixel, 0 for none.
    """

    pixels: Tensor
    corners: Tensor
    masks: Tensor
    image: Tensor
    ids: Tensor


def render(seed: int, index: int) -> MaskedScene:
    """The training scene ``index`` of the world ``seed``."""
    rng = np.random.default_rng([seed, index, 77])
    if index % 2:
        side = (SIZE, int(rng.integers(SIZE * 5 // 8, SIZE + 1)))
        height, width = side if rng.random() < 0.5 else side[::-1]
        image, masks = shapes.backdrop(rng, height, width), []
        kinds: list[str] = []
        count = int(rng.integers(5, 13))
    else:
        scene, found = scene_masks(seed, index, SIZE, HELD_OUT_KINDS)
        wanted = [k for k, thing in enumerate(scene.things) if thing.noun not in HELD_OUT_KINDS]
        image, masks = scene.image.copy(), [found[k] for k in wanted]
        kinds = [scene.things[k].noun for k in wanted]
        count = int(rng.integers(0, 4))
    for _ in range(count):
        shapes.paste(image, masks, shapes.TRAINING, rng, 5, 90)
        kinds.append("shape")
    return visible(develop(image, rng), masks, kinds)


def render_unseen(seed: int, index: int) -> MaskedScene:
    """A scene of the whole world with one to four shapes and textures of the unseen families."""
    rng = np.random.default_rng([seed, index, 78])
    scene, found = scene_masks(seed, index, SIZE)
    image, masks = scene.image.copy(), list(found)
    kinds = [thing.noun for thing in scene.things]
    for _ in range(int(rng.integers(1, 5))):
        shapes.paste(image, masks, shapes.UNSEEN, rng, 8, 60)
        kinds.append("shape")
    return visible(develop(image, rng), masks, kinds)


def visible(image: np.ndarray, masks: list[np.ndarray], kinds: list[str]) -> MaskedScene:
    """The scene of those objects that are seen."""
    kept = [k for k, mask in enumerate(masks) if mask.sum() >= LEAST_PIXELS]
    chosen = np.array([masks[k] for k in kept], bool).reshape(-1, *image.shape[:2])
    return MaskedScene(image, chosen, tuple(kinds[k] for k in kept))


def develop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur and noise over everything, so that what was put on is no sharper than the rest."""
    if rng.random() < 0.5:
        blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.7)))
        image = np.asarray(blurred)
    noise = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(0.5, 5)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def render_chunk(folder: Path, seed: int, chunk: int, count: int) -> None:
    """Render ``count`` scenes into ``folder`` unless they are there; a kill leaves no half file."""
    path = folder / f"masks-{seed}-{chunk:03d}.npz"
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    scenes = [render(seed, chunk * CHUNK + k) for k in range(count)]
    images = np.zeros((count, SIZE, SIZE, 3), np.uint8)
    masks = np.zeros((sum(len(s.kinds) for s in scenes), SIZE, SIZE), bool)
    row = 0
    for slot, one in zip(images, scenes, strict=True):
        height, width = one.image.shape[:2]
        slot[:height, :width] = one.image
        masks[row : row + len(one.kinds), :height, :width] = one.masks
        row += len(one.kinds)
    part = path.with_suffix(".part.npz")
    sizes = np.array([s.image.shape[:2] for s in scenes])
    counts = np.array([len(s.kinds) for s in scenes])
    np.savez(part, images=images, masks=np.packbits(masks, -1), sizes=sizes, counts=counts)
    part.rename(path)


class MaskedScenes:
    """Rendered training scenes; those that are missing are rendered first."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        count: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        images, masks, sizes, counts = [], [], [], []
        for start in range(0, count, CHUNK):
            chunk, some = start // CHUNK, min(CHUNK, count - start)
            render_chunk(folder, seed, chunk, some)
            with np.load(folder / f"masks-{seed}-{chunk:03d}.npz") as kept:
                images.append(kept["images"])
                masks.append(kept["masks"])
                sizes.append(kept["sizes"])
                counts.append(kept["counts"])
            if progress is not None:
                progress(start + some, count)
        self._images, self._masks = np.concatenate(images), np.concatenate(masks)
        self.sizes = np.concatenate(sizes)
        self._ends = np.cumsum(np.concatenate(counts))

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Scene ``index``: image (H, W, 3) uint8 and masks (N, H, W) bool."""
        start = self._ends[index - 1] if index else 0
        rows = np.unpackbits(self._masks[start : self._ends[index]], axis=-1).view(bool)
        height, width = self.sizes[index]
        return self._images[index, :height, :width], rows[:, :height, :width]

    def batch(
        self,
        seed: int,
        step: int,
        images: int,
        objects: int,
        side: int = SIZE,
        least: int = LEAST_PIXELS,
    ) -> SegmenterBatch:
        """Windows of ``side`` pixels of ``images`` random scenes, turned and recoloured, with up to
        ``objects`` of at least ``least`` pixels of each."""
        rng = np.random.default_rng([seed, step])
        pixels: list[np.ndarray] = []
        masks: list[np.ndarray] = []
        ids: list[np.ndarray] = []
        owner: list[int] = []
        while len(pixels) < images:
            image, found = self[int(rng.integers(len(self)))]
            if len(found):
                image, found = varied(*window(image, found, side, rng), rng)
            large = np.flatnonzero(found.sum((1, 2)) >= least)
            if not len(large):
                continue
            chosen = rng.permutation(large)[:objects]
            ids.append(smallest_object(found))
            masks.append(found[chosen])
            owner += [len(pixels)] * len(chosen)
            pixels.append(image)
        return SegmenterBatch(
            normalised(np.stack(pixels)),
            torch.from_numpy(rng.integers(0, (SIZE - side) // STRIDES[-1] + 1, (images, 2))),
            torch.from_numpy(np.concatenate(masks)),
            torch.tensor(owner),
            torch.from_numpy(np.stack(ids)),
        )


def window(
    image: np.ndarray, masks: np.ndarray, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random window around an object, or the whole scene, stretched to ``side`` pixels.

    Returns the image (side, side, 3) and the masks, (N, side, side) bool, of objects in it.
    """
    height, width = image.shape[:2]
    if side < SIZE:
        mask = masks[rng.integers(len(masks))]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        extent = max(len(rows), len(columns)) * rng.uniform(1.1, 2)
        extent = max(extent, side * rng.uniform(0.6, 1.2))
        spans = []
        for lines, whole in ((rows, height), (columns, width)):
            length = min(int(extent), whole)
            start = int(rng.uniform(lines[0], lines[-1] + 1) - length * rng.uniform(0.25, 0.75))
            spans.append(slice(max(0, min(start, whole - length)), None))
            spans[-1] = slice(spans[-1].start, spans[-1].start + length)
        image, masks = image[spans[0], spans[1]], masks[:, spans[0], spans[1]]
        height, width = image.shape[:2]
    rows, columns = (np.arange(side) * whole // side for whole in (height, width))
    masks = masks[:, rows[:, None], columns]
    kept = masks.sum((1, 2)) >= LEAST_PIXELS
    return stretched(image, side), masks[kept]


def stretched(image: np.ndarray, side: int = SIZE) -> np.ndarray:
    """(H, W, 3) uint8 as (side, side, 3): SAM 2's own processor does not keep the shape either."""
    if image.shape[:2] == (side, side):
        return image
    square = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(square)


def varied(
    image: np.ndarray, masks: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A scene mirrored, turned by a right angle now and then, and in other colours."""
    if rng.random() < 0.5:
        image, masks = image[:, ::-1], masks[:, :, ::-1]
    if rng.random() < 0.3:
        image, masks = image.transpose(1, 0, 2), masks.transpose(0, 2, 1)
    if rng.random() < 0.5:
        image = image[..., rng.permutation(3)]
    if rng.random() < 0.1:
        image = 255 - image
    return np.ascontiguousarray(image), np.ascontiguousarray(masks)


def smallest_object(masks: np.ndarray) -> np.ndarray:
    """(H, W) int64: 1 + the smallest of the masks at each pixel, 0 where there is none."""
    ids = np.zeros(masks.shape[1:], np.int64)
    for row in np.argsort(-masks.sum((1, 2)), kind="stable"):
        ids[masks[row]] = row + 1
    return ids


def normalised(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 as (B, 3, H, W) float32, as the processor of the weights does."""
    scaled = torch.tensor(images).permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
