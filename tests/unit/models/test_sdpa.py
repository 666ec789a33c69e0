"""The fused attention between image and caption against transformers' own."""

import grounding_dino_models as models
import pytest
import torch

from secondlook.models.cpu_speedups import FusionAttention, use_sdpa


@pytest.mark.parametrize("kind", models.KINDS)
@pytest.mark.parametrize("masked", [True, False])
def test_it_gives_what_the_original_gives(kind: str, masked: bool) -> None:
    slow = models.model(kind).model.encoder.layers[0].fusion_layer.attn
    torch.manual_seed(0)
    inputs = {
        "vision_features": torch.randn(3, 50, 64) * 0.3,
        "text_features": torch.randn(3, 7, 64) * 0.3,
        "vision_attention_mask": torch.rand(3, 50) > 0.7 if masked else None,
        "text_attention_mask": torch.arange(7).expand(3, 7) > 4 if masked else None,
    }
    with torch.no_grad():
        (vision, _), (text, _) = slow(**inputs)
        (found_vision, _), (found_text, _) = FusionAttention(slow)(**inputs)
    assert vision.std(1).min() > 0.01 and text.std(1).min() > 0.01
    torch.testing.assert_close(found_vision, vision, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found_text, text, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", models.KINDS)
def test_every_one_in_a_model_is_replaced(kind: str) -> None:
    model = models.model(kind)
    assert use_sdpa(model) == 1  # one encoder layer
    assert use_sdpa(model) == 0
