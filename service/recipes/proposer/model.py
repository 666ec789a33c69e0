"""The embedded proposer: a Grounding DINO small enough to train on one CPU core.

The class is transformers' own ``GroundingDinoForObjectDetection`` and the files are what
``from_pretrained`` expects, so the adapter that runs the published checkpoints runs this one.
Only the sizes differ: a four-stage ResNet at strides 8, 16 and 32, one encoder layer, three
decoder layers, a text encoder of one BERT layer and a vocabulary of whole words.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    ResNetConfig,
)
from transformers.models.grounding_dino.modeling_grounding_dino import (
    GroundingDinoFrozenBatchNorm2d,
)

from secondlook.models.embedded import NOUN_WORDS

SIZE = 320
"""Longest side in pixels at which images enter the network."""
MAX_TEXT_LEN = 64
"""Tokens of the longest caption, [CLS] and [SEP] included."""
PRIOR = 0.01
"""Score of every query and token before training (focal loss, arXiv 1708.02002, section 4.1)."""

# GroundingDino compares token ids with BERT's constants for [CLS], [SEP], "." and "?" to tell
# phrases apart, so these ids are fixed; the gaps are filled with unused entries.
_FIXED = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
_FIXED |= {".": 1012, "?": 1029}
_FIRST_WORD = 1030

COLOUR_WORDS = ("red", "blue", "green", "yellow", "white", "black", "orange", "brown", "grey")
SIZE_WORDS = (
    "small",
    "big",
    "large",
    "little",
    "tall",
    "round",
    "old",
    "young",
    "parked",
    "bright",
)
OTHER_WORDS = (
    "a", "an", "the", "with", "without", "wearing", "not", "no", "in", "on", "of", "and", "or",
    "is", "are", "at", "by", "near", "this", "that", "who", "which", "has", "having", "any",
    "hat", "cap", "mask", "face", "head", "eyes", "hair", "shirt", "coat", "hand", "street",
    "road", "grass", "ground", "bench", "sign", "lamp", "bush", "cloud", "window", "wall", "bin",
    "house", "sky", "cat", "bird", "bicycle", "bike", "bus", "truck", "chair", "table", "phone",
    "bag", "dress", "shoe", "flower", "fire", "boat", "worn", "pushed", "up", "-", ",", "'",
)  # fmt: skip
"""Known words that never name a thing of the world: they must stay silent."""


def vocabulary() -> dict[str, int]:
    """Whole-word vocabulary: token -> id, with BERT's ids for the tokens that the model checks."""
    words = [word for group in NOUN_WORDS.values() for word in group]
    words += [*COLOUR_WORDS, *SIZE_WORDS, *OTHER_WORDS]
    taken = {index: token for token, index in _FIXED.items()}
    fixed = [taken.get(index, f"[unused{index}]") for index in range(_FIRST_WORD)]
    return {token: index for index, token in enumerate([*fixed, *dict.fromkeys(words)])}


def build_processor() -> GroundingDinoProcessor:
    """Tokenizer and image processor; images are resized to a longest side of ``SIZE`` pixels."""
    tokenizer = BertTokenizer(vocab=vocabulary(), do_lower_case=True, model_max_length=MAX_TEXT_LEN)
    images = GroundingDinoImageProcessor(size={"shortest_edge": SIZE, "longest_edge": SIZE})
    return GroundingDinoProcessor(image_processor=images, tokenizer=tokenizer)


def build_config() -> GroundingDinoConfig:
    """Sizes of the embedded proposer; dropout is off because the images never run out."""
    backbone = ResNetConfig(
        embedding_size=24,
        hidden_sizes=[32, 64, 96, 128],
        depths=[1, 2, 2, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    text = BertConfig(
        vocab_size=len(vocabulary()),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=MAX_TEXT_LEN,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        d_model=96,
        num_queries=100,
        num_feature_levels=3,
        encoder_layers=1,
        encoder_ffn_dim=192,
        encoder_attention_heads=6,
        # Sampling is bound by memory on a CPU, so points cost more than heads or width.
        encoder_n_points=2,
        decoder_layers=3,
        decoder_ffn_dim=192,
        decoder_attention_heads=6,
        decoder_bbox_embed_share=False,
        dropout=0.0,
        fusion_droppath=0.0,
        max_text_len=MAX_TEXT_LEN,
    )


def build_model(seed: int) -> GroundingDinoForObjectDetection:
    """An untrained proposer with trainable batch norms, ready for ``proposer_loss``."""
    torch.manual_seed(seed)
    model = GroundingDinoForObjectDetection(build_config())
    model.requires_grad_(True)
    _set_prior(model)
    return thaw_batch_norms(model)


def _set_prior(model: GroundingDinoForObjectDetection) -> None:
    """Make every first score ``PRIOR``.

    Scores are plain dot products of a vision and a text vector, with no bias to set. Both come
    out of layer norms, whose outputs are orthogonal to the constant vector, so constant biases
    of opposite sign add the same negative number to every logit; small gains calm the rest.
    """
    inner = model.model
    bias = math.sqrt(math.log((1 - PRIOR) / PRIOR) / model.config.d_model)
    text_norm = inner.encoder.layers[-1].text_enhancer_layer.layer_norm_after
    with torch.no_grad():
        for norm in (inner.enc_output_norm, inner.decoder.layer_norm):
            norm.weight.fill_(0.3)
            norm.bias.fill_(bias)
        text_norm.weight.fill_(0.3)
        text_norm.bias.fill_(-bias)
        # The published 1e-4 suits pretrained parts; from scratch it keeps the text out for long.
        for layer in inner.encoder.layers:
            layer.fusion_layer.vision_param.fill_(0.1)
            layer.fusion_layer.text_param.fill_(0.1)


def thaw_batch_norms(model: GroundingDinoForObjectDetection) -> GroundingDinoForObjectDetection:
    """Put trainable ``BatchNorm2d`` where transformers froze them; parameter names stay.

    The state dict loads back into the frozen class, which ignores ``num_batches_tracked``.
    """
    backbone = model.model.backbone.conv_encoder.model
    for name, old in list(backbone.named_modules()):
        if not isinstance(old, GroundingDinoFrozenBatchNorm2d):
            continue
        new = nn.BatchNorm2d(old.weight.numel(), momentum=0.05)
        new.load_state_dict(old.state_dict(), strict=False)
        parent, _, child = name.rpartition(".")
        setattr(backbone.get_submodule(parent), child, new)
    return model


def save_pretrained(state: dict[str, torch.Tensor], folder: Path) -> None:
    """Write config, weights (float32 safetensors), tokenizer and processor to ``folder``.

    Args:
        state: state dict of a model made by ``build_model``.
    """
    model = GroundingDinoForObjectDetection(build_config())
    kept = {name: value for name, value in state.items() if "num_batches_tracked" not in name}
    model.load_state_dict(kept)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    build_processor().save_pretrained(folder)
