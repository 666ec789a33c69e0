"""Multi-scale deformable attention (arXiv 2010.04159) as one compiled loop, for CPUs.

transformers samples each level with ``grid_sample`` and then weighs and sums the samples; a third
of Grounding DINO's time on a CPU goes there. As operations of PyTorch, every step goes through
memory: places, corners, weights, samples. numba compiles the loop as one would write it, which
reads the values at the sampled cells and writes the result. ``triton_attention`` is the same for
GPUs.

Outputs equal the original's but for rounding. Sums are float32 whatever the type of the values.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any

import numba
import numpy as np
import torch
from numba import prange
from numpy.typing import NDArray
from torch import Tensor

from secondlook.models.cpu_speedups import JointSampling

# OpenMP first: its threads are then PyTorch's, which after their work wait without giving their
# CPUs up.
vars(numba.config)["THREADING_LAYER_PRIORITY"] = ["omp", "tbb", "workqueue"]
BLOCK = 64
"""Queries that a thread takes at a time."""
MAX_CELLS = 2**24
"""Numbers of cells are counted in float32, in vectors with all else; they are exact up to here."""
_THREADS = numba.get_num_threads()
_LAUNCHING = Lock()
"""Not every threading layer of numba may be entered by two threads at once."""


class NumbaDeformableAttention(JointSampling):
    """Takes the weights, and the place, of a ``…MultiscaleDeformableAttention``."""

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
        values = self.values(encoder_hidden_states, attention_mask)
        return self.attend(hidden_states, values, reference_points, spatial_shapes_list), None

    def values(self, cells: Tensor, mask: Tensor | None) -> Tensor:
        """What ``attend`` takes from: (B, S, heads, channels of a head) float32."""
        values = self.value_proj(cells)
        if mask is not None and not mask.all():
            values = values.masked_fill(~mask[..., None], 0.0)
        return values.float().unflatten(-1, (self.heads, -1))

    def attend(
        self,
        queries: Tensor,
        values: Tensor,
        reference_points: Tensor,
        shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """What any of the queries (B, N, C) take from the values, at places around their points."""
        joint = self.sampling(queries)
        sampled = sample_and_sum(values, joint, reference_points.float(), shapes, self.points)
        return self.output_proj(sampled)


def sample_and_sum(
    value: Tensor,
    joint: Tensor,
    reference: Tensor,
    shapes: Sequence[tuple[int, int]],
    points: int,
) -> Tensor:
    """What every query takes from the values, (B, Q, H · D) float32.

    - ``value`` (B, S, H, D) float32: the cells of all levels, one level after the other.
    - ``joint`` (B, Q, 3 · H · levels · points), of any float type: first the offsets (H, levels,
      points, 2), across and down, then the logits of the attention (H, levels, points).
    - ``reference`` (B, Q, levels, 2 or 4) float32: points from 0 to 1, with the offsets in cells;
      or boxes as centre and size, with the offsets in shares of half the box, over ``points``.
    - ``shapes``: height and width of every level, in cells.

    What lies outside of a level is 0, as ``grid_sample`` has it with ``align_corners=False``.
    Raises ``ValueError`` for more than ``MAX_CELLS`` cells, or others than ``shapes`` have.
    """
    batch, cells, heads, channels = value.shape
    if cells > MAX_CELLS:
        raise ValueError(f"expected at most {MAX_CELLS} cells, got {cells}")
    if cells != sum(height * width for height, width in shapes):
        raise ValueError(f"expected the cells of levels {list(shapes)}, got {cells}")
    levels, sizes = _levels(tuple(shapes), points)
    joint = joint.float()
    logits = joint[..., 2 * heads * levels.shape[1] :]
    attention = logits.unflatten(-1, (heads, -1)).softmax(-1)
    centre = torch.addcmul(sizes.new_tensor(-0.5), reference[..., :2], sizes)
    if reference.shape[-1] == 4:
        step = reference[..., 2:] * sizes * (0.5 / points)
    else:
        step = torch.ones_like(centre)
    centre, step = (each.transpose(2, 3).repeat_interleave(points, -1) for each in (centre, step))
    output = torch.empty(batch, joint.shape[1], heads, channels)
    given = [each.contiguous().numpy() for each in (value, joint, attention, centre, step)]
    with _LAUNCHING:
        numba.set_num_threads(min(torch.get_num_threads(), _THREADS))
        _sample_and_sum(*given, levels, output.numpy())
    return output.flatten(2)


@lru_cache(maxsize=64)
def _levels(shapes: tuple[tuple[int, int], ...], points: int) -> tuple[NDArray[np.float32], Tensor]:
    """By sample, (3, levels · points): the width, height and first cell of its level.

    And by level (levels, 2): width and height.
    """
    sizes = np.asarray(shapes, dtype=np.float32)[:, ::-1]
    cells = sizes.prod(axis=1)
    levels = np.column_stack([sizes, cells.cumsum() - cells]).T.repeat(points, axis=1)
    return np.ascontiguousarray(levels, dtype=np.float32), torch.from_numpy(sizes.copy())


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compiled at once. The code is kept beside this file or in the user's cache, for next time."""
    vector, matrix = "float32[:, :, ::1]", "float32[:, :, :, ::1]"
    signature = f"void({matrix}, {vector}, {matrix}, {matrix}, {matrix}, float32[:, ::1], {matrix})"

    def compiled(cache: bool) -> Callable[..., None]:
        return numba.njit(
            signature,
            cache=cache,
            parallel=True,
            nogil=True,
            error_model="numpy",
            fastmath={"contract", "reassoc", "nsz"},  # not what would let it forget NaN
        )(function)

    try:
        return compiled(cache=True)
    except RuntimeError:  # neither can be written
        return compiled(cache=False)


