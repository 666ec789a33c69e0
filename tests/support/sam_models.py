"""Segmenters of transformers' own classes, small, with random weights that make varied masks."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2ImageProcessor,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2Processor,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
    SamConfig,
    SamHQConfig,
    SamHQMaskDecoderConfig,
    SamHQModel,
    SamHQProcessor,
    SamHQPromptEncoderConfig,
    SamHQVisionConfig,
    SamImageProcessor,
    SamMaskDecoderConfig,
    SamModel,
    SamProcessor,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from secondlook.core.types import Image

SIDE, PATCH, WIDTH = 64, 8, 32
"""Pixels of the input, of a patch, and channels of prompts."""
KINDS = ("sam", "sam_hq", "sam2")


def image(width: int, height: int, seed: int = 0) -> Image:
    """Noise with a bright disc."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 120, (height, width, 3), np.uint8)
    down, across = np.ogrid[:height, :width]
    inside = (down - height / 2) ** 2 + (across - width / 2) ** 2 < (min(width, height) / 3) ** 2
    pixels[inside] += 120
    return Image(pixels, f"{seed:064x}", "a.png")


def model(kind: str = "sam", seed: int = 0) -> torch.nn.Module:
    """A small model whose masks vary with image and prompt."""
    torch.manual_seed(seed)
    made = _MAKERS[kind]().eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "positional_embedding" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.15)
            if "_mlp" in name and "proj_out" in name:
                parameter.mul_(20)  # logits with edges, not a grey haze around 0
    return made


def processor(kind: str = "sam") -> Any:
    """The processor of such a model, as its users would call it."""
    if kind == "sam2":
        sides = {"height": SIDE, "width": SIDE}
        return Sam2Processor(Sam2ImageProcessor(size=sides), target_size=SIDE)
    pads = {"height": SIDE, "width": SIDE}
    images = SamImageProcessor(size={"longest_edge": SIDE}, pad_size=pads)
    return (SamHQProcessor if kind == "sam_hq" else SamProcessor)(images)


def save(folder: Path, kind: str = "sam", seed: int = 0) -> Path:
    """Write a checkpoint as it would lie on the hub; returns the folder."""
    model(kind, seed).save_pretrained(folder)
    processor(kind).save_pretrained(folder)
    return folder


def _vision() -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "output_channels": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
        "window_size": 3,
        "global_attn_indexes": [1],
        "num_pos_feats": WIDTH // 2,
        "mlp_dim": 64,
    }


def _prompts() -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "image_size": SIDE,
        "patch_size": PATCH,
        "image_embedding_size": SIDE // PATCH,
    }


def _decoder() -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "mlp_dim": 64,
        "num_attention_heads": 8,
        "iou_head_hidden_dim": WIDTH,
    }


def _sam() -> torch.nn.Module:
    return SamModel(
        SamConfig(
            vision_config=SamVisionConfig(**_vision()),
            prompt_encoder_config=SamPromptEncoderConfig(**_prompts()),
            mask_decoder_config=SamMaskDecoderConfig(**_decoder()),
        )
    )


def _sam_hq() -> torch.nn.Module:
    return SamHQModel(
        SamHQConfig(
            vision_config=SamHQVisionConfig(**_vision()),
            prompt_encoder_config=SamHQPromptEncoderConfig(**_prompts()),
            mask_decoder_config=SamHQMaskDecoderConfig(**_decoder(), vit_dim=32),
        )
    )


def _sam2() -> torch.nn.Module:
    backbone = Sam2HieraDetConfig(
        hidden_size=16,
        num_attention_heads=1,
        image_size=[SIDE, SIDE],
        patch_kernel_size=[3, 3],
        patch_stride=[2, 2],
        patch_padding=[1, 1],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 2, 2, 4],
        window_size_per_stage=[4, 4, 4, 4],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )
    sides = [[SIDE // stride] * 2 for stride in (2, 4, 8)]
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=sides,
        fpn_hidden_size=WIDTH,
    )
    return Sam2Model(
        Sam2Config(
            vision_config=vision,
            prompt_encoder_config=Sam2PromptEncoderConfig(
                hidden_size=WIDTH, image_size=SIDE, patch_size=PATCH
            ),
            mask_decoder_config=Sam2MaskDecoderConfig(**_decoder()),
        )
    )


_MAKERS = {"sam": _sam, "sam_hq": _sam_hq, "sam2": _sam2}
