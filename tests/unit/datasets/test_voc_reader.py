"""Pascal VOC as it is found: its layouts, what is odd in it, and what is refused."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_sets import CLASSES, drawn, voc_xml, write_images, write_voc

from secondlook.datasets.open import open_training_set
from secondlook.datasets.readers.voc import find_voc, parse_xml, read_voc
from secondlook_client.values import EmptyReason

PARTS = {"train": range(6), "val": range(6, 9)}


def put(folder: Path, annotations: Path, seed: int) -> None:
    """Draw an image into ``folder``, and its annotation into ``annotations``."""
    (name,), (rows,) = write_images(folder, [seed])
    annotations.mkdir(parents=True, exist_ok=True)
    (annotations / f"{seed:03}.xml").write_text(voc_xml(rows, name))


def devkit(root: Path) -> Path:
    """With VOC's lists of one class and of both splits."""
    write_voc(root, PARTS)
    lists = root / "ImageSets" / "Main"
    for part, seeds in PARTS.items():
        (lists / f"red_{part}.txt").write_text("".join(f"{seed:03}  1\n" for seed in seeds))
    (lists / "trainval.txt").write_text("".join(f"{seed:03}\n" for seed in range(9)))
    return root


def roboflow(root: Path) -> Path:
    for part, seeds in {"train": PARTS["train"], "valid": PARTS["val"]}.items():
        for seed in seeds:
            put(root / part, root / part, seed)
    return root


@pytest.mark.parametrize("layout", [devkit, roboflow])
def test_layouts_with_splits(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    data = open_training_set(str(layout(tmp_path / "set")))
    assert set(data.classes) == set(CLASSES) and data.split == "val"
    assert (len(data.train), len(data.held_out)) == (6, 3)
    for sample in (*data.train, *data.held_out):
        expected = {
            (*box, data.classes.index(CLASSES[n])) for n, box in drawn(int(sample.path.stem))[1]
        }
        found = zip(sample.boxes.tolist(), sample.classes.tolist(), strict=True)
        assert {(*box, number) for box, number in found} == expected


def beside(root: Path) -> Path:
    for seed in range(9):
        put(root, root, seed)
    return root


def without_lists(root: Path) -> Path:
    for seed in range(9):
        put(root / "images", root / "Annotations", seed)
    return root


@pytest.mark.parametrize("layout", [beside, without_lists])
def test_layouts_without_splits(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    root = layout(tmp_path / "set")
    assert find_voc(root) == root
    data = read_voc("x", root)
    assert {split: len(samples) for split, samples in data.samples.items()} == {"": 9}
    assert data.format == "voc" and not any(s.problem for s in data.samples[""])


def test_trainval_is_the_training_where_there_is_no_other(tmp_path: Path) -> None:
    root = devkit(tmp_path / "set")
    lists = root / "ImageSets" / "Main"
    (lists / "train.txt").unlink()
    (lists / "val.txt").rename(lists / "test.txt")
    assert {s: len(found) for s, found in read_voc("x", root).samples.items()} == {
        "test": 3,
        "train": 9,
    }


def one_image(root: Path, xml: str | bytes) -> Path:
    put(root / "JPEGImages", root / "Annotations", 0)
    path = root / "Annotations" / "000.xml"
    path.write_bytes(xml.encode() if isinstance(xml, str) else xml)
    return root


DIFFICULT = (
    "<object><name>red</name><difficult>1</difficult><part><name>hand</name></part><bndbox>"
    "<xmin>1</xmin><ymin>1</ymin><xmax>9.5</xmax><ymax>9</ymax></bndbox></object>"
)


def test_a_difficult_object_is_an_ignore_region(tmp_path: Path) -> None:
    root = one_image(tmp_path, voc_xml(drawn(0)[1], more=DIFFICULT))
    (sample,) = read_voc("x", root).samples[""]
    assert len(sample.boxes) == 2 and sample.ignore.tolist() == [[0, 0, 9.5, 9]]


@pytest.mark.parametrize("reason", [*EmptyReason, "else"])
def test_our_own_reason_of_an_empty_image_is_read(tmp_path: Path, reason: str) -> None:
    root = one_image(tmp_path, voc_xml([], more=f"<empty>{reason}</empty>"))
    (sample,) = read_voc("x", root).samples[""]
    assert sample.empty == (reason if reason != "else" else None)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("<object><bndbox/></object>", "it has no name"),
        ("<object><name>red</name></object>", "it has no bndbox"),
        (DIFFICULT.replace("9.5", "nan"), "got nan"),
        (DIFFICULT.replace("9.5", "-4"), "wrong way round"),
        (DIFFICULT.replace(">1</diff", ">maybe</diff"), "expected 0 or 1"),
    ],
)
def test_an_object_that_cannot_be_read_costs_that_object(
    tmp_path: Path, broken: str, says: str
) -> None:
    data = read_voc("x", one_image(tmp_path, voc_xml(drawn(0)[1], more=broken)))
    assert len(data.samples[""][0].boxes) == 2
    assert any("000.xml, object 3" in warning and says in warning for warning in data.warnings)


