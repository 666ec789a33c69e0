"""COCO, YOLO and VOC: what is written can be read back, in every format's own terms."""

import json
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from labelled import judged, result, results
from PIL import Image

from secondlook.datasets.writers import OUTPUTS, WRITERS, Labels
from secondlook.evaluation.coco_files import join
from secondlook_client.errors import StorageFull
from secondlook_client.values import Outcome

CLASSES = ("person wearing glasses", "dog", "été <&> 😀")
BOX = (10.4, 20.6, 60.0, 90.0)


def write(name, out, images, root=None):
    """``images``: (name, result) pairs."""
    return WRITERS[name](Labels(root or out, CLASSES, lambda: iter(images)), out)


def any_results():
    return st.lists(results(CLASSES), min_size=1, max_size=4)


def close(box, other, within):
    return all(abs(a - b) <= within for a, b in zip(box, other, strict=True))


@given(any_results())
def test_coco_gives_back_every_label(found):
    images = [(f"{place}.jpg", one) for place, one in enumerate(found)]
    with tempfile.TemporaryDirectory() as folder:
        path = write("coco", Path(folder), images)
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
            lines = (out / f"labels/deep/{place}.txt").read_text().splitlines()
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


def test_coco_tells_the_verified_empty_from_the_doubtful(tmp_path):
    images = [
        ("nothing.jpg", result()),
        ("refuted.jpg", result(judged("dog", BOX, Outcome.REJECT))),
        ("doubtful.jpg", result(judged("dog", BOX, Outcome.UNSURE))),
        ("dog.jpg", result(judged("dog", BOX))),
    ]
    plain = json.loads(write("coco", tmp_path, images).read_text())
    assert [i["verified_empty"] for i in plain["images"]] == [True, True, False, False]
    assert [a["iscrowd"] for a in plain["annotations"]] == [1, 0]
    assert plain["annotations"][1]["bbox"] == [10.4, 20.6, 49.6, 69.4]
    assert plain["annotations"][1]["attributes"]["p_yes"] == 0.97


def test_yolo_trains_on_no_image_with_an_unsure_box(tmp_path):
    images = [
        ("sure.jpg", result(judged("dog", BOX), judged("dog", BOX, Outcome.REJECT))),
        ("doubtful.jpg", result(judged("dog", BOX), judged("dog", BOX, Outcome.UNSURE))),
    ]
    out = write("yolo", tmp_path, images)
    assert (out / "train.txt").read_text() == "./images/sure.jpg\n"
    assert (out / "unsure.txt").read_text() == "./images/doubtful.jpg\n"
    assert len((out / "labels/doubtful.txt").read_text().splitlines()) == 1


def test_yolo_links_to_the_images_without_copying_them(tmp_path):
    root = tmp_path / "images"
    (root / "a").mkdir(parents=True)
    Image.new("RGB", (32, 24)).save(root / "a" / "b.png")
    out = write("yolo", tmp_path / "out", [("a/b.png", result())], root)
    link = out / "images/a/b.png"
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


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_any_file_name_can_be_written(tmp_path, name):
    images = [(hostile, result(judged("dog", BOX))) for hostile in HOSTILE]
    out = write(name, tmp_path, images)
    if name == "coco":
        assert [i["file_name"] for i in json.loads(out.read_text())["images"]] == list(HOSTILE)
    elif name == "voc":
        assert len([ElementTree.parse(p) for p in out.rglob("*.xml")]) == len(HOSTILE)
    else:
        assert (out / "train.txt").read_bytes().count(b"\n") == len(HOSTILE)


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_failure_leaves_the_last_outputs_as_they_were(tmp_path, name):
    def broken():
        yield "a.jpg", result(judged("dog", BOX))
        raise StorageFull("the disk is full")

    out = write(name, tmp_path, [("old.jpg", result())])
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(StorageFull):
        WRITERS[name](Labels(tmp_path, CLASSES, broken), tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert out.exists()


def test_every_writer_s_output_is_listed(tmp_path):
    made = {write(name, tmp_path, [("a.jpg", result())]).name for name in WRITERS}
    assert made == set(OUTPUTS)
