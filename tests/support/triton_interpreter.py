"""Triton's kernels on a CPU, by its interpreter; on a GPU, where there is one, as they are."""

import pytest
import torch
from triton.runtime.interpreter import InterpretedFunction

from secondlook.models import triton_attention

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
"""Where the tests of the CUDA path run."""


def use(monkeypatch: pytest.MonkeyPatch, device: str, block: int = 512) -> None:
    """Interpret the kernel for tensors on a CPU, ``block`` queries at a time.

    As TRITON_INTERPRET=1 does, which however has to be set before anything imports Triton.
    """
    if device == "cpu":
        interpreted = InterpretedFunction(triton_attention._sample_and_sum.fn)
        monkeypatch.setattr(triton_attention, "_sample_and_sum", interpreted)
        monkeypatch.setattr(triton_attention, "BLOCK", block)
