"""The embedded segmenter before it has learnt anything: ``Sam2Model`` of transformers, very small.

Masks come at stride 4 with features of that stride, which keeps edges sharp at little cost.
Chosen by time: encoding and the boxes of six objects take about 35 ms on two cores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Sam2Config, Sam2Model

from secondlook.models.mask_logits import CLICK_RADIUS, PROMPT_LOGIT
from secondlook.models.sam2_speedups import skip_position_encodings, skip_unused_scores

SIZE = 320
"""Side of the square that images are stretched to."""
STRIDES = (4, 8, 16)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class SegmenterShape:
    """Sizes of the model: ``widths`` and ``blocks`` of the encoder at STRIDES; ``hidden`` is the
    width of neck, prompts and decoder, a whole multiple of 8 times ``heads``."""

    widths: tuple[int, int, int] = (32, 64, 128)
    blocks: tuple[int, int, int] = (1, 1, 3)
    hidden: int = 64
    heads: int = 4


def build_model(seed: int, shape: SegmenterShape | None = None) -> Sam2Model:
    """A model with random weights."""
    torch.manual_seed(seed)
    model = Sam2Model(_config(shape or SegmenterShape()))
    _initialise(model)
    return model


def _config(shape: SegmenterShape) -> Sam2Config:
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": shape.widths[0],
        "num_attention_heads": 1,
        "image_size": [SIZE, SIZE],
        "window_positional_embedding_background_size": [5, 5],
        "num_query_pool_stages": len(STRIDES) - 1,
        "blocks_per_stage": list(shape.blocks),
        "embed_dim_per_stage": list(shape.widths),
        "num_attention_heads_per_stage": [max(1, width // 32) for width in shape.widths],
        "window_size_per_stage": [8, 4, 10],
        # The last block sees the whole image.
        "global_attention_blocks": [sum(shape.blocks) - 1],
        "mlp_ratio": 2.0,
    }
    vision = {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "backbone_channel_list": list(shape.widths[::-1]),
        "backbone_feature_sizes": [[SIZE // stride] * 2 for stride in STRIDES],
        "fpn_hidden_size": shape.hidden,
        # The only convolutions of more than a cell, and coarse features reach all levels.
        "fpn_kernel_size": 3,
        "fpn_padding": 1,
        "fpn_top_down_levels": [0, 1, 2],
    }
    prompts = {"hidden_size": shape.hidden, "image_size": SIZE, "patch_size": STRIDES[-1]}
    decoder = {
        "hidden_size": shape.hidden,
        "mlp_dim": 2 * shape.hidden,
        "num_attention_heads": shape.heads,
        "iou_head_hidden_dim": shape.hidden,
        "dynamic_multimask_via_stability": False,
    }
    config = Sam2Config(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
    )
    config.prompts_as_masks = True  # for `secondlook.models.sam`
    return config


def _initialise(model: Sam2Model) -> None:
    """Weights that let gradients through from the first step.

    transformers draws all weights with 0.02, so that the masks, a product of two small numbers,
    are flat and learn nothing. With a variance of 1 / inputs, signals keep their size.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        elif isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=module.weight.shape[0] ** -0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
    # Blocks begin near the identity, masks within a few units of nothing.
    for block in model.vision_encoder.backbone.blocks:
        for last in (block.attn.proj, block.mlp.proj_out):
            last.weight.data.mul_(0.3)
    for lateral in model.vision_encoder.neck.convs:
        lateral.weight.data.mul_(0.6)
    for mlp in model.mask_decoder.output_hypernetworks_mlps:
        mlp.proj_out.weight.data.mul_(0.5)
    # One and the same code of places for prompts and image, as in the published weights; here with
    # columns and rows apart, at wavelengths from the square to an eighth of it, so that what lies
    # between two corners is easily told.
    code = model.shared_image_embedding.positional_embedding
    half = code.shape[1] // 2
    waves = torch.logspace(-2, 2, half, base=2)
    same = torch.stack([waves, waves.new_zeros(half)])
    same = torch.cat([same, same.flip(0)], 1)
    model.shared_image_embedding.positional_embedding.copy_(same)
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(same)
    # The encoder knows no place in the image, so that it may learn from windows of images.
    model.vision_encoder.backbone.pos_embed.requires_grad_(False)


@dataclass(frozen=True)
class EncodedImages:
    """What the mask decoder needs of B images, and the finest features of the neck.

    levels: (B, C, side, side) float32 at STRIDES; positions: (B, hidden, side, side), codes of the
    places of the coarsest cells; finest: (B, hidden, side, side); corners: (B, 2) float32, the
    first pixel of each window.
    """

    levels: tuple[Tensor, Tensor, Tensor]
    positions: Tensor
    finest: Tensor
    corners: Tensor


