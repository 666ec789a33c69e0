"""The authors' own checkpoints: ``segment-anything:FILE.pth`` for the files of facebookresearch.

For ``sam_vit_b_01ec64.pth``, ``sam_vit_l_0b3195.pth``, ``sam_vit_h_4b8939.pth`` and any fine-tuned
from them. The file is read with ``weights_only``, its names are translated into transformers', and
the sizes of the model are inferred from the shapes. The authors' package is not needed;
``tests/peers/segment_anything`` shows that it gives the same masks.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import (
    SamConfig,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from secondlook.config.settings import ModelSettings
from secondlook.models import loading
from secondlook.models.loading import choose_placement
from secondlook.models.sam import SamSegmenter, SegmenterPixels
from secondlook_client.errors import NotFound

log = logging.getLogger(__name__)

HEADS = 8
"""Attention heads of the decoder: the one size that no shape shows."""
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of the pixels, per channel: ImageNet's."""

Weights = Mapping[str, torch.Tensor]

_MLP = r"(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+))\.layers\."
NAME_MAP: tuple[tuple[str, str], ...] = (
    (r"^image_encoder\.", "vision_encoder."),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"^vision_encoder\.blocks\.", "vision_encoder.layers."),
    (r"\.norm(\d|_final_attn)\.", r".layer_norm\1."),
    (r"\.neck\.0\.", ".neck.conv1."),
    (r"\.neck\.1\.", ".neck.layer_norm1."),
    (r"\.neck\.2\.", ".neck.conv2."),
    (r"\.neck\.3\.", ".neck.layer_norm2."),
    (r"\.pe_layer\.positional_encoding_gaussian_matrix$", ".shared_embedding.positional_embedding"),
    (r"\.point_embeddings\.", ".point_embed."),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
)
"""Parts of the authors' names and transformers', applied in this order. The layers of the small
perceptrons depend on how many there are, see ``rename``."""


def load(argument: str, options: ModelSettings) -> SamSegmenter:
    """``segment-anything:FILE.pth``.

    Raises ``NotFound`` when the file is missing, or holds something else.
    """
    path = Path(argument).expanduser()
    if not path.is_file():
        raise NotFound(
            f"no checkpoint '{path.name}' there; download sam_vit_b_01ec64.pth or another one of "
            "https://github.com/facebookresearch/segment-anything and give its path as "
            "segment-anything:PATH"
        )
    model = build_model(loading.read_pickled_weights(path), path.name)
    side = int(model.config.vision_config.image_size)
    return SamSegmenter(
        model,
        SegmenterPixels(side, MEAN, STD),
        name=path.stem,
        digest=loading.digest_of([path]),
        placement=choose_placement(options),
        batch=options.model_batch,
    )


def build_model(weights: Weights, name: str) -> SamModel:
    """transformers' model with these weights. Raises ``NotFound`` when parts are missing."""
    try:
        config = config_of(weights)
        model, report = SamModel.from_pretrained(
            None,
            config=config,
            state_dict=_translated(weights, config.mask_decoder_config.iou_head_depth),
            output_loading_info=True,
            dtype=torch.float32,
        )
    except (KeyError, ValueError, TypeError, IndexError, ZeroDivisionError, RuntimeError) as cause:
        raise NotFound(
            f"'{name}' is no Segment Anything with a plain ViT ({cause!s:.200}); MobileSAM and "
            "other encoders run as a pair of ONNX files (sam-onnx:), SAM-HQ and SAM 2 as "
            "checkpoints of transformers (sam:)"
        ) from cause
    if report["unexpected_keys"]:
        unknown = sorted(report["unexpected_keys"])
        log.warning("%s: %d weights have unknown names, e.g. %s", name, len(unknown), unknown[0])
    wrong = sorted([*report["missing_keys"], *map(str, report["mismatched_keys"])])
    if wrong:
        raise NotFound(
            f"'{name}' lacks {len(wrong)} weights of a Segment Anything, e.g. '{wrong[0]}'; only "
            "that architecture is supported"
        )
    return model


