"""The quick deformable attention against transformers' own."""

import grounding_dino_models as models
import pytest
import torch

from secondlook.models.cpu_speedups import DeformableAttention, replace_deformable_attention

SHAPES = ([(7, 9)], [(12, 16), (6, 8), (3, 4), (2, 2)], [(1, 30), (1, 1), (5, 2), (1, 2)])


def original(levels: int) -> torch.nn.Module:
    """transformers' module with random weights and offsets that also lead outside."""
    attention = models.model().model.encoder.layers[0].deformable_layer.self_attn
    kind = type(attention)
    config = models.model().config
    config.num_feature_levels = levels
    made = kind(config, num_heads=4, n_points=3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.3)
        made.sampling_offsets.bias.normal_(0, 4)
    return made.eval()


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("coordinates", [2, 4])
@pytest.mark.parametrize("batch", [1, 3])
def test_it_gives_what_the_original_gives(
    shapes: list[tuple[int, int]], coordinates: int, batch: int
) -> None:
    torch.manual_seed(0)
    slow = original(len(shapes))
    quick = DeformableAttention(slow)
    cells = sum(height * width for height, width in shapes)
    inputs = {
        "hidden_states": torch.randn(batch, 11, 64),
        "encoder_hidden_states": torch.randn(batch, cells, 64),
        "position_embeddings": torch.randn(batch, 11, 64),
        "attention_mask": torch.rand(batch, cells) > 0.2,
        "reference_points": torch.rand(batch, 11, len(shapes), coordinates) * 1.4 - 0.2,
        "spatial_shapes": torch.tensor(shapes),
        "spatial_shapes_list": shapes,
    }
    with torch.no_grad():
        expected, _ = slow(**inputs)
        found, _ = quick(**inputs)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", models.KINDS)
def test_every_one_in_a_model_is_replaced(kind: str) -> None:
    model = models.model(kind)
    inputs = {
        "pixel_values": torch.randn(2, 3, 96, 64),
        "input_ids": torch.tensor([[101, 1031, 1012, 102]] * 2),
    }
    with torch.no_grad():
        before = model(**inputs)
        assert replace_deformable_attention(model) == 3  # one encoder layer, two decoder layers
        after = model(**inputs)
    assert replace_deformable_attention(model) == 0
    torch.testing.assert_close(after.pred_boxes, before.pred_boxes, atol=1e-5, rtol=1e-4)
