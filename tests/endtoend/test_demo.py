"""The whole product with the models that come with it, on a few images of its world."""

import json

import pytest
from PIL import Image

from secondlook.cli import demo, run
from secondlook.evaluation.coco_files import join
from secondlook.evaluation.matching import evaluate

KEYS = {
    "images", "proposals", "accepted", "rejected", "unsure", "precision_proposer",
    "recall_proposer", "precision", "recall", "images_per_second",
}  # fmt: skip


@pytest.mark.slow
def test_the_demo_shows_what_the_second_look_is_worth(tmp_path, capsys):
    out = tmp_path / "demo"
    assert run(["demo", "--count", "24", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert report.keys() >= KEYS and report["images"] == 24
    attributes = report["classes"]["attributes"]
    # Floors for a small sample; 500 scenes are measured by `python -m bench quality`.
    assert attributes["precision_proposer"] < 0.65
    assert attributes["precision"] >= 0.85
    assert attributes["recall"] >= 0.75
    assert report["classes"]["nouns"]["recall_proposer"] >= 0.88
    assert "images a second" in shown and "attributes" in shown
    assert Image.open(out / "overview.png").width == 1600
    assert "<figure" in (out / "gallery.html").read_text(encoding="utf-8")

    labels = out / "coco" / "annotations" / "instances_default.json"
    joined = join(labels, out / "world" / "truth.json")
    total = evaluate(joined.images.values(), joined.classes).total()
    assert total.precision == pytest.approx(report["precision"])  # one arithmetic for both
    assert total.recall == pytest.approx(report["recall"])

    assert run(["demo", "--count", "3", "--out", str(out)]) == 0  # again, over its own output
    assert json.loads((out / "report.json").read_text())["images"] == 3


@pytest.mark.slow
def test_the_demo_distils_a_student_and_shows_it_beside_its_teachers(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "STEPS", 6)
    monkeypatch.setattr("secondlook.training.export.export.TIMING_S", 0.3)
    monkeypatch.setattr(demo, "UNSEEN", 16)
    out = tmp_path / "demo"
    assert run(["demo", "--distill", "--count", "24", "--out", str(out)]) == 0
    figures = json.loads((out / "demo.json").read_text())
    assert figures.keys() >= KEYS | {
        "teacher_images_per_second", "student_images_per_second", "student_map50",
        "student_map50_unverified", "snapshot",
    }  # fmt: skip
    assert figures["student_images_per_second"] > figures["teacher_images_per_second"]
    # Some steps are no training; that it begins as somebody who knows the nouns is seen.
    assert figures["student_map50"] > 0.1
    report = json.loads((out / "student" / "report.json").read_text())
    assert report["snapshot"] == figures["snapshot"]
    assert report.keys() >= {"map", "map50", "map50_per_class", "images_per_second"}
    assert Image.open(out / "strip.png").width == 1600
    assert (out / "student" / "model.onnx").stat().st_size > 100_000
    assert "unseen scenes" in capsys.readouterr().out
