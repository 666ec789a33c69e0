"""The network of a micro-model: a student's backbone, and one number for a crop.

Overfitted on purpose: it starts from a student's weights and learns one thing in one scene.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secondlook.models.micro import INPUT, OUTPUT
from secondlook.training.export.export import OPSET
from secondlook.training.export.optimize import simplify_onnx
from secondlook.training.micro_crops import CropSampler
from secondlook.training.torch_student import TorchStudent
from secondlook.training.trainer import warmup_cosine
from secondlook_client.errors import Cancelled, ModelDrifted

RATE, BACKBONE_SHARE, HEAD_SHARE = 1e-3, 0.3, 3.0
"""Peak rate, and the shares of it for the student's weights and for the new layer."""
WARMUP, WEIGHT_DECAY, MAX_NORM, DROPOUT = 0.1, 1e-3, 1.0, 0.2
SMOOTHING = 0.02
"""How far the wanted scores stay away from 0 and 1."""
PARITY = 1e-3
"""Largest difference of scores between torch and onnxruntime."""


class MicroHead(nn.Module):
    """(B, side, side, 3) uint8 RGB to (B,) P(target)."""

    def __init__(self, student: TorchStudent, side: int) -> None:
        """Takes the backbone of ``student``, which must not be used any more."""
        super().__init__()
        self.backbone = student.backbone
        with torch.no_grad():
            width = self._features(torch.zeros(1, 3, side, side)).shape[1]
        self.dropout = nn.Dropout(DROPOUT)
        self.last = nn.Linear(width, 1)

    def forward(self, crops: Tensor) -> Tensor:
        """See the class."""
        return self.logits(crops.permute(0, 3, 1, 2).to(torch.float32) / 255).sigmoid()

    def logits(self, pixels: Tensor) -> Tensor:
        """(B,) of (B, 3, side, side) pixels in [0, 1]."""
        scored: Tensor = self.last(self.dropout(self._features(pixels)))[:, 0]
        return scored

    def _features(self, pixels: Tensor) -> Tensor:
        # The mean says what a crop is, the maximum that a small pattern is somewhere in it.
        maps = self.backbone(pixels)
        return torch.cat([pooled for m in maps for pooled in (m.mean((2, 3)), m.amax((2, 3)))], 1)


class HeadEnsemble(nn.Module):
    """The mean of several heads: of two that differ by their seed alone one may miss a third."""

    def __init__(self, heads: Sequence[MicroHead]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, crops: Tensor) -> Tensor:
        """As ``MicroHead``."""
        return torch.stack([head(crops) for head in self.heads]).mean(dim=0)


@dataclass(frozen=True)
class HeadTraining:
    """How one head is trained."""

    side: int
    """Pixels of a crop."""
    steps: int
    batch: int
    seconds: float
    """At most."""
    seed: int


def train_head(
    sampler: CropSampler,
    student: TorchStudent,
    how: HeadTraining,
    tell: Callable[[int, float], None],
    stop: Callable[[], bool],
) -> MicroHead:
    """A head that has learnt from ``how.steps`` batches, or as many as fit into ``how.seconds``.

    ``tell(step, loss)`` is called at every step. Raises ``Cancelled`` when ``stop`` says yes: so
    short a training begins anew.
    """
    torch.manual_seed(how.seed)
    head = MicroHead(student, how.side).train()
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # statistics of a few crops would be worse than those of its training
    groups = ((head.backbone, BACKBONE_SHARE), (head.last, HEAD_SHARE))
    parameters = [{"params": [*part.parameters()], "share": share} for part, share in groups]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, weight_decay=WEIGHT_DECAY)
    began, step = time.monotonic(), 0
    while step < how.steps:
        spent = time.monotonic() - began
        if stop():
            raise Cancelled("the training was stopped; the same command begins it anew")
        # By the minutes too, so that the rate has fallen when they are over.
        done = max(step / how.steps, spent / how.seconds)
        if done >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = (
                RATE * group["share"] * warmup_cosine(round(done * how.steps), how.steps, WARMUP)
            )
        loss = _step(head, optimiser, sampler, how.batch)
        step += 1
        tell(step, loss)
    return head.eval()


def _step(
    head: MicroHead, optimiser: torch.optim.Optimizer, sampler: CropSampler, batch: int
) -> float:
    crops, truth = sampler.batch(batch)
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2) / 255
    wanted = torch.from_numpy(truth) * (1 - 2 * SMOOTHING) + SMOOTHING
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    loss = F.binary_cross_entropy_with_logits(head.logits(pixels), wanted)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(head.parameters(), MAX_NORM)
    optimiser.step()
    return float(loss.detach())


def export_head(head: HeadEnsemble, path: Path, side: int) -> None:
    """Write the head as ONNX, compared with torch on noise. Raises ``ModelDrifted``."""
    import onnxruntime

    example = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: what it takes as constant is constant
        torch.onnx.export(
            head,
            (example,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "B"}, OUTPUT: {0: "B"}},
        )
        expected = head(example).numpy()
    simplify_onnx(path)
    session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {INPUT: example.numpy()})
    if np.abs(found - expected).max() > PARITY:
        raise ModelDrifted(
            f"the exported head differs from the trained one by {np.abs(found - expected).max():g}"
        )