@_compiled
def _sample_and_sum(  # type: ignore[no-untyped-def]  # numba compiles it; its types are its own
    values, joint, attention, centres, steps, levels, output
):
    """By query and head: first, in vectors, the cells and weights of all samples; then the sum.

    ``scratch`` holds both, in one array: with two, the compiler would have to prove too many pairs
    of arrays apart, and would give vectors up.
    """
    zero, one = np.float32(0), np.float32(1)
    batch, queries, heads, channels = output.shape
    samples = levels.shape[1]
    blocks = (queries + BLOCK - 1) // BLOCK
    for task in prange(batch * blocks):
        image, start = task // blocks, task % blocks * BLOCK
        scratch = np.empty((8, samples), np.float32)
        for query in range(start, min(start + BLOCK, queries)):
            for head in range(heads):
                for sample in range(samples):
                    width, height = levels[0, sample], levels[1, sample]
                    place = 2 * (head * samples + sample)
                    across, down = joint[image, query, place], joint[image, query, place + 1]
                    x = centres[image, query, 0, sample] + across * steps[image, query, 0, sample]
                    y = centres[image, query, 1, sample] + down * steps[image, query, 1, sample]
                    # A cell beyond the level all corners have weight 0. NaN goes there too: every
                    # cell that is read has to be one of the level.
                    x = x if x > -one else -one
                    y = y if y > -one else -one
                    x = x if x < width else width
                    y = y if y < height else height
                    left, top = np.floor(x), np.floor(y)
                    right, bottom = left + one, top + one
                    near_right, near_bottom = x - left, y - top
                    near_left, near_top = one - near_right, one - near_bottom
                    near_left = near_left if zero <= left < width else zero
                    near_right = near_right if right < width else zero
                    near_top = near_top if zero <= top < height else zero
                    near_bottom = near_bottom if bottom < height else zero
                    weight = attention[image, query, head, sample]
                    near_top, near_bottom = weight * near_top, weight * near_bottom
                    scratch[0, sample] = near_top * near_left
                    scratch[1, sample] = near_top * near_right
                    scratch[2, sample] = near_bottom * near_left
                    scratch[3, sample] = near_bottom * near_right
                    left = min(max(left, zero), width - one)
                    right = min(right, width - one)
                    above = levels[2, sample] + width * min(max(top, zero), height - one)
                    below = levels[2, sample] + width * min(bottom, height - one)
                    scratch[4, sample] = above + left
                    scratch[5, sample] = above + right
                    scratch[6, sample] = below + left
                    scratch[7, sample] = below + right
                for channel in range(channels):
                    output[image, query, head, channel] = zero
                for sample in range(samples):
                    a, b = np.uint32(scratch[4, sample]), np.uint32(scratch[5, sample])
                    c, d = np.uint32(scratch[6, sample]), np.uint32(scratch[7, sample])
                    for channel in range(channels):
                        output[image, query, head, channel] += (
                            scratch[0, sample] * values[image, a, head, channel]
                            + scratch[1, sample] * values[image, b, head, channel]
                            + scratch[2, sample] * values[image, c, head, channel]
                            + scratch[3, sample] * values[image, d, head, channel]
                        )
