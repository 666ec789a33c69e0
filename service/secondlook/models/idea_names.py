"""What the parts of a Grounding DINO are called in its authors' checkpoints, and in transformers'.

The names on transformers' side are those on disk of the checkpoints it publishes, which every
release of it reads. ``#`` stands for a layer's number. A part's name is followed by the same rest
(``.weight``, ``.layers.0.bias`` …) on both sides.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache

import torch

_SWIN = "model.backbone.conv_encoder.model."

SCOPES: dict[tuple[str, str], dict[str, str]] = {
    ("", ""): {
        "bert": "model.text_backbone",
        "feat_map": "model.text_projection",
        "input_proj": "model.input_proj_vision",
        "bbox_embed": "bbox_embed",
    },
    ("transformer.", "model."): {
        "level_embed": "level_embed",
        "tgt_embed": "query_position_embeddings",
        "enc_output": "enc_output",
        "enc_output_norm": "enc_output_norm",
        "enc_out_bbox_embed": "encoder_output_bbox_embed",
        "decoder.norm": "decoder.layer_norm",
        "decoder.ref_point_head": "decoder.reference_points_head",
    },
    ("transformer.encoder.layers.#.", "model.encoder.layers.#.deformable_layer."): {
        "self_attn": "self_attn",
        "norm1": "self_attn_layer_norm",
        "linear1": "fc1",
        "linear2": "fc2",
        "norm2": "final_layer_norm",
    },
    ("transformer.encoder.text_layers.#.", "model.encoder.layers.#.text_enhancer_layer."): {
        "self_attn": "self_attn",
        "norm1": "layer_norm_before",
        "linear1": "fc1",
        "linear2": "fc2",
        "norm2": "layer_norm_after",
    },
    ("transformer.encoder.fusion_layers.#.", "model.encoder.layers.#.fusion_layer."): {
        "gamma_v": "vision_param",
        "gamma_l": "text_param",
        "layer_norm_v": "layer_norm_vision",
        "layer_norm_l": "layer_norm_text",
        "attn.v_proj": "attn.vision_proj",
        "attn.l_proj": "attn.text_proj",
        "attn.values_v_proj": "attn.values_vision_proj",
        "attn.values_l_proj": "attn.values_text_proj",
        "attn.out_v_proj": "attn.out_vision_proj",
        "attn.out_l_proj": "attn.out_text_proj",
    },
    ("transformer.decoder.layers.#.", "model.decoder.layers.#."): {
        "self_attn": "self_attn",
        "norm2": "self_attn_layer_norm",
        "ca_text": "encoder_attn_text",
        "catext_norm": "encoder_attn_text_layer_norm",
        "cross_attn": "encoder_attn",
        "norm1": "encoder_attn_layer_norm",
        "linear1": "fc1",
        "linear2": "fc2",
        "norm3": "final_layer_norm",
    },
    ("backbone.0.", _SWIN): {
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "patch_embed.norm": "embeddings.norm",
        # Stages are counted from 0 there, and from the stem here.
        "norm1": "hidden_states_norms.stage2",
        "norm2": "hidden_states_norms.stage3",
        "norm3": "hidden_states_norms.stage4",
    },
    ("backbone.0.layers.#.", f"{_SWIN}encoder.layers.#."): {"downsample": "downsample"},
    ("backbone.0.layers.#.blocks.#.", f"{_SWIN}encoder.layers.#.blocks.#."): {
        "norm1": "layernorm_before",
        "attn.relative_position_bias_table": "attention.self.relative_position_bias_table",
        "attn.qkv": "attention.self.qkv",
        "attn.proj": "attention.output.dense",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    },
}

UNUSED = re.compile(
    r"bert\.pooler\.|bert\.embeddings\.position_ids$|.*relative_position_index$"
    r"|transformer\.decoder\.(bbox|class)_embed\."
)
"""What the original keeps and transformers makes anew, does without, or holds once only."""

_FUSED = re.compile(r"(in_proj_|qkv\.)(weight|bias)$")
"""Query, key and value in one matrix there; three here."""


def translate(
    weights: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Weights under transformers' names, and the names that were not understood."""
    found: dict[str, torch.Tensor] = {}
    unknown = []
    for given, value in weights.items():
        name = given.removeprefix("module.")
        if UNUSED.match(name):
            continue
        renamed = rename(name)
        if renamed is None:
            unknown.append(name)
        else:
            found.update(_parted(renamed, value))
    return found, tuple(unknown)


def rename(name: str) -> str | None:
    """One parameter's name in transformers, still fused where the original fuses; None: unknown."""
    for pattern, template in _patterns():
        if match := pattern.match(name):
            return match.expand(template) + name[match.end() :]
    return None


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    pairs = []
    for (theirs, ours), parts in SCOPES.items():
        for part, renamed in parts.items():
            pattern = re.escape(theirs + part).replace(r"\#", r"(\d+)")
            template = ours + renamed
            for number in range(1, 1 + template.count("#")):
                template = template.replace("#", rf"\{number}", 1)
            pairs.append((re.compile(rf"{pattern}(?=\.|$)"), template))
    return tuple(pairs)


def _parted(name: str, value: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    fused = _FUSED.search(name)
    if fused is None:
        yield name, value
        return
    for role, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
        yield f"{name[: fused.start()]}{role}.{fused[2]}", part
