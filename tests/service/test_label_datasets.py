"""The datasets that ``secondlook label`` writes: divided, copied, read again, and explained."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from label_command import folder_of, image, label, label_apart

from secondlook.cli import run
from secondlook.datasets.open import open_training_set
from secondlook.evaluation.coco_files import join

HALVES = ("--split", "train=1", "--split", "val=1")
FORMATS = ("coco", "yolo", "voc")


def coco_of(out: Path, split: str = "default") -> dict:
    return json.loads((out / f"coco/annotations/instances_{split}.json").read_text())


def images_of(out: Path, name: str) -> dict[str, set[str]]:
    """The images in each split of a format."""
    if name == "voc":
        lists = (out / "voc/ImageSets/Main").glob("*.txt")
        return {path.stem: {f"{line}.png" for line in path.read_text().split()} for path in lists}
    folders = [*(out / name / "images").iterdir()]
    return {folder.name: {path.name for path in folder.iterdir()} for folder in folders}


def test_every_format_has_the_same_splits_and_duplicates_stay_together(tmp_path):
    folder, out = folder_of(tmp_path / "in", 30), tmp_path / "out"
    for place in range(0, 30, 2):
        shutil.copy(folder / f"{place:03}.png", folder / f"{place:03}b.png")
    done = label(folder, out, *HALVES, "--format", ",".join(FORMATS))
    assert done.returncode == 0, done.stderr
    found = images_of(out, "coco")
    assert images_of(out, "yolo") == images_of(out, "voc") == found
    assert set(found) == {"train", "val"} and sum(map(len, found.values())) == 45
    for images in found.values():
        originals = {name for name in images if "b" not in name and int(name[:3]) % 2 == 0}
        assert {f"{name[:3]}b.png" for name in originals} == {n for n in images if "b" in n}
    joined = join(out, out / "coco/annotations/instances_val.json")
    assert len(joined.images) == len(found["val"]), "evaluate takes every split of the folder"
    assert joined.without_truth == len(found["train"])


def test_the_same_run_is_divided_otherwise_without_labelling_again(tmp_path):
    folder, out, log = folder_of(tmp_path / "in", 12), tmp_path / "out", tmp_path / "log"
    label(folder, out, *HALVES)
    again = label(folder, out, "--split", "all=1", "--group-by", "time", log=log)
    assert again.returncode == 0 and not log.exists()
    assert {*images_of(out, "coco")} == {"all"}
    told = label(folder, out, *HALVES, "--group-by", "folder")
    assert "got no image" in told.stdout, "all images are of one folder"


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        (("--split", "train"), "expected a number such as train=0.8"),
        (("--split", "train=0"), "expected a share above 0"),
        (("--split", "../x=1"), "expected a split's name"),
        ((*HALVES, "--split", "val=1"), "split 'val' is given twice"),
        (("--unsure", "maybe"), "separate"),
        (("--nothing-proposed", "label"), "separate"),
    ],
)
def test_a_wrong_choice_is_told_before_anything_is_labelled(tmp_path, more, cause):
    out = tmp_path / "out"
    done = label(folder_of(tmp_path / "in", 1), out, *more)
    assert done.returncode == 2 and cause in done.stderr
    assert not out.exists()


def test_copies_are_files_of_their_own_that_the_formats_share(tmp_path):
    folder, out = folder_of(tmp_path / "in", 3), tmp_path / "out"
    done = label(folder, out, "--copy-images", "--format", ",".join(FORMATS))
    assert done.returncode == 0, done.stderr
    original = folder / "001.png"
    copies = [p for p in out.rglob("001.png") if ".store" not in p.parts]
    assert len(copies) == 3 and all(p.read_bytes() == original.read_bytes() for p in copies)
    assert original.stat().st_nlink == 1 and copies[0].stat().st_nlink == 3
    assert not (out / ".images").exists()
    shutil.rmtree(folder)
    assert len(open_training_set(str(out / "voc")).train) > 0
    moved = (tmp_path / "elsewhere").absolute()
    (out / "coco").rename(moved)
    assert len(open_training_set(str(moved)).train) > 0


def test_the_choice_for_unsure_boxes_is_told(tmp_path):
    folder, out = folder_of(tmp_path / "in", 4), tmp_path / "out"
    unsure = ("--ontology", str(tmp_path / "classes.yaml"), "--format", "yolo")
    (tmp_path / "classes.yaml").write_text("classes: {dog: {accept: 0.99, reject: 0.01}}")
    done = label(folder, out, *unsure, classes=())
    assert "YOLO: 4 of 4 images have an unsure box; the images are in unsure/" in done.stdout
    assert len([*(out / "yolo/unsure/images/default").iterdir()]) == 4
    done = label(folder, out, *unsure, "--unsure", "label", classes=())
    assert "4 of 4 images have an unsure box; these boxes are labels here" in done.stdout
    rows = [p.read_text() for p in (out / "yolo/labels/default").iterdir()]
    assert [row.count("\n") for row in rows] == [1, 1, 1, 1]


def test_a_label_s_id_is_what_explain_takes(tmp_path, capsys):
    folder, out = folder_of(tmp_path / "in", 5), tmp_path / "out"
    label(folder, out, *HALVES)
    ids = Counter()
    for split in ("train", "val"):
        plain = coco_of(out, split)
        images = {entry["id"]: entry for entry in plain["images"]}
        for entry in plain["annotations"]:
            ids[entry["label_id"]] += 1
            page = ("--out", str(tmp_path / "page.html"), "--json")
            assert run(["explain", entry["label_id"], str(out), *page]) == 0
            told = json.loads(capsys.readouterr().out)
            assert told["image"]["sha256"] == images[entry["image_id"]]["sha256"]
            assert (told["class_name"], told["box"]) == ("dog", [0, 0, 20, 30])
    assert len(ids) == 5
    info = coco_of(out, "val")["info"]
    assert info["models"] == [told["proposer"], told["verifier"]]


def test_explain_says_where_else_the_store_may_be(tmp_path, capsys):
    folder, out, data = folder_of(tmp_path / "in", 1), tmp_path / "out", tmp_path / "data"
    label(folder, out, "--data", str(data))
    assert run(["explain", "1.0", str(out), "--out", str(tmp_path / "page.html")]) == 2
    assert "give that store with --data" in capsys.readouterr().err
    assert run(["explain", "1.0", str(out), "--data", str(data)]) == 2
    assert "not both" in capsys.readouterr().err


def test_what_is_written_again_is_the_same_in_every_byte(tmp_path):
    folder, out = folder_of(tmp_path / "in", 4), tmp_path / "out"
    every = (*HALVES, "--format", ",".join(FORMATS))

    def content():
        files = (p for name in FORMATS for p in (out / name).rglob("*") if p.is_file())
        return {str(path): path.read_bytes() for path in files}

    label(folder, out, *every)
    before = content()
    (out / ".finished.json").unlink()  # else nothing would be written
    assert label_apart(folder, out, *every).returncode == 0
    assert content() == before and before


def test_an_image_that_changes_while_it_is_copied_is_told(tmp_path, monkeypatch):
    folder, out = folder_of(tmp_path / "in", 2), tmp_path / "out"

    def changed(*given, **more):
        image(folder / "001.png", 99)
        return fetch(*given, **more)

    from secondlook.cli import label as module

    fetch = module._fetch
    monkeypatch.setattr(module, "_fetch", changed)
    done = label(folder, out, "--copy-images")
    assert done.returncode == 1 and "was changed after it was labelled" in done.stderr
    assert not (out / "coco").exists() and not (out / ".images").exists()
    monkeypatch.undo()
    assert label(folder, out, "--copy-images").returncode == 0
    assert len(coco_of(out)["images"]) == 2
