"""Prompts of the training: boxes as a detector gives them, clicks as a person corrects."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def boxes_of(masks: Tensor) -> Tensor:
    """The tight xyxy boxes of (M, S, S) bool masks, none empty: (M, 4) float32."""
    side = masks.shape[-1]
    edges = []
    for lines in (masks.any(1), masks.any(2)):
        number = lines.float()
        first = number.argmax(1)
        edges.append((first, side - number.flip(1).argmax(1)))
    (x0, x1), (y0, y1) = edges
    return torch.stack([x0, y0, x1, y1], 1).float()


def noisy(boxes: Tensor, random: torch.Generator) -> Tensor:
    """Boxes whose edges are off: exact for a third of them, by about 4 % of a side for others."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    share = 0.06 * torch.rand(len(boxes), 1, generator=random) - 0.02
    shift = torch.randn(boxes.shape, generator=random) * share.clamp(min=0) * sides
    return boxes + shift.clamp(-16, 16)


def first_clicks(masks: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """A click on each of the (M, S, S) bool masks: (M, 2) float32 pixels and (M,) labels."""
    truth = at_click_size(masks)
    return next_clicks(torch.full_like(truth[:, None], -1, dtype=torch.float32), truth, random)


def at_click_size(masks: Tensor) -> Tensor:
    """(M, S, S) bool masks at half the size, on which errors are looked for: (M, S/2, S/2) bool."""
    return functional.avg_pool2d(masks[:, None].float(), 2)[:, 0] >= 0.5


def next_clicks(logits: Tensor, truth: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """A click in the larger of what is missed and what is too much, well inside most times.

    logits: (M, 1, s, s); truth: of ``at_click_size``. Returns (M, 2) pixels and (M,) labels. Where
    nothing is wrong the click is on the object.
    """
    side = truth.shape[-1]
    said = functional.interpolate(logits, (side, side), mode="bilinear")[:, 0] > 0
    missed, extra = truth & ~said, said & ~truth
    label = missed.sum((1, 2)) >= extra.sum((1, 2))
    wrong = torch.where(label[:, None, None], missed, extra)
    wrong = torch.where(wrong.any(2).any(1)[:, None, None], wrong, truth)
    place = _inside(wrong.float()[:, None], random)[:, 0].flatten(1).argmax(1)
    points = torch.stack([place % side, place // side], 1).float()
    return 2 * points + 0.5, label.long()


def _inside(wrong: Tensor, random: torch.Generator) -> Tensor:
    """How deep inside the region a pixel lies, at three scales, with noise; 0 outside."""
    depth = torch.rand(wrong.shape, generator=random) * torch.rand(
        len(wrong), 1, 1, 1, generator=random
    )
    for side in (3, 9, 21):
        rows = functional.avg_pool2d(wrong, (side, 1), 1, (side // 2, 0))
        depth = depth + functional.avg_pool2d(rows, (1, side), 1, (0, side // 2))
    return (depth + 0.1) * wrong
