"""A student as a device needs it: the same outputs from a third of the nodes.

transformers' classes serve training: they compute denoising groups, heads of every layer, boxes of
every position, and shapes at run time. Here the image's size is known, so positions, anchors and
shapes are constants; boxes are computed for the chosen queries only; scores and boxes of the last
layer only. Everything runs on rows of (images * queries) or (images * positions), so that a linear
layer is one node; the number of images stays free.

Both architectures (DEIMv2, arXiv 2509.20787; D-FINE, arXiv 2410.13842) share their attribute names
in transformers. The parity check of every export compares the two. What it gains over a plain
export: docs/decisions/0018.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secondlook.training.export.optimize import fuse_modules
from secondlook_client.errors import NotSupported

_MAX_LOGIT = 11.512915
"""Logit of 1 - 1e-5: the limit of the trained model's inverse sigmoid."""


class InferenceGraph(nn.Module):
    """(B, H, W, 3) uint8 RGB to (B, Q, C) scores and (B, Q, 4) xyxy relative to the image."""

    def __init__(self, student: Any, input_size: tuple[int, int]) -> None:
        """``student`` is a DEIMv2 or D-FINE in evaluation mode; it is changed and cannot be reused.

        ``input_size``: width and height of the images.
        """
        super().__init__()
        width, height = input_size
        fuse_modules(student, lambda: student(pixel_values=torch.zeros(1, 3, height, width)))
        model = student.model
        _fix_positions(model, student.config, input_size)
        self.backbone = FeatureMaps(student)
        self.encoder = model.encoder
        self.input_proj = model.decoder_input_proj
        self.levels = int(student.config.num_feature_levels)
        shapes = self._shapes(height, width)
        self.queries = _Queries(model, student.config, shapes)
        self.decoder = _Decoder(model.decoder, student.config, shapes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        maps = self._maps(images.permute(0, 3, 1, 2).to(torch.float32) / 255)
        states, boxes = self.queries(maps)
        return self.decoder(maps, states, boxes)

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        """The levels that the decoder reads, (B, d, h, w) each."""
        encoded = self.encoder(self.backbone(pixels))
        found = encoded.feature_maps if "feature_maps" in encoded else encoded.last_hidden_state
        maps = [projection(one) for projection, one in zip(self.input_proj, found, strict=False)]
        for level in range(len(found), self.levels):
            maps.append(self.input_proj[level](found[-1]))
        return maps

    def _shapes(self, height: int, width: int) -> list[tuple[int, int]]:
        with torch.inference_mode():
            maps = self._maps(torch.zeros(1, 3, height, width))
        return [(int(one.shape[2]), int(one.shape[3])) for one in maps]


class FeatureMaps(nn.Module):
    """The backbone of a student and the projections behind it."""

    def __init__(self, student: Any) -> None:
        super().__init__()
        model = student.model
        own = hasattr(model, "conv_encoder")  # DEIMv2 projects inside of it
        self.body = model.conv_encoder if own else model.backbone.model
        self.projections = None if own else model.encoder_input_proj

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, H, W) pixels in [0, 1] to maps (B, C, h, w), the finest first."""
        found = self.body(pixels)
        if self.projections is None:
            return list(found)
        return [p(one) for p, one in zip(self.projections, found.feature_maps, strict=True)]


class _Queries(nn.Module):
    """Selects the positions where an object is likeliest."""

    anchors: Tensor
    valid: Tensor
    zeros: Tensor

    def __init__(self, model: Any, config: Any, shapes: list[tuple[int, int]]) -> None:
        super().__init__()
        self.output, self.score_head = model.enc_output, model.enc_score_head
        self.bbox_head = model.enc_bbox_head
        self.count, self.width = int(config.num_queries), int(config.d_model)
        self.positions = sum(h * w for h, w in shapes)
        if config.anchor_image_size is None:
            anchors, valid = model.generate_anchors(tuple(shapes))
        else:
            anchors, valid = model.anchors, model.valid_mask
        self.register_buffer("anchors", anchors[0].clone())
        self.register_buffer("valid", valid[0].float())
        self.register_buffer("zeros", torch.zeros(self.width, dtype=torch.int64))
        self.all_valid = bool(valid.all())

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(B·Q, d) states and (B·Q, 4) unbounded cxcywh."""
        memory = torch.cat([one.flatten(2) for one in maps], dim=2).transpose(1, 2)
        if not self.all_valid:
            memory = memory * self.valid
        linear, norm = self.output
        memory = linear(memory.reshape(-1, self.width))
        best = self.score_head(norm(memory)).amax(dim=1).reshape(-1, self.positions)
        chosen = torch.topk(best, self.count, dim=1).indices
        index = chosen.unsqueeze(-1) + self.zeros  # repeated for every number of a state
        states = memory.reshape(-1, self.positions, self.width).gather(1, index)
        # Normalised row by row, so after the choice as well as before it; but OpenVINO 2026.4 fails
        # on an int8 graph with a Reshape right behind a norm.
        states = norm(states.reshape(-1, self.width))
        return states, self.bbox_head(states) + self.anchors[chosen].reshape(-1, 4)


