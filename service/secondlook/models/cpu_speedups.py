"""Faster parts for models that run on a CPU, each with the same outputs but for rounding.

- ``replace_deformable_attention``: multi-scale deformable attention (arXiv 2010.04159) in one pass
  over memory. transformers samples with ``grid_sample``, a heads-by-channels image at a time, and
  then weighs and sums the samples; a third of Grounding DINO's time goes there. The same sum is a
  weighted bag of rows: four corners a point, each with its bilinear weight times its attention,
  which ``embedding_bag`` computes without storing the samples. The steps before it work on long
  rows too, because tensors whose last side is 2 or 4 are slow.
- ``fuse_conv_bn``: the batch norm of a trained model multiplies and adds a constant a channel,
  which the weights of the convolution before it can do at no cost.
- ``use_channels_last``: pooling is up to 13 times as fast in bfloat16 in that layout, and a
  convolution needs no re-ordering.
- ``cast_weights``: mixed precision converts every weight in every pass; here it is done once.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shapes = tuple[tuple[int, int], ...]
"""Height and width of every level, in cells."""


def replace_deformable_attention(model: nn.Module) -> int:
    """Put ``DeformableAttention`` in place of every one of transformers' in ``model``.

    Returns how many were replaced.
    """
    return replace_modules(model, "MultiscaleDeformableAttention", DeformableAttention)


def replace_modules(model: nn.Module, suffix: str, make: Callable[[Any], nn.Module]) -> int:
    """Replace every module whose class name ends in ``suffix``; returns how many there were."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child).__name__.endswith(suffix)
    ]
    for parent, name, child in found:
        setattr(parent, name, make(child))
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
        self.sampling = _joint_projection(original.sampling_offsets, original.attention_weights)

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

        ``attention_mask`` (B, S) is True where there is image. Returns (B, Q, C), and None for
        the attention, which is not kept.
        """
        if position_embeddings is not None:
            hidden_states = hidden_states + position_embeddings
        rows = self.value_rows(encoder_hidden_states, attention_mask, spatial_shapes_list)
        return self.attend(hidden_states, rows, reference_points, spatial_shapes_list), None

    def value_rows(
        self, cells: Tensor, mask: Tensor | None, shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """The values of all cells as rows that ``attend`` takes."""
        value = self.value_proj(cells)
        if mask is not None and not mask.all():
            value = value.masked_fill(~mask[..., None], 0.0)
        return _pad_levels(value, _grid(tuple(shapes), self.heads, self.points))

    def attend(
        self,
        queries: Tensor,
        rows: Tensor,
        reference_points: Tensor,
        shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """What any of the queries (B, N, C) take from ``rows``, at places around their points."""
        batch, number, channels = queries.shape
        grid = _grid(tuple(shapes), self.heads, self.points)
        joint = self.sampling(queries).float().view(batch * number, 3, -1)
        attention = joint[:, 2].reshape(batch * number * self.heads, -1).softmax(-1)
        x, y = _sampling_points(joint, reference_points.float().flatten(0, 1), grid)
        places, weights = _corners(x, y, attention.view(batch * number, -1), grid, batch)
        sampled = F.embedding_bag(
            places.view(batch * number * self.heads, -1),
            rows,
            per_sample_weights=weights.view(batch * number * self.heads, -1).to(rows.dtype),
            mode="sum",
        )
        return self.output_proj(sampled.view(batch, number, channels))


@dataclass(frozen=True, eq=False)
class _Grid:
    """What depends on the levels' shapes alone. Vectors have K entries, int32 or float32."""

    shapes: Shapes
    heads: int
    points: int
    spread: tuple[Tensor, Tensor]
    """Across and down, (levels, K): relative coordinates by level to cells by sample."""
    last: tuple[Tensor, Tensor]
    """Across and down: the last coordinate in the frame, a cell beyond the image."""
    stride: Tensor
    """From a cell's row to that of the cell below."""
    start: Tensor
    """Row of the first cell of the level, for the sample's head."""
    rows: int
    """Rows of one image in the frame."""


@lru_cache(maxsize=64)
def _grid(shapes: Shapes, heads: int, points: int) -> _Grid:
    heights, widths = torch.tensor(shapes, dtype=torch.int32).T
    cells = (heights + 3) * (widths + 3)
    starts = cells.cumsum(0, dtype=torch.int32) - cells

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
        int(cells.sum()) * heads,
    )


def _sampling_points(joint: Tensor, reference: Tensor, grid: _Grid) -> tuple[Tensor, Tensor]:
    """Where to sample, across and down, (B · Q, K): in cells of the frame of its level.

    ``joint`` (B · Q, 3, K) holds the offsets, in cells or, for reference boxes, in shares of
    half the box; ``reference`` is (B · Q, levels, 2 or 4). The centre of the first cell of the
    image is 1 in the frame.
    """
    found = []
    for axis, spread in enumerate(grid.spread):
        offset = joint[:, axis]
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
    first = top.mul_(grid.stride).add_(left.mul_(grid.heads)).add_(grid.start)
    images = torch.arange(batch, dtype=torch.int32)[:, None] * grid.rows
    first.view(batch, -1).add_(images)
    bag = (len(x), grid.heads, -1)
    high, low, right = [each.view(bag) for each in (attention - low, low, right_share)]
    first, stride = first.view(bag), grid.stride.view(bag[1:])
    rows, weights = (
        first.new_empty(*bag[:2], 4, first.shape[-1], dtype=dtype)
        for dtype in (torch.int32, torch.float32)
    )
    for above, share, base in ((0, high, first), (2, low, first + stride)):
        one, other = weights[:, :, above], weights[:, :, above + 1]
        torch.sub(share, torch.mul(share, right, out=other), out=one)
        torch.add(base, grid.heads, out=rows[:, :, above + 1])
        rows[:, :, above] = base
    return rows, weights


