"""One step of learning: the devices, the optimiser, and what a batch does to the weights."""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from secondlook.config import ModelOptions
from secondlook.distill.batches import Batch
from secondlook.distill.predicting import as_input
from secondlook.distill.settings import TrainingSettings
from secondlook.errors import BadSetting
from secondlook.models.devices import place

OWN_RATE, CHECKPOINT_RATE = 1e-3, 4e-4
"""Highest rates: of our own shapes, and of checkpoints with COCO weights, which forget quickly."""
BACKBONE_SHARE = 0.3
"""Of the rate, for the backbone of a student that begins from other weights."""
_BACKBONE = re.compile(r"(^|\.)(backbone|conv_encoder)\.")
"""What D-FINE and DEIMv2 call theirs."""
DECAY, BETAS, LONGEST_GRADIENT = 1e-4, (0.9, 0.999), 1.0


def accelerator_for(settings: TrainingSettings) -> Accelerator:
    """The devices of this process. Raises ``BadSetting`` for what this machine lacks."""
    device = place(ModelOptions(device=settings.device)).device
    precision = settings.precision
    if precision == "auto":
        half = device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if half else "fp32"
    if precision == "fp16" and device.type != "cuda":
        raise BadSetting("precision fp16 needs a GPU of NVIDIA; take bf16 or fp32 here")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if AcceleratorState._shared_state and AcceleratorState().num_processes == 1:
        # It is one for the whole process and refuses the precision of a second training.
        AcceleratorState._reset_state(reset_partial_state=True)
    mixed = "no" if precision == "fp32" else precision
    # Not every weight gets a gradient from every batch, and processes would wait for it.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    cpu = device.type == "cpu"
    return Accelerator(cpu=cpu, mixed_precision=mixed, kwargs_handlers=[unused])


def precision_of(accelerator: Accelerator) -> str:
    """``fp32``, ``bf16`` or ``fp16``."""
    return "fp32" if accelerator.mixed_precision == "no" else str(accelerator.mixed_precision)


def optimiser_for(model: nn.Module, rate: float, backbone_share: float) -> torch.optim.AdamW:
    """AdamW in groups that know their ``share`` of the rate: the backbone may learn more slowly;
    vectors do not decay."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, value in model.named_parameters():
        share = backbone_share if _BACKBONE.search(name) else 1.0
        groups.setdefault((share, 0.0 if value.ndim < 2 else DECAY), []).append(value)
    ordered = sorted(groups.items(), key=lambda group: group[0])
    told = [
        {"params": p, "share": share, "weight_decay": decay, "initial_rate": rate}
        for (share, decay), p in ordered
    ]
    return torch.optim.AdamW(told, lr=rate, betas=BETAS)


def learn(
    accelerator: Accelerator, model: nn.Module, optimiser: Any, batch: Batch
) -> dict[str, float]:
    """One step; returns the losses by kind and their sum as ``loss``.

    Nothing is learnt from a batch whose gradients are not finite. Raises ``BadSetting`` when the
    loss itself is not.
    """
    pictures, targets = batch
    device = accelerator.device
    placed = [{name: part.to(device) for name, part in target.items()} for target in targets]
    inputs = {"pixel_values": as_input(pictures.to(device)), "labels": placed}
    try:
        said = model(**inputs)
    except ValueError as cause:
        if "corner" not in str(cause):
            raise
        raise _come_apart("not a number", optimiser) from cause  # the matcher sees it first
    loss: Tensor = said.loss
    parts = {"loss": float(loss.detach()), **_summed(said.loss_dict)}
    if not math.isfinite(parts["loss"]):
        raise _come_apart(str(parts["loss"]), optimiser)
    optimiser.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(model.parameters(), LONGEST_GRADIENT)
    # With fp16 the scaler itself leaves out steps whose gradients overflowed.
    if accelerator.scaler is not None or torch.isfinite(norm):
        optimiser.step()
    return parts


def _summed(parts: Mapping[str, Tensor]) -> dict[str, float]:
    """The losses by kind, over all layers: ``loss_bbox_aux_0`` counts to ``bbox``."""
    sums: dict[str, float] = {}
    for name, value in parts.items():
        kind = name.removeprefix("loss_").split("_")[0]
        sums[kind] = sums.get(kind, 0.0) + float(value.detach())
    return sums


def _come_apart(loss: str, optimiser: Any) -> BadSetting:
    rate = optimiser.param_groups[-1]["initial_rate"]
    return BadSetting(
        f"the loss is {loss}: the training has come apart; begin anew, in another --out, with a "
        f"lower --rate than {rate:g}, or with --precision fp32"
    )
