"""Layers of Grounding DINO and its Swin backbone that give the same with less work.

Each takes the weights, and the place, of a layer of transformers; outputs differ by rounding only.

- ``FusionLayer``: image and caption attend to each other in 1024 channels, so transformers brings
  every cell there (queries and values) and back: three of its largest products. Captions are short,
  and the products are associative: the few tokens are brought to the cells' 256 channels instead.
- ``FeedForward``: the hidden side of a feed-forward network is 4 to 8 times as wide as its input.
  A few rows at a time, it stays in the processor's cache.
- ``WindowLayer``: Swin (arXiv 2103.14030) shifts, pads, cuts and puts together whole maps, a
  copy each time. Which cell goes where depends on the shape alone: one gather brings the cells to
  their windows, one brings them back.
- ``FusedAttention``: PyTorch's own, which never stores the scores.
- ``EncoderOnce``: many classes need several captions, and the backbone does not read them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from secondlook.models.cpu_speedups import HalfLinear, join_linear, multiplies, replace_modules

_CACHED = 2**20
"""Numbers of the hidden side that are computed at a time in float32, 4 MiB."""
_CACHED_HALF = 2**22
"""The same in half types, 8 MiB: a processor that multiplies those itself has to be fed more."""
_WINDOW_CELLS = 2**11
"""Cells whose windows attend at a time, at least."""


def replace_attention(model: nn.Module) -> int:
    """Put ``FusionLayer`` and ``FusedAttention`` in place of transformers', on any device.

    Returns how many were replaced.
    """
    fusion = replace_modules(model, "GroundingDinoFusionLayer", FusionLayer)
    return fusion + replace_modules(model, "GroundingDinoMultiheadAttention", FusedAttention)


def replace_for_cache(model: nn.Module) -> int:
    """Put the other layers of this module in place of transformers', on a CPU.

    Deformable attention is replaced too. Returns how many were replaced.
    """
    from secondlook.models.numba_attention import NumbaDeformableAttention  # 0.7 s to import

    found = {
        "MultiscaleDeformableAttention": NumbaDeformableAttention,
        "GroundingDinoDeformableLayer": DeformableLayer,
        "SwinLayer": WindowLayer,
        "GroundingDinoConvEncoder": EncoderOnce,
    }
    return sum(replace_modules(model, suffix, make) for suffix, make in found.items())


def fuse_half_products(model: nn.Module) -> None:
    """Put ``HalfLinear`` in place of the linear layers of a half type, on a CPU that has it."""
    for module in model.modules():
        if isinstance(module, FeedForward):
            module.fuse_activation()
    replace_modules(model, "Linear", _half_linear)


def _half_linear(layer: nn.Module) -> nn.Module:
    """``HalfLinear`` in place of a plain linear layer of a half type that oneDNN multiplies."""
    if type(layer) is nn.Linear and multiplies(layer.weight.dtype):
        return HalfLinear(layer)
    return layer


class EncoderOnce(nn.Module):
    """In place of a ``GroundingDinoConvEncoder``: one pass for the same tensor of pixels."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.original, self.model = original, original.model
        self.found = WeakTensorKeyDictionary()

    def forward(self, pixels: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """As the original's: maps and their masks. They are kept for as long as ``pixels`` is."""
        found: list[tuple[Tensor, Tensor]] | None = self.found.get(pixels)
        if found is None:
            found = self.found[pixels] = self.original(pixels, mask)
        return found


class FusionLayer(nn.Module):
    """In place of a ``GroundingDinoFusionLayer``."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        attention = original.attn
        self.heads, self.scale = attention.num_heads, attention.scale
        self.layer_norm_vision = original.layer_norm_vision
        self.layer_norm_text = original.layer_norm_text
        self.vision_proj, self.text_proj = attention.vision_proj, attention.text_proj
        self.values_vision_proj = attention.values_vision_proj
        self.values_text_proj = attention.values_text_proj
        self.out_vision_proj = attention.out_vision_proj
        self.out_text_proj = attention.out_text_proj
        self.vision_param, self.text_param = original.vision_param, original.text_param

    def forward(
        self,
        vision_features: Tensor,
        text_features: Tensor,
        attention_mask_vision: Tensor | None = None,
        attention_mask_text: Tensor | None = None,
    ) -> tuple[tuple[Tensor, None], tuple[Tensor, None]]:
        """As the original's: (B, S, C) cells, (B, T, D) tokens, masks that are True for padding.

        Returns both with what they took from each other, and None for the weights of each.
        """
        cells, tokens = self.layer_norm_vision(vision_features), self.layer_norm_text(text_features)
        read = cells.to(self.vision_proj.weight.dtype)
        scores = self._scores(read, tokens)
        to_cells = _masked(scores, attention_mask_text, 2).softmax(2).flatten(1, 2)
        to_tokens = _masked(scores, attention_mask_vision, 3).softmax(3).flatten(1, 2)
        vision = self._vision_delta(to_cells, tokens)
        text = self.out_text_proj(self._attended_cells(to_tokens, read))
        return (cells + vision, None), (tokens + self.text_param * text, None)

    def _scores(self, cells: Tensor, tokens: Tensor) -> Tensor:
        """(B, heads, T, S): a token's key, brought to the cells' channels, times each cell."""
        keys = _split(self.text_proj(tokens), self.heads) * self.scale
        weight = self.vision_proj.weight.unflatten(0, (self.heads, -1))
        bias = self.vision_proj.bias.unflatten(0, (self.heads, -1))
        brought = (keys @ weight).flatten(1, 2)
        constant = (keys * bias[:, None]).sum(-1)
        found = (cells @ brought.transpose(1, 2)).transpose(1, 2).unflatten(1, (self.heads, -1))
        return found + constant[..., None]

    def _vision_delta(self, attention: Tensor, tokens: Tensor) -> Tensor:
        """(B, S, C) for attention (B, heads · T, S): what each token adds, in the cells' channels.

        A head's attention adds up to 1, so that a share of the bias can stand with every token.
        """
        weight = self.out_vision_proj.weight.unflatten(1, (self.heads, -1)).permute(1, 2, 0)
        values = _split(self.values_text_proj(tokens), self.heads)
        added = values @ weight + self.out_vision_proj.bias / self.heads
        return attention.transpose(1, 2) @ (added * self.vision_param).flatten(1, 2)

    def _attended_cells(self, attention: Tensor, cells: Tensor) -> Tensor:
        """(B, T, heads · channels) for attention (B, heads · T, S)."""
        taken = (attention @ cells).unflatten(1, (self.heads, -1))
        weight = self.values_vision_proj.weight.unflatten(0, (self.heads, -1))
        bias = self.values_vision_proj.bias.unflatten(0, (self.heads, -1))
        return (taken @ weight.transpose(1, 2) + bias[:, None]).transpose(1, 2).flatten(2)


def _split(features: Tensor, heads: int) -> Tensor:
    """(B, N, E) to (B, heads, N, channels of a head)."""
    return features.unflatten(-1, (heads, -1)).transpose(1, 2)


def _masked(scores: Tensor, padding: Tensor | None, dim: int) -> Tensor:
    """Scores (B, heads, T, S) without those of padding (B, T), ``dim`` 2, or (B, S), ``dim`` 3."""
    if padding is None:
        return scores
    padding = padding[:, None, :, None] if dim == 2 else padding[:, None, None, :]
    return scores.masked_fill(padding, float("-inf"))


class FeedForward(nn.Module):
    """``x + fc2(activation(fc1(norm(x))))``, for some rows at a time."""

    def __init__(
        self,
        fc1: nn.Linear,
        activation: Any,
        fc2: nn.Linear,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm = norm or nn.Identity()
        self.fc1: nn.Linear | HalfLinear = fc1
        self.fc2 = fc2
        self.activation = _in_place(activation)

    def fuse_activation(self) -> None:
        """Let the first product apply the activation, where it is of a type that can."""
        name, product = _ONEDNN_NAMES.get(self.activation), self.fc1
        if name and isinstance(product, nn.Linear) and multiplies(product.weight.dtype):
            self.fc1, self.activation = HalfLinear(product, name), nn.Identity()

    @property
    def rows(self) -> int:
        """How many at a time."""
        numbers = _CACHED if self.fc1.weight.dtype is torch.float32 else _CACHED_HALF
        return max(1, numbers // self.fc1.out_features)

    def forward(self, features: Tensor) -> Tensor:
        """(…, C) to the same."""
        rows, size = features.reshape(-1, features.shape[-1]), self.rows
        found = torch.empty_like(rows)
        for part, out in zip(rows.split(size), found.split(size), strict=True):
            torch.add(part, self.fc2(self.activation(self.fc1(self.norm(part)))), out=out)
        return found.view_as(features)


def _in_place(activation: Any) -> Callable[[Tensor], Tensor]:
    """The activation, in the memory of what it is given where it is one of the usual two."""
    probe = torch.linspace(-4, 4, 9)
    found = activation(probe)
    if torch.equal(found, F.relu(probe)):
        return F.relu_
    return torch.ops.aten.gelu_ if torch.equal(found, F.gelu(probe)) else activation


_ONEDNN_NAMES = {F.relu_: "relu", torch.ops.aten.gelu_: "gelu"}


class DeformableLayer(nn.Module):
    """In place of a ``GroundingDinoDeformableLayer``."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.self_attn = original.self_attn
        self.self_attn_layer_norm = original.self_attn_layer_norm
        self.feed_forward = FeedForward(original.fc1, original.activation_fn, original.fc2)
        self.final_layer_norm = original.final_layer_norm

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        position_embeddings: Tensor,
        reference_points: Tensor,
        spatial_shapes_list: list[tuple[int, int]],
        **_: Any,
    ) -> tuple[Tensor, None]:
        """As the original's: (B, S, C) cells to the same, and None for the attention."""
        values = self.self_attn.values(hidden_states, attention_mask)
        found = torch.empty_like(hidden_states)
        size = max(1, self.feed_forward.rows // len(hidden_states))
        whole = (hidden_states, position_embeddings, reference_points, found)
        for cells, position, points, out in zip(
            *(each.split(size, 1) for each in whole), strict=True
        ):
            taken = self.self_attn.attend(cells + position, values, points, spatial_shapes_list)
            attended = self.self_attn_layer_norm(cells + taken)
            out.copy_(self.final_layer_norm(self.feed_forward(attended)))
        return found, None


class FusedAttention(nn.Module):
    """In place of a ``GroundingDinoMultiheadAttention``."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.heads = original.num_attention_heads
        self.query, self.key, self.value = original.query, original.key, original.value
        self.out_proj = original.out_proj

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """As the original's: (B, Q, C), (B, K, C) twice, and a mask that is added to the scores.

        Returns (B, Q, C), and None for the attention, which is not kept.
        """
        query, key, value = (
            _split(layer(features), self.heads)
            for layer, features in ((self.query, queries), (self.key, keys), (self.value, values))
        )
        if attention_mask is not None:
            # The lowest float32 is -inf in bfloat16, and a row of -inf has no softmax.
            lowest = torch.finfo(query.dtype).min
            attention_mask = attention_mask.clamp(min=lowest).to(query.dtype)
        found = F.scaled_dot_product_attention(query, key, value, attention_mask)
        return self.out_proj(found.transpose(1, 2).flatten(2)), None


@dataclass(frozen=True, eq=False)
class _Windows:
    """Where the cells of a map of one shape stand in Swin's windows; N windows of A cells."""

    order: tuple[Tensor, ...]
    """By part: the cell at each place, 0 where there is none."""
    empty: tuple[Tensor, ...]
    """By part: the places without a cell."""
    apart: tuple[Tensor | None, ...]
    """By part (windows, 1, A, A): -100 for two places that are no neighbours in the map."""
    back: Tensor
    """The place of each cell."""


@lru_cache(maxsize=64)
def _windows(height: int, width: int, side: int, shift: int) -> _Windows:
    cells = F.pad(
        torch.arange(height * width).view(height, width),
        (0, -width % side, 0, -height % side),
        value=-1,
    )
    order = _cut(cells.roll((-shift, -shift), (0, 1)), side)
    back = torch.empty(height * width, dtype=torch.int64)
    back[order[order >= 0]] = (order >= 0).flatten().nonzero().flatten()
    parts = order.split(-(-_WINDOW_CELLS // side**2))
    apart: Sequence[Tensor | None] = [None] * len(parts)
    if shift:
        down, across = (_regions(length, side, shift) for length in cells.shape)
        region = _cut(down[:, None] * 3 + across, side)
        differ = region[:, None, :, None] != region[:, None, None, :]
        apart = (differ * -100.0).split(len(parts[0]))
    flat = [part.flatten() for part in parts]
    return _Windows(
        tuple(part.clamp(min=0) for part in flat),
        tuple((part < 0).nonzero().flatten() for part in flat),
        tuple(apart),
        back,
    )


def _cut(cells: Tensor, side: int) -> Tensor:
    """A map (H, W) as windows (N, A), row by row."""
    windows = cells.unflatten(0, (-1, side)).unflatten(2, (-1, side)).transpose(1, 2)
    return windows.reshape(-1, side * side)


def _regions(length: int, side: int, shift: int) -> Tensor:
    """Along one side, which stretch each place of a shifted map comes from."""
    places = torch.arange(length)
    return (places >= length - side).long() + (places >= length - shift).long()


class WindowLayer(nn.Module):
    """In place of a ``SwinLayer`` of a backbone, where maps of every size are cut into windows."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        attention = original.attention
        self.heads, self.scale = attention.num_attention_heads, attention.scaling
        self.side, self.shift = original.window_size, original.shift_size
        self.norm = original.layernorm_before
        self.qkv = join_linear(attention.q_proj, attention.k_proj, attention.v_proj)
        self.o_proj = attention.o_proj
        self.mlp = FeedForward(
            original.mlp.fc1,
            original.mlp.activation_fn,
            original.mlp.fc2,
            original.layernorm_after,
        )
        with torch.no_grad():
            self.bias = nn.Buffer(attention.relative_position_bias())

    def forward(
        self, hidden_states: Tensor, input_dimensions: tuple[int, int], **_: Any
    ) -> tuple[Tensor, None]:
        """As the original's: (B, H · W, C) cells to the same, and None for the attention."""
        windows = _windows(*input_dimensions, self.side, self.shift)
        parts = zip(windows.order, windows.empty, windows.apart, strict=True)
        attended = torch.cat([self._attend(hidden_states, *part) for part in parts], dim=1)
        return self.mlp(hidden_states + attended.index_select(1, windows.back)), None

    def _attend(self, cells: Tensor, order: Tensor, empty: Tensor, apart: Tensor | None) -> Tensor:
        """What the cells in ``order`` take from their windows, (B, places, C)."""
        taken = self.norm(cells.index_select(1, order)).index_fill_(1, empty, 0.0)
        batch, places, _ = taken.shape
        split = self.qkv(taken).view(-1, self.side**2, 3, self.heads, cells.shape[-1] // self.heads)
        bias = self.bias if apart is None else (self.bias + apart).repeat(batch, 1, 1, 1)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(query, key, value, bias, scale=self.scale)
        return self.o_proj(found.transpose(1, 2).reshape(batch, places, -1))
