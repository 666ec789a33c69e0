"""The average of a model's weights over its last steps, which finds more than the last one."""

import copy

import torch
from torch import Tensor, nn

LONGEST = 0.998
"""Share of the average that stays at a step, once there were steps enough."""


class Average:
    """An exponential average of weights. It follows quickly at first, when all weights are bad."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        """In evaluation mode, on the model's device."""
        # Walking through the modules at every step would cost as much as the arithmetic.
        self._means: list[Tensor] = [*self.model.parameters()]
        self._now: list[Tensor] = [*model.parameters()]
        self._buffers = [*zip(self.model.buffers(), model.buffers(), strict=True)]

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Take in the model's weights after ``step`` (≥ 1) steps; batch statistics are averages
        already."""
        keep = min(LONGEST, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._means, self._now, 1 - keep)
        for mean, now in self._buffers:
            mean.copy_(now)