def _pad_levels(value: Tensor, grid: _Grid) -> Tensor:
    """Values as rows (B · cells · heads, channels of a head), each level in a frame of zeros.

    One cell wide before and two behind: a point is then sampled outside as it is inside, and
    nothing has to be masked.
    """
    batch, _, channels = value.shape
    framed = value.new_empty(batch, grid.rows // grid.heads, channels)
    start = taken = 0
    for height, width in grid.shapes:
        room = (height + 3) * (width + 3)
        level = framed[:, start : start + room].view(batch, height + 3, width + 3, channels)
        part = value[:, taken : taken + height * width]
        level[:, 1 : height + 1, 1 : width + 1] = part.view(batch, height, width, channels)
        for border in (
            level[:, 0],
            level[:, height + 1 :],
            level[:, :, 0],
            level[:, :, width + 1 :],
        ):
            border.zero_()
        start += room
        taken += height * width
    return framed.view(batch * grid.rows, channels // grid.heads)


def join_linear(*layers: nn.Linear) -> nn.Linear:
    """One layer that gives what these give, one after the other: its product costs less."""
    weight = torch.cat([layer.weight for layer in layers])
    joined = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        joined.weight.copy_(weight)
        joined.bias.copy_(torch.cat([_bias(layer) for layer in layers]))
    return joined.requires_grad_(False)


def _bias(layer: nn.Linear) -> Tensor:
    return layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias


def _joint_projection(offsets: nn.Linear, attention: nn.Linear) -> nn.Linear:
    """One layer for both, with the offsets across first, then those down, then the attention."""
    joined = join_linear(offsets, attention)
    pairs, rest = torch.arange(len(joined.weight)).split(
        [offsets.out_features, attention.out_features]
    )
    order = torch.cat([pairs[0::2], pairs[1::2], rest])
    with torch.no_grad():
        for both in (joined.weight, joined.bias):
            both.copy_(both[order])
    return joined


def fuse_conv_bn(model: nn.Module, run: Callable[[], object]) -> int:
    """Fuse batch norms into the convolutions before them; returns how many were fused.

    ``run`` calls the model, in evaluation mode, on any input of its kind: a norm is fused when
    that shows it to take exactly what one convolution gives. Nothing else may read the result of
    the convolution.
    """
    pairs = _conv_bn_pairs(model, run)
    for convolution, norm in pairs:
        _fuse_pair(convolution, norm)
    fused = {norm for _, norm in pairs}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in fused:
                setattr(parent, name, nn.Identity())
    return len(pairs)


def _conv_bn_pairs(
    model: nn.Module, run: Callable[[], object]
) -> list[tuple[nn.Conv2d, nn.Module]]:
    """Pairs of a convolution and a norm that in ``run`` are only ever called one on the other."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # holds outputs, so that no id is used twice
    calls: Counter[nn.Module] = Counter()
    found: Counter[tuple[nn.Conv2d, nn.Module]] = Counter()

    def after_convolution(module: nn.Conv2d, _: object, output: Tensor) -> None:
        calls[module] += 1
        made[id(output)] = (module, output)

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        if id(inputs[0]) in made:
            found[made[id(inputs[0])][0], module] += 1

    norms = [module for module in model.modules() if _is_frozen_norm(module)]
    if not norms:
        return []
    hooks = [norm.register_forward_pre_hook(before_norm) for norm in norms]
    for module in model.modules():
        if type(module) is nn.Conv2d:
            hooks.append(module.register_forward_hook(after_convolution))
    try:
        with torch.inference_mode():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return [
        (convolution, norm)
        for (convolution, norm), times in found.items()
        if times == calls[convolution] == calls[norm]
    ]


def _is_frozen_norm(module: nn.Module) -> bool:
    """DETR-like models have a class of their own for it, each with another prefix."""
    if type(module) is nn.BatchNorm2d:
        return not module.training and module.track_running_stats
    return type(module).__name__.endswith("FrozenBatchNorm2d")


def _fuse_pair(convolution: nn.Conv2d, norm: nn.Module) -> None:
    """The norm applied to 0 and to 1 in every channel shows what it adds and multiplies."""
    weight = convolution.weight
    exact = deepcopy(norm).double()
    with torch.no_grad():
        zeros = weight.new_zeros(1, convolution.out_channels, 1, 1, dtype=torch.float64)
        shift = exact(zeros).flatten()
        scale = exact(zeros + 1).flatten() - shift
        if convolution.bias is not None:
            shift = shift + convolution.bias.double() * scale
        fused = weight.double() * scale.view(-1, 1, 1, 1)
        convolution.weight = nn.Parameter(fused.to(weight.dtype), requires_grad=False)
        convolution.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)


def use_channels_last(model: nn.Module) -> None:
    """Lay the weights of all 2D convolutions out channels last; their outputs follow."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Store the weights of products and convolutions in the type in which they are computed.

    Autocast then gives the same numbers without converting them, and is needed in every pass.
    Biases stay float32, as all else does: some are added outside of products.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight = nn.Parameter(module.weight.to(dtype), requires_grad=False)
