"""Tiny DEIMv2 and D-FINE with random weights that see something, for tests of the export."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import nn

from secondlook.training.model import StudentShape, own_config

CLASSES = ("person", "dog", "ball")
PIXELS = (96, 64)
TINY = StudentShape("", PIXELS, 16, (32, 32, 48), 32, 2, 12, True)


def deimv2(**changed: Any) -> nn.Module:
    from transformers import Deimv2ForObjectDetection

    lite = changed.pop("lite", True)
    config = own_config(replace(TINY, lite=lite), CLASSES, PIXELS)
    for name, value in changed.items():
        setattr(config, name, value)
    return Deimv2ForObjectDetection(config)


def d_fine(**changed: Any) -> nn.Module:
    from transformers import DFineConfig, DFineForObjectDetection

    own = own_config(TINY, CLASSES, PIXELS)
    kept = [
        "backbone_config",
        "encoder_in_channels",
        "feat_strides",
        "num_feature_levels",
        "encode_proj_layers",
        "encoder_hidden_dim",
        "d_model",
        "decoder_in_channels",
        "encoder_ffn_dim",
        "decoder_ffn_dim",
        "id2label",
        "encoder_attention_heads",
        "decoder_attention_heads",
        "decoder_layers",
        "num_queries",
        "label2id",
        "hidden_expansion",
        "depth_mult",
        "student_input_size",
    ]
    changed |= {"initializer_range": own.initializer_range}
    config = DFineConfig(**{name: getattr(own, name) for name in kept} | changed)
    return DFineForObjectDetection(config)


def awake(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights through which an image is still seen at the end, as after a training."""
    draw = torch.Generator().manual_seed(seed)
    loud = ("bbox", "sampling_offsets", "attention_weights", "gate", "reg_conf", "class_embed")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            spread = 0.3 if "lab." in name else 0.1
            if name.endswith(("up", "reg_scale")):
                continue
            if weight.ndim == 4:  # signals of even size: else norms blow the rounding up
                size = (2 / weight[0].numel()) ** 0.5
                weight.copy_(torch.randn(weight.shape, generator=draw) * size)
            elif weight.ndim == 1 or any(part in name for part in (*loud, "score_head")):
                weight.add_(torch.randn(weight.shape, generator=draw) * spread)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
                module.reset_running_stats()
        model.train()
        seen = torch.from_numpy(np.stack([drawn(100 + number) for number in range(4)]))
        model(pixel_values=seen.permute(0, 3, 1, 2).float() / 255)
    return model.eval()


def drawn(seed: int, size: tuple[int, int] = PIXELS) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = PILImage.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8))
    return np.asarray(coarse.resize(size, PILImage.Resampling.BICUBIC))


def furthest(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """Between the detections of two models, as sets: the order of equal scores is free."""
    rows, others = (np.concatenate(both, axis=2) for both in (ours, theirs))
    apart = np.abs(rows[:, :, None] - others[:, None]).max(axis=3)
    return float(max(apart.min(axis=2).max(), apart.min(axis=1).max()))
