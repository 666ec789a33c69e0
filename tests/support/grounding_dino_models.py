"""Grounding DINO models of the real classes, small, with random weights that make varied boxes."""

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage
from PIL import ImageDraw
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertTokenizerFast,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    ResNetConfig,
    SwinConfig,
)

from secondlook.core.types import Image
from secondlook.models.original_checkpoint import NAME_MAP

KINDS = {
    "grounding-dino": (GroundingDinoConfig, GroundingDinoForObjectDetection),
    "mm-grounding-dino": (MMGroundingDinoConfig, MMGroundingDinoForObjectDetection),
}
WORDS = ("a", "person", "dog", "cat", "hot", "wearing", "glasses", "red", "car", "ball", "man")
_FIXED = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}


def processor(shortest: int = 96, longest: int = 160) -> GroundingDinoProcessor:
    """A whole-word tokenizer with BERT's numbers for the marks, and the image processor."""
    vocabulary = [_FIXED.get(index, f"[unused{index}]") for index in range(1030)] + list(WORDS)
    tokenizer = BertTokenizerFast(vocab={token: i for i, token in enumerate(vocabulary)})
    size = {"shortest_edge": shortest, "longest_edge": longest}
    return GroundingDinoProcessor(GroundingDinoImageProcessor(size=size), tokenizer)


def model(
    kind: str = "grounding-dino", backbone: str = "swin", seed: int = 0, heads: int = 4, **more: int
) -> torch.nn.Module:
    """A small model whose scores and boxes vary over queries and phrases.

    ``more`` goes into its configuration.
    """
    torch.manual_seed(seed)
    config_class, model_class = KINDS[kind]
    made = model_class(config_class(**_sizes(backbone, heads), **more)).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if "fusion_layer" in name else 0.05))
    return made


def save(
    folder: Path, kind: str = "grounding-dino", backbone: str = "swin", heads: int = 4
) -> Path:
    """A whole checkpoint in ``folder``, as published ones are."""
    model(kind, backbone, heads=heads).save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder


def image(width: int, height: int, seed: int = 0) -> Image:
    """Coloured shapes on noise."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 60, (height, width, 3), dtype=np.uint8)
    drawn = PILImage.fromarray(noise)
    pen = ImageDraw.Draw(drawn)
    for _ in range(6):
        x, y = random.integers(0, width), random.integers(0, height)
        side = int(random.integers(4, max(5, min(width, height) // 2)))
        colour = tuple(int(c) for c in random.integers(80, 255, 3))
        pen.ellipse((int(x), int(y), int(x) + side, int(y) + side), fill=colour)
    return Image(np.asarray(drawn), f"{seed:064x}", f"image {seed}")


def _sizes(backbone: str, heads: int) -> dict[str, object]:
    swin = SwinConfig(
        embed_dim=32, depths=[1, 1, 2, 1], num_heads=[2, 2, 4, 4], window_size=4,
        out_indices=[2, 3, 4],
    )  # fmt: skip
    resnet = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1],
        layer_type="basic", out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    text = BertConfig(
        vocab_size=1030 + len(WORDS), hidden_size=64, num_hidden_layers=1,
        num_attention_heads=1, intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    return {
        "backbone_config": {"swin": swin, "resnet": resnet}[backbone],
        "text_config": text,
        "d_model": 64,
        "num_queries": 40,
        "num_feature_levels": 4,
        "encoder_layers": 1,
        "encoder_ffn_dim": 64,
        "encoder_attention_heads": heads,
        "decoder_layers": 2,
        "decoder_ffn_dim": 64,
        "decoder_attention_heads": heads,
        "max_text_len": 64,
    }


def original_names(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a transformers checkpoint under the authors' names, fused as theirs are."""
    weights = load_file(folder / "model.safetensors")
    found: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        if "swin.layernorm" in name:
            continue
        if match := re.search(r"(query|key|value)\.(weight|bias)$", name):
            if match[1] == "query" and not name.startswith("model.text_backbone"):
                parts = [name.replace("query", role) for role in ("query", "key", "value")]
                swin = "conv_encoder" in name
                fused = f"qkv.{match[2]}" if swin else f"in_proj_{match[2]}"
                found[_back(name[: match.start()] + fused)] = torch.cat([weights[p] for p in parts])
            if not name.startswith("model.text_backbone"):
                continue
        found[_back(name)] = value
    return found


def _back(name: str) -> str:
    """``rename`` the other way round."""
    for (theirs, ours), parts in NAME_MAP.items():
        for part, renamed in parts.items():
            pattern = re.escape(ours + renamed).replace(r"\#", r"(\d+)")
            if match := re.match(rf"{pattern}(?=\.|$)", name):
                numbers = iter(match.groups())
                back = re.sub("#", lambda _, n=numbers: next(n), theirs + part)
                return back + name[match.end() :]
    raise AssertionError(f"no name for {name}")
