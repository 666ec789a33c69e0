"""Multi-scale deformable attention (arXiv 2010.04159) as one Triton kernel, for NVIDIA GPUs.

transformers samples each level with ``grid_sample`` and then weighs and sums the samples: some 20
kernels a layer, each of which reads and writes (queries · heads · levels · points) numbers or
images of that many pixels. Here one kernel takes what the two projections give, and does the
softmax, the places, the bilinear samples and the sum in registers: it reads the values at the
sampled cells and writes the result.

Outputs equal the original's but for rounding. Sums and the softmax are float32 whatever the
values' type. On a CPU only Triton's interpreter runs it, which is for tests.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from secondlook.models.cpu_speedups import JointSampling

BLOCK = 32
"""Queries of one program. Untuned: no GPU was at hand when this was written."""
WARPS = 4


class TritonDeformableAttention(JointSampling):
    """Takes the weights, and the place, of a ``…MultiscaleDeformableAttention``."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        reference_points: Tensor,
        spatial_shapes: Tensor,
        level_start_index: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """As the original's: (B, Q, C) queries, (B, S, C) values, (B, Q, levels, 2 or 4) points.

        ``spatial_shapes`` (levels, 2) and ``level_start_index`` (levels,) are int64, height before
        width; ``attention_mask`` (B, S) is True where there is image. Returns (B, Q, C), and None
        for the attention, which is not kept.
        """
        if position_embeddings is not None:
            hidden_states = hidden_states + position_embeddings
        value = self.value_proj(encoder_hidden_states)
        if attention_mask is not None:
            value = value.masked_fill(~attention_mask[..., None], 0.0)
        sampled = sample_and_sum(
            value.unflatten(-1, (self.heads, -1)),
            self.sampling(hidden_states),
            reference_points.float(),
            (spatial_shapes, level_start_index),
            self.points,
        )
        return self.output_proj(sampled), None


def sample_and_sum(
    value: Tensor, joint: Tensor, reference: Tensor, levels: tuple[Tensor, Tensor], points: int
) -> Tensor:
    """What every query takes from the values, (B, Q, H · D) in the type of ``value``.

    - ``value`` (B, S, H, D): the cells of all levels, one level after the other.
    - ``joint`` (B, Q, 3 · H · levels · points), of any float type: first the offsets (H, levels,
      points, 2), across and down, then the logits of the attention (H, levels, points).
    - ``reference`` (B, Q, levels, 2 or 4) float32: points from 0 to 1, with the offsets in cells;
      or boxes as centre and size, with the offsets in shares of half the box, over ``points``.
    - ``levels``: heights and widths (levels, 2), and the first cell (levels,), of int64. They stay
      on the device: to read them here would be a wait for it.

    What lies outside of a level is 0, as ``grid_sample`` has it with ``align_corners=False``.
    """
    batch, cells, heads, channels = value.shape
    queries = joint.shape[1]
    output = value.new_empty(batch, queries, heads * channels)
    grid = (triton.cdiv(queries, BLOCK), heads, batch)
    with torch.cuda.device_of(value):
        _sample_and_sum[grid](
            value.contiguous(),
            joint.contiguous(),
            reference.contiguous(),
            *levels,
            output,
            queries,
            cells,
            heads=heads,
            levels=len(levels[1]),
            points=points,
            channels=channels,
            coordinates=reference.shape[-1],
            padded_channels=triton.next_power_of_2(channels),
            block=BLOCK,
            num_warps=WARPS,
            enable_fp_fusion=True,  # Triton 3.9 warns where it is left to its default
        )
    return output


@triton.jit(do_not_specialize=["queries", "cells"])  # else it is compiled again for some images
def _sample_and_sum(  # type: ignore[no-untyped-def]  # Triton compiles it; its types are its own
    value,
    joint,
    reference,
    shapes,
    starts,
    output,
    queries,
    cells,
    heads: tl.constexpr,
    levels: tl.constexpr,
    points: tl.constexpr,
    channels: tl.constexpr,
    coordinates: tl.constexpr,
    padded_channels: tl.constexpr,
    block: tl.constexpr,
):
    """One block of queries of one head of one image. Samples are numbered level by level."""
    row = tl.program_id(0) * block + tl.arange(0, block)
    head = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    exists = row < queries
    query = image * queries + row
    projected = joint + query * (3 * heads * levels * points)
    offsets = projected + head * (2 * levels * points)
    logits = projected + (2 * heads + head) * (levels * points)

    highest = tl.full([block], float("-inf"), tl.float32)
    for sample in range(levels * points):
        logit = tl.load(logits + sample, mask=exists, other=0.0).to(tl.float32)
        highest = tl.maximum(highest, logit)

    channel = tl.arange(0, padded_channels)[None, :]
    real = channel < channels
    total = tl.full([block], 0.0, tl.float32)
    summed = tl.full([block, padded_channels], 0.0, tl.float32)
    for level in range(levels):  # not unrolled, so that it compiles in 2 seconds
        height = tl.load(shapes + level * 2).to(tl.int32)
        width = tl.load(shapes + level * 2 + 1).to(tl.int32)
        start = tl.load(starts + level)
        image_cells = value + ((image * cells + start) * heads + head) * channels + channel
        place = reference + (query * levels + level) * coordinates
        centre_x = tl.load(place, mask=exists, other=0.0) * width - 0.5
        centre_y = tl.load(place + 1, mask=exists, other=0.0) * height - 0.5
        if coordinates == 4:
            step_x = tl.load(place + 2, mask=exists, other=0.0) * width * (0.5 / points)
            step_y = tl.load(place + 3, mask=exists, other=0.0) * height * (0.5 / points)
        else:
            step_x = 1.0
            step_y = 1.0
        for point in tl.static_range(points):
            sample = level * points + point
            logit = tl.load(logits + sample, mask=exists, other=0.0).to(tl.float32)
            weight = tl.exp(logit - highest)
            total += weight
            x = centre_x + tl.load(offsets + 2 * sample, mask=exists, other=0.0) * step_x
            y = centre_y + tl.load(offsets + 2 * sample + 1, mask=exists, other=0.0) * step_y
            # A cell beyond the level all corners have weight or value 0: no integer overflows.
            x = tl.minimum(tl.maximum(x, -1.0), width * 1.0)
            y = tl.minimum(tl.maximum(y, -1.0), height * 1.0)
            left = tl.floor(x)
            top = tl.floor(y)
            for down in tl.static_range(2):
                for right in tl.static_range(2):
                    column = left.to(tl.int32) + right
                    line = top.to(tl.int32) + down
                    inside = exists & (column >= 0) & (column < width)
                    inside = inside & (line >= 0) & (line < height)
                    near_x = x - left if right == 1 else 1.0 - (x - left)
                    near_y = y - top if down == 1 else 1.0 - (y - top)
                    cell = (line * width + column) * (heads * channels)
                    found = tl.load(
                        image_cells + cell[:, None], mask=inside[:, None] & real, other=0.0
                    )
                    share = weight * near_x * near_y
                    summed += share[:, None] * found.to(tl.float32)
    mean = summed / total[:, None]
    target = output + (query[:, None] * heads + head) * channels + channel
    tl.store(target, mean.to(output.dtype.element_ty), mask=exists[:, None] & real)