class _Decoder(nn.Module):
    """Refines boxes layer by layer; gives scores after the last one."""

    to_change: Tensor
    to_corners: Tensor

    def __init__(self, decoder: Any, config: Any, shapes: list[tuple[int, int]]) -> None:
        super().__init__()
        last = int(decoder.eval_idx)
        self.layers = nn.ModuleList(
            _Layer(layer, config, shapes) for layer in list(decoder.layers)[: last + 1]
        )
        self.position_head, self.first_head = decoder.query_pos_head, decoder.pre_bbox_head
        self.bbox_heads = nn.ModuleList(list(decoder.bbox_embed)[: last + 1])
        self.class_head = decoder.class_embed[last]
        self.quality_head = decoder.lqe_layers[last].reg_conf
        self.top = int(decoder.lqe_layers[last].top_prob_values)
        self.bins, self.count = int(decoder.max_num_bins) + 1, int(config.num_queries)
        to_change, to_corners = _distance_matrices(decoder)
        self.register_buffer("to_change", to_change)
        self.register_buffer("to_corners", to_corners)

    def forward(
        self, maps: list[Tensor], states: Tensor, unbounded: Tensor
    ) -> tuple[Tensor, Tensor]:
        boxes = unbounded.sigmoid()
        first = sizes = before = corners = bins = unbounded  # set by the first layer
        for number, (layer, bbox_head) in enumerate(zip(self.layers, self.bbox_heads, strict=True)):
            positions = self.position_head(boxes).clamp(min=-10, max=10)
            states = layer(states, positions, boxes, maps)
            if number == 0:
                start = unbounded.clamp(-_MAX_LOGIT, _MAX_LOGIT)
                first = (self.first_head(states) + start).sigmoid()
                sizes = torch.cat([first[:, 2:], first[:, 2:]], dim=1)
                corners = bbox_head(states)
            else:
                corners = bbox_head(states + before) + corners
            before = states
            bins = corners.reshape(-1, 4, self.bins).softmax(dim=2)
            boxes = first + (bins.reshape(-1, 4 * self.bins) @ self.to_change) * sizes
        return self._outputs(states, bins, first, sizes)

    def _outputs(
        self, states: Tensor, bins: Tensor, first: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        top = torch.topk(bins, self.top, dim=2).values
        shape_of_bins = torch.cat([top, top.mean(dim=2, keepdim=True)], dim=2)
        quality = self.quality_head(shape_of_bins.reshape(-1, 4 * (self.top + 1)))
        scores = (self.class_head(states) + quality).sigmoid()
        half = first[:, 2:] / 2
        edges = torch.cat([first[:, :2] - half, first[:, :2] + half], dim=1)
        boxes = edges + (bins.reshape(-1, 4 * self.bins) @ self.to_corners) * sizes
        classes = self.class_head.out_features
        return scores.reshape(-1, self.count, classes), boxes.reshape(-1, self.count, 4)


class _Layer(nn.Module):
    """One decoder layer on (B·Q, d)."""

    def __init__(self, layer: Any, config: Any, shapes: list[tuple[int, int]]) -> None:
        super().__init__()
        self.attention = _SelfAttention(layer.self_attn, int(config.num_queries))
        self.attention_norm = layer.self_attn_layer_norm
        self.cross_attention = _DeformableAttention(
            layer.encoder_attn, int(config.num_queries), shapes
        )
        self.gateway = layer.gateway
        self.cross_attention_norm = getattr(layer, "encoder_attn_layer_norm", None)
        self.mlp, self.norm = layer.mlp, layer.final_layer_norm

    def forward(
        self, states: Tensor, positions: Tensor, boxes: Tensor, maps: list[Tensor]
    ) -> Tensor:
        states = self.attention_norm(states + self.attention(states, positions))
        attended = self.cross_attention(states + positions, boxes, maps)
        if self.gateway is not None:
            states = self.gateway(states, attended)
        else:
            assert self.cross_attention_norm is not None, "a layer has a gate or a norm"
            states = self.cross_attention_norm(states + attended)
        return self.norm(states + self.mlp(states))


class _SelfAttention(nn.Module):
    """Attention among the rows of an image; queries and keys come from one linear layer."""

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
        """(B·rows, width) states, with ``positions`` of that shape or None, to that shape."""
        located = states if positions is None else states + positions
        heads = self.width // self.head
        query, key = self._heads(self.both(located), 2).split([heads, heads], dim=1)
        weights = (query @ key.transpose(2, 3)).softmax(dim=3)
        attended = weights @ self._heads(self.value(states), 1)
        return self.out(attended.transpose(1, 2).reshape(-1, self.width))

    def _heads(self, rows: Tensor, times: int) -> Tensor:
        heads = times * self.width // self.head
        return rows.reshape(-1, self.rows, heads, self.head).transpose(1, 2)


class _DeformableAttention(nn.Module):
    """Deformable attention: each query samples a few points around its box on every level.

    Maps keep the layout of the convolutions; offsets and weights come from one linear
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
        self.place_boxes = _linear(
            torch.cat([torch.cat([nothing, repeated], 1), torch.cat([2 * repeated, nothing], 1)]),
            torch.cat([torch.zeros(2 * self.points), -torch.ones(2 * self.points)]),
        )

    def forward(self, states: Tensor, boxes: Tensor, maps: list[Tensor]) -> Tensor:
        """(B·rows, width) queries at ``boxes`` (B·rows, 4) from (B, width, H, W) maps."""
        both = self.both(states).reshape(-1, self.rows, self.heads, 3 * self.points)
        offsets, weights = both.transpose(1, 2).split([2 * self.points, self.points], dim=3)
        weights = weights.softmax(dim=3).reshape(-1, 1, self.rows, self.points)
        placed = self.place_boxes(boxes).reshape(-1, 1, self.rows, 4 * self.points)
        sizes, centres = placed.split([2 * self.points, 2 * self.points], dim=3)
        grid = (offsets * sizes + centres).split([2 * count for count in self.counts], dim=3)
        sampled = []
        for (height, width), one, of_level, count in zip(
            self.shapes, maps, grid, self.counts, strict=True
        ):
            value = one.reshape(-1, self.width // self.heads, height, width)
            points = of_level.reshape(-1, self.rows, count, 2)
            sampled.append(F.grid_sample(value, points, align_corners=False))
        total = (torch.cat(sampled, dim=3) * weights).sum(dim=3)
        return total.reshape(-1, self.width, self.rows).transpose(1, 2).reshape(-1, self.width)

    def _by_head(self, offsets: Tensor, weights: Tensor) -> Tensor:
        parts = [offsets.reshape(self.heads, 2 * self.points, -1)]
        parts.append(weights.reshape(self.heads, self.points, -1))
        return torch.cat(parts, dim=1).flatten(0, 1)


class _EncoderAttention(nn.Module):
    """The hybrid encoder's attention within the coarsest map, with its positions as a constant."""

    positions: Tensor

    def __init__(self, aifi: Any, height: int, width: int) -> None:
        super().__init__()
        self.layers = aifi.layers
        self.shape = height, width
        self.attentions = nn.ModuleList(
            _SelfAttention(layer.self_attn, height * width) for layer in aifi.layers
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
            rows = self._layer(layer, attention, rows)
        height, width = self.shape
        by_image = rows.reshape(-1, height * width, self.width).transpose(1, 2)
        return by_image.reshape(-1, self.width, height, width)

    def _layer(self, layer: Any, attention: nn.Module, rows: Tensor) -> Tensor:
        before = layer.self_attn_layer_norm(rows) if layer.normalize_before else rows
        rows = rows + attention(before, self._positions_of(before))
        if not layer.normalize_before:
            rows = layer.self_attn_layer_norm(rows)
            return layer.final_layer_norm(rows + layer.mlp(rows))
        rows = layer.final_layer_norm(rows)  # the trained model's residual starts after it
        return rows + layer.mlp(rows)

    def _positions_of(self, rows: Tensor) -> Tensor:
        """The positions, once for each image."""
        by_image = rows.reshape(-1, *self.positions.shape[1:]) * 0 + self.positions
        return by_image.reshape(-1, self.width)


def _fix_positions(model: Any, config: Any, input_size: tuple[int, int]) -> None:
    """Put constants in place of what the hybrid encoder computes from shapes."""
    if not hasattr(model.encoder, "aifi"):
        return
    width, height = input_size
    for index, level in enumerate(model.encoder.encode_proj_layers):
        stride = int(config.feat_strides[level])
        model.encoder.aifi[index] = _EncoderAttention(
            model.encoder.aifi[index], height // stride, width // stride
        )


def _distance_matrices(decoder: Any) -> tuple[Tensor, Tensor]:
    """(4·bins, 4) each: from the bins' probabilities to what is added, in units of the first box.

    The probabilities of the distances to left, top, right and bottom give their expectation; the
    first matrix makes of it the change of cxcywh, the second that of the edges.
    """
    from transformers.models.d_fine.modeling_d_fine import weighting_function

    with torch.no_grad():
        distances = weighting_function(decoder.max_num_bins, decoder.up, decoder.reg_scale)
        scale = decoder.reg_scale.abs()
        one = torch.zeros(4, len(distances), 4)
        for side in range(4):
            one[side, :, side] = distances / scale
        expected = one.flatten(0, 1)
        left_top, right_bottom = expected[:, :2], expected[:, 2:]
        change = torch.cat([(right_bottom - left_top) / 2, left_top + right_bottom], dim=1)
        return change, torch.cat([-left_top, right_bottom], dim=1)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer
