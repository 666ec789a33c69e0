"""COCO, YOLO and VOC: what is written can be read back, in every format's own terms."""

import hashlib
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from labelled import boxes, judged, result, results
from PIL import Image

from secondlook.core.ontology_yaml import load_ontology
from secondlook.core.version import installed_version
from secondlook.datasets.corrected_sets import open_corrected
from secondlook.datasets.writers import (
    LABEL_FORMATS,
    UNSPLIT,
    DoubtfulImages,
    Labels,
    Provenance,
    copied_images,
    linked_images,
    write_format,
)
from secondlook.datasets.writers.label_set import portable_name
from secondlook.evaluation.coco_files import join
from secondlook_client.errors import Damaged, StorageFull
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import EmptyReason, Outcome

CLASSES = ("person wearing glasses", "dog", "été <&> 😀")
BOX = (10.4, 20.6, 60.0, 90.0)


def write(name, out, images, root=None, notes=None, **more):
    """``images``: (name, result) pairs; ``more``: of ``Labels``."""
    labels = Labels(CLASSES, lambda: iter(images), linked_images(root or out), **more)
    return write_format(name, {UNSPLIT: labels}, out, notes)


def coco_of(out):
    return out / "annotations" / "instances_default.json"


def any_results():
    return st.lists(results(CLASSES), min_size=1, max_size=4)


def close(box, other, within):
    return all(abs(a - b) <= within for a, b in zip(box, other, strict=True))


@given(any_results())
def test_coco_gives_back_every_label(found):
    images = [(f"{place}.jpg", one) for place, one in enumerate(found)]
    with tempfile.TemporaryDirectory() as folder:
        path = coco_of(write("coco", Path(folder), images))
        plain = json.loads(path.read_text(encoding="utf-8"))
        joined = join(path, path)
    assert [i["file_name"] for i in plain["images"]] == [name for name, _ in images]
    for name, one in images:
        detections, truth = joined.images[name]
        assert [d.class_name for d in detections] == [j.class_name for j in one.labels]
        assert all(close(d.box, j.box, 0.011) for d, j in zip(detections, one.labels, strict=True))
        assert sum(t.ignore for t in truth) == len(one.of(Outcome.UNSURE))


@given(any_results())
def test_yolo_gives_back_every_label(found):
    images = [(f"deep/{place}.jpg", one) for place, one in enumerate(found)]
    with tempfile.TemporaryDirectory() as folder:
        out = write("yolo", Path(folder), images)
        names = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))["names"]
        for place, one in enumerate(found):
            nothing = one.empty is EmptyReason.NOTHING_PROPOSED
            home = out / "unsure" if one.of(Outcome.UNSURE) else out
            home = out / "nothing_proposed" if nothing else home
            lines = (home / f"labels/default/deep__{place}.txt").read_text().splitlines()
            for line, label in zip(lines, one.labels, strict=True):
                number, *numbers = line.split()
                cx, cy, w, h = (float(n) for n in numbers)
                box = ((cx - w / 2) * 320, (cy - h / 2) * 240, (cx + w / 2) * 320)
                assert names[int(number)] == label.class_name
                assert close(box, label.box[:3], 0.001)


@given(any_results())
def test_voc_gives_back_every_box_and_marks_the_unsure(found):
    images = [(f"{place}.jpg", one) for place, one in enumerate(found)]
    with tempfile.TemporaryDirectory() as folder:
        out = write("voc", Path(folder), images)
        for place, one in enumerate(found):
            root = ElementTree.parse(out / f"Annotations/{place}.xml").getroot()
            kept = [j for j in one.judgements if j.outcome is not Outcome.REJECT]
            for entry, label in zip(root.findall("object"), kept, strict=True):
                bounds = [int(e.text) for e in entry.find("bndbox")]
                assert entry.findtext("name") == label.class_name
                assert (entry.findtext("difficult") == "1") == (label.outcome is Outcome.UNSURE)
                box = (bounds[0] - 1, bounds[1] - 1, bounds[2], bounds[3])
                assert close(box, label.box, 0.51)
                assert bounds[0] <= bounds[2] and bounds[1] <= bounds[3]


