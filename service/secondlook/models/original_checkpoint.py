"""Grounding DINO's original ``.pth`` checkpoints, run by transformers' class.

The two published ones (``groundingdino_swint_ogc``, ``groundingdino_swinb_cogcoor``) and any
fine-tuned from them. The file is read with ``weights_only``, its names are translated into those on
disk of the checkpoints that transformers publishes, which every release of it reads, and the sizes
of the model are inferred from the shapes.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    SwinConfig,
)

from secondlook.config.settings import ModelSettings
from secondlook.models import loading
from secondlook.models.grounding_dino import (
    GroundingDinoProposer,
    PixelSettings,
    parse_spec,
    read_pixel_settings,
)
from secondlook.models.loading import choose_placement
from secondlook_client.errors import NotFound

log = logging.getLogger(__name__)

HEADS = 8
"""Attention heads of encoder and decoder: the one size that no shape shows."""
BERT_HEAD = 64
"""Channels of one head of BERT."""
TOKENIZER = "google-bert/bert-base-uncased"
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
_UNUSED_NORM = "model.backbone.conv_encoder.model.swin.layernorm."
"""A norm of transformers' Swin behind the features that the detector takes from it."""

Weights = Mapping[str, torch.Tensor]

_SWIN = "model.backbone.conv_encoder.model."

