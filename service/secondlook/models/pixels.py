"""Pictures into the pixel tensors of a DETR-like model, by its own image processor's settings.

Does what transformers' processor does, value for value, and nothing else: no format guessing and
no annotations, whose cost a small model would feel. The shape in which a picture enters depends
on that picture alone, never on its company; that is what makes a batch give the same boxes as
one picture at a time, because normalisation layers and windows see the padding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from secondlook.errors import BadSetting
from secondlook.labels import Image, Pixels

_BICUBIC = 3

Shape = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class PixelSettings:
    """How pictures are resized, normalised and padded."""

    shortest: int
    """Length that the shorter side is brought to, pixels …"""
    longest: int
    """… unless the longer side would exceed this."""
    mean: tuple[float, ...]
    """Per channel, of pixel values in 0 … 255."""
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    pad_to: Shape | None = None
    """Fixed canvas, where the processor has one."""
    multiple: int = 1
    """Canvas sides are rounded up to a multiple of this; 1 pads nothing."""
    least_cells: int = 0
    """A canvas has at least this many cells (the model picks that many queries from them) …"""
    cell: int = 8
    """… of this many pixels a side."""

    def resized(self, height: int, width: int) -> Shape:
        """The shape that a picture is resized to, sides of at least one pixel.

        The arithmetic, its rounding included, is that of DETR's published preprocessing.
        """
        short, long = min(height, width), max(height, width)
        target: float = self.shortest
        if long / short * self.shortest > self.longest:
            target = self.longest * short / long
        size = round(target)
        if short == size:
            return height, width
        size, other = max(1, size), max(1, int(target * long / short))
        return (size, other) if height <= width else (other, size)

    def canvas(self, resized: Shape) -> Shape:
        """The padded shape in which a picture of this resized shape enters the model."""
        if self.pad_to is not None:
            return max(self.pad_to[0], resized[0]), max(self.pad_to[1], resized[1])
        height, width = (-(-side // self.multiple) * self.multiple for side in resized)
        while (height // self.cell) * (width // self.cell) < self.least_cells:
            height, width = (
                (height + self.cell, width) if height <= width else (height, width + self.cell)
            )
        return height, width


def settings_of(processor: Any, **more: int) -> PixelSettings:
    """Read the settings of a transformers image processor; ``more`` sets what it does not know.

    Raises ``BadSetting`` for a way of resizing that is none of Grounding DINO's.
    """
    size = _entries(processor.size)
    if "shortest_edge" not in size or "longest_edge" not in size:
        raise BadSetting(
            "the checkpoint's image processor resizes by "
            f"{size}; expected shortest_edge and longest_edge, "
            "as every Grounding DINO has; mend its preprocessor_config.json"
        )
    pad = _entries(processor.pad_size)
    scale = 1 / processor.rescale_factor if processor.do_rescale else 1.0
    mean, std = processor.image_mean, processor.image_std
    return PixelSettings(
        shortest=size["shortest_edge"],
        longest=size["longest_edge"],
        mean=tuple(value * scale for value in mean) if processor.do_normalize else (0.0,) * 3,
        std=tuple(value * scale for value in std) if processor.do_normalize else (scale,) * 3,
        interpolation="bicubic" if int(processor.resample) == _BICUBIC else "bilinear",
        pad_to=(pad["height"], pad["width"]) if pad else None,
        **more,
    )


def prepare(
    images: Sequence[Image], settings: PixelSettings, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of one canvas as the model's input.

    Returns pixel values (B, 3, H, W) float32 in channels-last layout, which is the layout both
    of decoded pictures and of fast convolutions, and the mask (B, H, W) int64: 1 for picture,
    0 for padding. Padding is 0 after normalisation.
    """
    shapes = [settings.resized(image.height, image.width) for image in images]
    height, width = settings.canvas(shapes[0])
    mean = torch.tensor(settings.mean, device=device)
    pixels = mean.expand(len(images), height, width, 3).contiguous()
    mask = torch.zeros(len(images), height, width, dtype=torch.long, device=device)
    for row, (image, (high, wide)) in enumerate(zip(images, shapes, strict=True)):
        pixels[row, :high, :wide] = _resize(image.pixels, (high, wide), settings.interpolation)
        mask[row, :high, :wide] = 1
    pixels.sub_(mean).div_(torch.tensor(settings.std, device=device))
    return pixels.permute(0, 3, 1, 2), mask


def _resize(pixels: Pixels, shape: Shape, interpolation: str) -> torch.Tensor:
    """(H, W, 3) uint8 on the CPU: 8-bit resizing is quick there and gives the processor's bytes."""
    tensor = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))
    if tensor.shape[:2] == shape:
        return tensor
    planes = tensor.permute(2, 0, 1)[None]
    sized = F.interpolate(planes, shape, mode=interpolation, antialias=True, align_corners=False)
    return sized[0].permute(1, 2, 0)


def _entries(size: Any) -> dict[str, int]:
    """The entries that are set of a processor's size, which is a dict or an object by version."""
    if size is None:
        return {}
    found = size if isinstance(size, Mapping) else vars(size)
    return {name: int(value) for name, value in found.items() if value}
