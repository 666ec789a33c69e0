"""Trainings of seconds: a DEIMv2 of the package's own shape, narrower and on small images."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from training_sets import training_set

from secondlook.datasets.samples import TrainingSet
from secondlook.training import model
from secondlook.training.progress import Progress
from secondlook.training.settings import TrainingSettings
from secondlook.training.trainer import train

__all__ = ["data", "tiny", "whole"]
"""Fixtures."""

TINY = model.StudentShape("", (64, 64), 8, (16, 16, 32), 24, 2, 8, True)
QUICK = TrainingSettings(
    start="none", steps=8, batch=3, validate_every=4, input_width=64, device="cpu", seed=3
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread: sums then have one order, so that equal trainings are equal to the bit."""
    monkeypatch.setitem(model.SIZES, "pico", TINY)
    with one_thread():
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """For the sums of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path: Path) -> TrainingSet:
    """Twelve images to train on and four held out."""
    return training_set(tmp_path / "images")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """What a training learnt, by name."""
    return load_file(folder / "model.safetensors")


def alike(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether weights are equal to the bit."""
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


class Whole(NamedTuple):
    """A training that nothing disturbed; to be looked at only."""

    data: TrainingSet
    out: Path
    folder: Path
    told: list[Progress]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """One for all tests of a module."""
    root = tmp_path_factory.mktemp("whole")
    data, told = training_set(root / "images"), Told()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.SIZES, "pico", TINY)
        with one_thread():
            folder = train(data, QUICK, root / "out", told.append)
    return Whole(data, root / "out", folder, told)


class Told(list[Progress]):
    """What was told, and a stop after so many steps."""

    def __init__(self, stop_at: float = math.inf) -> None:
        super().__init__()
        self._stop_at = stop_at

    def stop(self) -> bool:
        """Whether that step was reached."""
        return bool(self) and self[-1].step >= self._stop_at
