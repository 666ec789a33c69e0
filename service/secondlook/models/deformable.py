"""Multi-scale deformable attention (arXiv 2010.04159) that is quick on a CPU.

transformers samples with ``grid_sample``, a heads-by-channels picture at a time, and then
weighs and sums what it sampled; on a CPU a third of Grounding DINO's time goes there. The same
sum is a weighted bag of rows: four corners a point, each with its bilinear weight times its
attention. ``embedding_bag`` computes it in one pass over memory, without the samples in between.
What leads there is arranged in long rows too, because tensors whose last side is 2 or 4 are slow.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shapes = tuple[tuple[int, int], ...]
"""Height and width of every level, in cells."""


def quicken(model: nn.Module) -> int:
    """Put ``DeformableAttention`` in place of every one of transformers' in ``model``.

    Returns how many were replaced. The outputs stay the same but for rounding.
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child).__name__.endswith("MultiscaleDeformableAttention")
    ]
    for parent, name, child in found:
        setattr(parent, name, DeformableAttention(child))
    return len(found)


class DeformableAttention(nn.Module):
    """Takes the weights, and the place, of a ``GroundingDinoMultiscaleDeformableAttention``.

    Below, K = heads · levels · points, in that order: all samples of one query.
    """

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.heads, self.points = original.n_heads, original.n_points
        self.value_proj = original.value_proj
        self.output_proj = original.output_proj
        self.sampling = _joined(original.sampling_offsets, original.attention_weights)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        reference_points: Tensor,
        spatial_shapes_list: list[tuple[int, int]],
        attention_mask: Tensor | None = None,
        position_embeddings: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """As the original's: (B, Q, C) queries, (B, S, C) values, (B, Q, levels, 2 or 4) points.

        ``attention_mask`` (B, S) is True where there is picture. Returns (B, Q, C), and None for
        the attention, which is not kept.
        """
        batch, queries, channels = hidden_states.shape
        if position_embeddings is not None:
            hidden_states = hidden_states + position_embeddings
        value = self.value_proj(encoder_hidden_states)
        if attention_mask is not None:
            value = value.masked_fill(~attention_mask[..., None], 0.0)
        grid = _grid(tuple(spatial_shapes_list), self.heads, self.points)
        wanted = self.sampling(hidden_states).float().view(batch * queries, 3, -1)
        attention = wanted[:, 2].reshape(batch * queries * self.heads, -1).softmax(-1)
        x, y = _places(wanted, reference_points.float().flatten(0, 1), grid)
        rows, weights = _corners(x, y, attention.view(batch * queries, -1), grid, batch)
        sampled = F.embedding_bag(
            rows.view(batch * queries * self.heads, -1),
            _framed(value, grid),
            per_sample_weights=weights.view(batch * queries * self.heads, -1).to(value.dtype),
            mode="sum",
        )
        return self.output_proj(sampled.view(batch, queries, channels)), None


@dataclass(frozen=True, eq=False)
class _Grid:
    """What depends on the levels' shapes alone. Vectors have K entries, int32 or float32."""

    shapes: Shapes
    heads: int
    points: int
    spread: tuple[Tensor, Tensor]
    """Across and down, (levels, K): relative coordinates by level to cells by sample."""
    last: tuple[Tensor, Tensor]
    """Across and down: the last coordinate in the frame, a cell beyond the picture."""
    stride: Tensor
    """From a cell's row to that of the cell below."""
    start: Tensor
    """Row of the first cell of the level, for the sample's head."""
    rows: int
    """Rows of one picture in the frame."""


