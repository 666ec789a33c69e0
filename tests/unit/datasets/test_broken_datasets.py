"""What is wrong with a dataset is told before anything is learnt, with the way out."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_sets import coco, drawn, write_coco, write_images, write_yolo

from secondlook.datasets.open import BY_HASH, open_training_set
from secondlook.datasets.readers.coco import read_coco
from secondlook_client.errors import InvalidInput, NotFound

PARTS = {"train": range(6), "val": range(6, 9)}


def broken_coco(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        write_coco(root, PARTS)
        file = root / "annotations" / "train.json"
        plain = json.loads(file.read_text())
        change(plain)
        file.write_text(json.dumps(plain))
        return root

    return write


def put(key: str, place: int, **entries: Any) -> Callable[[Path], Path]:
    return broken_coco(lambda plain: plain[key][place].update(entries))


def no_labels(plain: dict[str, Any]) -> None:
    plain["annotations"] = []


def no_images(plain: dict[str, Any]) -> None:
    plain["images"] = plain["annotations"] = []


def one_image(root: Path) -> Path:
    (root / "images").mkdir(parents=True)
    listed, rows = write_images(root / "images", [1])
    (root / "a.json").write_text(json.dumps(coco(listed, rows)))
    return root


def twins(root: Path) -> Path:
    one_image(root)
    shutil.copy(root / "images/001.png", root / "images/002.png")
    rows = drawn(1)[1]
    (root / "a.json").write_text(json.dumps(coco(["001.png", "002.png"], [rows, rows])))
    return root


def without_images(root: Path) -> Path:
    write_coco(root, PARTS)
    for path in sorted((root / "images/train").iterdir())[:2]:
        path.unlink()
    return root


def all_gone(root: Path) -> Path:
    shutil.rmtree(write_coco(root, PARTS) / "images")
    return root


def no_image(root: Path) -> Path:
    write_coco(root, PARTS)
    (root / "images/train/000.png").write_text("<html>")
    return root


def crowded(plain: dict[str, Any]) -> None:
    plain["annotations"] = [
        {"image_id": 0, "category_id": 1, "bbox": [1, 1, 5, 5]} for _ in range(1001)
    ]


def all_bad(plain: dict[str, Any]) -> None:
    for entry in plain["annotations"][:10]:
        entry["image_id"] = 99


def yolo_with(file: str, text: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        (write_yolo(root, PARTS) / file).write_text(text)
        return root

    return write


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "an id of two images": (put("images", 0, id=1), "1 is the id of '000.png' and of '001.png'"),
    "an id of two classes": (put("categories", 0, id=2), "2 is the id of 'red' and of 'green'"),
    "leads out": (put("images", 0, file_name="../val/006.png"), "../val/006.png: it is missing"),
    "absolute": (put("images", 0, file_name="/etc/hostname"), "/etc/hostname.*it is missing"),
    "drive": (put("images", 0, file_name="C:\\a.png"), "C:/a.png: it is missing"),
    "null character": (put("images", 0, file_name="a\0b.png"), "b.png: it is missing"),
    "no file name": (put("images", 0, file_name=None), "has no file_name"),
    "other size": (put("images", 0, width=36), "000.png: its labels are for 36×60"),
    "turned": (put("images", 0, width=60, height=72), "rotated"),
    "negatives": (broken_coco(lambda plain: plain.update(hard_negatives=5)), "no list 'hard_neg"),
    "half a character": (put("images", 0, file_name="\ud800.png"), "missing"),
    "lines as class": (put("categories", 0, name="a\nb"), "on one line"),
    "blank class": (put("categories", 0, name=" \u00a0"), "1 to 200"),
    "long class": (put("categories", 0, name="a" * 201), "1 to 200"),
    "no list": (broken_coco(lambda plain: plain.pop("images")), "no list 'images'"),
    "most rows": (
        broken_coco(all_bad),
        r"10 of 12 annotations cannot be read: annotations\[0\]: im",
    ),
    "too many boxes": (broken_coco(crowded), "has 1,001 boxes"),
    "no labels": (broken_coco(no_labels), "no image of 'train' .* has a label"),
    "empty": (broken_coco(no_images), "split 'train' of 'set' has no image"),
    "one image": (one_image, "needs at least 2 different ones"),
    "one image twice": (twins, "2 image.s., all with the same content"),
    "gone": (without_images, "2 of the 9 images .* than 10 %: .*000.png: it is missing; .*001.png"),
    "all gone": (all_gone, "put the images there"),
    "no image": (no_image, "000.png.*a text in HTML"),
    "a text": (
        yolo_with("labels/train/000.txt", "\0" * 99),
        "000.txt cannot be read: it is not te",
    ),
    "long text": (
        yolo_with("labels/train/000.txt", "0 " * 2**23 + "0"),
        "000.txt has more than 16 M",
    ),
    "no yaml": (yolo_with("data.yaml", "{train: ["), "is not YAML"),
    "no names": (yolo_with("data.yaml", "train: images/train"), "expected 'names'"),
    "nested names": (yolo_with("data.yaml", "train: a\nnames: [[a], b]"), "names as texts"),
    "numbers twice": (
        yolo_with("data.yaml", "train: a\nnames: {0: a, 0.0: b}"),
        "each number once",
    ),
    "keys twice": (
        yolo_with("data.yaml", "train: a\nnames: [a]\ntrain: b"),
        "'train' is given twice",
    ),
    "aliases": (yolo_with("data.yaml", "a: &a [x]\nnames: [*a, *a]"), "aliases"),
    "no kpt_shape": (yolo_with("data.yaml", "task: pose\nnames: [a]"), "has no kpt_shape"),
    "odd kpt_shape": (yolo_with("data.yaml", "kpt_shape: 17\nnames: [a]"), "expected kpt_shape"),
    "classification": (yolo_with("data.yaml", "task: classify\nnames: [a]"), "it has no boxes"),
    "words as nc": (yolo_with("data.yaml", "nc: two\nnames: [a]"), "nc: expected a number"),
    "no train": (yolo_with("data.yaml", "names: [a]"), "has no 'train'"),
    "train elsewhere": (
        yolo_with("data.yaml", "train: /etc\nnames: [a]"),
        "relative to the folder",
    ),
    "train not there": (yolo_with("data.yaml", "train: a/b\nnames: [a]"), "is not below"),
    "code": (yolo_with("data.yaml", "a: !!python/object/apply:os.getcwd []"), "is not YAML"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_datasets_are_refused_with_the_cause(tmp_path: Path, case: str) -> None:
    write, told = BROKEN[case]
    with pytest.raises((InvalidInput, NotFound), match=told):
        data = open_training_set(str(write(tmp_path / "set")))
        raise AssertionError(f"{len(data.train)} were read")


def test_an_empty_split_is_not_held_out(tmp_path: Path) -> None:
    data = open_training_set(str(write_coco(tmp_path / "set", {"train": range(9), "val": ()})))
    assert data.split == BY_HASH and len(data.train) + len(data.held_out) == 9


def test_a_missing_dataset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="--server"):
        open_training_set(str(tmp_path / "nowhere"))
    with pytest.raises(InvalidInput, match="neither COCO files"):
        open_training_set(str(tmp_path))
    with pytest.raises(InvalidInput, match=r"no split 'dev' .* there is: val"):
        open_training_set(str(write_coco(tmp_path / "set", PARTS)), split="dev")


def test_boxes_without_area_are_left_out_with_a_warning(tmp_path: Path) -> None:
    def flatten(plain: dict[str, Any]) -> None:
        plain["annotations"][0]["bbox"][2] = 0  # no width
        plain["annotations"][2]["bbox"] = [80, 5, 20, 20]  # right of the image
        plain["annotations"][4]["bbox"] = [-10, -10, 30, 30]  # hangs over
        plain["annotations"][6]["bbox"] = [30, 30, -8, 8]

    data = open_training_set(str(broken_coco(flatten)(tmp_path / "set")))
    assert any("2 boxes have no area" in warning for warning in data.warnings)
    assert any(
        r"1 of 12 annotations cannot be read and are left out: annotations[6]: a bbox cannot have"
        in warning
        for warning in data.warnings
    )
    boxes = {sample.name: sample.boxes.tolist() for sample in data.train}
    assert [len(boxes[f"{n:03}.png"]) for n in range(4)] == [1, 1, 2, 1]
    assert [0, 0, 20, 20] in boxes["002.png"]


def test_a_few_missing_images_are_a_warning(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "set", {"train": range(20), "val": range(20, 24)})
    (root / "images/train/003.png").unlink()
    data = open_training_set(str(root))
    assert len(data.train) == 19
    (told,) = (w for w in data.warnings if "cannot be used" in w)
    assert told.startswith("1 of 24 images cannot be used and are left out: ")
    assert told.endswith("images/train/003.png: it is missing")


def test_huge_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_coco(tmp_path / "set", PARTS)
    monkeypatch.setattr("secondlook.datasets.readers.coco_json.MAX_BYTES", 1 << 10)
    with pytest.raises(InvalidInput, match="more than 1 KiB"):
        read_coco("set", {"train": root / "annotations/train.json"}, root)


ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown class": ({"category_id": 9}, "category_id 9 is not among its categories"),
    "unknown image": ({"image_id": 99}, "image_id 99 is not among its images"),
    "list as id": ({"image_id": [1]}, r"image_id: expected a number or text as id, got \[1\]"),
    "truth as id": ({"category_id": True}, "category_id: expected a number or text as id"),
    "word": ({"bbox": [1, 2, 3, "four"]}, "expected bbox"),
    "not finite": ({"bbox": [1, 2, 3, float("nan")]}, "expected bbox"),
    "enormous": ({"bbox": [10**400, 0, 5, 5]}, "expected bbox"),
    "three numbers": ({"bbox": [1, 2, 3]}, "expected bbox"),
    "null": ({"bbox": None}, "expected bbox .*, got None"),
    "null and no outline": ({"bbox": None, "segmentation": []}, "got None"),
    "negative": ({"bbox": [10, 10, -5, 5]}, "negative side"),
    "word as flag": ({"iscrowd": "perhaps"}, "expected 0 or 1, got 'perhaps'"),
    "only a mask": ({"bbox": None, "segmentation": {"counts": [1]}}, "a mask and no bbox"),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_bad_entry_costs_that_entry_and_is_named(tmp_path: Path, case: str) -> None:
    entries, told = ROWS[case]
    data = open_training_set(str(put("annotations", 0, **entries)(tmp_path / "set")))
    boxes = {sample.name: len(sample.boxes) for sample in data.train}
    assert boxes == {"000.png": 1} | {f"{n:03}.png": 2 for n in range(1, 6)}
    (warning,) = data.warnings
    assert re.search(
        rf"train.json: 1 of 12 annotations .* left out: annotations\[0\]: .*{told}", warning
    )


LINES = {
    "7 .5 .5 .1 .1": "class 7 is not among the 2",
    "-1 .5 .5 .1 .1": "class -1 is not",
    "0.5 .5 .5 .1 .1": "expected a whole number, got '0.5'",
    "nan .5 .5 .1 .1": "expected a finite number",
    "1 36 30 10 10": "expected numbers from 0 to 1",
    "1 .5 .5 inf .1": "finite number",
    "1 .5 .5 -.1 .1": "negative side",
    "red .5 .5 .1 .1": "expected a class number and 4 numbers: expected a number, got 'red'",
    "1 .5 .5 .1": "expected 4 numbers after the class",
    "1 .5 .5 .1 .1 7": "expected a confidence from 0 to 1",
    "1 .1 .2 .3 .4 .5 .6 .7": "if there are key points, data.yaml must have kpt_shape",
    "1 0,5 0,5 0,1 0,1": "not clear which numbers",
    "# a comment": "expected a class number",
}


@pytest.mark.parametrize("line", LINES)
def test_a_bad_line_costs_that_line_and_is_named(tmp_path: Path, line: str) -> None:
    root = write_yolo(tmp_path / "set", PARTS)
    file = root / "labels/train/000.txt"
    file.write_text(f"{file.read_text()}\n{line}\n")
    data = open_training_set(str(root))
    assert all(len(sample.boxes) == 2 for sample in (*data.train, *data.held_out))
    (warning,) = data.warnings
    assert warning.startswith(f"1 of 19 rows of labels cannot be read and are left out: {file}:4: ")
    assert LINES[line] in warning


def test_the_first_bad_lines_are_named_and_the_others_counted(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", PARTS)
    file = root / "labels/val/007.txt"
    file.write_text(file.read_text() + "9 .5 .5 .1 .1\n" * 7)
    (warning,) = open_training_set(str(root)).warnings
    assert warning.startswith("7 of 25 rows") and warning.endswith("of data.yaml; and 4 more")
    assert all(f"{file}:{n}: " in warning for n in (3, 4, 5)) and f"{file}:6" not in warning
    file.write_text("9 .5 .5 .1 .1\n" * 70)
    with pytest.raises(InvalidInput, match="70 of 86 rows of labels cannot be read"):
        open_training_set(str(root))
