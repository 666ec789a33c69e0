"""The embedded segmenter before it has learnt anything: a very small ``EdgeTamModel``.

Its encoder is a ResNet of timm (arXiv 1512.03385) with a pyramid over five levels, since a small
network with little training learns edges much sooner by convolutions than by attention. The decoder
reads the level of stride 8 and answers at stride 2: objects of ten pixels have outlines there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import EdgeTamConfig, EdgeTamModel, EdgeTamVisionConfig, TimmWrapperConfig

from secondlook.models.mask_logits import CLICK_RADIUS, PROMPT_LOGIT
from secondlook.models.sam2_speedups import skip_position_encodings

SIZE = 320
"""Side of the square that images are stretched to."""
WINDOW = 160
"""Side of the parts of images that it learns from first, and that small objects are decoded in."""
STRIDES = (2, 4, 8)
"""Of the levels that the decoder reads; the encoder has two coarser ones."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class SegmenterShape:
    """Sizes of the model.

    ``widths`` and ``blocks`` of the encoder at strides 4, 8, 16, 32, and half the width of its
    ``stem`` at stride 2; ``hidden`` is the width of pyramid, prompts and decoder, a whole multiple
    of 8 times ``heads``.
    """

    stem: int = 12
    widths: tuple[int, ...] = (32, 64, 96, 128)
    blocks: tuple[int, ...] = (1, 2, 2, 1)
    hidden: int = 64
    heads: int = 4


def build_model(seed: int, shape: SegmenterShape | None = None) -> EdgeTamModel:
    """A model with random weights."""
    torch.manual_seed(seed)
    model = EdgeTamModel(_config(shape or SegmenterShape()))
    _initialise(model)
    return model


def _config(shape: SegmenterShape) -> EdgeTamConfig:
    widths = [2 * shape.stem, *shape.widths]
    backbone = TimmWrapperConfig(
        architecture="resnet10t",
        do_pooling=False,
        model_args={
            "features_only": True,
            "out_indices": list(range(len(widths))),
            "channels": list(shape.widths),
            "layers": list(shape.blocks),
            "stem_width": shape.stem,
        },
    )
    vision = EdgeTamVisionConfig(
        backbone_config=backbone,
        backbone_channel_list=widths[::-1],
        backbone_feature_sizes=[[SIZE // stride] * 2 for stride in STRIDES],
        fpn_hidden_size=shape.hidden,
        fpn_top_down_levels=list(range(len(widths))),
        num_feature_levels=len(STRIDES),
    )
    prompts = {"hidden_size": shape.hidden, "image_size": SIZE, "patch_size": STRIDES[-1]}
    decoder = {
        "hidden_size": shape.hidden,
        "mlp_dim": 2 * shape.hidden,
        "num_attention_heads": shape.heads,
        "iou_head_hidden_dim": shape.hidden,
        "dynamic_multimask_via_stability": False,
    }
    config = EdgeTamConfig(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
    )
    # For `secondlook.models.sam`; the training is of such windows, too.
    config.prompts_as_masks, config.prompt_window = True, WINDOW // STRIDES[-1]
    return config


def _initialise(model: EdgeTamModel) -> None:
    """Weights that let gradients through from the first step; those of the encoder are timm's.

    transformers draws all weights with 0.02, so that the masks, a product of two small numbers,
    are flat and learn nothing. With a variance of 1 / inputs, signals keep their size.
    """
    timm = {id(module) for module in model.vision_encoder.backbone.modules()}
    for module in model.modules():
        if id(module) in timm:
            continue
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        elif isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=module.weight.shape[0] ** -0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
    # Five levels are summed; masks begin within a few units of nothing.
    for lateral in model.vision_encoder.neck.convs:
        lateral.weight.data.mul_(0.5)
    for mlp in model.mask_decoder.output_hypernetworks_mlps:
        mlp.proj_out.weight.data.mul_(0.5)
    # Prompts enter as masks; the louder they are, the sooner they are heeded.
    model.prompt_encoder.mask_embed.conv3.weight.data.mul_(3)
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


def speed_up(model: EdgeTamModel) -> EdgeTamModel:
    """The model without what costs time for nothing; its weights keep their names."""
    skip_position_encodings(model)
    return model


def encode(model: EdgeTamModel, pixels: Tensor, corners: Tensor | None = None) -> EncodedImages:
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
    model: EdgeTamModel,
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
