"""A training that was stopped or killed goes on from its checkpoint, and no other one does."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_trainings import QUICK, Told, Whole, alike, data, tiny, weights, whole

from secondlook.datasets.samples import TrainingSet
from secondlook.training import trainer
from secondlook.training.checkpoints import Checkpoints
from secondlook.training.finished import check_identity, identity_of
from secondlook.training.progress import read_record
from secondlook.training.trainer import train
from secondlook_client.errors import Cancelled, Damaged, OutputExists

__all__ = ["data", "tiny", "whole"]
"""Fixtures of these tests."""

Spoil = Callable[[bytes], bytes]


@pytest.mark.parametrize("stop_at", [2, 6])
def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(
    whole: Whole, tmp_path: Path, stop_at: int
) -> None:
    data = whole.data
    told = Told(stop_at)
    with pytest.raises(Cancelled, match=f"step {stop_at} of 8; the same command goes on"):
        train(data, QUICK, tmp_path / "out", told.append, told.stop)
    assert not (tmp_path / "out" / "torch").exists()
    after = Told()
    resumed = train(data, QUICK, tmp_path / "out", after.append)
    assert after[0].note == f"going on from step {stop_at}"
    assert [p.step for p in after if p.losses] == list(range(stop_at + 1, 9))
    assert alike(weights(whole.folder), weights(resumed))
    curves = [read_record(folder) for folder in (whole.folder, resumed)]
    assert curves[0] is not None and curves[1] is not None
    assert [p.map50 for p in curves[0].curve] == [p.map50 for p in curves[1].curve]


def test_a_training_that_has_ended_needs_no_checkpoints(whole: Whole, tmp_path: Path) -> None:
    shutil.copytree(whole.out, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "checkpoints")
    told = Told()
    again = train(whole.data, QUICK, tmp_path / "out", told.append)
    assert alike(weights(whole.folder), weights(again))
    assert not told
    with pytest.raises(OutputExists, match="seed 3 instead of 4"):
        train(whole.data, replace(QUICK, seed=4), tmp_path / "out")


def test_a_finished_training_is_not_done_again(whole: Whole, tmp_path: Path) -> None:
    shutil.copytree(whole.out, tmp_path / "out")
    told = Told()
    again = train(whole.data, QUICK, tmp_path / "out", told.append)
    assert alike(weights(whole.folder), weights(again))
    assert not [p for p in told if p.losses]


KILLED = """
import torch
from dataclasses import replace
from pathlib import Path
from tiny_trainings import QUICK, TINY
from training_sets import training_set
from secondlook.training import model, trainer
torch.set_num_threads(1)
model.SIZES["pico"] = TINY
trainer.SAVE_EVERY_S = 0
def tell(progress):
    print(progress.step, flush=True)
root = Path({root!r})
settings = replace(QUICK, steps=400, validate_every=5)
trainer.train(training_set(root / "images"), settings, root / "out", tell)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(data: TrainingSet, tmp_path: Path) -> None:
    """It saves at every step, so that most kills meet it while it writes."""
    code = KILLED.format(root=str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "support")}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 6:
            break
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    settings = replace(QUICK, steps=400, validate_every=5)
    state = Checkpoints(tmp_path / "out", identity_of(data, settings)).load()
    assert state is not None and state["step"] >= 5
    reached = state["step"]
    told = Told(reached + 2)
    with pytest.raises(Cancelled):
        train(data, settings, tmp_path / "out", told.append, told.stop)
    assert told[0].note == f"going on from step {reached}"


def test_settings_of_an_earlier_version_are_known_by_their_names_of_then() -> None:
    same = {"format": 1, "classes": ["dog"], "digest": "d", "split": "val"}
    now = {**same, "settings": {"learning_rate": 0.1, "validate_every": 3}}
    check_identity({**same, "settings": {"rate": 0.1, "look_every": 3}}, now, Path("out"))
    with pytest.raises(OutputExists, match=r"learning_rate 0\.2 instead of 0\.1"):
        check_identity({**same, "settings": {"rate": 0.2, "look_every": 3}}, now, Path("out"))


def test_another_training_is_not_gone_on_with(data: TrainingSet, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = Told(1)
    with pytest.raises(Cancelled):
        train(data, QUICK, out, told.append, told.stop)
    for other, words in (
        (replace(data, classes=("red", "blue")), "other classes .*red, green, not red, blue"),
        (replace(data, digest="6" * 64), "on other data .*555555555555, not 666666666666"),
        (replace(data, split="test"), "on other data"),
    ):
        with pytest.raises(OutputExists, match=words + ".*--out"):
            train(other, QUICK, out)
    with pytest.raises(OutputExists, match="batch 3 instead of 4"):
        train(data, replace(QUICK, batch=4), out)
    with pytest.raises(Cancelled):  # these change nothing of what is learnt
        train(data, replace(QUICK, patience=2, workers=0), out, stop=lambda: True)


def test_another_start_is_not_gone_on_with(
    data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``auto`` takes what is within reach, which may change."""
    with pytest.raises(Cancelled):
        train(data, QUICK, tmp_path / "out", stop=lambda: True)
    build = trainer.build_student
    monkeypatch.setattr(
        trainer, "build_student", lambda *given: replace(build(*given), source="org/other")
    )
    with pytest.raises(OutputExists, match="began from nothing, this one would from org/other"):
        train(data, QUICK, tmp_path / "out")


@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 99])
def test_a_spoilt_checkpoint_is_told(data: TrainingSet, tmp_path: Path, spoil: Spoil) -> None:
    with pytest.raises(Cancelled):
        train(data, QUICK, tmp_path / "out", stop=lambda: True)
    path = tmp_path / "out" / "checkpoints" / "last.pt"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(Damaged, match="cannot be read as the state of a training; remove"):
        train(data, QUICK, tmp_path / "out")


def test_no_code_comes_with_a_checkpoint(data: TrainingSet, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'sprung'}",)

    (tmp_path / "out" / "checkpoints").mkdir(parents=True)
    torch.save({"identity": Trap()}, tmp_path / "out" / "checkpoints" / "last.pt")
    with pytest.raises(Damaged):
        train(data, QUICK, tmp_path / "out")
    assert not (tmp_path / "sprung").exists()
