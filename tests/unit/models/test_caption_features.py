"""A caption that was encoded once, in place of its token types."""

import grounding_dino_models as models
import pytest
import torch

from secondlook.models.caption_features import accept_text_features, text_features


@pytest.mark.parametrize("kind", models.KINDS)
def test_features_give_what_ids_give_without_the_encoder(kind: str) -> None:
    model = models.model(kind)
    ids = torch.tensor([[101, 1031, 1012, 1032, 1033, 1012, 102]])
    both = ids.expand(2, -1)
    inputs = {
        "pixel_values": torch.randn(2, 3, 64, 96),
        "input_ids": both,
        "attention_mask": torch.ones_like(both),
    }
    encoded = []
    model.model.text_backbone.register_forward_hook(lambda *_: encoded.append(1))
    with torch.inference_mode():
        expected = model(**inputs, token_type_ids=torch.zeros_like(both))
        accept_text_features(model)
        as_before = model(**inputs, token_type_ids=torch.zeros_like(both))
        features = text_features(model, ids)
        assert len(encoded) == 3
        found = model(**inputs, token_type_ids=features.expand(2, -1, -1))
    assert len(encoded) == 3
    for output in (as_before, found):
        torch.testing.assert_close(output.logits, expected.logits)
        torch.testing.assert_close(output.pred_boxes, expected.pred_boxes)
