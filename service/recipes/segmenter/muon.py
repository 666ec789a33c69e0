"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) in float32.

torch's own orthogonalises in bfloat16, which a CPU without it emulates: 0.72 s a step with the
segmenter's matrices, as long as everything else together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration that brings singular values near 1."""


class FloatMuon(torch.optim.Optimizer):
    """Momentum whose matrices are orthogonalised, for matrices inside a network.

    Steps are as large as AdamW's (arXiv 2502.16982), so that rates are of the same order.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        rate: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        settings = {"lr": rate, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(matrices, settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take in the gradients; ``closure`` is not used."""
        for group in self.param_groups:
            same: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    update = self._smoothed(matrix, group["momentum"])
                    same[tuple(matrix.shape)].append((matrix, update))
            for shape, pairs in same.items():
                size = 0.2 * max(shape) ** 0.5 * group["lr"]
                updates = orthogonalised(torch.stack([update for _, update in pairs]))
                for (matrix, _), update in zip(pairs, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.sub_(update, alpha=size)

    def _smoothed(self, matrix: Tensor, momentum: float) -> Tensor:
        """The gradient with Nesterov's momentum."""
        state = self.state[matrix]
        if not state:
            state["mean"] = torch.zeros_like(matrix)
        assert matrix.grad is not None
        state["mean"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(state["mean"], momentum)


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrices, roughly, whose singular values are 1: (N, rows, columns)."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
