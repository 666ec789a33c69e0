"""The attention between picture and caption in Grounding DINO, without its passes over memory.

transformers writes out the scores of every cell and token and goes over them again and again:
shifts, clamps, masks, two softmaxes. PyTorch's fused attention never holds them. Shifting and
clamping guard the softmax against overflow, which the fused one does by itself.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


def quicken(model: nn.Module) -> int:
    """Put ``FusionAttention`` in place of every one of transformers' in ``model``.

    Returns how many were replaced. The outputs stay the same but for rounding.
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child).__name__.endswith("GroundingDinoBiMultiHeadAttention")
    ]
    for parent, name, child in found:
        setattr(parent, name, FusionAttention(child))
    return len(found)


class FusionAttention(nn.Module):
    """Takes the weights, and the place, of a ``GroundingDinoBiMultiHeadAttention``."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.heads, self.scale = original.num_heads, original.scale
        self.vision_proj, self.text_proj = original.vision_proj, original.text_proj
        self.values_vision_proj = original.values_vision_proj
        self.values_text_proj = original.values_text_proj
        self.out_vision_proj, self.out_text_proj = original.out_vision_proj, original.out_text_proj

    def forward(
        self,
        vision_features: Tensor,
        text_features: Tensor,
        vision_attention_mask: Tensor | None = None,
        text_attention_mask: Tensor | None = None,
    ) -> tuple[tuple[Tensor, None], tuple[Tensor, None]]:
        """As the original's: (B, S, C) cells, (B, T, C) tokens, masks that are True for padding.

        Returns what the cells learn from the tokens and the other way round, in these shapes, and
        None for the weights of each, which are not kept.
        """
        cells = self._split(self.vision_proj, vision_features)
        tokens = self._split(self.text_proj, text_features)
        of_cells = self._split(self.values_vision_proj, vision_features)
        of_tokens = self._split(self.values_text_proj, text_features)
        vision = self._attend(cells, tokens, of_tokens, text_attention_mask)
        text = self._attend(tokens, cells, of_cells, vision_attention_mask)
        return (self.out_vision_proj(vision), None), (self.out_text_proj(text), None)

    def _split(self, projection: nn.Module, features: Tensor) -> Tensor:
        """(B, N, C) to (B, heads, N, channels of a head)."""
        projected: Tensor = projection(features)
        return projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None
    ) -> Tensor:
        seen = None if padding is None else ~padding[:, None, None, :]
        found = F.scaled_dot_product_attention(queries, keys, values, seen, scale=self.scale)
        return found.transpose(1, 2).flatten(2)
