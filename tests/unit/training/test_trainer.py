"""A training: it learns, it ends when it should, and says what is wrong."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_trainings import QUICK, Told, Whole, alike, data, tiny, weights, whole
from training_sets import CLASSES, training_set

from secondlook.datasets.samples import Sample, TrainingSet, bad_sample
from secondlook.training import model, trainer
from secondlook.training.data import MAX_SUBSTITUTES, View, Views
from secondlook.training.model import load_student
from secondlook.training.predict import predict
from secondlook.training.progress import read_record
from secondlook.training.trainer import train
from secondlook_client.errors import BadSetting, Cancelled, InvalidInput

__all__ = ["data", "tiny", "whole"]
"""Fixtures of these tests."""


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
@pytest.mark.timeout(400)
def test_it_learns(tmp_path: Path) -> None:
    """Three images of rectangles are memorised: loss, targets, batches and metric fit together.

    Memorised, because that ends near 1 from any seed and with any processor's arithmetic, where
    what a few steps teach about unseen images varies by a factor of five.
    """
    data = training_set(tmp_path / "images", train=3)
    settings = replace(
        QUICK, steps=120, batch=3, validate_every=60, learning_rate=5e-3, augment=False
    )
    told = Told()
    train(replace(data, held_out=data.train), settings, tmp_path / "out", told.append)
    losses = [p.losses["loss"] for p in told if p.losses]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert told[-1].best_map50 is not None and told[-1].best_map50 > 0.9


def test_a_rare_class_weighs_more_as_the_balance_says(data: TrainingSet, tmp_path: Path) -> None:
    rare = [replace(sample, classes=np.zeros_like(sample.classes)) for sample in data.train[1:]]
    data = replace(data, train=(data.train[0], *rare))

    def first_loss(balance: float) -> float:
        told, out = Told(stop_at=1), tmp_path / f"{balance}"
        with pytest.raises(Cancelled):
            train(data, replace(QUICK, balance=balance, batch=12), out, told.append, told.stop)
        return next(p.losses["mal"] for p in told if p.losses)

    assert first_loss(1.0) > 1.02 * first_loss(0.0)


def test_it_ends_when_nothing_gets_better(
    data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = iter([0.1, 0.5, 0.5004, 0.3, 0.4])
    kept: list[dict[str, torch.Tensor]] = []

    def map50(self: object, student: torch.nn.Module) -> float:
        kept.append({name: value.clone() for name, value in student.state_dict().items()})
        return next(seen)

    monkeypatch.setattr(trainer.Validator, "map50", map50)
    told = Told()
    settings = replace(QUICK, steps=40, validate_every=1, patience=3)
    folder = train(data, settings, tmp_path / "out", told.append)
    assert told[-1].step == 5 and told[-1].note == "no progress in 3 validations"
    assert told[-1].best_map50 == 0.5
    best = load_student(folder).state_dict()
    assert all(best[name].equal(value) for name, value in kept[1].items())
    record = read_record(folder)
    assert record is not None and (record.steps, record.best_map50) == (5, 0.5)


def test_it_ends_when_time_is_over(
    data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(trainer.time, "monotonic", lambda: float(next(seconds)))
    settings = replace(QUICK, steps=10_000, validate_every=10_000, max_minutes=0.1)
    told = Told()
    train(data, settings, tmp_path / "out", told.append)
    assert told[-1].step == 6 and told[-1].map50 is not None  # a second each
    rates = [p.rate for p in told if p.rate is not None]
    assert rates[-1] < rates[2] / 5  # the rate fell with the time


def test_a_loss_that_is_no_number_is_told(
    data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "to_pixel_values", lambda p: p.float() * float("nan"))
    with pytest.raises(
        BadSetting, match=r"the loss is not a number.*lower --learning-rate than 0\.001"
    ):
        train(data, QUICK, tmp_path / "out")
    assert not (tmp_path / "out" / "torch").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_goes_is_left_out_and_told(
    data: TrainingSet, tmp_path: Path, workers: int
) -> None:
    data.train[5].path.unlink()
    told = Told()
    settings = replace(QUICK, max_bad_images=0.1, workers=workers)
    folder = train(data, settings, tmp_path / "out", told.append)
    (note,) = (p.note for p in told if p.note)
    assert note == (
        f"{data.train[5].path}: it cannot be read: No such file or directory; it is left out, "
        "1 of 16 are bad"
    )
    listed = (tmp_path / "out" / "bad_images.txt").read_text()
    assert listed == f"{data.train[5].path}: it cannot be read: No such file or directory\n"
    record = read_record(folder)
    assert record is not None and record.steps == 8


def test_too_many_images_that_go_end_the_training_and_it_goes_on_with_them_back(
    data: TrainingSet, tmp_path: Path
) -> None:
    content = data.train[5].path.read_bytes()
    data.train[5].path.write_bytes(content[:-900])
    with pytest.raises(InvalidInput, match=r"1 of 16 .* than 5 %; the last is .*truncated") as told:
        train(data, QUICK, tmp_path / "out")
    assert str(data.train[5].path) in str(told.value) and "Put them back" in str(told.value)
    data.train[5].path.write_bytes(content)
    after = Told()
    train(data, QUICK, tmp_path / "out", after.append)
    assert after[0].note.startswith("going on from step") and after[-1].step == 8


def test_a_stopped_training_with_bad_images_goes_on_as_if_it_had_not_stopped(
    data: TrainingSet, tmp_path: Path
) -> None:
    data.train[2].path.unlink()
    data = replace(data, train=(bad_sample(Path("a"), "a", "it is missing"), *data.train[1:]))
    settings = replace(QUICK, max_bad_images=0.2)
    whole = train(data, settings, tmp_path / "whole")
    told = Told(3)
    with pytest.raises(Cancelled):
        train(data, settings, tmp_path / "out", told.append, told.stop)
    assert alike(weights(whole), weights(train(data, settings, tmp_path / "out")))


def test_held_out_images_that_go_are_not_measured(data: TrainingSet, tmp_path: Path) -> None:
    data.held_out[1].path.write_bytes(b"")
    told = Told()
    train(data, replace(QUICK, max_bad_images=0.1), tmp_path / "out", told.append)
    (note,) = (p.note for p in told if p.note)
    assert note.startswith(f"{data.held_out[1].path}: the image is empty")
    assert [p.step for p in told if p.map50 is not None and not p.losses and not p.note] == [4, 8]


def test_a_bad_image_is_replaced_by_the_next_one(data: TrainingSet) -> None:
    def shown(samples: Sequence[Sample]) -> list[View]:
        settings = replace(QUICK, augment=False)
        views = Views(samples, 2, (64, 64), settings, 0)
        return [views[place] for place in range(len(samples))]

    sound = shown(data.train)
    order = np.random.default_rng([QUICK.seed, 1, 0]).permutation(12)
    place = 4
    data.train[order[place]].path.unlink()
    images = shown(data.train)
    for number, (pixels, _, bad) in enumerate(images):
        assert pixels.equal(sound[5 if number == place else number][0])
        assert [*bad] == ([order[place]] if number == place else [])
    for sample in data.train:
        sample.path.unlink(missing_ok=True)
    pixels, target, bad = shown(data.train)[0]
    assert not pixels.any() and not len(target["boxes"]) and len(bad) == MAX_SUBSTITUTES


def test_devices_and_precisions_that_are_not_here(data: TrainingSet, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="precision fp16 needs a GPU"):
        train(data, replace(QUICK, precision="fp16"), tmp_path / "out")
    with pytest.raises(BadSetting, match="device 'nowhere'"):
        train(data, replace(QUICK, device="nowhere"), tmp_path / "out")


def test_trainings_of_two_precisions_in_one_process(data: TrainingSet, tmp_path: Path) -> None:
    short = replace(QUICK, steps=2, validate_every=2)
    for precision in ("bf16", "fp32"):
        folder = train(data, replace(short, precision=precision), tmp_path / precision)
        record = read_record(folder)
        assert record is not None and record.device == f"1 × cpu, {precision}"
        assert {value.dtype for value in weights(folder).values()} <= {torch.float32, torch.int64}
