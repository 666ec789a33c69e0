"""A training: it learns, it is killed and goes on, it stops when it should, and says what is wrong.

The student is a DEIMv2 of the package's own shape, narrower and on small pictures.
"""

import itertools
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_sets import CLASSES, training_set

from secondlook.distill import loop, model, optimising
from secondlook.distill.checkpoints import Checkpoints, identity_of
from secondlook.distill.loop import train
from secondlook.distill.model import load_student
from secondlook.distill.predicting import predict
from secondlook.distill.progress import Progress
from secondlook.distill.samples import TrainingSet
from secondlook.distill.settings import TrainingSettings
from secondlook.distill.training_record import read_record
from secondlook.errors import BadSetting, Cancelled, Damaged, NotFound, OutputExists

TINY = model.Size("", (64, 64), 8, (16, 16, 32), 24, 2, 8, True)
QUICK = TrainingSettings(
    start="none", steps=8, batch=3, look_every=4, input_width=64, device="cpu", seed=3
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread: sums then have one order, so that equal trainings are equal to the bit."""
    monkeypatch.setitem(model.SIZES, "pico", TINY)
    with one_thread():
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path: Path) -> TrainingSet:
    return training_set(tmp_path / "pictures")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def alike(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


class Whole(NamedTuple):
    """A training that nothing disturbed; to be looked at only."""

    data: TrainingSet
    out: Path
    folder: Path
    told: list[Progress]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    root = tmp_path_factory.mktemp("whole")
    data, told = training_set(root / "pictures"), Told()
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
        return bool(self) and self[-1].step >= self._stop_at


def test_a_training_from_beginning_to_end(whole: Whole) -> None:
    data, out, folder, told = whole
    assert folder == out / "torch"
    steps = [p for p in told if p.losses]
    assert [p.step for p in steps] == list(range(1, 9)) and {p.of for p in told} == {8}
    assert all(p.losses["loss"] > 0 and len(p.losses) > 3 for p in steps)
    assert steps[-1].rate == pytest.approx(5.9e-5, rel=0.01)  # near a cosine's end
    assert steps[-1].seconds_left == 0
    assert [p.step for p in told if p.map50 is not None and not p.losses] == [4, 8]
    record = read_record(folder)
    assert record is not None and (record.steps, record.of, record.start) == (8, 8, "nothing")
    assert [p.step for p in record.progress() if p.map50 is not None] == [4, 8]
    assert sum(bool(p.losses) for p in record.progress()) == 8

    student = load_student(folder)
    assert student.config.id2label == dict(enumerate(CLASSES))
    found = predict(student, data.held_out, model.input_size_of(student), floor=0.0)
    assert len(found) == 4 and all(len(one) == 16 for one in found)  # 8 queries, 2 classes
    for one in found:
        assert (one.boxes >= 0).all() and (one.boxes <= [72, 60, 72, 60]).all()
        assert (np.diff(one.scores) <= 0).all()


@pytest.mark.slow
def test_it_learns(data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rectangles are found after some seconds: loss, targets, views and measure fit together."""
    settings = replace(QUICK, steps=60, batch=4, look_every=60, rate=5e-3, augment=False)
    told = Told()
    train(replace(data, held_out=data.train), settings, tmp_path / "out", told.append)
    losses = [p.losses["loss"] for p in told if p.losses]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert told[-1].best_map50 is not None and told[-1].best_map50 > 0.2


def test_a_rare_class_weighs_more_as_the_balance_says(data: TrainingSet, tmp_path: Path) -> None:
    rare = [replace(sample, classes=np.zeros_like(sample.classes)) for sample in data.train[1:]]
    data = replace(data, train=(data.train[0], *rare))

    def first_loss(balance: float) -> float:
        told, out = Told(stop_at=1), tmp_path / f"{balance}"
        with pytest.raises(Cancelled):
            train(data, replace(QUICK, balance=balance, batch=12), out, told.append, told.stop)
        return next(p.losses["mal"] for p in told if p.losses)

    assert first_loss(1.0) > 1.02 * first_loss(0.0)


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


def test_a_finished_training_is_not_done_again(whole: Whole, tmp_path: Path) -> None:
    shutil.copytree(whole.out, tmp_path / "out")
    told = Told()
    again = train(whole.data, QUICK, tmp_path / "out", told.append)
    assert alike(weights(whole.folder), weights(again))
    assert not [p for p in told if p.losses]


KILLED = """
import sys, torch
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_distill_loop import QUICK, TINY, model
from training_sets import training_set
from secondlook.distill import loop
torch.set_num_threads(1)
model.SIZES["pico"] = TINY
loop.SAVED_EVERY_S = 0
def tell(progress):
    print(progress.step, flush=True)
root = Path({root!r})
settings = replace(QUICK, steps=400, look_every=5)
loop.train(training_set(root / "pictures"), settings, root / "out", tell)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(data: TrainingSet, tmp_path: Path) -> None:
    """It saves at every step, so that most kills meet it while it writes."""
    tests = str(Path(__file__).parent)
    code = KILLED.format(tests=tests, root=str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, str(Path(tests).parent)])}
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
    settings = replace(QUICK, steps=400, look_every=5)
    state = Checkpoints(tmp_path / "out", identity_of(data, settings)).load()
    assert state is not None and state["step"] >= 5
    reached = state["step"]
    told = Told(reached + 2)
    with pytest.raises(Cancelled):
        train(data, settings, tmp_path / "out", told.append, told.stop)
    assert told[0].note == f"going on from step {reached}"


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
    build = loop.build_student
    monkeypatch.setattr(
        loop, "build_student", lambda *given: replace(build(*given), source="org/other")
    )
    with pytest.raises(OutputExists, match="began from nothing, this one would from org/other"):
        train(data, QUICK, tmp_path / "out")


@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 99])
def test_a_spoilt_checkpoint_is_told(data: TrainingSet, tmp_path: Path, spoil: object) -> None:
    with pytest.raises(Cancelled):
        train(data, QUICK, tmp_path / "out", stop=lambda: True)
    path = tmp_path / "out" / "checkpoints" / "last.pt"
    path.write_bytes(spoil(path.read_bytes()))  # type: ignore[operator]
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


def test_it_ends_when_nothing_gets_better(
    data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = iter([0.1, 0.5, 0.5004, 0.3, 0.4])
    kept: list[dict[str, torch.Tensor]] = []

    def map50(self: object, student: torch.nn.Module) -> float:
        kept.append({name: value.clone() for name, value in student.state_dict().items()})
        return next(seen)

    monkeypatch.setattr(loop.HeldOut, "map50", map50)
    told = Told()
    settings = replace(QUICK, steps=40, look_every=1, patience=3)
    folder = train(data, settings, tmp_path / "out", told.append)
    assert told[-1].step == 5 and told[-1].note == "no progress in 3 looks"
    assert told[-1].best_map50 == 0.5
    best = load_student(folder).state_dict()
    assert all(best[name].equal(value) for name, value in kept[1].items())
    record = read_record(folder)
    assert record is not None and (record.steps, record.best_map50) == (5, 0.5)


def test_it_ends_when_time_is_over(
    data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(seconds)))
    settings = replace(QUICK, steps=10_000, look_every=10_000, max_minutes=0.1)
    told = Told()
    train(data, settings, tmp_path / "out", told.append)
    assert told[-1].step == 6 and told[-1].map50 is not None  # a second each
    rates = [p.rate for p in told if p.rate is not None]
    assert rates[-1] < rates[2] / 5  # the rate fell with the time


def test_a_loss_that_is_no_number_is_told(
    data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimising, "as_input", lambda p: p.float() * float("nan"))
    with pytest.raises(BadSetting, match=r"the loss is not a number.*lower --rate than 0\.001"):
        train(data, QUICK, tmp_path / "out")
    assert not (tmp_path / "out" / "torch").exists()


def test_a_picture_that_went_is_told(data: TrainingSet, tmp_path: Path) -> None:
    data.train[5].path.unlink()
    with pytest.raises(NotFound, match=data.train[5].name):
        train(data, QUICK, tmp_path / "out")


def test_devices_and_precisions_that_are_not_here(data: TrainingSet, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="precision fp16 needs a GPU"):
        train(data, replace(QUICK, precision="fp16"), tmp_path / "out")
    with pytest.raises(BadSetting, match="device 'nowhere'"):
        train(data, replace(QUICK, device="nowhere"), tmp_path / "out")


def test_trainings_of_two_precisions_in_one_process(data: TrainingSet, tmp_path: Path) -> None:
    short = replace(QUICK, steps=2, look_every=2)
    for precision in ("bf16", "fp32"):
        folder = train(data, replace(short, precision=precision), tmp_path / precision)
        record = read_record(folder)
        assert record is not None and record.device == f"1 × cpu, {precision}"
        assert {value.dtype for value in weights(folder).values()} <= {torch.float32, torch.int64}