def test_coco_says_why_an_image_is_empty(tmp_path):
    images = [
        ("nothing.jpg", result()),
        ("refuted.jpg", result(judged("dog", BOX, Outcome.REJECT))),
        ("doubtful.jpg", result(judged("dog", BOX, Outcome.UNSURE))),
        ("dog.jpg", result(judged("dog", BOX))),
    ]
    plain = json.loads(coco_of(write("coco", tmp_path, images)).read_text())
    assert [i["empty"] for i in plain["images"]] == ["nothing_proposed", "all_rejected", None, None]
    assert [a["iscrowd"] for a in plain["annotations"]] == [1, 0]
    assert plain["annotations"][1]["bbox"] == [10.4, 20.6, 49.6, 69.4]
    assert plain["annotations"][1]["attributes"]["p_yes"] == 0.97


def test_no_image_with_an_unsure_box_is_found_in_yolo_s_folders(tmp_path):
    images = [
        ("sure.jpg", result(judged("dog", BOX), judged("dog", BOX, Outcome.REJECT))),
        ("doubtful.jpg", result(judged("dog", BOX), judged("dog", BOX, Outcome.UNSURE))),
    ]
    out = write("yolo", tmp_path, images)
    assert [p.name for p in (out / "images/default").iterdir()] == ["sure.jpg"]
    assert [p.name for p in (out / "labels/default").iterdir()] == ["sure.txt"]
    assert [p.name for p in (out / "unsure/images/default").iterdir()] == ["doubtful.jpg"]
    assert len((out / "unsure/labels/default/doubtful.txt").read_text().splitlines()) == 1


IN_DOUBT = [
    ("sure.jpg", result(judged("dog", BOX))),
    ("doubtful.jpg", result(judged("dog", BOX), judged("dog", BOX, Outcome.UNSURE))),
    ("rejected.jpg", result(judged("dog", BOX, Outcome.REJECT))),
    ("nothing.jpg", result()),
]


def rows_of(out):
    """How many rows each label file has, by its path."""
    return {str(p.relative_to(out)): p.read_text().count("\n") for p in out.rglob("*.txt")}


LABELS = "labels/default"


@pytest.mark.parametrize(
    ("choice", "doubtful", "says"),
    [
        ("separate", {f"unsure/{LABELS}/doubtful.txt": 1}, "the images are in unsure/"),
        ("leave-out", {}, "the images are left out"),
        ("background", {f"{LABELS}/doubtful.txt": 1}, "these boxes are learnt as background"),
        ("label", {f"{LABELS}/doubtful.txt": 2}, "these boxes are labels here"),
    ],
)
def test_what_yolo_makes_of_unsure_boxes_is_chosen_and_told(tmp_path, choice, doubtful, says):
    notes = []
    out = write("yolo", tmp_path, IN_DOUBT, notes=notes, unsure=DoubtfulImages(choice))
    rest = {f"{LABELS}/sure.txt": 1, f"{LABELS}/rejected.txt": 0}
    assert rows_of(out) == {**rest, **doubtful, f"nothing_proposed/{LABELS}/nothing.txt": 0}
    (note,) = (note for note in notes if "--unsure" in note)
    assert note.startswith("YOLO: 1 of 4 images have an unsure box") and says in note
    assert f"# {note}\n" in (out / "data.yaml").read_text()
    images = {p.stem for p in out.rglob("*.jpg")}
    assert images == {Path(path).stem for path in rows_of(out)}


