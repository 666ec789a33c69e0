"""What is wrong with a dataset is told before anything is learnt, with the way out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_sets import coco, drawn, write_coco, write_images, write_yolo

from secondlook.datasets.open import BY_HASH, open_training_set
from secondlook.datasets.readers.coco import read_coco
from secondlook.datasets.readers.yolo import read_yolo
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


def yolo_with(file: str, text: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        (write_yolo(root, PARTS) / file).write_text(text)
        return root

    return write


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "unknown class": (put("annotations", 0, category_id=9), r"annotations\[0\]: category_id 9"),
    "unknown image": (put("annotations", 0, image_id=99), r"annotations\[0\]: image_id 99"),
    "no number": (put("annotations", 0, bbox=[1, 2, 3, "4"]), "expected bbox"),
    "not finite": (put("annotations", 0, bbox=[1, 2, 3, float("nan")]), "expected bbox"),
    "three numbers": (put("annotations", 0, bbox=[1, 2, 3]), "expected bbox"),
    "list as id": (put("images", 0, id=[1]), "expected a number as id"),
    "same id twice": (put("images", 0, id=1), "stands twice"),
    "same class twice": (put("categories", 0, name="green"), "stands twice"),
    "leads out": (put("images", 0, file_name="../val/006.png"), "without '..'"),
    "absolute": (put("images", 0, file_name="/etc/hostname"), "below the dataset's folder"),
    "drive": (put("images", 0, file_name="C:\\a.png"), "below the dataset's folder"),
    "null character": (put("images", 0, file_name="a\0b.png"), "invalid image name"),
    "other size": (put("images", 0, width=36), "labels of '000.png' are for 36×60"),
    "turned": (put("images", 0, width=60, height=72), "rotated"),
    "endless": (put("images", 0, width=float("inf")), "numbers as width"),
    "negatives": (broken_coco(lambda plain: plain.update(hard_negatives=5)), "no list 'hard_neg"),
    "groups": (put("categories", 0, supercategory=["x"], id="a"), "category_id 1"),
    "enormous": (put("annotations", 0, bbox=[10**400, 0, 5, 5]), "expected bbox"),
    "half a character": (put("images", 0, file_name="\ud800.png"), "invalid image name"),
    "lines as class": (put("categories", 0, name="a\nb"), "printable"),
    "long class": (put("categories", 0, name="a" * 201), "1 to 200"),
    "words as size": (put("images", 0, width="wide"), "numbers as width"),
    "no list": (broken_coco(lambda plain: plain.pop("images")), "no list 'images'"),
    "too many boxes": (broken_coco(crowded), "has 1,001 boxes"),
    "no labels": (broken_coco(no_labels), "no image of 'train' .* has a label"),
    "empty": (broken_coco(no_images), "split 'train' of 'set' has no image"),
    "one image": (one_image, "needs at least 2 different ones"),
    "one image twice": (twins, "2 image.s., all with the same content"),
    "gone": (without_images, "2 of the 9 images"),
    "all gone": (all_gone, "put the images there"),
    "no image": (no_image, "000.png cannot be read as an image"),
    "unknown number": (yolo_with("labels/train/000.txt", "7 .5 .5 .1 .1"), "class 7 is not among"),
    "pixels": (yolo_with("labels/train/000.txt", "1 36 30 10 10"), "000.txt:1: .* 0 to 1"),
    "words": (yolo_with("labels/train/000.txt", "red .5 .5 .1 .1"), "expected a class number"),
    "five numbers": (yolo_with("labels/train/000.txt", "1 .5 .5 .1 .1 .9"), "expected 4 numbers"),
    "no yaml": (yolo_with("data.yaml", "{train: ["), "is not YAML"),
    "no names": (yolo_with("data.yaml", "train: images/train"), "expected 'names'"),
    "gaps": (yolo_with("data.yaml", "train: a\nnames: {0: a, 2: b}"), "without gaps"),
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
    assert any("3 boxes have no area" in warning for warning in data.warnings)
    boxes = {sample.name: sample.boxes.tolist() for sample in data.train}
    assert [len(boxes[f"{n:03}.png"]) for n in range(4)] == [1, 1, 2, 1]
    assert [0, 0, 20, 20] in boxes["002.png"]


def test_a_few_missing_images_are_a_warning(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "set", {"train": range(20), "val": range(20, 24)})
    (root / "images/train/003.png").unlink()
    data = open_training_set(str(root))
    assert len(data.train) == 19
    assert any("1 images are missing, the first is '003.png'" in w for w in data.warnings)


def test_huge_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_coco(tmp_path / "set", PARTS)
    monkeypatch.setattr("secondlook.datasets.readers.coco.MAX_BYTES", 1 << 10)
    with pytest.raises(InvalidInput, match="more than 0 MiB"):
        read_coco("set", {"train": root / "annotations/train.json"}, root)
    yolo = write_yolo(tmp_path / "yolo", PARTS)
    (yolo / "labels/train/000.txt").write_text("0 .5 .5 .1 .1\n" * 100_000)
    with pytest.raises(InvalidInput, match="not a label file"):
        read_yolo("yolo", yolo / "data.yaml")