NAME_MAP: dict[tuple[str, str], dict[str, str]] = {
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
"""The authors' names and transformers', by the prefixes of both. ``#`` stands for a layer's number;
a name is followed by the same rest (``.weight``, ``.layers.0.bias`` …) on both sides."""

UNUSED_NAMES = re.compile(
    r"bert\.pooler\.|bert\.embeddings\.position_ids$|.*relative_position_index$"
    r"|transformer\.decoder\.(bbox|class)_embed\."
)
"""What the original stores and transformers computes, does without, or stores only once."""

_FUSED_QKV = re.compile(r"(in_proj_|qkv\.)(weight|bias)$")
"""Query, key and value in one matrix there; three here."""


def load(argument: str, options: ModelSettings) -> GroundingDinoProposer:
    """``idea:FILE.pth``, with ``?tokenizer=FOLDER&max_phrases=…&pad=…`` where wanted.

    BERT's tokenizer is taken from that folder, from beside the file, or from the hub (or its
    cache). Raises ``NotFound`` when the file or the tokenizer is missing, or the file holds
    something else.
    """
    where, settings = parse_spec(argument, tokenizer=True)
    path = Path(where).expanduser()
    weights = read_weights(path)
    tokenizer = tokenizer_for(path, settings.tokenizer)
    model = build_model(weights, path.name)
    return GroundingDinoProposer(
        model,
        tokenizer,
        pixel_settings(model.config.num_queries, settings.pad),
        name=path.stem,
        digest=loading.digest_of([path]),
        placement=choose_placement(options),
        batch=options.model_batch,
        max_phrases=settings.max_phrases,
    )


def pixel_settings(queries: int, multiple: int) -> PixelSettings:
    """As the authors' code resizes images: 800 pixels on the shorter side, 1333 at most."""
    processor = GroundingDinoImageProcessor()
    return read_pixel_settings(processor, multiple=multiple, least_cells=queries, cell=8)


def read_weights(path: Path) -> Weights:
    """The weights of a ``.pth`` file; nothing in it is executed."""
    if not path.is_file():
        raise NotFound(
            f"no checkpoint '{path.name}' there; download groundingdino_swint_ogc.pth or "
            "groundingdino_swinb_cogcoor.pth from the releases of IDEA-Research/GroundingDINO "
            "and give its path as idea:PATH"
        )
    return loading.read_pickled_weights(path)


def build_model(weights: Weights, name: str) -> GroundingDinoForObjectDetection:
    """transformers' model with these weights. Raises ``NotFound`` when parts are missing."""
    translated, unknown = translate(weights)
    if unknown:
        log.warning("%s: %d weights have unknown names, e.g. %s", name, len(unknown), unknown[0])
    try:
        config = config_of(translated)
    except KeyError as cause:
        raise NotFound(f"'{name}' is no Grounding DINO: it has no {cause}") from cause
    if config.decoder_bbox_embed_share:
        translated = {k: v for k, v in translated.items() if not re.match(r"bbox_embed\.[1-9]", k)}
    model, report = GroundingDinoForObjectDetection.from_pretrained(
        None, config=config, state_dict=translated, output_loading_info=True, dtype=torch.float32
    )
    missing = [key for key in report["missing_keys"] if _UNUSED_NORM not in key]
    if missing or report["mismatched_keys"]:
        wrong = sorted([*missing, *map(str, report["mismatched_keys"])])
        raise NotFound(
            f"'{name}' lacks {len(wrong)} weights of a Grounding DINO with a Swin backbone, e.g. "
            f"'{wrong[0]}'; only that architecture is supported"
        )
    return model


def config_of(weights: Weights) -> GroundingDinoConfig:
    """The sizes of a model, inferred from the shapes of its translated weights.

    Raises ``KeyError`` with the name of a weight that every Grounding DINO has and this lacks.
    """
    levels, d_model = weights["model.level_embed"].shape
    encoder = "model.encoder.layers.0.deformable_layer"
    decoder = "model.decoder.layers.0"
    heads_and_levels = HEADS * levels * 2
    return GroundingDinoConfig(
        backbone_config=_swin_config(weights),
        text_config=_bert_config(weights),
        d_model=d_model,
        num_feature_levels=levels,
        num_queries=len(weights["model.query_position_embeddings.weight"]),
        encoder_layers=_count(weights, r"model\.encoder\.layers\.(\d+)\."),
        decoder_layers=_count(weights, r"model\.decoder\.layers\.(\d+)\."),
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=len(weights[f"{encoder}.fc1.bias"]),
        decoder_ffn_dim=len(weights[f"{decoder}.fc1.bias"]),
        encoder_n_points=len(weights[f"{encoder}.self_attn.sampling_offsets.bias"])
        // heads_and_levels,
        decoder_n_points=len(weights[f"{decoder}.encoder_attn.sampling_offsets.bias"])
        // heads_and_levels,
        decoder_bbox_embed_share=_shares_box_head(weights),
    )


def _swin_config(weights: Weights) -> SwinConfig:
    root = "model.backbone.conv_encoder.model."
    layers = rf"{re.escape(root)}encoder\.layers\."
    stages = _count(weights, rf"{layers}(\d+)\.")
    tables = [
        weights[
            f"{root}encoder.layers.{stage}.blocks.0.attention.self.relative_position_bias_table"
        ]
        for stage in range(stages)
    ]
    offsets = len(tables[0])  # (2 * window - 1) squared
    return SwinConfig(
        embed_dim=len(weights[f"{root}embeddings.norm.weight"]),
        depths=[_count(weights, rf"{layers}{stage}\.blocks\.(\d+)\.") for stage in range(stages)],
        num_heads=[table.shape[1] for table in tables],
        window_size=(round(offsets**0.5) + 1) // 2,
        out_indices=[2, 3, 4],
    )


def _bert_config(weights: Weights) -> BertConfig:
    root = "model.text_backbone."
    words = weights[f"{root}embeddings.word_embeddings.weight"]
    return BertConfig(
        vocab_size=len(words),
        hidden_size=words.shape[1],
        num_hidden_layers=_count(weights, rf"{re.escape(root)}encoder\.layer\.(\d+)\."),
        num_attention_heads=max(1, words.shape[1] // BERT_HEAD),
        intermediate_size=len(weights[f"{root}encoder.layer.0.intermediate.dense.bias"]),
        max_position_embeddings=len(weights[f"{root}embeddings.position_embeddings.weight"]),
        type_vocab_size=len(weights[f"{root}embeddings.token_type_embeddings.weight"]),
    )


def _count(weights: Weights, pattern: str) -> int:
    """How many layers there are, by the highest number that ``pattern`` finds."""
    numbers = [int(match[1]) for name in weights if (match := re.match(pattern, name))]
    if not numbers:
        raise KeyError(pattern.replace("\\", ""))
    return max(numbers) + 1


def _shares_box_head(weights: Weights) -> bool:
    """Whether all decoder layers have one box head, as in the published checkpoints."""
    first = weights["bbox_embed.0.layers.0.weight"]
    other = weights.get("bbox_embed.1.layers.0.weight", first)
    return torch.equal(first, other)


def translate(
    weights: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Weights under transformers' names, and the names that are unknown."""
    found: dict[str, torch.Tensor] = {}
    unknown = []
    for given, value in weights.items():
        name = given.removeprefix("module.")
        if UNUSED_NAMES.match(name):
            continue
        renamed = rename(name)
        if renamed is None:
            unknown.append(name)
        else:
            found.update(_split_qkv(renamed, value))
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
    for (theirs, ours), parts in NAME_MAP.items():
        for part, renamed in parts.items():
            pattern = re.escape(theirs + part).replace(r"\#", r"(\d+)")
            template = ours + renamed
            for number in range(1, 1 + template.count("#")):
                template = template.replace("#", rf"\{number}", 1)
            pairs.append((re.compile(rf"{pattern}(?=\.|$)"), template))
    return tuple(pairs)


def _split_qkv(name: str, value: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    fused = _FUSED_QKV.search(name)
    if fused is None:
        yield name, value
        return
    for role, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
        yield f"{name[: fused.start()]}{role}.{fused[2]}", part


def tokenizer_for(checkpoint: Path, folder: str | None) -> Any:
    """BERT's uncased tokenizer: from ``folder``, from beside the checkpoint, or from the hub.

    Raises ``NotFound``, which says where it was looked for.
    """
    beside = checkpoint.parent
    if folder is not None:
        source = Path(folder).expanduser()
    elif any((beside / name).is_file() for name in _TOKENIZER_FILES):
        source = beside
    else:
        source = _tokenizer_from_hub(checkpoint)
    if not any((source / name).is_file() for name in _TOKENIZER_FILES):
        raise NotFound(
            f"no {' or '.join(_TOKENIZER_FILES)} in the folder given for the tokenizer; "
            f"`hf download {TOKENIZER}` prints the path of one that has them"
        )
    return BertTokenizer.from_pretrained(source, local_files_only=True)


def _tokenizer_from_hub(checkpoint: Path) -> Path:
    try:
        return loading.tokenizer_folder(TOKENIZER)
    except NotFound as cause:
        raise NotFound(
            f"'{checkpoint.name}' needs BERT's tokenizer, and {TOKENIZER} is neither cached here "
            "nor can it be fetched from the hub now; put its vocab.txt beside the checkpoint, or "
            "give its folder: idea:FILE.pth?tokenizer=FOLDER"
        ) from cause
