"""What placing a model does to the process, and what is asked of the processor."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from secondlook.core.processors import multiplies_bfloat16

SHAPES = """
import torch
from secondlook.config.settings import ModelSettings
from secondlook.models.loading import MAX_CACHED_KERNELS, choose_placement
choose_placement(ModelSettings(device="cpu"))
layer = torch.nn.Conv2d(16, 16, 3).requires_grad_(False)
for side in [*range(40, 60 + MAX_CACHED_KERNELS), 40]:
    layer(torch.zeros(4, 16, side, 40))
"""


def last_kernel(**more: str) -> str:
    """oneDNN's own word on the last of more shapes than it may keep, the first one again."""
    done = subprocess.run(
        [sys.executable, "-c", SHAPES],
        env={**os.environ, "ONEDNN_VERBOSE": "profile_create", "OMP_NUM_THREADS": "1", **more},
        capture_output=True,
        text=True,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if ",convolution," in line][-1]


def test_kernels_of_shapes_seen_long_ago_are_forgotten() -> None:
    assert "cache_miss" in last_kernel()


def test_a_bound_that_the_user_sets_is_left_alone() -> None:
    assert "cache_hit" in last_kernel(ONEDNN_PRIMITIVE_CACHE_CAPACITY="1024")


def test_linux_and_pytorch_agree_on_what_the_processor_multiplies() -> None:
    told, asked = Path("/proc/cpuinfo"), getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    if asked is None or not told.is_file() or "flags" not in told.read_text(encoding="ascii"):
        pytest.skip("only Linux on x86 and PyTorch tell what the processor can do")
    assert multiplies_bfloat16() == asked()
