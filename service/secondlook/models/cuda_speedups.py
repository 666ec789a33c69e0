"""Faster parts for a Grounding DINO on an NVIDIA GPU, each with the same outputs but for rounding.

- Deformable attention by one Triton kernel, where Triton is (``triton_attention``; torch brings it
  on Linux). Elsewhere transformers' own stays.
- ``graphed``: one launch a pass (``cuda_graphs``).
- ``upload_resized``: images cross as bytes from pinned memory, beside the computation, and are
  resized on the device.

Beside these a GPU has those parts of ``cpu_speedups`` and ``grounding_dino_layers`` that are faster
there too, such as convolutions channels last, for tensor cores.
"""

import logging
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secondlook.core.types import Pixels
from secondlook.models.cpu_speedups import replace_modules
from secondlook.models.cuda_graphs import CudaGraphRecorder, GraphedCalls, Run

log = logging.getLogger(__name__)

MEMORY_SHARE = 0.25
"""Of the device's memory, at most so much is held for CUDA graphs."""


def replace_deformable_attention(model: nn.Module) -> int:
    """Put the Triton kernel in place of transformers' own; returns how many were replaced."""
    try:
        from secondlook.models.triton_attention import TritonDeformableAttention
    except ImportError:
        log.info("Triton is not installed: deformable attention stays transformers' own")
        return 0
    return replace_modules(model, "MultiscaleDeformableAttention", TritonDeformableAttention)


def graphed(run: Run, device: torch.device) -> GraphedCalls:
    """``run`` as CUDA graphs, within a share of the device's memory."""
    memory = torch.cuda.get_device_properties(device).total_memory
    return GraphedCalls(run, CudaGraphRecorder(device), max_bytes=int(memory * MEMORY_SHARE))


def upload_resized(
    pixels: Pixels, shape: tuple[int, int], interpolation: str, device: torch.device
) -> Tensor:
    """(H, W, 3) uint8 on the host as (height, width, 3) float32 on the device, of 0 to 255.

    Nothing is waited for. Across and then down, each rounded, as 8-bit resizing does on the host:
    two values in a thousand differ by 1 from it. In one pass it would be one in six, by up to 13.
    """
    copied = _copied(torch.from_numpy(np.require(pixels, requirements=["C", "W"])), device)
    if copied.shape[:2] == shape:
        return copied
    planes = copied.permute(2, 0, 1)[None].float()
    for size in ((copied.shape[0], shape[1]), shape):
        planes = F.interpolate(planes, size, mode=interpolation, antialias=True)
        planes = planes.round_().clamp_(0, 255)
    return planes[0].permute(1, 2, 0)


def _copied(host: Tensor, device: torch.device) -> Tensor:
    """A copy from pinned memory in a stream of its own, beside what the device computes."""
    if device.type != "cuda":
        return host.to(device)
    copies, current = _copy_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(copies):
        copied = host.pin_memory().to(device, non_blocking=True)
    current.wait_stream(copies)
    copied.record_stream(current)
    return copied


@lru_cache(maxsize=16)
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
