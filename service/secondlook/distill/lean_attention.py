"""The attention of a lean student, on rows of (pictures · queries) or (pictures · positions)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secondlook.errors import NotSupported


class SelfAttention(nn.Module):
    """Every row of a picture looks at its others; queries and keys come from one linear layer."""

    def __init__(self, attention: Any, rows: int) -> None:
        super().__init__()
        self.rows, self.head = rows, int(attention.head_dim)
        self.width = attention.q_proj.in_features
        query, key = attention.q_proj, attention.k_proj
        self.both = _linear(
            torch.cat([query.weight * attention.scaling, key.weight]),
            torch.cat([query.bias * attention.scaling, key.bias]),
        )
        self.value, self.out = attention.v_proj, attention.o_proj

    def forward(self, states: Tensor, positions: Tensor | None) -> Tensor:
        """(B·rows, width) of queries at ``positions`` of the same shape, or None; the same back."""
        where = states if positions is None else states + positions
        heads = self.width // self.head
        query, key = self._heads(self.both(where), 2).split([heads, heads], dim=1)
        weights = (query @ key.transpose(2, 3)).softmax(dim=3)
        seen = weights @ self._heads(self.value(states), 1)
        return self.out(seen.transpose(1, 2).reshape(-1, self.width))

    def _heads(self, rows: Tensor, times: int) -> Tensor:
        heads = times * self.width // self.head
        return rows.reshape(-1, self.rows, heads, self.head).transpose(1, 2)


class Look(nn.Module):
    """Deformable attention: each query samples a few points around its box on every level.

    The maps are read as the convolutions leave them, and offsets and weights come from one linear
    layer, sorted by head, with the constant factors in its weights.
    """

    def __init__(self, attention: Any, rows: int, shapes: list[tuple[int, int]]) -> None:
        super().__init__()
        if attention.decoder_method != "default":
            raise NotSupported("a student that samples without interpolation cannot be exported")
        self.rows, self.heads = rows, int(attention.n_heads)
        self.width = int(attention.d_model)
        self.counts = [int(count) for count in attention.num_points_list]
        self.points, self.shapes = sum(self.counts), shapes
        # The grid is 2 · (centre + offset · scale · size) - 1, for all points of a query in a row.
        scale = 2 * attention.num_points_scale * attention.offset_scale
        scale = scale.repeat(self.heads).repeat_interleave(2)
        offsets, weights = attention.sampling_offsets, attention.attention_weights
        self.both = _linear(
            self._by_head(offsets.weight * scale[:, None], weights.weight),
            self._by_head((offsets.bias * scale)[:, None], weights.bias[:, None]).flatten(),
        )
        repeated = torch.eye(2).repeat(self.points, 1)
        nothing = torch.zeros_like(repeated)
        self.placed = _linear(
            torch.cat([torch.cat([nothing, repeated], 1), torch.cat([2 * repeated, nothing], 1)]),
            torch.cat([torch.zeros(2 * self.points), -torch.ones(2 * self.points)]),
        )

    def forward(self, states: Tensor, boxes: Tensor, maps: list[Tensor]) -> Tensor:
        """What (B·rows, width) queries see around ``boxes`` (B·rows, 4), (B, width, H, W) maps."""
        both = self.both(states).reshape(-1, self.rows, self.heads, 3 * self.points)
        offsets, weights = both.transpose(1, 2).split([2 * self.points, self.points], dim=3)
        weights = weights.softmax(dim=3).reshape(-1, 1, self.rows, self.points)
        place = self.placed(boxes).reshape(-1, 1, self.rows, 4 * self.points)
        sizes, centres = place.split([2 * self.points, 2 * self.points], dim=3)
        grid = (offsets * sizes + centres).split([2 * count for count in self.counts], dim=3)
        seen = []
        for (height, width), one, of_level, count in zip(
            self.shapes, maps, grid, self.counts, strict=True
        ):
            value = one.reshape(-1, self.width // self.heads, height, width)
            where = of_level.reshape(-1, self.rows, count, 2)
            seen.append(F.grid_sample(value, where, align_corners=False))
        total = (torch.cat(seen, dim=3) * weights).sum(dim=3)
        return total.reshape(-1, self.width, self.rows).transpose(1, 2).reshape(-1, self.width)

    def _by_head(self, offsets: Tensor, weights: Tensor) -> Tensor:
        parts = [offsets.reshape(self.heads, 2 * self.points, -1)]
        parts.append(weights.reshape(self.heads, self.points, -1))
        return torch.cat(parts, dim=1).flatten(0, 1)


class _Aifi(nn.Module):
    """The hybrid encoder's attention within the coarsest map, with its positions as a constant."""

    positions: Tensor

    def __init__(self, aifi: Any, height: int, width: int) -> None:
        super().__init__()
        self.layers = aifi.layers
        self.shape = height, width
        self.attentions = nn.ModuleList(
            SelfAttention(layer.self_attn, height * width) for layer in aifi.layers
        )
        self.width = int(aifi.encoder_hidden_dim)
        positions = torch.zeros(1, height * width, self.width)
        if aifi.eval_size is None:  # as the trained model does: with a fixed size it adds none
            positions = aifi.position_embedding(
                width=width, height=height, device=torch.device("cpu"), dtype=torch.float32
            )
        self.register_buffer("positions", positions.clone())

    def forward(self, features: Tensor, **_: Any) -> Tensor:
        rows = features.flatten(2).transpose(1, 2).reshape(-1, self.width)
        for layer, attention in zip(self.layers, self.attentions, strict=True):
            rows = self._one(layer, attention, rows)
        height, width = self.shape
        by_picture = rows.reshape(-1, height * width, self.width).transpose(1, 2)
        return by_picture.reshape(-1, self.width, height, width)

    def _one(self, layer: Any, attention: nn.Module, rows: Tensor) -> Tensor:
        before = layer.self_attn_layer_norm(rows) if layer.normalize_before else rows
        rows = rows + attention(before, self._placed(before))
        if not layer.normalize_before:
            rows = layer.self_attn_layer_norm(rows)
            return layer.final_layer_norm(rows + layer.mlp(rows))
        rows = layer.final_layer_norm(rows)  # the trained model's residual starts behind it
        return rows + layer.mlp(rows)

    def _placed(self, rows: Tensor) -> Tensor:
        """The positions, once for each picture."""
        by_picture = rows.reshape(-1, *self.positions.shape[1:]) * 0 + self.positions
        return by_picture.reshape(-1, self.width)


def fix_positions(model: Any, config: Any, input_size: tuple[int, int]) -> None:
    """Put constants in place of what the hybrid encoder computes from shapes."""
    if not hasattr(model.encoder, "aifi"):
        return
    width, height = input_size
    for index, level in enumerate(model.encoder.encode_proj_layers):
        stride = int(config.feat_strides[level])
        model.encoder.aifi[index] = _Aifi(
            model.encoder.aifi[index], height // stride, width // stride
        )


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer
