"""Datasets as other programs write them give the same boxes as our own."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from training_sets import CLASSES, Row, coco, drawn, write_coco, write_images, write_yolo, yolo_line

from secondlook.datasets.open import open_training_set
from secondlook.datasets.readers.coco import find_coco
from secondlook.datasets.samples import TrainingSet
from secondlook.evaluation.coco_files import join
from secondlook.evaluation.matching import evaluate
from secondlook_client.errors import InvalidInput, NotFound

PARTS = {"train": range(6), "val": range(6, 9)}
Plain = dict[str, Any]


def check_boxes(data: TrainingSet, classes: tuple[str, ...] = CLASSES) -> None:
    """Each image of ``PARTS`` is there once, with the rectangles that are drawn on it."""
    assert data.classes == classes
    for samples, seeds in ((data.train, PARTS["train"]), (data.held_out, PARTS["val"])):
        assert sorted(int(Path(sample.name).stem) for sample in samples) == [*seeds]
        for sample in samples:
            _, rows = drawn(int(Path(sample.name).stem))
            assert sample.path.is_file() and (sample.width, sample.height) == (72, 60)
            order = np.argsort(sample.classes)
            assert sample.classes[order].tolist() == [0, 1]
            assert np.allclose(sample.boxes[order], [box for _, box in rows], atol=0.01)
            assert not len(sample.ignore) and not len(sample.negatives)


# --- COCO ---------------------------------------------------------------------------------------


def coco_set(root: Path, change: Callable[[Plain], None]) -> Path:
    write_coco(root, PARTS)
    for part in PARTS:
        file = root / "annotations" / f"{part}.json"
        plain = json.loads(file.read_text())
        change(plain)
        file.write_text(json.dumps(plain))
    return root


def cvat(root: Path) -> Path:
    """Annotations in ``instances_default``-like files, floats everywhere, attributes."""

    def change(plain: Plain) -> None:
        plain |= {"licenses": [{"name": "", "id": 0, "url": ""}], "info": {"contributor": ""}}
        for entry in plain["annotations"]:
            entry["bbox"] = [float(value) for value in entry["bbox"]]
            entry |= {"segmentation": [], "iscrowd": 0, "attributes": {"occluded": False}}
        for entry in plain["categories"]:
            entry["supercategory"] = ""
        for entry in plain["images"]:
            entry |= {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}

    coco_set(root, change)
    for part in PARTS:
        file = root / "annotations" / f"{part}.json"
        file.rename(file.with_name(f"instances_{part}.json"))
    return root


def label_studio(root: Path) -> Path:
    """Its converter of Windows: paths with backslashes, ids from 0, ``ignore`` and ``iscrowd``."""

    def change(plain: Plain) -> None:
        for entry in plain["images"]:
            entry["file_name"] = f"images\\{entry['file_name']}"
        for entry in plain["annotations"]:
            entry |= {"ignore": 0, "iscrowd": 0, "segmentation": [], "area": 1}
            entry["category_id"] -= 1
        plain["categories"] = [{"id": n, "name": name} for n, name in enumerate(CLASSES)]

    coco_set(root, change)
    for part in PARTS:
        (root / part).mkdir()
        (root / "images" / part).rename(root / part / "images")
    return root


def fiftyone(root: Path) -> Path:
    """Ids as text, no size of images, ``supercategory`` null, names as ``data/…``."""

    def change(plain: Plain) -> None:
        for entry in plain["images"]:
            entry["id"] = str(entry["id"])
            entry["file_name"] = f"data/{entry['file_name']}"
            entry["width"] = entry["height"] = None
        for entry in plain["annotations"]:
            entry["category_id"] = f"{entry['category_id']}"
            entry["iscrowd"] = "0"
        for entry in plain["categories"]:
            entry["supercategory"] = None

    coco_set(root, change)
    for part in PARTS:
        (root / part).mkdir()
        (root / "images" / part).rename(root / part / "data")
    return root


def roboflow(root: Path) -> Path:
    """The project as category 0, called like a class; a byte order mark, rubbish of a Mac."""
    for part, seeds in (("train", PARTS["train"]), ("valid", PARTS["val"])):
        content = coco(*write_images(root / part, seeds))
        for entry in content["categories"]:
            entry["supercategory"] = "red"
        content["categories"].insert(0, {"id": 0, "name": "red", "supercategory": "none"})
        text = "\ufeff" + json.dumps(content)
        (root / part / "_annotations.coco.json").write_text(text, encoding="utf-8")
        (root / part / "._annotations.coco.json").write_bytes(b"\0\5\x16\7")
        (root / part / ".DS_Store").write_bytes(b"\0")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "_annotations.coco.json").write_bytes(b"\0\5\x16\7")
    return root


def odd_numbers(root: Path) -> Path:
    def change(plain: Plain) -> None:
        for entry in plain["images"]:
            entry["id"] = float(entry["id"])
            entry["width"], entry["height"] = "72", 60.0
        for entry in plain["annotations"]:
            entry["image_id"] = str(entry["image_id"])
            entry["bbox"] = [str(value) for value in entry["bbox"]]
            entry["iscrowd"], entry["ignore"] = "0", None
        plain["categories"][0]["id"] = "1.0"
        plain["categories"].append({"id": 0, "name": "__background__"})

    return coco_set(root, change)


def senseless_sizes(root: Path) -> Path:
    def change(plain: Plain) -> None:
        for entry, value in zip(plain["images"], (0, -1, "wide", float("inf"), None, [], True)):  # noqa: B905
            entry["width"] = value

    return coco_set(root, change)


def only_outlines(root: Path) -> Path:
    def change(plain: Plain) -> None:
        for place, entry in enumerate(plain["annotations"]):
            x, y, w, h = entry["bbox"]
            outline = [x, y + h / 2, x + w / 2, y, x + w, y + h / 2, x + w / 2, y + h]
            entry |= {"bbox": None if place % 2 else [], "segmentation": [outline]}

    return coco_set(root, change)


def other_machine(root: Path) -> Path:
    def change(plain: Plain) -> None:
        for place, entry in enumerate(plain["images"]):
            home = ("/home/someone/images/", "C:\\Users\\so meone\\", "./", "../", "")[place % 5]
            entry["file_name"] = home + entry["file_name"]

    return coco_set(root, change)


def listed_thrice(root: Path) -> Path:
    """A merge of three files: each image under three ids, each time with some of its boxes."""

    def change(plain: Plain) -> None:
        images, rows = plain["images"], plain["annotations"]
        for copy in (1000, 2000):
            plain["images"] = [
                *plain["images"],
                *({**i, "id": i["id"] + copy, "file_name": f"./{i['file_name']}"} for i in images),
            ]
        for place, entry in enumerate(rows):
            entry["image_id"] += (0, 1000, 2000)[place % 3]
        again = [entry for entry in rows if entry["image_id"] >= 1000]
        plain["annotations"] = rows + [{**e, "image_id": e["image_id"] % 1000} for e in again]
        plain["images"].append(dict(images[0]))  # and once more under its own id

    return coco_set(root, change)


def two_ids_of_a_class(root: Path) -> Path:
    def change(plain: Plain) -> None:
        plain["categories"].append({"id": 9, "name": "red"})
        for entry in plain["annotations"][::4]:
            entry["category_id"] = 9

    return coco_set(root, change)


COCO = [
    cvat,
    label_studio,
    fiftyone,
    roboflow,
    odd_numbers,
    senseless_sizes,
    only_outlines,
    other_machine,
    listed_thrice,
    two_ids_of_a_class,
]


@pytest.mark.parametrize("dialect", COCO)
def test_coco_of_other_programs(tmp_path: Path, dialect: Callable[[Path], Path]) -> None:
    data = open_training_set(str(dialect(tmp_path / "set")))
    check_boxes(data)
    told = [warning for warning in data.warnings if "list an image once more" not in warning]
    assert not told and (bool(data.warnings) == (dialect is listed_thrice))


@pytest.mark.parametrize("dialect", COCO)
def test_evaluate_reads_them_by_the_same_rule(
    tmp_path: Path, dialect: Callable[[Path], Path]
) -> None:
    root = dialect(tmp_path / "set")
    file = next(
        path
        for path in sorted(root.rglob("*.json"))
        if "train" in str(path) and not path.name.startswith(".")
    )
    joined = join(file, file)
    quality = evaluate(joined.images.values(), joined.classes).total()
    assert (quality.right, quality.wrong, quality.missed) == (12, 0, 0)
    assert joined.classes == CLASSES and len(joined.images) == 6


def test_copies_that_differ_are_refused(tmp_path: Path) -> None:
    def change(plain: Plain) -> None:
        plain["images"].append({**plain["images"][0], "id": 99, "width": 71})

    with pytest.raises(
        InvalidInput, match=r"'000.png' is listed twice, .*\(72, 60\) and \(71, 60\)"
    ):
        open_training_set(str(coco_set(tmp_path / "set", change)))


def test_names_of_another_machine_that_lead_to_one_file_are_refused(tmp_path: Path) -> None:
    def change(plain: Plain) -> None:
        plain["images"][0]["file_name"] = "/data/camera1/001.png"

    with pytest.raises(InvalidInput, match=r"both lead to .*001\.png"):
        open_training_set(str(coco_set(tmp_path / "set", change)))


def test_a_hidden_or_latest_file_is_no_split(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "set", PARTS)
    (root / "annotations" / "._train.json").write_bytes(b"\0")
    (root / ".ipynb_checkpoints").mkdir()
    (root / ".ipynb_checkpoints" / "_annotations.coco.json").write_text("{}")
    check_boxes(open_training_set(str(root)))
    names = ("train2017", "instances_Val", "testing_set", "latest", "valentine", "a-validation")
    splits = ("train", "val", "test", "", "", "val")
    for name, split in zip(names, splits, strict=True):
        folder = tmp_path / name
        (folder / "annotations").mkdir(parents=True)
        (folder / "annotations" / f"{name}.json").write_text("{}")
        assert [*find_coco(folder)] == [split]


def test_categories_of_the_background_are_classes_where_they_are_used(tmp_path: Path) -> None:
    def change(plain: Plain) -> None:
        plain["categories"] += [{"id": 5, "name": "background"}, {"id": 6, "name": "blue"}]
        plain["annotations"][0]["category_id"] = 5

    data = open_training_set(str(coco_set(tmp_path / "set", change)))
    assert data.classes == ("red", "green", "background", "blue")


# --- YOLO ---------------------------------------------------------------------------------------


def rewrite(
    root: Path, line: Callable[[Row], str], end: str = "\n", encoding: str = "utf-8"
) -> Path:
    """Write the labels of a YOLO folder anew."""
    for path in root.rglob("labels/*/*.txt"):
        rows = drawn(int(path.stem))[1]
        path.write_bytes(end.join(line(row).strip("\n") for row in rows).encode(encoding))
    return root


def described(root: Path, **entries: Any) -> Path:
    plain = yaml.safe_load((root / "data.yaml").read_text())
    (root / "data.yaml").write_text(yaml.safe_dump({**plain, **entries}))
    return root


def shares(row: Row) -> list[float]:
    return [float(word) for word in yolo_line(row).split()[1:]]


def with_key_points(points: int, numbers: int) -> Callable[[Row], str]:
    def line(row: Row) -> str:
        x, y = shares(row)[:2]
        values = [x, y, 2][:numbers] * points
        return yolo_line(row).strip() + "".join(f" {value}" for value in values)

    return line


def corners(row: Row) -> str:
    number, (x1, y1, x2, y2) = row
    points = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    return f"{number} " + " ".join(f"{x / 72} {y / 60}" for x, y in points)


def rhombus(row: Row) -> str:
    """An outline of as many points as its class has letters."""
    number, (x1, y1, x2, y2) = row
    points = [(x1, (y1 + y2) / 2), ((x1 + x2) / 2, y1), (x2, (y1 + y2) / 2), ((x1 + x2) / 2, y2)]
    points += [points[0]] * number
    return f"{number} " + " ".join(f"{x / 72} {y / 60}" for x, y in points)


def mixed(row: Row) -> str:
    return yolo_line(row) if row[0] else rhombus(row)


YOLO: dict[str, tuple[Callable[[Row], str], Plain]] = {
    "pose of 2 points": (with_key_points(2, 2), {"kpt_shape": [2, 2]}),
    "pose of 17 points": (with_key_points(17, 3), {"kpt_shape": [17, 3], "flip_idx": [0, 2, 1]}),
    "pose, task": (with_key_points(1, 3), {"kpt_shape": [1.0, 3], "task": "pose"}),
    "pose, boxes alone": (yolo_line, {"kpt_shape": [17, 3]}),
    "pose predictions": (lambda r: with_key_points(2, 3)(r) + " 0.9", {"kpt_shape": [2, 3]}),
    "rotated boxes": (corners, {"task": "obb"}),
    "rotated boxes, not said": (corners, {}),
    "outlines": (rhombus, {"task": "segment"}),
    "boxes among outlines": (mixed, {"task": "segment"}),
    "predictions": (lambda row: f"{yolo_line(row).strip()} 0.93", {}),
    "numbers as 0.0": (lambda row: f"{row[0]}.0" + yolo_line(row)[1:], {}),
    "commas": (lambda row: yolo_line(row).strip().replace(" ", ", "), {}),
    "tabs": (lambda row: "\t" + yolo_line(row).strip().replace(" ", " \t ") + "\t", {}),
}


@pytest.mark.parametrize("case", YOLO)
def test_yolo_rows_are_what_data_yaml_says(tmp_path: Path, case: str) -> None:
    line, entries = YOLO[case]
    root = described(rewrite(write_yolo(tmp_path / "set", PARTS), line), **entries)
    data = open_training_set(str(root))
    check_boxes(data)
    told = [warning for warning in data.warnings if "end with a confidence" not in warning]
    assert not told and (bool(data.warnings) == ("predictions" in case))


def test_key_points_that_do_not_fit_cost_the_row(tmp_path: Path) -> None:
    root = described(write_yolo(tmp_path / "set", PARTS), kpt_shape=[17, 3])
    file = root / "labels/train/000.txt"
    text = file.read_text()
    file.write_text(text + "0 .5 .5 .1 .1 .2 .3 .4 .5\n")
    data = open_training_set(str(root))
    check_boxes(data)
    assert "000.txt:3: expected 4 numbers after the class, and 51 of key points" in data.warnings[0]


def test_key_points_that_nobody_told_of_are_suspected(tmp_path: Path) -> None:
    root = rewrite(write_yolo(tmp_path / "set", PARTS), with_key_points(17, 2))
    told = open_training_set(str(root)).warnings
    assert any("all rows have 38 numbers" in warning and "kpt_shape" in warning for warning in told)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n \n"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "ascii"])
def test_yolo_text_of_any_system(tmp_path: Path, end: str, encoding: str) -> None:
    root = rewrite(write_yolo(tmp_path / "set", PARTS), yolo_line, end, encoding)
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_bytes(text.replace("\n", "\r\n").encode(encoding))
    check_boxes(open_training_set(str(root)))


NAMES: list[tuple[Any, tuple[str, ...]]] = [
    ("[no, yes]", ("no", "yes")),
    ("[1.0, 2024-01-01]", ("1.0", "2024-01-01")),
    ("[null, ~]", ("null", "~")),
    ("{1: green, 0: red}", CLASSES),
    ("{'0': red, '1': green}", CLASSES),
    ("{0.0: red, 1.0: green}", CLASSES),
    ("[red, green, red]", CLASSES),
    ("[ on , 'off ']", ("on", "off ")),
]


@pytest.mark.parametrize(("names", "classes"), NAMES)
def test_names_stay_the_written_text(tmp_path: Path, names: str, classes: tuple[str, ...]) -> None:
    root = write_yolo(tmp_path / "set", PARTS)
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n")
    check_boxes(open_training_set(str(root)), classes)


def test_names_with_holes(tmp_path: Path) -> None:
    root = rewrite(
        write_yolo(tmp_path / "set", PARTS), lambda row: f"{5 * row[0] + 2}{yolo_line(row)[1:]}"
    )
    text = "train: images/train\nval: images/val\nnames: {2: red, 7: green}\nnc: 8\n"
    (root / "data.yaml").write_text(text)
    (root / "labels/val/006.txt").write_text(
        (root / "labels/val/006.txt").read_text() + "\n3 .5 .5 .1 .1"
    )
    data = open_training_set(str(root))
    check_boxes(data)
    assert "nc is 8 and there are 2 names" in data.warnings[0]
    assert "class 3 is not among the 2 of data.yaml" in data.warnings[1]


def test_no_names_at_all(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", PARTS)
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnc: 2\n")
    data = open_training_set(str(root))
    check_boxes(data, ("class_0", "class_1"))
    assert "has no names" in data.warnings[0]


PLACES: list[Plain] = [
    {"path": "C:\\data\\set", "train": "C:\\data\\set\\images\\train", "val": "images\\val"},
    {"path": "/mnt/other/set", "train": "/mnt/other/set/images/train", "val": "./images/val/"},
    {"path": None, "train": ["../images/train"], "val": ["../../images/val"]},
    {"train": "lists/train.txt", "val": "lists/val.txt", "test": None},
    {"train": "images/../images/train", "val": "images//val"},
]


@pytest.mark.parametrize("entries", PLACES, ids=lambda entries: str(entries["train"]))
def test_paths_of_another_machine(tmp_path: Path, entries: Plain) -> None:
    root = described(write_yolo(tmp_path / "set", PARTS), **entries)
    (root / "lists").mkdir()
    for part, seeds in PARTS.items():
        homes = ("/somewhere/set/images", "D:\\set\\images", "./images", "../images", "images")
        lines = [f"{homes[n % 5]}/{part}/{n:03}.png" for n in seeds]
        (root / "lists" / f"{part}.txt").write_bytes("\r\n".join(lines).encode() + b" \t\r\n")
    check_boxes(open_training_set(str(root)))


def test_a_list_names_each_image_once(tmp_path: Path) -> None:
    root = described(write_yolo(tmp_path / "set", PARTS), train=["a.txt", "images/train"])
    (root / "a.txt").write_text(
        "images/train/000.png\n./images/train/000.png\nimages//train/000.png"
    )
    check_boxes(open_training_set(str(root)))
    (root / "a.txt").write_text("/cam1/train/000.png\n/cam2/train/000.png\n")
    shutil.copytree(root / "images/train", root / "train")
    with pytest.raises(InvalidInput, match="paths of another machine, and both lead to"):
        open_training_set(str(root))


def test_hidden_files_and_rubbish_are_no_images(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", PARTS)
    for folder in (".ipynb_checkpoints", "__MACOSX", "@eaDir/000.png", ".thumbnails"):
        (root / "images/train" / folder).mkdir(parents=True)
        shutil.copy(root / "images/train/000.png", root / "images/train" / folder / "copy.png")
    for name in ("._000.png", ".DS_Store", "Thumbs.db", ".hidden.jpg"):
        (root / "images/train" / name).write_bytes(b"\0\5\x16\7")
    data = open_training_set(str(root))
    check_boxes(data)
    assert not data.warnings


def test_suffixes_in_any_case_and_all_known_formats(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", PARTS)
    images, labels = root / "images/train", root / "labels/train"
    (images / "000.png").rename(images / "000.PNG")
    PILImage.open(images / "001.png").save(images / "001.jfif", "JPEG")
    (images / "001.png").unlink()
    (labels / "002.txt").rename(labels / "002.TXT")
    check_boxes(open_training_set(str(root)))


def test_formats_that_are_not_read_are_told(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", {"train": range(20), "val": range(20, 30)})
    (root / "images/train/a.HEIC").write_bytes(b"\0")
    (told,) = open_training_set(str(root)).warnings
    assert told.startswith("1 of 31 images") and told.endswith(
        "HEIC is not read; convert it to JPEG"
    )


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/train", "labels/train"),
        ("train/images", "train/labels"),
        ("images/a/images/b", "images/a/labels/b"),
        ("train", "train"),
        ("Images/train", "labels/train"),
    ],
)
def test_labels_lie_in_labels_for_the_last_images(tmp_path: Path, images: str, labels: str) -> None:
    """And in no ``labels`` above the dataset, though it lies in a folder called images."""
    root = tmp_path / "images" / "set"
    write_yolo(tmp_path / "plain", PARTS)
    for part, (at, texts) in {"train": (images, labels), "val": ("v/images", "v/labels")}.items():
        shutil.copytree(tmp_path / "plain/images" / part, root / at, dirs_exist_ok=True)
        shutil.copytree(tmp_path / "plain/labels" / part, root / texts, dirs_exist_ok=True)
    text = f"train: {images}\nval: v/images\nnames: [red, green]\n"
    (root / "data.yaml").write_text(text)
    check_boxes(open_training_set(str(root)))


def test_nothing_outside_of_the_folder_is_read(tmp_path: Path) -> None:
    other = write_yolo(tmp_path / "other", PARTS)
    root = described(write_yolo(tmp_path / "set", PARTS), train=str(other / "elsewhere"))
    with pytest.raises(NotFound, match="is not below"):
        open_training_set(str(root))
    described(root, train="list.txt")
    (root / "list.txt").write_text(f"{other}/images/train/000.png\n../other/images/val/006.png\n")
    with pytest.raises(InvalidInput, match=r"1 of the 5 .*other/images/val/006.png: it is missing"):
        open_training_set(str(root))
    (root / "list.txt").write_text(f"{other}/images/train/000.png\n../images/train/001.png\n")
    data = open_training_set(str(root))
    assert all(sample.path.is_relative_to(root) for sample in (*data.train, *data.held_out))


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    root = described(write_yolo(tmp_path / "set", PARTS), train="list.txt")
    for number, name in enumerate((b"\xff.png", "e\u0301\u2028 \u00a0.png".encode(), b"a\x85.png")):
        for folder, suffix in (("images", ".png"), ("labels", ".txt")):
            place = os.fsencode(root / folder / "train")
            os.rename(  # noqa: PTH104
                os.path.join(place, f"{number:03}{suffix}".encode()),  # noqa: PTH118
                os.path.join(place, name.removesuffix(b".png") + suffix.encode()),  # noqa: PTH118
            )
    place = os.fsencode(root / "images/train")
    names = sorted(os.listdir(place))  # noqa: PTH208
    (root / "list.txt").write_bytes(b"".join(b"images/train/" + name + b"\n" for name in names))
    data = open_training_set(str(root))
    assert len(data.train) == 6 and not data.warnings
    assert all(len(sample.boxes) == 2 and sample.name.encode() for sample in data.train)


def test_label_studio_lists_its_classes(tmp_path: Path) -> None:
    """``classes.txt`` and ``notes.json`` beside ``images`` and ``labels``, and no splits."""
    root = tmp_path / "set"
    write_yolo(root, {"train": range(20)})
    for part in ("images", "labels"):
        (root / part / "train").rename(tmp_path / part)
        (root / part).rmdir()
        (tmp_path / part).rename(root / part)
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_bytes("\ufeffred\r\ngreen\r\n".encode())
    (root / "notes.json").write_text('{"categories": [], "info": {}}')
    data = open_training_set(str(root))
    assert data.classes == CLASSES and len(data.train) + len(data.held_out) == 20
    for sample in (*data.train, *data.held_out):
        assert np.allclose(sample.boxes, [b for _, b in drawn(int(sample.path.stem))[1]], atol=0.01)


def test_classes_with_joined_emoji_are_classes(tmp_path: Path) -> None:
    classes = ("👨\u200d👩\u200d👧 famille", "no\u00a0break")
    root = write_yolo(tmp_path / "set", PARTS)
    text = yaml.safe_dump({"names": [*classes]}, allow_unicode=True)
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\n{text}")
    check_boxes(open_training_set(str(root)), classes)


# --- any legal file -----------------------------------------------------------------------------

boxes = st.tuples(st.integers(0, 60), st.integers(0, 50), st.integers(1, 12), st.integers(1, 10))
spellings: list[Callable[[int], Any]] = [int, float, str, lambda n: f"{n}.0", lambda n: f" {n}"]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), rows=st.lists(st.tuples(st.integers(0, 1), boxes), min_size=1, max_size=6))
def test_any_spelling_of_a_dataset_is_the_dataset(
    tmp_path: Path, data: st.DataObject, rows: list[tuple[int, tuple[int, int, int, int]]]
) -> None:
    """An odd but legal COCO file and YOLO folder give the values that they were made from."""
    folder = tmp_path / "images"
    if not folder.exists():
        write_images(folder, range(2))

    def spelt(value: int) -> Any:
        return data.draw(st.sampled_from(spellings))(value)

    ids = data.draw(st.lists(st.integers(0, 99), min_size=4, max_size=4, unique=True))
    plain = {
        "images": [
            {"id": spelt(ids[n % 2 if n < 2 else n]), "file_name": f"{n % 2:03}.png"}
            for n in range(4)
        ],
        "annotations": [
            {
                "image_id": spelt(ids[data.draw(st.sampled_from([0, 2]))]),
                "category_id": spelt(kind),
                "bbox": [*map(spelt, box)],
                "iscrowd": data.draw(st.sampled_from([0, "0", False, None, 0.0, ""])),
            }
            for kind, box in rows
        ],
        "categories": [{"id": spelt(n), "name": name} for n, name in enumerate(CLASSES)],
    }
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    (tmp_path / "a.json").write_bytes(json.dumps(plain).encode(encoding))
    joined = join(tmp_path / "a.json", tmp_path / "a.json")
    read = sorted((CLASSES.index(one.class_name), one.box) for one in joined.images["000.png"][1])
    wanted = [(kind, (x, y, x + w, y + h)) for kind, (x, y, w, h) in rows]
    assert sorted(set(read)) == sorted(set(wanted)) and len(read) <= len(wanted)
    assert set(joined.images) == {"000.png", "001.png"}

    separator = data.draw(st.sampled_from([" ", "\t", "  ", ", ", ";"]))
    lines = [
        separator.join(
            [
                f"{spelt(kind)}".strip(),
                *(
                    f"{v / s:.9f}"
                    for v, s in zip((x + w / 2, y + h / 2, w, h), (72, 60, 72, 60), strict=True)
                ),
            ]
        )
        for kind, (x, y, w, h) in rows
    ]
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    (tmp_path / "images" / "000.txt").write_bytes(end.join(lines).encode(encoding))
    (tmp_path / "images" / "001.txt").write_text("0 .5 .5 .1 .1")
    (tmp_path / "data.yaml").write_text("train: l\nval: m\nnames: [red, green]\n")
    for name, image in (("l", "000.png"), ("m", "001.png")):
        (tmp_path / name).write_text(f"images/{image}")
    for name in ("labels",):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    shutil.move(tmp_path / "images" / "000.txt", _made(tmp_path / "labels") / "000.txt")
    shutil.move(tmp_path / "images" / "001.txt", tmp_path / "labels" / "001.txt")
    (sample,) = open_training_set(str(tmp_path / "data.yaml")).train
    assert sample.classes.tolist() == [kind for kind, _ in rows]
    clipped = [(x, y, min(x + w, 72), min(y + h, 60)) for _, (x, y, w, h) in rows]
    assert np.allclose(sample.boxes, clipped, atol=1e-3)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