def config_of(weights: Weights) -> SamConfig:
    """The sizes of a model, inferred from the shapes of its weights, by the authors' names.

    Raises ``KeyError`` with the name of a weight that every SAM has and this lacks, or
    ``ValueError``.
    """
    vision = _vision_config(weights)
    patch = vision.patch_size
    masks = weights["prompt_encoder.mask_downscaling.3.weight"]
    prompts = SamPromptEncoderConfig(
        hidden_size=vision.output_channels,
        image_size=vision.image_size,
        patch_size=patch,
        image_embedding_size=vision.image_size // patch,
        mask_input_channels=len(masks),
        num_point_embeddings=_count(weights, r"prompt_encoder\.point_embeddings\.(\d+)\."),
    )
    first = "mask_decoder.transformer.layers.0"
    width = vision.output_channels
    decoder = SamMaskDecoderConfig(
        hidden_size=width,
        mlp_dim=len(weights[f"{first}.mlp.lin1.bias"]),
        num_hidden_layers=_count(weights, r"mask_decoder\.transformer\.layers\.(\d+)\."),
        num_attention_heads=HEADS,
        attention_downsample_rate=width
        // len(weights[f"{first}.cross_attn_token_to_image.q_proj.bias"]),
        num_multimask_outputs=len(weights["mask_decoder.mask_tokens.weight"]) - 1,
        iou_head_depth=_count(weights, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\."),
        iou_head_hidden_dim=len(weights["mask_decoder.iou_prediction_head.layers.0.bias"]),
        # PyTorch's default, which the authors leave; transformers' own configuration has 1e-6.
        layer_norm_eps=1e-5,
    )
    return SamConfig(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
    )


def _vision_config(weights: Weights) -> SamVisionConfig:
    patches = weights["image_encoder.patch_embed.proj.weight"]
    hidden, patch = len(patches), patches.shape[-1]
    cells = weights["image_encoder.pos_embed"].shape[1]
    layers = _count(weights, r"image_encoder\.blocks\.(\d+)\.")
    tables = [weights[f"image_encoder.blocks.{layer}.attn.rel_pos_h"] for layer in range(layers)]
    spans = [(len(table) + 1) // 2 for table in tables]
    """Of the attention of each layer, in cells: a window, or the whole image."""
    return SamVisionConfig(
        hidden_size=hidden,
        output_channels=len(weights["image_encoder.neck.0.weight"]),
        num_hidden_layers=layers,
        num_attention_heads=hidden // tables[0].shape[1],
        image_size=cells * patch,
        patch_size=patch,
        window_size=min(spans),
        global_attn_indexes=[layer for layer, span in enumerate(spans) if span == cells],
        num_pos_feats=weights["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"].shape[
            1
        ],
        mlp_dim=len(weights["image_encoder.blocks.0.mlp.lin1.bias"]),
    )


def _count(weights: Weights, pattern: str) -> int:
    """How many layers there are, by the highest number that ``pattern`` finds."""
    numbers = [int(match[1]) for name in weights if (match := re.match(pattern, name))]
    if not numbers:
        raise KeyError(pattern.replace("\\", ""))
    return max(numbers) + 1


def _translated(weights: Weights, iou_head_depth: int) -> dict[str, torch.Tensor]:
    found = {rename(name, iou_head_depth): value for name, value in weights.items()}
    # Stored once there; in transformers the image has the same code of places as the prompts.
    places = found["prompt_encoder.shared_embedding.positional_embedding"]
    return {**found, "shared_image_embedding.positional_embedding": places}


def rename(name: str, iou_head_depth: int) -> str:
    """One weight's name in transformers; a name that is unknown stays what it is."""
    for pattern, renamed in NAME_MAP:
        name = re.sub(pattern, renamed, name)
    layer = re.match(rf"{_MLP}(\d+)\.", name)
    if layer is None:
        return name
    last = (iou_head_depth if "iou" in layer[1] else 3) - 1
    number = int(layer[2])
    role = {0: "proj_in", last: "proj_out"}.get(number, f"layers.{number - 1}")
    return f"{layer[1]}.{role}.{name[layer.end() :]}"
