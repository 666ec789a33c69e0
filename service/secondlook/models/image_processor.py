"""What the settings of transformers' image processors say, and their resizing.

Read once when a model is loaded: a processor's guessing of formats takes time that a small model
would notice with every image.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from secondlook.core.types import Pixels

_BICUBIC = 3


def interpolation_of(processor: Any) -> str:
    """``bicubic`` or ``bilinear``, as ``resize_pixels`` takes it."""
    return "bicubic" if int(processor.resample) == _BICUBIC else "bilinear"


def normalisation_of(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and divisor of each channel, of pixel values in 0 … 255."""
    scale = 1 / processor.rescale_factor if processor.do_rescale else 1.0
    if not processor.do_normalize:
        return (0.0,) * 3, (scale,) * 3
    mean, std = processor.image_mean, processor.image_std
    return tuple(value * scale for value in mean), tuple(value * scale for value in std)


def size_entries(size: Any) -> dict[str, int]:
    """The entries that are set of a processor's size, which is a dict or an object by version."""
    if size is None:
        return {}
    found = size if isinstance(size, Mapping) else vars(size)
    return {name: int(value) for name, value in found.items() if value}


def resize_pixels(pixels: Pixels, shape: tuple[int, int], interpolation: str) -> torch.Tensor:
    """(H, W, 3) uint8 on the CPU of ``shape`` (height, width): the processor's own bytes.

    8-bit resizing is fast there.
    """
    tensor = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))
    if tensor.shape[:2] == shape:
        return tensor
    planes = tensor.permute(2, 0, 1)[None]
    sized = F.interpolate(planes, shape, mode=interpolation, antialias=True, align_corners=False)
    return sized[0].permute(1, 2, 0)
