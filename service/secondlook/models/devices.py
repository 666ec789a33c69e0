"""Where a model runs and in which precision."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from secondlook.config import ModelOptions
from secondlook.errors import BadSetting

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

PRIMITIVES = 128
"""Kernels that PyTorch's CPU library (oneDNN) keeps, one for each shape of each layer. With its
own 1,024 they held 160 MB more after 400 pictures of many shapes, and batches were no quicker."""


@dataclass(frozen=True)
class Placement:
    """A device and the type in which matrix products are computed there."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision for half types (weights stay float32); nothing for float32."""
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def place(options: ModelOptions) -> Placement:
    """The placement that the options ask for.

    ``auto`` takes the first CUDA device, then Apple's, then the CPU, and float32: scores then do
    not depend on the machine. Call it before a model first runs: it also bounds what the CPU
    library keeps, unless ``ONEDNN_PRIMITIVE_CACHE_CAPACITY`` is set, which is read only once.
    Raises ``BadSetting`` for a device that this machine lacks.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(PRIMITIVES))
    name = _best_device() if options.device == "auto" else options.device
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as cause:
        raise BadSetting(
            f"device '{options.device}' cannot be used here; this machine offers "
            f"{', '.join(_devices())} (or 'auto')"
        ) from cause
    return Placement(device, _DTYPES.get(options.dtype, torch.float32))


def _best_device() -> str:
    return _devices()[-1]


def _devices() -> list[str]:
    """What this machine has, best last."""
    found = ["cpu"]
    if torch.backends.mps.is_available():
        found.append("mps")
    if torch.cuda.is_available():
        found.append("cuda")
    return found
