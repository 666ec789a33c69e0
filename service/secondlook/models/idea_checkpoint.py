"""Grounding DINO's original ``.pth`` checkpoints, run by transformers' class.

The two published ones (``groundingdino_swint_ogc``, ``groundingdino_swinb_cogcoor``) and any
fine-tuned from them. The file is read with ``weights_only``, its names are translated, and the
sizes of the model are read off the shapes.
"""

import logging
import pickle
import re
from collections.abc import Mapping
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

from secondlook.config import ModelOptions
from secondlook.errors import NotFound
from secondlook.models import arguments, checkpoints
from secondlook.models.devices import place
from secondlook.models.grounding_dino import GroundingDinoProposer
from secondlook.models.idea_names import translate
from secondlook.models.pixels import PixelSettings, settings_of

log = logging.getLogger(__name__)

HEADS = 8
"""Attention heads of encoder and decoder: the one size that no shape tells."""
BERT_HEAD = 64
"""Channels of one head of BERT."""
TOKENIZER = "google-bert/bert-base-uncased"
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
_NEVER_RUN = "model.backbone.conv_encoder.model.swin.layernorm."
"""A norm of transformers' Swin that stands behind what the detector takes from it."""

Weights = Mapping[str, torch.Tensor]


def load(argument: str, options: ModelOptions) -> GroundingDinoProposer:
    """``idea:FILE.pth``, with ``?tokenizer=FOLDER&together=…&pad=…`` where wanted.

    BERT's tokenizer is taken from that folder, from beside the file, or from the hub (or its
    cache). Raises ``NotFound`` when the file or the tokenizer is missing, or the file holds
    something else.
    """
    where, settings = arguments.split(argument, ("together", "pad", "tokenizer"))
    path = Path(where).expanduser()
    _check_there(path)
    prompting = arguments.prompting(settings)
    tokenizer = tokenizer_for(path, settings.get("tokenizer"))
    model = model_from(read(path), path.name)
    return GroundingDinoProposer(
        model,
        tokenizer,
        pixels(model.config.num_queries, prompting.pad),
        name=path.stem,
        digest=checkpoints.digest_of([path]),
        placement=place(options),
        batch=options.batch,
        together=prompting.together,
    )


def pixels(queries: int, multiple: int) -> PixelSettings:
    """How the authors' code brings pictures in: 800 pixels on the shorter side, 1333 at most."""
    processor = GroundingDinoImageProcessor()
    return settings_of(processor, multiple=multiple, least_cells=queries, cell=8)


def read(path: Path) -> Weights:
    """The weights of a ``.pth`` file; nothing in it is executed."""
    _check_there(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as cause:
        raise NotFound(
            f"'{path.name}' is damaged or holds more than weights, which is not loaded because "
            'it can run code; save it again as torch.save({"model": model.state_dict()}, …)'
        ) from cause
    weights = content.get("model", content) if isinstance(content, Mapping) else None
    if not weights or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise NotFound(f"'{path.name}' holds no weights of a model under 'model'")
    return weights


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise NotFound(
            f"no checkpoint '{path.name}' there; download groundingdino_swint_ogc.pth or "
            "groundingdino_swinb_cogcoor.pth from the releases of IDEA-Research/GroundingDINO "
            "and give its path as idea:PATH"
        )


def model_from(weights: Weights, name: str) -> GroundingDinoForObjectDetection:
    """transformers' model with these weights. Raises ``NotFound`` when parts are missing."""
    translated, unknown = translate(weights)
    if unknown:
        log.warning("%s: %d weights are not understood, e.g. %s", name, len(unknown), unknown[0])
    try:
        config = config_of(translated)
    except KeyError as cause:
        raise NotFound(f"'{name}' is no Grounding DINO: it has no {cause}") from cause
    if config.decoder_bbox_embed_share:
        translated = {k: v for k, v in translated.items() if not re.match(r"bbox_embed\.[1-9]", k)}
    model, report = GroundingDinoForObjectDetection.from_pretrained(
        None, config=config, state_dict=translated, output_loading_info=True, dtype=torch.float32
    )
    missing = [key for key in report["missing_keys"] if _NEVER_RUN not in key]
    if missing or report["mismatched_keys"]:
        odd = sorted([*missing, *map(str, report["mismatched_keys"])])
        raise NotFound(
            f"'{name}' lacks {len(odd)} weights of a Grounding DINO with a Swin backbone, e.g. "
            f"'{odd[0]}'; only that architecture is known here"
        )
    return model


def config_of(weights: Weights) -> GroundingDinoConfig:
    """The sizes of a model, read off the shapes of its translated weights.

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
        decoder_bbox_embed_share=_boxes_share(weights),
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
    offsets = len(tables[0])  # (2 · window − 1)²
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


def _boxes_share(weights: Weights) -> bool:
    """Whether all decoder layers have one box head, as in the published checkpoints."""
    first = weights["bbox_embed.0.layers.0.weight"]
    other = weights.get("bbox_embed.1.layers.0.weight", first)
    return torch.equal(first, other)


def tokenizer_for(checkpoint: Path, folder: str | None) -> Any:
    """BERT's uncased tokenizer: from ``folder``, from beside the checkpoint, or from the hub.

    Raises ``NotFound`` that says where it was sought.
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
        return checkpoints.tokenizer_folder_of(TOKENIZER)
    except NotFound as cause:
        raise NotFound(
            f"'{checkpoint.name}' needs BERT's tokenizer, and {TOKENIZER} is neither cached here "
            "nor to be had from the hub now; put its vocab.txt beside the checkpoint, or give "
            "its folder: idea:FILE.pth?tokenizer=FOLDER"
        ) from cause
