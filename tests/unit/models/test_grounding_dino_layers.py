"""The lean layers of Grounding DINO and Swin against transformers' own."""

import grounding_dino_models as models
import pytest
import torch
from torch import nn

from secondlook.models import grounding_dino_layers
from secondlook.models.cpu_speedups import HalfLinear, cast_weights, multiplies, replace_modules
from secondlook.models.grounding_dino_layers import (
    DeformableLayer,
    FeedForward,
    FusedAttention,
    FusionLayer,
    WindowLayer,
    fuse_half_products,
    replace_attention,
    replace_for_cache,
)
from secondlook.models.numba_attention import NumbaDeformableAttention

SHAPES = [(24, 40), (12, 20), (6, 10), (3, 5)]
CELLS = sum(height * width for height, width in SHAPES)


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for rounding, where all differs from item to item."""
    assert expected.std(1).min() > 0.01
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", models.KINDS)
@pytest.mark.parametrize("masked", [True, False])
def test_fusion_gives_what_the_original_gives(kind: str, masked: bool) -> None:
    slow = models.model(kind).model.encoder.layers[0].fusion_layer
    torch.manual_seed(0)
    inputs = {
        "vision_features": torch.randn(3, 50, 64) * 0.3,
        "text_features": torch.randn(3, 7, 64) * 0.3,
        "attention_mask_vision": torch.rand(3, 50) > 0.7 if masked else None,
        "attention_mask_text": torch.arange(7).expand(3, 7) > 4 if masked else None,
    }
    with torch.no_grad():
        (vision, _), (text, _) = slow(**inputs)
        (found_vision, _), (found_text, _) = FusionLayer(slow)(**inputs)
    assert_same(found_vision, vision)
    assert_same(found_text, text)


@pytest.mark.parametrize("masked", [True, False])
def test_attention_gives_what_the_original_gives(masked: bool) -> None:
    slow = models.model().model.decoder.layers[0].encoder_attn_text
    torch.manual_seed(0)
    queries, keys = torch.randn(3, 9, 64) * 9, torch.randn(3, 6, 64) * 9
    padding = (torch.arange(6) > 3) * torch.finfo(torch.float32).min
    mask = padding.expand(3, slow.num_attention_heads, 9, 6) if masked else None
    with torch.no_grad():
        expected = slow(queries, keys, keys, mask)[0]
        assert_same(FusedAttention(slow)(queries, keys, keys, mask)[0], expected)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("rows", [1, 64, 10**6])
def test_a_deformable_layer_in_parts_gives_what_the_original_gives(
    batch: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.model()
    slow = model.model.encoder.layers[0].deformable_layer
    torch.manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(batch, CELLS, 64),
        "attention_mask": torch.rand(batch, CELLS) > 0.2,
        "position_embeddings": torch.randn(batch, CELLS, 64),
        "reference_points": torch.rand(batch, CELLS, len(SHAPES), 2),
        "spatial_shapes": torch.tensor(SHAPES),
        "spatial_shapes_list": SHAPES,
    }
    with torch.no_grad():
        expected, _ = slow(**inputs)
        replace_modules(model, "MultiscaleDeformableAttention", NumbaDeformableAttention)
        quick = DeformableLayer(slow)
        hidden = slow.fc1.out_features
        monkeypatch.setattr(grounding_dino_layers, "_CACHED", rows * hidden)
        assert_same(quick(**inputs)[0], expected)


@pytest.mark.parametrize("size", [(8, 12), (9, 13), (3, 5), (40, 61)], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shift", [0, 2])
def test_windows_give_what_the_original_gives(
    size: tuple[int, int], batch: int, shift: int
) -> None:
    slow = models.model().model.backbone.conv_encoder.model.swin.encoder.layers[0].blocks[0]
    slow.shift_size = shift
    torch.manual_seed(0)
    cells = torch.randn(batch, size[0] * size[1], 32)
    with torch.no_grad():
        slow.attention.relative_position_bias.relative_position_bias_table.normal_()
        expected, _ = slow(cells, size, always_partition=True)
        assert_same(WindowLayer(slow)(cells, size)[0], expected)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU(), nn.GELU("tanh"), nn.Tanh()], ids=str)
def test_feed_forward_leaves_its_input_as_it_is(
    activation: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grounding_dino_layers, "_CACHED", 3 * 32)
    torch.manual_seed(0)
    wide, narrow, norm = nn.Linear(8, 32), nn.Linear(32, 8), nn.LayerNorm(8)
    quick = FeedForward(wide, activation, narrow, norm)
    assert quick.rows == 3
    cells = torch.randn(2, 5, 8)
    with torch.no_grad():
        expected = cells + narrow(activation(wide(norm(cells))))
        before = cells.clone()
        assert_same(quick(cells), expected)
    assert torch.equal(cells, before)


def test_more_rows_are_computed_at_a_time_in_a_half_type() -> None:
    exact, half = (
        FeedForward(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8)).to(dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.rows == 4 * exact.rows


needs_bfloat16 = pytest.mark.skipif(
    not multiplies(torch.bfloat16), reason="oneDNN has no bfloat16 on this processor"
)


@needs_bfloat16
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8), (0, 8)], ids=str)
def test_a_half_linear_gives_what_autocast_gives(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 32, bias)
    given = torch.randn(shape)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = layer(given)
        cast_weights(layer, torch.bfloat16)
        found = HalfLinear(layer)(given)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0.01)


@needs_bfloat16
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU(), nn.GELU("tanh"), nn.Tanh()], ids=str)
def test_an_activation_is_fused_where_onednn_has_it(activation: nn.Module) -> None:
    torch.manual_seed(0)
    layer = FeedForward(nn.Linear(8, 32), activation, nn.Linear(32, 8))
    given = torch.randn(5, 8)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = layer(given)
        cast_weights(layer, torch.bfloat16)
        fuse_half_products(layer)
        found = layer(given)
    name = {"ReLU()": "relu", "GELU(approximate='none')": "gelu"}.get(str(activation), "none")
    assert (layer.fc1.activation, layer.fc2.activation) == (name, "none")
    assert isinstance(layer.activation, nn.Identity) == (name != "none")
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)


def test_products_stay_as_they_are_where_onednn_has_no_such_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grounding_dino_layers, "multiplies", lambda _: False)
    layer = FeedForward(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8)).bfloat16()
    layer.requires_grad_(False)
    fuse_half_products(layer)
    assert type(layer.fc1) is nn.Linear
    assert layer(torch.ones(2, 8, dtype=torch.bfloat16)).shape == (2, 8)
    assert not multiplies(torch.float32)


@pytest.mark.parametrize("kind", models.KINDS)
def test_every_one_in_a_model_is_replaced(kind: str) -> None:
    model = models.model(kind)
    inputs = {
        "pixel_values": torch.randn(2, 3, 96, 64),
        "input_ids": torch.tensor([[101, 1031, 1012, 102]] * 2),
    }
    with torch.no_grad():
        before = model(**inputs)
        assert replace_attention(model) == 1 + 1 + 2 * 2  # one encoder layer, two decoder layers
        # Three deformable attentions, one encoder layer, five layers of Swin, the backbone.
        assert replace_for_cache(model) == 3 + 1 + 5 + 1
        after = model(**inputs)
    assert replace_attention(model) == 0
    torch.testing.assert_close(after.logits, before.logits, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(after.pred_boxes, before.pred_boxes, atol=1e-4, rtol=1e-3)


def test_images_are_encoded_once_for_all_captions_and_forgotten_with_their_pixels() -> None:
    model = models.model()
    replace_for_cache(model)
    encoder = model.model.backbone.conv_encoder
    passes: list[object] = []
    encoder.original.register_forward_hook(lambda *_: passes.append(None))
    inputs = {"pixel_values": torch.randn(2, 3, 96, 64)}
    captions = [[101, 1031, 1012, 102], [101, 1032, 1012, 102]]
    with torch.no_grad():
        one, other = (
            model(**inputs, input_ids=torch.tensor([caption] * 2)) for caption in captions
        )
        expected = models.model()(**inputs, input_ids=torch.tensor([captions[1]] * 2))
    assert len(passes) == 1 and not torch.equal(one.pred_boxes, other.pred_boxes)
    torch.testing.assert_close(other.pred_boxes, expected.pred_boxes, atol=1e-4, rtol=1e-3)
    with torch.no_grad():
        model(pixel_values=torch.randn(2, 3, 96, 64), input_ids=torch.tensor([captions[0]] * 2))
    assert len(passes) == 2
    inputs.clear()
    assert len(encoder.found) == 0