@pytest.mark.parametrize(
    ("choice", "place", "says"),
    [
        ("separate", f"nothing_proposed/{LABELS}/nothing.txt", "are in nothing_proposed/"),
        ("leave-out", None, "are left out"),
        ("background", f"{LABELS}/nothing.txt", "are learnt as background"),
    ],
)
def test_what_yolo_makes_of_images_with_nothing_proposed(tmp_path, choice, place, says):
    notes = []
    chosen = DoubtfulImages(choice)
    out = write("yolo", tmp_path, IN_DOUBT, notes=notes, nothing_proposed=chosen)
    assert [path for path in rows_of(out) if "nothing.txt" in path] == [*filter(None, [place])]
    (note,) = (note for note in notes if "--nothing-proposed" in note)
    assert note.startswith("YOLO: 1 of 4 images had nothing proposed") and says in note


def test_yolo_without_images_in_doubt_says_nothing_of_them(tmp_path):
    notes = []
    out = write("yolo", tmp_path, IN_DOUBT[:1], notes=notes)
    assert notes == [] and "doubt" not in (out / "data.yaml").read_text()


ONTOLOGY = Ontology(tuple(ClassSpec(name, threshold=0.3) for name in CLASSES))
PROVENANCE = Provenance(1_774_000_000.0, ("finder@1", "asker@2"), ONTOLOGY)


def test_coco_says_how_its_labels_came_to_be(tmp_path):
    images = [("a.jpg", result(judged("dog", BOX, Outcome.REJECT), judged("dog", BOX)))]
    more = {"provenance": PROVENANCE, "cursors": lambda: iter([81])}
    plain = json.loads(coco_of(write("coco", tmp_path, images, **more)).read_text())
    info = plain["info"]
    assert info["models"] == ["finder@1", "asker@2"]
    assert (info["date_created"], info["year"]) == ("2026-03-20T09:46:40+00:00", 2026)
    assert info["version"] == installed_version()
    assert info["ontology"]["digest"] == ONTOLOGY.digest
    dog = info["ontology"]["classes"][1]
    assert (dog["question"], dog["threshold"]) == ("Is this a dog?", 0.3)
    assert plain["images"][0]["sha256"] == "0" * 64
    assert [a["label_id"] for a in plain["annotations"]] == ["81.1"]
    assert load_ontology(tmp_path / "coco" / "ontology.yaml") == ONTOLOGY


def test_an_unknown_id_is_left_out(tmp_path):
    images = [("a.jpg", result(judged("dog", BOX)))]
    plain = json.loads(coco_of(write("coco", tmp_path, images)).read_text())
    assert "label_id" not in plain["annotations"][0]
    root = ElementTree.parse(write("voc", tmp_path, images) / "Annotations/a.xml").getroot()
    assert root.find("object/label_id") is None


def test_voc_says_why_an_image_is_empty_and_what_explains_a_label(tmp_path):
    def empty_of(out):
        files = sorted((out / "Annotations").iterdir())
        return {p.stem: ElementTree.parse(p).getroot().findtext("empty") for p in files}

    out = write("voc", tmp_path, IN_DOUBT, cursors=lambda: iter([7, 8, 9, 10]))
    found = ElementTree.parse(out / "Annotations/doubtful.xml").getroot().iter("label_id")
    assert [entry.text for entry in found] == ["8.0", "8.1"]
    told = {"sure": None, "doubtful": None, "rejected": "all_rejected"}
    assert empty_of(out) == {**told, "nothing": "nothing_proposed"}
    background = {"nothing_proposed": DoubtfulImages.BACKGROUND}
    assert empty_of(write("voc", tmp_path, IN_DOUBT, **background)) == {**told, "nothing": None}


def copies(tmp_path, content=b"image", sha256=None):
    """A function that places copies of ``content``, and a result of such an image."""
    staged = tmp_path / "staged"
    staged.mkdir()
    sha256 = hashlib.sha256(content).hexdigest() if sha256 is None else sha256
    return copied_images(staged, lambda *_: content), replace(result(), sha256=sha256)


