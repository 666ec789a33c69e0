"""Masks with holes and parts in every format, for the readers of other people."""

from pathlib import Path

import numpy as np
from labelled import judged, result
from masks import disc, with_mask
from PIL import Image

from secondlook.datasets.writers import UNSPLIT, Labels, linked_images, write_format

CLASSES = ("dog", "cat")
WIDTH, HEIGHT = 72, 64
IMAGES = 6


def _blob(seed: int) -> np.ndarray:
    """A ring with a part of its own, at a place by ``seed``."""
    return disc(WIDTH, HEIGHT, (2 + seed, 3 + seed, 30 + seed, 40 + seed))


def _block(seed: int) -> np.ndarray:
    """An L at the edges of the image."""
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    pixels[45 + seed :, 50:] = pixels[58:, 40 + seed :] = True
    return pixels


MASKS = {
    (f"{seed}.png", name): make(seed)
    for seed in range(IMAGES)
    for name, make in (("dog", _blob), ("cat", _block))
}
"""(H, W) bool, by image and class."""


def written_masks(top: Path, name: str) -> Path:
    """The folder of the format ``name`` with all ``MASKS``, in one split."""
    (top / "in").mkdir(exist_ok=True)
    rows = []
    for seed in range(IMAGES):
        image = f"{seed}.png"
        Image.new("RGB", (WIDTH, HEIGHT), (seed, 90, 120)).save(top / "in" / image)
        found = []
        for class_name in CLASSES:
            pixels = MASKS[image, class_name]
            ys, xs = np.nonzero(pixels)
            box = (float(xs.min()), float(ys.min()), xs.max() + 1.0, ys.max() + 1.0)
            found.append(with_mask(judged(class_name, box), pixels))
        rows.append((image, result(*found, width=WIDTH, height=HEIGHT)))
    labels = Labels(CLASSES, lambda: iter(rows), linked_images(top / "in"))
    return write_format(name, {UNSPLIT: labels}, top / "out")


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two masks."""
    return float((a & b).sum() / (a | b).sum())