@dataclass(frozen=True)
class Prompt:
    """What is told of M objects, in pixels of the square of SIZE.

    boxes: (M, 4) float32 xyxy or None; points: (M, N, 2) float32 and labels: (M, N) int64, 1 on the
    object and 0 beside it, or None.
    """

    boxes: Tensor | None = None
    points: Tensor | None = None
    labels: Tensor | None = None

    def clicked(self, points: Tensor, labels: Tensor) -> Prompt:
        """With one more click on each object: (M, 2) and (M,)."""
        points, labels = points[:, None], labels[:, None]
        if self.points is not None and self.labels is not None:
            points = torch.cat([self.points, points], 1)
            labels = torch.cat([self.labels, labels], 1)
        return Prompt(self.boxes, points, labels)


def speed_up(model: Sam2Model) -> Sam2Model:
    """The model without what costs time for nothing; its weights keep their names."""
    skip_position_encodings(model)
    skip_unused_scores(model)
    return model


def encode(model: Sam2Model, pixels: Tensor, corners: Tensor | None = None) -> EncodedImages:
    """As ``get_image_embeddings``, but with gradients, and of windows too.

    pixels: (B, 3, side, side); corners: (B, 2) int64, the column and row, in coarsest cells of the
    whole square, of each window's first cell; zeros unless given.
    """
    fine, middle, coarse = model.vision_encoder(pixels).fpn_hidden_states
    decoder = model.mask_decoder
    coarse = coarse + model.no_memory_embedding.view(1, -1, 1, 1)
    places = model.get_image_wide_positional_embeddings()[0]
    side = coarse.shape[-1]
    if corners is None:
        corners = torch.zeros(len(pixels), 2, dtype=torch.long)
    positions = [places[:, y : y + side, x : x + side] for x, y in corners.tolist()]
    levels = (decoder.conv_s0(fine), decoder.conv_s1(middle), coarse)
    return EncodedImages(levels, torch.stack(positions), fine, (STRIDES[-1] * corners).float())


def prompt_masks(prompt: Prompt, side: int, corners: Tensor, previous: Tensor | None) -> Tensor:
    """What ``models.mask_logits.prompt_as_logits`` makes of prompts, of windows too.

    side: cells of a window; corners: (M, 2) the first pixel of each object's window; previous:
    logits of the last round, (M, 1, side, side). Returns (M, 1, side, side).
    """
    size = STRIDES[0]
    low = size * torch.arange(side).float()
    if previous is not None:
        logits = torch.where(previous > 0, PROMPT_LOGIT, -PROMPT_LOGIT)
    elif prompt.boxes is not None:
        x0, y0, x1, y1 = (prompt.boxes - corners.repeat(1, 2)).unbind(1)
        across, down = (
            (torch.minimum(b[:, None], low + size) - torch.maximum(a[:, None], low)).clamp(min=0)
            for a, b in ((x0, x1), (y0, y1))
        )
        share = down[:, :, None] * across[:, None] / size**2
        logits = ((2 * share - 1) * PROMPT_LOGIT)[:, None]
    else:
        logits = torch.full((len(corners), 1, side, side), -PROMPT_LOGIT)
    if prompt.points is None or prompt.labels is None:
        return logits
    middle = low + size / 2
    points = prompt.points - corners[:, None]
    for (x, y), label in zip(points.permute(1, 2, 0), prompt.labels.T, strict=True):
        away = (middle[None, None] - x[:, None, None]) ** 2
        away = away + (middle[None, :, None] - y[:, None, None]) ** 2
        value = torch.where(label > 0, PROMPT_LOGIT, -PROMPT_LOGIT)[:, None, None, None]
        logits = torch.where(away[:, None] <= CLICK_RADIUS**2, value, logits)
    return logits


def decode(
    model: Sam2Model,
    encoded: EncodedImages,
    image: Tensor,
    prompt: Prompt,
    previous: Tensor | None = None,
    *,
    several: bool = False,
) -> tuple[Tensor, Tensor]:
    """Mask logits (M, K, s, s) at the finest stride and predicted IoUs (M, K) of M objects; K is 3
    if ``several`` masks are wanted, else 1.

    image: (M,) int64, the image of each object; previous: logits of the last round, (M, 1, s, s).
    """
    sparse, dense = model.prompt_encoder(
        None if prompt.points is None else prompt.points[:, None],
        None if prompt.labels is None else prompt.labels[:, None],
        None if prompt.boxes is None else prompt.boxes[:, None],
        prompt_masks(prompt, encoded.finest.shape[-1], encoded.corners[image], previous),
    )
    fine, middle, coarse = (level[image] for level in encoded.levels)
    masks, qualities, _, _ = model.mask_decoder(
        image_embeddings=coarse,
        image_positional_embeddings=encoded.positions[image],
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=several,
        high_resolution_features=[fine, middle],
    )
    return masks[:, 0], qualities[:, 0]
