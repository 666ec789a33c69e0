"""What ``secondlook label`` wrote, in whichever format, makes a student."""

import json
from pathlib import Path

import pytest
from installed import Run

from secondlook.cli import run

pytestmark = pytest.mark.timeout(300)  # its setup labels with the embedded models
QUICK = ("--size", "pico", "--steps", "1", "--input-width", "64", "--batch", "2", "--int8", "never")


@pytest.fixture(scope="module")
def labels(world: Path, secondlook: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world labelled into every format, as two thirds and one third."""
    folder = tmp_path_factory.mktemp("labelled")
    classes = ("--ontology", world / "ontology.yaml", "--format", "coco,yolo,voc")
    split = ("--split", "train=2", "--split", "val=1", "--unsure", "background")
    secondlook("label", world / "images", *classes, *split, cwd=folder)
    return folder / "labels"


@pytest.mark.parametrize("given", ["", "yolo", "voc"])
def test_label_then_distill(
    labels: Path, tmp_path: Path, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "student"
    assert run(["distill", str(labels / given), "--out", str(out), *QUICK]) == 0
    told = capsys.readouterr().err
    assert ("has voc and yolo too; coco is read" in told) == (not given)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["split"] == "val"
    assert "person wearing glasses" in manifest["ontology"], "with questions and groups"


def test_a_label_is_explained_by_its_id(
    labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = json.loads((labels / "coco/annotations/instances_val.json").read_text())
    name, entry = plain["info"]["models"][0], plain["annotations"][0]
    page = ("--out", str(tmp_path / "explain.html"))
    assert run(["explain", entry["label_id"], str(labels), "--json", *page]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["proposer"] == name
    x, y, width, height = entry["bbox"]
    assert told["box"] == pytest.approx([x, y, x + width, y + height], abs=0.02)
