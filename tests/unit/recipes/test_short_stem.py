"""A student is made quicker: what it learnt is kept, and a short stem learns to take over."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_students import PIXELS, awake, deimv2, drawn

from recipes.student.short_stem import distill_stem, has_short_stem, with_short_stem
from secondlook.training.model import ShortStem, input_size_of, save_student
from secondlook_client.errors import BadSetting

SMALLER = (64, 32)


def images(step: int) -> torch.Tensor:
    seen = np.stack([drawn(10 * step + number) for number in range(4)])
    return torch.from_numpy(seen).permute(0, 3, 1, 2).float() / 255


def test_all_but_the_stem_is_kept() -> None:
    long = awake(deimv2())
    short = with_short_stem(long, SMALLER)
    assert input_size_of(short) == SMALLER and input_size_of(long) == PIXELS
    before, after = long.state_dict(), short.state_dict()
    kept = [name for name in after if "embedder" not in name]
    assert len(kept) > 200 and all(after[name].equal(before[name]) for name in kept)
    assert has_short_stem(short) and not has_short_stem(long)
    (stem,) = (module for module in short.modules() if isinstance(module, ShortStem))
    assert stem(torch.zeros(1, 3, 32, 64)).shape == (1, 16, 8, 16)


def test_a_short_stem_is_kept() -> None:
    once = awake(with_short_stem(deimv2(), PIXELS))
    again = with_short_stem(once, PIXELS).state_dict()
    assert all(again[name].equal(value) for name, value in once.state_dict().items())


def test_nothing_is_slower_than_a_relu() -> None:
    kinds = {type(module) for module in with_short_stem(deimv2(), PIXELS).model.encoder.modules()}
    assert torch.nn.ReLU in kinds and torch.nn.SiLU not in kinds


def test_the_stem_learns_what_the_long_one_gives() -> None:
    long = awake(deimv2())
    short, errors = with_short_stem(long, PIXELS), list[float]()
    distill_stem(short, long, images, 40, lambda step, error: errors.append(error))
    assert len(errors) == 40
    assert np.mean(errors[:5]) > 1 and np.mean(errors[-5:]) < 0.75  # 1: the mean, always


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadSetting, match="multiples of 16"):
        with_short_stem(deimv2(), (64, 40))


def test_another_process_can_load_it(tmp_path: Path) -> None:
    save_student(with_short_stem(deimv2(), PIXELS), tmp_path)
    code = (
        "import pathlib, sys; from secondlook.training.model import load_student, input_size_of;"
        "print(input_size_of(load_student(pathlib.Path(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(PIXELS)
