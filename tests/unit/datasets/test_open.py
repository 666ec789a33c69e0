"""Training sets from COCO and YOLO folders, whole ones and all kinds of broken ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from exported import CAT_BOX, exported
from frozen import DOG_BOX
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from training_sets import CLASSES, coco, drawn, write_coco, write_images, write_voc, write_yolo

from secondlook.datasets.image_cache import PixelCache, read_pixels, size_of
from secondlook.datasets.open import BY_HASH, open_training_set, read_path
from secondlook.datasets.samples import Sample, TrainingSet
from secondlook_client.errors import BadImage, Damaged, NotFound, SecondlookError

PARTS = {"train": range(6), "val": range(6, 9)}


def names(samples: tuple[Sample, ...]) -> list[str]:
    return sorted(Path(sample.name).name for sample in samples)


def is_drawn(sample: Sample) -> bool:
    """Whether its boxes are where the rectangles of its image are."""
    _, rows = drawn(int(Path(sample.name).stem))
    true = {(number, tuple(round(v) for v in box)) for number, box in rows}
    read = zip(sample.classes.tolist(), sample.boxes.tolist(), strict=True)
    return {(number, tuple(round(v) for v in box)) for number, box in read} == true


def check_rectangles(data: TrainingSet) -> None:
    assert data.classes == CLASSES
    assert names(data.train) == [f"{n:03}.png" for n in range(6)]
    assert names(data.held_out) == [f"{n:03}.png" for n in range(6, 9)]
    assert all(is_drawn(sample) for sample in (*data.train, *data.held_out))
    assert all((s.width, s.height) == (72, 60) and s.path.is_file() for s in data.train)


# --- COCO ---------------------------------------------------------------------------------------


def test_an_export_of_our_own(tmp_path: Path) -> None:
    out = exported(tmp_path, "coco")
    data = open_training_set(str(out))
    assert data.classes == ("dog", "cat") and data.split == "val"
    every = {int(s.name.partition("-")[0]): s for s in (*data.train, *data.held_out)}
    assert sorted(every) == list(range(24)) and data.train and data.held_out
    for number, sample in every.items():
        assert sample.boxes.tolist() == ([list(DOG_BOX)] if number % 4 else [])
        assert sample.ignore.tolist() == ([] if number % 3 else [list(CAT_BOX)])
        assert sample.ignore_classes.tolist() == ([] if number % 3 else [1])
        assert read_pixels(sample).shape == (64, 72, 3)
    assert any("cat: no box to learn from" in warning for warning in data.warnings)


def test_hard_negatives_are_read(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "set", PARTS)
    file = root / "annotations" / "train.json"
    plain = json.loads(file.read_text())
    moved = plain["annotations"].pop()
    plain["hard_negatives"] = [moved]
    file.write_text(json.dumps(plain))
    of_image = {s.name: s for s in open_training_set(str(root)).train}
    sample = of_image[plain["images"][moved["image_id"]]["file_name"]]
    x, y, width, height = moved["bbox"]
    assert sample.negatives.tolist() == [[x, y, x + width, y + height]]
    assert sample.negative_classes.tolist() == [moved["category_id"] - 1]
    assert len(sample.boxes) == 1


def roboflow(root: Path) -> Path:
    for part, seeds in (("train", range(6)), ("valid", range(6, 9)), ("test", range(9, 11))):
        content = coco(*write_images(root / part, seeds))
        for entry in content["categories"]:
            entry["supercategory"] = "things"
        content["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"})
        (root / part / "_annotations.coco.json").write_text(json.dumps(content))
    return root


def coco_2017(root: Path) -> Path:
    (root / "annotations").mkdir(parents=True)
    for part, seeds in PARTS.items():
        content = coco(*write_images(root / f"{part}2017", seeds))
        (root / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(content))
        (root / "annotations" / f"captions_{part}2017.json").write_text("{}")
    return root


def other_ids(root: Path) -> Path:
    """The same names under other ids and in another order in each file."""
    write_coco(root, PARTS)
    file = root / "annotations" / "val.json"
    plain = json.loads(file.read_text())
    for entry in plain["annotations"]:
        entry["category_id"] = 70 - entry["category_id"]
    plain["categories"] = [{"id": 68, "name": "green"}, {"id": 69, "name": "red"}]
    file.write_text(json.dumps(plain))
    return root


@pytest.mark.parametrize(
    "layout",
    [roboflow, coco_2017, other_ids, lambda root: write_coco(root, PARTS)],
    ids=["roboflow", "coco 2017", "other ids", "plain"],
)
def test_coco_layouts(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    check_rectangles(open_training_set(str(layout(tmp_path / "set"))))


def test_one_file_is_divided_by_content(tmp_path: Path) -> None:
    listed, rows = write_images(tmp_path / "images", range(60))
    (tmp_path / "truth.json").write_text(json.dumps(coco(listed, rows)))
    data = open_training_set(str(tmp_path / "truth.json"))
    assert data.split == BY_HASH and 4 <= len(data.held_out) <= 22
    assert any("chosen by their hash" in warning for warning in data.warnings)
    held_out = {sample.sha256 for sample in data.held_out}
    assert not held_out & {sample.sha256 for sample in data.train}

    # Other names and a twin of every image change nothing: twins stay together.
    again = tmp_path / "again"
    for seed in range(60):
        for twin in ("a", "b"):
            path = again / "images" / f"{twin}{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tmp_path / "images" / f"{seed:03}.png", path)
    twins = [f"{twin}{seed}.png" for twin in ("a", "b") for seed in range(60)]
    (again / "any.json").write_text(json.dumps(coco(twins, [*rows, *rows])))
    other = open_training_set(str(again))
    assert {sample.sha256 for sample in other.held_out} == held_out
    assert len(other.held_out) == 2 * len(held_out)


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    first = open_training_set(str(write_coco(tmp_path / "a", PARTS)))
    moved = open_training_set(str(write_coco(tmp_path / "b", PARTS)))
    assert first.digest == moved.digest and len(first.digest) == 64
    file = tmp_path / "b" / "annotations" / "val.json"
    plain = json.loads(file.read_text())
    plain["annotations"][0]["bbox"][0] += 1
    file.write_text(json.dumps(plain))
    assert open_training_set(str(tmp_path / "b")).digest != first.digest


def test_an_ontology_beside_the_data(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "set", PARTS)
    text = "classes:\n  red: {phrases: red thing}\n  green: {}\n"
    (root / "ontology.yaml").write_text(text)
    assert open_training_set(str(root)).ontology == text
    (root / "ontology.yaml").write_text("classes:\n  blue: {}\n")
    assert open_training_set(str(root)).ontology == ""


@pytest.mark.parametrize(
    ("formats", "taken", "says"),
    [
        (("coco", "yolo", "voc"), "coco", "has voc and yolo too; coco is read"),
        (("yolo", "voc"), "voc", "has yolo too; voc is read"),
        (("yolo",), "yolo", ""),
        (("voc",), "voc", ""),
    ],
)
def test_of_several_formats_one_is_taken_and_told(
    tmp_path: Path, formats: tuple[str, ...], taken: str, says: str
) -> None:
    writers = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc}
    for name in formats:
        writers[name](tmp_path / name, PARTS)
    assert read_path(tmp_path).format == taken
    data = open_training_set(str(tmp_path))
    assert any(says in warning for warning in data.warnings) == bool(says)
    assert names(data.held_out) == [f"{n:03}.png" for n in range(6, 9)]
    text = "classes:\n  red: {phrases: red thing}\n  green: {}\n"
    (tmp_path / taken / "ontology.yaml").write_text(text)
    assert open_training_set(str(tmp_path)).ontology == text


# --- YOLO ---------------------------------------------------------------------------------------


def test_a_yolo_folder(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", PARTS)
    check_rectangles(open_training_set(str(root)))
    check_rectangles(open_training_set(str(root / "data.yaml")))


def test_an_export_of_our_own_as_yolo(tmp_path: Path) -> None:
    data = open_training_set(str(exported(tmp_path, "yolo")))
    every = {int(Path(s.name).name.partition("-")[0]): s for s in (*data.train, *data.held_out)}
    assert sorted(every) == [n for n in range(24) if n % 3]  # the others have a doubtful box
    for number, sample in every.items():
        assert np.allclose(sample.boxes, [DOG_BOX] if number % 4 else np.zeros((0, 4)), atol=0.01)


def edited(root: Path, **entries: Any) -> Path:
    plain = yaml.safe_load((root / "data.yaml").read_text())
    (root / "data.yaml").write_text(yaml.safe_dump({**plain, **entries}))
    return root


@pytest.mark.parametrize(
    "entries",
    [
        {"train": "../images/train", "val": "../images/val"},
        {"path": "/home/someone/datasets/set"},
        {"path": "../datasets/set"},
        {"path": "labels"},
        {"names": {0: "red", 1: "green"}},
        {"train": "list.txt"},
        {"train": ["images/train"], "val": ["images/val"], "valid": "images/train"},
    ],
    ids=str,
)
def test_yolo_as_others_write_it(tmp_path: Path, entries: dict[str, Any]) -> None:
    root = edited(write_yolo(tmp_path / "set", PARTS), **entries)
    (root / "list.txt").write_text("".join(f"./images/train/{n:03}.png\n\n" for n in range(6)))
    check_rectangles(open_training_set(str(root)))


def test_a_list_that_is_named_twice_is_divided(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", {"train": range(20)})
    data = open_training_set(str(edited(root, val="images/train")))
    assert data.split == BY_HASH and len(data.train) + len(data.held_out) == 20


def test_images_in_both_splits_are_only_held_out(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", PARTS)
    (root / "val.txt").write_text("images/val/006.png\nimages/train/000.png\n")
    data = open_training_set(str(edited(root, val="val.txt")))
    assert names(data.train) == [f"{n:03}.png" for n in range(1, 6)]
    assert any("1 images are in both splits" in warning for warning in data.warnings)


def test_outlines_count_by_their_extent(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", PARTS)
    (root / "labels/train/000.txt").write_text("1 0.25 0.5 0.5 0.25 0.75 0.5 0.5 0.75\n")
    sample = min(open_training_set(str(root)).train, key=lambda sample: sample.name)
    assert sample.boxes.tolist() == [[18, 15, 54, 45]] and sample.classes.tolist() == [1]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(line=st.text(alphabet="0123456789.eE+- \tnaif\0é\n", max_size=40))
def test_any_line_of_labels_is_read_or_refused(tmp_path: Path, line: str) -> None:
    root = tmp_path / "set"
    if not root.exists():
        write_yolo(root, PARTS)
    (root / "labels/train/000.txt").write_text(line)
    try:
        sample = min(open_training_set(str(root)).train, key=lambda sample: sample.name)
    except SecondlookError:
        return
    assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all() and np.isfinite(sample.boxes).all()
    assert (sample.boxes >= 0).all() and (sample.boxes <= [72, 60, 72, 60]).all()
    assert set(sample.classes.tolist()) <= {0, 1}


# --- images -----------------------------------------------------------------------------------


def test_turned_images_have_their_upright_size(tmp_path: Path) -> None:
    exif = PILImage.Exif()
    exif[0x0112] = 6
    PILImage.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    assert size_of(tmp_path / "a.jpg") == (30, 40)


def test_changed_and_missing_images_are_errors(tmp_path: Path) -> None:
    data = open_training_set(str(write_coco(tmp_path / "set", PARTS)))
    gone, other, torn = data.train[:3]
    gone.path.unlink()
    with pytest.raises(NotFound, match=f"'{gone.name}' is not at .* any more"):
        read_pixels(gone)
    PILImage.new("RGB", (10, 10)).save(other.path)
    with pytest.raises(Damaged, match="has changed"):
        read_pixels(other)
    torn.path.write_bytes(torn.path.read_bytes()[:-900])
    with pytest.raises(BadImage, match=f"'{torn.name}'.*truncated"):
        read_pixels(torn)


def test_the_cache_stays_within_its_bytes() -> None:
    made: list[int] = []

    def pixels(key: int) -> np.ndarray:
        made.append(key)
        return np.zeros((10, 10, 3), np.uint8)

    cache = PixelCache(700)  # two of 300 bytes
    for key in (1, 2, 3, 1, 2, 3):
        assert cache.get(key, lambda key=key: pixels(key)).shape == (10, 10, 3)  # type: ignore[misc]
    assert made == [1, 2, 3, 3]
