"""What students are built from."""

import logging

import pytest
import torch

from secondlook.detector.manifest import DEFAULT_SIZE, STUDENT_SIZES
from secondlook.training import model as students
from secondlook.training.model import (
    SIZES,
    build_student,
    input_size_of,
    load_student,
    save_student,
)
from secondlook_client.errors import BadSetting, NotFound, NotSupported

CLASSES = ("person", "dog")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pico student that knows two classes."""
    place = tmp_path_factory.mktemp("student")
    save_student(build_student("pico", CLASSES, "none", (64, 64), seed=5).model, place)
    return place


def _said(model, side=64):
    with torch.inference_mode():
        return model.eval()(pixel_values=torch.full((1, 3, side, side), 0.3))


def test_every_size_that_may_be_asked_for_is_known_and_the_usual_one_has_a_start():
    assert tuple(SIZES) == STUDENT_SIZES
    assert (students.EMBEDDED / f"student-{DEFAULT_SIZE}").is_dir()


@pytest.mark.parametrize("size", SIZES)
def test_each_size_predicts_at_its_own_pixels(size):
    start = build_student(size, CLASSES, "none")
    said = _said(start.model, start.input_size[0])
    assert said.logits.shape == (1, SIZES[size].queries, 2)
    assert start.source == "nothing"
    assert input_size_of(start.model) == SIZES[size].input_size


def test_a_saved_student_says_the_same_again(folder):
    again = load_student(folder)
    assert _said(again).logits.allclose(_said(load_student(folder)).logits)
    assert input_size_of(again) == (64, 64)
    assert again.config.id2label == {0: "person", 1: "dog"}


def test_a_student_goes_on_with_other_classes(folder):
    start = build_student("pico", ("cat", "person", "car"), str(folder))
    assert _said(start.model).logits.shape[-1] == 3
    old, new = load_student(folder).state_dict(), start.model.state_dict()
    assert torch.equal(new["model.enc_score_head.weight"][1], old["model.enc_score_head.weight"][0])
    assert torch.equal(new["class_embed.0.bias"][1], old["class_embed.0.bias"][0])
    kept = [n for n in old if n in new and old[n].shape == new[n].shape and "conv_encoder" in n]
    assert len(kept) > 50
    assert not [name for name in kept if not torch.equal(old[name], new[name])]


def test_a_class_begins_as_the_one_that_it_mentions_first():
    known = ("glasses", "person", "car", "traffic light")
    asked = ("person wearing glasses", "red Car", "light", "traffic light", "carpet", "glasses")
    assert students.inherited_classes(known, asked) == {0: 1, 1: 2, 3: 3, 5: 0}


def test_a_student_goes_on_with_other_pixels(folder):
    start = build_student("pico", CLASSES, str(folder), (96, 64))
    assert start.input_size == (96, 64)
    with torch.inference_mode():
        start.model.eval()(pixel_values=torch.zeros(1, 3, 64, 96))


def test_equal_seeds_give_equal_students():
    one, other, third = (build_student("pico", CLASSES, "none", (64, 64), s) for s in (1, 1, 2))
    name, weight = next((n, w) for n, w in one.model.named_parameters() if w.ndim == 4)
    assert torch.equal(weight, dict(other.model.named_parameters())[name])
    assert not torch.equal(weight, dict(third.model.named_parameters())[name])


def test_what_cannot_be_begun_with_says_why(tmp_path):
    with pytest.raises(BadSetting, match="pico, nano, small"):
        build_student("huge", CLASSES)
    with pytest.raises(NotFound, match="neither a folder"):
        build_student("pico", CLASSES, str(tmp_path / "nothing"))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(NotSupported, match="bert"):
        build_student("pico", CLASSES, str(tmp_path))
    with pytest.raises(BadSetting, match="multiples of 16"):
        build_student("pico", CLASSES, "none", (100, 100))


def test_without_a_hub_a_size_without_an_embedded_start_begins_from_nothing(caplog, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with caplog.at_level(logging.WARNING):
        assert build_student("small", CLASSES).source == "nothing"
    assert "begins from nothing" in caplog.text


def test_an_unknown_embedded_start_names_those_there_are(monkeypatch, tmp_path):
    (tmp_path / "student-pico").mkdir()
    monkeypatch.setattr(students, "EMBEDDED", tmp_path)
    with pytest.raises(NotFound, match="pico"):
        build_student("small", CLASSES, "demo")
