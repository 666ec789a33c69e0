"""Losses of the embedded segmenter: focal and dice as in SAM (arXiv 2304.02643 §3 and A)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recipes.segmenter.data import SegmenterBatch
from recipes.segmenter.prompts import boxes_of

POINTS = 512
"""At which a mask is compared around its object, at full resolution."""
OFFSETS = ((0, 1), (1, 0), (3, 3), (3, -3), (0, 8), (8, 0), (0, 25), (25, 0))
"""Between the cells whose belonging together is asked of the encoder."""


def mask_losses(
    logits: Tensor, masks: Tensor, random: torch.Generator, everywhere: float = 1.0
) -> Tensor:
    """The loss of every mask: logits (M, K, s, s) against masks (M, S, S) bool; (M, K).

    Cells are compared over the whole image, and points, of the full resolution, around the object:
    cells alone leave the edges of small objects to chance, and teach a model that knows nothing to
    answer background. ``everywhere`` is the weight of the cells.
    """
    cells = functional.adaptive_avg_pool2d(masks[:, None].float(), logits.shape[-1])
    cells = cells.expand_as(logits).flatten(2)
    wanted, said = _around(masks, logits, random)
    return (
        everywhere * (_focal(logits.flatten(2), cells) + _dice(logits.flatten(2), cells))
        + functional.binary_cross_entropy_with_logits(said, wanted, reduction="none").mean(2)
        + _dice(said, wanted)
    )


def _around(masks: Tensor, logits: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Truth and logits, (M, K, POINTS), at random pixels in and near the box of each mask."""
    at, truth = points_around(masks, random)
    grid = (2 * at.float() + 1) / masks.shape[-1] - 1
    said = functional.grid_sample(
        logits, grid[:, None], align_corners=False, padding_mode="border"
    )[:, :, 0]
    return truth[:, None].expand_as(said), said


def points_around(masks: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random pixels in and near the box of each mask (M, S, S): (M, POINTS, 2) int64 x and y, and
    (M, POINTS) float32, 1 on the object."""
    boxes = boxes_of(masks)
    centre, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    reach = 1.3 * sides + 8
    spread = torch.rand(len(masks), POINTS, 2, generator=random) - 0.5
    at = (centre[:, None] + spread * reach[:, None]).clamp(0, masks.shape[-1] - 1).long()
    return at, masks[torch.arange(len(masks))[:, None], at[..., 1], at[..., 0]].float()


def _focal(logits: Tensor, truth: Tensor) -> Tensor:
    """Focal loss with γ = 2 for soft truth, per cell of the object, so that small ones count."""
    away = (truth - logits.sigmoid()).abs().square()
    loss = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (away * loss).sum(2) / (truth.sum(2) + 20)


def _dice(logits: Tensor, truth: Tensor) -> Tensor:
    said = logits.sigmoid()
    both = (said * truth).sum(-1)
    return 1 - (2 * both + 1) / (said.square().sum(-1) + truth.square().sum(-1) + 1)


@torch.no_grad()
def ious(logits: Tensor, truth: Tensor) -> Tensor:
    """IoU of masks (M, K, s, s) with truth (M, S, S) bool: (M, K)."""
    said = functional.interpolate(logits, truth.shape[1:], mode="bilinear") > 0
    both = (said & truth[:, None]).sum((2, 3))
    return both / (said | truth[:, None]).sum((2, 3)).clamp(min=1)


class DenseHead(nn.Module):
    """Asks the finest features for outlines, for which cells belong to one object, and for objects
    by a few of their pixels. It is thrown away: prompts alone teach an encoder slowly that sees
    nothing yet, at five times the cost."""

    def __init__(self, hidden: int, width: int = 16) -> None:
        super().__init__()
        self.read = nn.Sequential(
            nn.Conv2d(hidden, hidden, 1), nn.GELU(), nn.Conv2d(hidden, 1 + width, 1)
        )
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 1.0, 2.0]))

    def forward(self, finest: Tensor, batch: SegmenterBatch, random: torch.Generator) -> Tensor:
        """Mean loss; finest: (B, hidden, s, s)."""
        found, ids = self.read(finest), batch.ids
        side, stride = finest.shape[-1], ids.shape[-1] // finest.shape[-1]
        cells = ids.view(len(ids), side, stride, side, stride)
        outline = cells.amax((2, 4)) != cells.amin((2, 4))
        loss = functional.binary_cross_entropy_with_logits(
            found[:, 0], outline.float(), pos_weight=torch.tensor(3.0)
        )
        middle, code = cells[:, :, stride // 2, :, stride // 2], found[:, 1:]
        for offset in OFFSETS:
            loss = loss + self._together(code, middle, offset) / len(OFFSETS)
        return loss + self._objects(code, batch, random)

    def _together(self, code: Tensor, ids: Tensor, offset: tuple[int, int]) -> Tensor:
        """Whether cells at this offset have one id, by how near their codes are."""
        a, b = _pairs(code, offset)
        same = torch.eq(*_pairs(ids, offset)).float()
        logits = self.scale[1] - self.scale[0] * (a - b).square().mean(1)
        weight = torch.where(same == 0, (same.sum() / (1 - same).sum().clamp(min=1)).sqrt(), 1.0)
        return functional.binary_cross_entropy_with_logits(logits, same, weight)

    def _objects(self, code: Tensor, batch: SegmenterBatch, random: torch.Generator) -> Tensor:
        """Which pixels around an object are its own, by how near they are to three of those."""
        at, truth = points_around(batch.masks, random)
        stride = batch.masks.shape[-1] // code.shape[-1]
        x, y = (at // stride).unbind(2)
        codes = code[batch.image[:, None], :, y, x]
        known = (torch.rand(truth.shape, generator=random) * truth).topk(3, dim=1).indices
        known = known[..., None].expand(-1, -1, codes.shape[2])
        away = (codes - codes.gather(1, known).mean(1, keepdim=True)).square().mean(2)
        logits = self.scale[3] - self.scale[2] * away
        cross = functional.binary_cross_entropy_with_logits(logits, truth)
        return cross + _dice(logits, truth).mean()


def _pairs(maps: Tensor, offset: tuple[int, int]) -> tuple[Tensor, Tensor]:
    down, right = offset
    if right < 0:
        maps, right = maps.flip(-1), -right
    height, width = maps.shape[-2:]
    return maps[..., : height - down, : width - right], maps[..., down:, right:]
