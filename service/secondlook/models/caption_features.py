"""What a Grounding DINO's text encoder makes of a caption, computed once a caption.

It does not depend on the image, but transformers' forward pass computes it for every image anew:
for GDINO-T a BERT of 110 M parameters, and masks between phrases on the way.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class GivenTextFeatures(nn.Module):
    """Takes the place of a text encoder: hands on features that come as ``token_type_ids``.

    The models hand that argument on to their text encoder and use it for nothing else. Given
    integers, it is the encoder.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor, places: Tensor, **more: Any) -> Any:
        """Features (B, T, C) as they came; of ids (B, T), what the encoder gives."""
        if types.is_floating_point():
            return BaseModelOutput(last_hidden_state=types)
        return self.encoder(ids, mask, types, places, **more)


def accept_text_features(model: Any) -> None:
    """Let an ``…GroundingDinoForObjectDetection`` take features as ``token_type_ids``."""
    model.model.text_backbone = GivenTextFeatures(model.model.text_backbone)


def reads_captions(model: Any) -> bool:
    """Whether it is no class of transformers', so that it must be given the caption's ids."""
    return not isinstance(model, PreTrainedModel)


@torch.inference_mode()
def text_features(model: Any, ids: Tensor) -> Tensor:
    """Features (1, T, C) of a caption's ids (1, T), for a model that accepts them.

    The masks, which let a token see those of its own phrase only, are made by the function that
    the model itself calls. C is 0 for a network that reads captions itself.
    """
    if reads_captions(model):
        return torch.zeros(*ids.shape, 0, device=ids.device)
    whole = model.model
    source: Any = inspect.getmodule(type(whole))
    masks, places = source.generate_masks_with_special_tokens_and_transfer_map(
        ids, special_tokens=whole.special_tokens
    )
    limit = model.config.max_text_len
    ids, masks, places = ids[:, :limit], masks[:, None, :limit, :limit], places[:, :limit]
    output = whole.text_backbone(ids, masks, torch.zeros_like(ids), places, return_dict=True)
    features: Tensor = output.last_hidden_state
    return features