ENTITIES = '<!DOCTYPE a [<!ENTITY x "ha">]><annotation><filename>&x;</filename></annotation>'


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        (ENTITIES, "declares a document type"),
        ("<annotation><object>", "it is not XML"),
        (b"\x00\x01\x02", "it is not text"),
        ("", "it is not XML"),
        ("<a>" * 100 + "</a>" * 100, "nested too deep"),
        ("<annotation>" + "<a/>" * 200_000 + "</annotation>", "too many elements"),
        ("<a>" + " " * (1 << 22) + "</a>", "more than 4 MiB"),
        ("<annotation><size><width>9</width><height>9</height></size></annotation>", "9×9"),
    ],
)
def test_a_file_that_cannot_be_read_costs_its_image(
    tmp_path: Path, xml: str | bytes, says: str
) -> None:
    began = time.process_time()
    (sample,) = read_voc("x", one_image(tmp_path, xml)).samples[""]
    assert says in sample.problem
    assert time.process_time() - began < 2


@given(st.text(max_size=300))
def test_any_text_is_xml_or_refused(text: str) -> None:
    try:
        assert parse_xml(text).tag
    except ValueError as refusal:
        assert str(refusal)


def test_an_image_without_an_annotation_is_not_taken_for_empty(tmp_path: Path) -> None:
    root = devkit(tmp_path / "set")
    (root / "Annotations" / "002.xml").unlink()
    problems = {s.name: s.problem for s in read_voc("x", root).samples["train"] if s.problem}
    assert "no annotation file" in problems["JPEGImages/002.png"]
    (root / "JPEGImages" / "003.png").unlink()
    problems = {s.name: s.problem for s in read_voc("x", root).samples["train"] if s.problem}
    assert problems["003.png"] == "it is missing"


@pytest.mark.parametrize("entry", ["../../secret", "/etc/passwd", "../Annotations/000"])
def test_nothing_outside_of_the_folder_is_read(tmp_path: Path, entry: str) -> None:
    root = devkit(tmp_path / "set")
    (tmp_path / "secret.xml").write_text(voc_xml([], "../../secret.png"))
    drawn(0)[0].save(tmp_path / "secret.png")
    (root / "ImageSets" / "Main" / "train.txt").write_text(f"{entry}\n000\n")
    found = read_voc("x", root).samples["train"]
    assert all(root in sample.path.parents for sample in found if not sample.problem)
    assert not any("secret" in str(sample.path.resolve()) for sample in found if not sample.problem)


def test_the_name_in_the_annotation_finds_an_image_of_another_stem(tmp_path: Path) -> None:
    root = one_image(tmp_path, voc_xml(drawn(0)[1], "C:\\pictures\\other.png"))
    (root / "JPEGImages" / "000.png").rename(root / "JPEGImages" / "other.png")
    (sample,) = read_voc("x", root).samples[""]
    assert (sample.name, sample.problem) == ("JPEGImages/other.png", "")
