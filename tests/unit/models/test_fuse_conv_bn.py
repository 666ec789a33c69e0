"""Folded norms and channels-last convolutions against the models as they were."""

from copy import deepcopy

import grounding_dino_models as models
import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetModel

from secondlook.models.cpu_speedups import fuse_conv_bn, use_channels_last

PIXELS = torch.linspace(-1, 1, 2 * 3 * 48 * 40).view(2, 3, 48, 40)


def trained(model: nn.Module) -> nn.Module:
    """Norms as training leaves them: none of their numbers is 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if "BatchNorm" in type(module).__name__:
            with torch.no_grad():
                module.weight.normal_(1, 0.3, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.2, 3, generator=generator)
    return model.eval()


def resnet(layer: str) -> nn.Module:
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[16, 24], depths=[1, 2], layer_type=layer)
    return trained(ResNetModel(config))


@pytest.mark.parametrize("layer", ["basic", "bottleneck"])
def test_a_resnet_gives_the_same_without_norms(layer: str) -> None:
    slow = resnet(layer)
    quick = deepcopy(slow)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in slow.modules())
    # A model may be called more than once in a run, as with questions of several lengths.
    assert fuse_conv_bn(quick, lambda: (quick(PIXELS), quick(PIXELS[:1]))) == norms > 5
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
    with torch.no_grad():
        expected, found = (m(PIXELS).last_hidden_state for m in (slow, quick))
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", models.KINDS)
def test_the_frozen_norms_of_a_backbone_are_fused_too(kind: str) -> None:
    slow = trained(models.model(kind, backbone="resnet").model.backbone.conv_encoder.model)
    quick = deepcopy(slow)
    assert fuse_conv_bn(quick, lambda: quick(PIXELS)) > 5
    with torch.no_grad():
        pairs = zip(quick(PIXELS).feature_maps, slow(PIXELS).feature_maps, strict=True)
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


class Odd(nn.Module):
    """Norms that must stay: before a convolution, behind a sum, behind one that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
        self.twice, self.behind = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        seen = self.convolution(self.norm(pixels))
        return self.behind(self.twice(self.twice(seen)) + seen) + self.behind(self.twice(seen))


def test_a_norm_that_is_not_behind_one_convolution_stays() -> None:
    torch.manual_seed(0)
    slow = trained(Odd())
    quick = deepcopy(slow)
    assert fuse_conv_bn(quick, lambda: quick(PIXELS)) == 0
    with torch.no_grad():
        torch.testing.assert_close(quick(PIXELS), slow(PIXELS))


def test_a_norm_that_still_learns_stays() -> None:
    model = resnet("basic").train()
    assert fuse_conv_bn(model, lambda: model(PIXELS)) == 0


def test_the_layout_is_channels_last_in_half_precision_too() -> None:
    slow = resnet("basic").to(torch.bfloat16)
    quick = deepcopy(slow)
    half = PIXELS.to(torch.bfloat16)
    fuse_conv_bn(quick, lambda: quick(half))
    use_channels_last(quick)
    with torch.no_grad():
        expected, found = (m(half).last_hidden_state.float() for m in (slow, quick))
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)