def test_copied_images_are_on_the_disk_once_and_no_links_to_the_original(tmp_path):
    place, one = copies(tmp_path)
    for name in ("a", "b"):
        place("x.jpg", one, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == b"image"
    assert (tmp_path / "a").samefile(tmp_path / "b") and not (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("sha256", ["0" * 64, "../../../x", "", "0" * 63])
def test_only_what_was_labelled_is_copied(tmp_path, sha256):
    place, one = copies(tmp_path, sha256=sha256)
    with pytest.raises(Damaged, match=r"'x\.jpg' (was changed|has no SHA-256)"):
        place("x.jpg", one, tmp_path / "a")
    assert [p.name for p in tmp_path.rglob("*")] == ["staged"]


def test_yolo_links_to_the_images_without_copying_them(tmp_path):
    root = tmp_path / "images"
    (root / "a").mkdir(parents=True)
    Image.new("RGB", (32, 24)).save(root / "a" / "b.png")
    out = write("yolo", tmp_path / "out", [("a/b.png", result(judged("dog", BOX)))], root)
    link = out / "images/default/a__b.png"
    assert link.samefile(root / "a" / "b.png") and not link.is_symlink()
    assert Image.open(link).size == (32, 24)


def test_where_hard_links_are_impossible_links_are_relative(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(18, "Invalid cross-device link")

    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "in").mkdir()
    Image.new("RGB", (32, 24)).save(tmp_path / "in" / "b.png")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "out").symlink_to(real)  # a link in the output's own path
    monkeypatch.setattr("os.link", refused)
    out = write("coco", tmp_path / "deep" / "out", [("b.png", result())], tmp_path / "in")
    link = out / "images/default/b.png"
    assert link.is_symlink() and not link.readlink().is_absolute()
    assert Image.open(link).size == (32, 24)


@pytest.mark.parametrize("name", ["yolo", "voc"])
def test_images_that_differ_in_their_suffix_keep_their_own_labels(tmp_path, name):
    images = [("a.jpg", result(judged("dog", BOX))), ("a.png", result())]
    out = write(name, tmp_path, images)
    suffix = {"yolo": "txt", "voc": "xml"}[name]
    contents = sorted(p.read_text() for p in out.rglob(f"a*.{suffix}"))
    assert len(contents) == 2 and contents[0] != contents[1]


HOSTILE = ("new\nline.jpg", "q'u\"o<t>&e.jpg", "ctrl\x01.jpg", "ночь 😀.jpg", "\udcff.jpg", "..x")


@pytest.mark.parametrize("name", LABEL_FORMATS)
def test_any_file_name_can_be_written(tmp_path, name):
    images = [(hostile, result(judged("dog", BOX))) for hostile in HOSTILE]
    out = write(name, tmp_path, images)
    if name.startswith("coco"):
        assert len(json.loads(coco_of(out).read_text())["images"]) == len(HOSTILE)
    elif name in ("cvat", "fiftyone"):
        (found,) = open_corrected(out)
        names = [image.name.replace("\N{REPLACEMENT CHARACTER}", "\x01") for image in found.images]
        assert names == [*HOSTILE], "what XML has no way to write is replaced"
    elif name == "label-studio":
        tasks = json.loads((out / "tasks.json").read_text())
        assert len({task["data"]["image"] for task in tasks}) == len(HOSTILE)
    elif name == "voc":
        assert len([ElementTree.parse(p) for p in out.rglob("*.xml")]) == len(HOSTILE)
    elif name in ("mot", "cvat-video"):  # a folder of images is one sequence
        assert len([*out.rglob("0*.*")]) == len(HOSTILE)
    else:
        assert len([*(out / "labels").rglob("*.txt")]) == len(HOSTILE)


@pytest.mark.parametrize("name", LABEL_FORMATS)
def test_a_failure_leaves_the_last_outputs_as_they_were(tmp_path, name):
    def broken():
        yield "a.jpg", result(judged("dog", BOX))
        raise StorageFull("the disk is full")

    out = write(name, tmp_path, [("old.jpg", result())])
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(StorageFull):
        labels = Labels(CLASSES, broken, linked_images(tmp_path))
        write_format(name, {UNSPLIT: labels}, tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert out.exists()


def test_the_folders_of_a_run_are_called_like_the_formats(tmp_path):
    """``OutputFolder.clear`` removes them by these names."""
    for name in LABEL_FORMATS:
        assert write(name, tmp_path, [("a.jpg", result())]) == tmp_path / name


@given(boxes(40, 30))
def test_a_crowd_s_run_lengths_are_the_pixels_of_its_box(box):
    found = [("a.jpg", result(judged("dog", box, Outcome.UNSURE), width=40, height=30))]
    with tempfile.TemporaryDirectory() as folder:
        plain = json.loads(coco_of(write("coco", Path(folder), found)).read_text())
    (entry,) = plain["annotations"]
    counts, (height, width) = entry["segmentation"]["counts"], entry["segmentation"]["size"]
    assert (width, height) == (40, 30) and sum(counts) == width * height
    ones = np.repeat(np.arange(len(counts)) % 2, counts).reshape(width, height).T
    x1, y1, x2, y2 = (*map(math.floor, box[:2]), *map(math.ceil, box[2:]))
    expected = np.zeros((height, width))
    expected[y1:y2, x1:x2] = 1
    assert (ones == expected).all()


def test_a_label_s_outline_is_its_box(tmp_path):
    out = write("coco", tmp_path, [("a.jpg", result(judged("dog", BOX)))])
    (entry,) = json.loads(coco_of(out).read_text())["annotations"]
    assert entry["segmentation"] == [[10.4, 20.6, 60.0, 20.6, 60.0, 90.0, 10.4, 90.0]]


def test_voc_has_a_label_map_and_no_colon_in_it(tmp_path):
    labels = Labels(
        ("a:b", "a_b", "#c"),
        lambda: iter([("x.jpg", result(judged("a:b", BOX), judged("#c", BOX)))]),
        linked_images(tmp_path),
    )
    out = write_format("voc", {UNSPLIT: labels}, tmp_path)
    lines = (out / "labelmap.txt").read_text().splitlines()
    assert lines[1:] == ["background:::", "a_b_:::", "a_b:::", "_c:::"]
    root = ElementTree.parse(out / "Annotations/x.xml").getroot()
    assert [entry.findtext("name") for entry in root.findall("object")] == ["a_b_", "_c"]


def test_a_name_that_is_left_alone_is_nearly_every_name():
    for name in (
        "a.jpg",
        "sub/images/b c.jpg",
        "ночь \U0001f600.jpg",
        " x.jpg",
        "100%#.jpg",
        "a:b.jpg",
    ):
        assert (portable_name(name) == name) == (name != "a:b.jpg")
    assert portable_name("a:b.jpg").startswith("a_b-")
    assert portable_name("12:00:00.jpg") == "12:00:00.jpg"
    assert len(portable_name("d/" * 1000 + "x.jpg")) < 50
    assert portable_name("x\udcff.jpg") != portable_name("x\udcfe.jpg")


@pytest.mark.parametrize("name", ["link/secret.png", "../outside/secret.png"])
def test_no_copy_of_what_lies_outside_gets_into_a_dataset(tmp_path, name):
    """A server names the images, and links in the folder may lead anywhere."""
    root, outside = tmp_path / "images", tmp_path / "outside"
    for folder in (root, outside, tmp_path / "out"):
        folder.mkdir()
    (outside / "secret.png").write_bytes(b"secret")
    (root / "link").symlink_to(outside)
    linked_images(root)(name, result(), tmp_path / "out" / "x.png")
    assert (tmp_path / "out" / "x.png").is_symlink()
    assert (outside / "secret.png").stat().st_nlink == 1
