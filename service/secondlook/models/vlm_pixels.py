"""A processor's picture arithmetic done for a whole batch at once, where it is plain enough.

Resize, rescale, normalize: a processor does these picture by picture with checks around each,
which for a small model costs more than the model. ``plan`` knows two families and gives up on
anything else; what it plans is compared with the processor itself before it is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchvision.transforms import InterpolationMode, v2

from secondlook.labels import Pixels

MAX_EDGE = 4096
"""Beyond it the SmolVLM family scales down once more; such checkpoints go through the processor."""

TOLERANCE = 1.5 / 255
"""Largest difference from the processor's own values, as a share of full brightness. The same
resize is used, so that only the last rounding may differ."""

_FILTERS = {
    1: InterpolationMode.LANCZOS,
    2: InterpolationMode.BILINEAR,
    3: InterpolationMode.BICUBIC,
}
"""By Pillow's numbers, in which checkpoints name them."""


@dataclass(frozen=True)
class PixelPlan:
    """Resize to (side_h, side_w), perhaps over a first size that keeps the aspect, and scale."""

    first_edge: int
    """Longest side of the first resize; 0 for none."""
    height: int
    width: int
    resample: InterpolationMode
    factor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, views: Sequence[Pixels]) -> torch.Tensor:
        """(len(views), 3, height, width) float32 on the CPU."""
        levels = torch.stack([self._resized(pixels) for pixels in views]).to(torch.float32)
        mean, std = torch.tensor(self.mean).view(3, 1, 1), torch.tensor(self.std).view(3, 1, 1)
        return levels.mul_(self.factor / std).sub_(mean / std)

    def _resized(self, pixels: Pixels) -> torch.Tensor:
        picture = torch.from_numpy(pixels).permute(2, 0, 1)
        if self.first_edge:
            picture = self._to(picture, *_longest_edge(pixels.shape, self.first_edge))
        return self._to(picture, self.height, self.width)

    def _to(self, picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
        if picture.shape[1:] == (height, width):
            return picture
        return v2.functional.resize(picture, [height, width], self.resample, antialias=True)


def _longest_edge(shape: tuple[int, ...], edge: int) -> tuple[int, int]:
    """(height, width) with the longer side ``edge`` and the other one rounded up to even."""
    height, width = shape[:2]
    aspect = width / height
    if width >= height:
        short = int(edge / aspect)
        return max(short + short % 2, 1), edge
    short = int(edge * aspect)
    return edge, max(short + short % 2, 1)


def plan(image_processor: Any) -> PixelPlan | None:
    """The plan of a transformers image processor, or None when it does more than a plan can."""
    if not getattr(image_processor, "do_resize", False) or _does_more(image_processor):
        return None
    size = getattr(image_processor, "size", None) or {}
    tile = getattr(image_processor, "max_image_size", None) or {}
    first, height, width = 0, _side(size, "height"), _side(size, "width")
    if _side(tile, "longest_edge"):
        first = _side(size, "longest_edge")
        height = width = _side(tile, "longest_edge")
    resample = _FILTERS.get(int(getattr(image_processor, "resample", None) or 0))
    if not height or not width or first > MAX_EDGE or resample is None:
        return None
    normal = bool(getattr(image_processor, "do_normalize", False))
    rescale = bool(getattr(image_processor, "do_rescale", False))
    return PixelPlan(
        first_edge=first,
        height=height,
        width=width,
        resample=resample,
        factor=float(image_processor.rescale_factor) if rescale else 1.0,
        mean=_three(image_processor.image_mean) if normal else (0.0, 0.0, 0.0),
        std=_three(image_processor.image_std) if normal else (1.0, 1.0, 1.0),
    )


def _does_more(image_processor: Any) -> bool:
    steps = ("do_image_splitting", "do_pan_and_scan", "do_center_crop")
    return any(getattr(image_processor, step, False) for step in steps)


def _side(size: Any, name: str) -> int:
    value = size.get(name) if isinstance(size, dict) else getattr(size, name, None)
    return int(value or 0)


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = values if isinstance(values, list | tuple) else (values,) * 3
    return float(red), float(green), float(blue)


def agrees(planned: PixelPlan, views: Sequence[Pixels], expected: torch.Tensor) -> bool:
    """Whether the plan gives what the processor gave for ``views``, (N, …, 3, height, width)."""
    made = planned(views)
    if made.numel() != expected.numel() or made.shape[-2:] != expected.shape[-2:]:
        return False
    step = 1 / min(planned.std) * (planned.factor * 255)
    difference = (made.reshape(expected.shape) - expected.float().cpu()).abs().max()
    return bool(difference <= TOLERANCE * step)
