"""HGNetV2 with a shorter stem, as a backbone that transformers knows by name.

The stem of HGNetV2 takes a third of a small student's time: four convolutions, a pooling and a join
on maps of half the picture's side. Two convolutions of stride 2 give maps of the same shape.
"""

from torch import Tensor, nn
from transformers import AutoBackbone, AutoConfig, HGNetV2Backbone, HGNetV2Config
from transformers.models.hgnet_v2.modeling_hgnet_v2 import HGNetV2ConvLayer


class ShortStemConfig(HGNetV2Config):
    """As HGNetV2's; of ``stem_channels`` the stem's convolutions have the last two."""

    model_type = "secondlook_hgnet_v2"


class ShortStem(nn.Module):
    """Two convolutions in place of HGNetV2's stem."""

    def __init__(self, config: ShortStemConfig) -> None:
        super().__init__()
        colours, half, quarter = config.stem_channels
        affine = config.use_learnable_affine_block
        self.first = HGNetV2ConvLayer(colours, half, 3, 2, use_learnable_affine_block=affine)
        self.second = HGNetV2ConvLayer(half, quarter, 3, 2, use_learnable_affine_block=affine)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) pixels to (B, C, H/4, W/4)."""
        found: Tensor = self.second(self.first(pixels))
        return found


class ShortStemBackbone(HGNetV2Backbone):
    """HGNetV2 behind a ``ShortStem``."""

    config_class = ShortStemConfig

    def __init__(self, config: ShortStemConfig) -> None:
        super().__init__(config)
        self.embedder = ShortStem(config)
        self.post_init()


AutoConfig.register(ShortStemConfig.model_type, ShortStemConfig)
AutoBackbone.register(ShortStemConfig, ShortStemBackbone)