@lru_cache(maxsize=64)
def _grid(shapes: Shapes, heads: int, points: int) -> _Grid:
    heights, widths = torch.tensor(shapes, dtype=torch.int32).T
    rooms = (heights + 3) * (widths + 3)
    starts = rooms.cumsum(0, dtype=torch.int32) - rooms

    def by_sample(by_level: Tensor) -> Tensor:
        return by_level.repeat_interleave(points).tile(heads)

    numbers = torch.arange(len(shapes))
    own_level = by_sample(numbers) == numbers[:, None]
    spread = [own_level * by_sample(side) for side in (widths, heights)]
    own_head = torch.arange(heads, dtype=torch.int32).repeat_interleave(len(shapes) * points)
    return _Grid(
        shapes,
        heads,
        points,
        (spread[0].float(), spread[1].float()),
        (by_sample(widths + 1).float(), by_sample(heights + 1).float()),
        by_sample((widths + 3) * heads),
        by_sample(starts * heads) + own_head,
        int(rooms.sum()) * heads,
    )


def _places(wanted: Tensor, reference: Tensor, grid: _Grid) -> tuple[Tensor, Tensor]:
    """Where to sample, across and down, (B · Q, K): in cells of the frame of its level.

    ``wanted`` (B · Q, 3, K) holds the offsets, in cells or, for reference boxes, in shares of
    half the box; ``reference`` is (B · Q, levels, 2 or 4). The centre of the first cell of the
    picture is 1 in the frame.
    """
    found = []
    for axis, spread in enumerate(grid.spread):
        offset = wanted[:, axis]
        if reference.shape[-1] == 4:
            offset = offset * (reference[..., 2 + axis] @ (spread * (0.5 / grid.points)))
        place = torch.addmm(offset, reference[..., axis], spread)
        found.append(place.add_(0.5).clamp_(min=0).minimum(grid.last[axis]))
    return found[0], found[1]


def _corners(
    x: Tensor, y: Tensor, attention: Tensor, grid: _Grid, batch: int
) -> tuple[Tensor, Tensor]:
    """Rows of the frame and their weights, (B · Q, heads, 4, levels · points): a bag a head."""
    left, top = x.to(torch.int32), y.to(torch.int32)
    right_share, low_share = x.sub_(left), y.sub_(top)
    low = low_share.mul_(attention)
    high = attention - low
    low_right, high_right = low * right_share, high * right_share
    weights = [high.sub_(high_right), high_right, low.sub_(low_right), low_right]
    first = top.mul_(grid.stride).add_(left.mul_(grid.heads)).add_(grid.start)
    pictures = torch.arange(batch, dtype=torch.int32)[:, None] * grid.rows
    first.view(batch, -1).add_(pictures)
    below = first + grid.stride
    rows = [first, first + grid.heads, below, below + grid.heads]
    bag = (len(x), grid.heads, -1)
    return (
        torch.stack([row.view(bag) for row in rows], dim=2),
        torch.stack([weight.view(bag) for weight in weights], dim=2),
    )


def _framed(value: Tensor, grid: _Grid) -> Tensor:
    """Values as rows (B · cells · heads, channels of a head), each level in a frame of zeros.

    One cell wide before and two behind: a point is then sampled outside as it is inside, and
    nothing has to be masked.
    """
    batch, _, channels = value.shape
    framed = value.new_zeros(batch, grid.rows // grid.heads, channels)
    start = taken = 0
    for height, width in grid.shapes:
        room = (height + 3) * (width + 3)
        level = framed[:, start : start + room].view(batch, height + 3, width + 3, channels)
        part = value[:, taken : taken + height * width]
        level[:, 1 : height + 1, 1 : width + 1] = part.view(batch, height, width, channels)
        start += room
        taken += height * width
    return framed.view(batch * grid.rows, channels // grid.heads)


def _joined(offsets: nn.Linear, attention: nn.Linear) -> nn.Linear:
    """One layer for both, with the offsets across first, then those down, then the attention."""
    joined = nn.Linear(offsets.in_features, offsets.out_features + attention.out_features)
    with torch.no_grad():
        for name in ("weight", "bias"):
            pairs = getattr(offsets, name)
            parts = (pairs[0::2], pairs[1::2], getattr(attention, name))
            getattr(joined, name).copy_(torch.cat(parts))
    return joined.to(offsets.weight.device, offsets.weight.dtype).requires_grad_(False)
