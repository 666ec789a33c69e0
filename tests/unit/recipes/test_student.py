"""The recipe of the embedded start, and the weights that it left in the package."""

import json
from dataclasses import replace

import pytest
import torch

from recipes.proposer.data import Scenes
from recipes.student import train
from recipes.student.train import StudentPlan, StudentTraining, figures_in_words
from secondlook.demo.world import NOUNS
from secondlook.training.model import ShortStem, input_size_of, load_student, save_student

WEIGHTS = train.WEIGHTS / "student-pico"


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch):
    monkeypatch.setattr("recipes.proposer.data.CHUNK", 12)


def _plan(steps=4):
    return StudentPlan("pico", steps, seed=3, batch=2, scenes=12, rate=1e-3)


def test_a_killed_run_goes_on_where_it_stood(tmp_path):
    whole = StudentTraining(_plan(), tmp_path)
    for _ in range(2):
        whole.one_step()
    whole.save()
    losses = [whole.one_step()["loss"] for _ in range(2)]
    again = StudentTraining(_plan(), tmp_path)
    again.resume()
    assert again.step == 2
    # The denoising of the models draws from torch's own generator, so only the images are equal.
    assert [again.one_step()["loss"] for _ in range(2)] == pytest.approx(losses, rel=0.1)
    for mean, other in zip(again.average.parameters(), whole.average.parameters(), strict=True):
        assert torch.allclose(mean, other, atol=0.02)


def test_an_earlier_start_goes_on_as_a_quicker_one(tmp_path, capsys):
    (earlier := tmp_path / "earlier").mkdir()
    long = StudentTraining(_plan(), tmp_path).model
    save_student(long, earlier)
    plan = replace(_plan(), stem_steps=50, side=64)
    training = StudentTraining(plan, tmp_path, earlier)
    assert "stem, step 50: error" in capsys.readouterr().out
    assert training.pixels == input_size_of(training.model) == (64, 64)
    assert any(isinstance(module, ShortStem) for module in training.model.modules())
    for name, kept in training.model.model.encoder.named_parameters():
        assert kept.equal(long.model.encoder.get_parameter(name))
    before = training.model.model.encoder.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    training.one_step()
    after = training.model.model.encoder.state_dict()
    assert any(not after[name].equal(value) for name, value in before.items())
    training.save()
    StudentTraining(plan, tmp_path, earlier).resume()
    assert "stem" not in capsys.readouterr().out


def test_the_shipped_start_finds_the_nouns(tmp_path):
    training = StudentTraining(_plan(), tmp_path)
    training.average = load_student(WEIGHTS)
    training.pixels = input_size_of(training.average)
    found = figures_in_words(training.figures(424_242, 12))
    assert len(Scenes(tmp_path / "scenes", 424_242, 12)) == 12
    # Floors for a dozen scenes; 500 are in training.json.
    assert found["recall"] > 0.75
    assert found["recall person"] > 0.85
    assert found["precision"] > 0.5


def test_the_record_says_how_the_weights_were_made():
    record = json.loads((WEIGHTS / "training.json").read_text())
    assert record["curve"][-1]["step"] == record["plan"]["steps"]
    assert record["final"]["recall"] > 0.8
    assert "student_recipe" in record["command"]
    while "begun_from" in record:
        record = record["begun_from"]
    assert record["plan"]["steps"] == 3000 and "--quicken" not in record["command"]
    config = json.loads((WEIGHTS / "config.json").read_text())
    assert tuple(config["id2label"].values()) == NOUNS
