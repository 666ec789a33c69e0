"""Masks in every format: what is written is read back to the pixel, and what is foreign is told."""

import json
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import judged, result
from masks import arrays_of_masks, disc, with_mask
from PIL import Image
from pycocotools import mask as coco_masks

from secondlook.core.masks import mask_from_polygons
from secondlook.datasets.annotated_images import AnnotatedSet
from secondlook.datasets.checked_files import kept_labels
from secondlook.datasets.open import read_path
from secondlook.datasets.writers import UNSPLIT, Labels, linked_images, write_format
from secondlook.datasets.writers.label_studio import brush_code
from secondlook_client.masks import Mask
from secondlook_client.values import Outcome

CLASSES = ("dog", "cat")
SIZE = 72, 64
BOX = (8.0, 4.0, 40.0, 36.5)
DISC = disc(*SIZE, BOX)
SEGMENTED = with_mask(judged("dog", BOX), DISC)
PLAIN = judged("cat", (41.0, 40.0, 70.0, 60.0))
WITH_MASKS = ("coco", "coco-polygons", "yolo-seg")


def of_image(*judgements):
    return result(*judgements, width=SIZE[0], height=SIZE[1])


def write(name, top, *judgements):
    """The folder of a format with one image, ``a.png``."""
    (top / "in").mkdir(exist_ok=True)
    Image.new("RGB", SIZE).save(top / "in" / "a.png")
    labels = Labels(
        CLASSES, lambda: iter([("a.png", of_image(*judgements))]), linked_images(top / "in")
    )
    return write_format(name, {UNSPLIT: labels}, top / "out")


@contextmanager
def temporary():
    top = Path(tempfile.mkdtemp())
    try:
        yield top
    finally:
        shutil.rmtree(top)


def read(folder, masks=True):
    data = read_path(folder, masks=masks)
    samples = next(iter(data.samples.values()))  # YOLO names one split twice
    (sample,) = samples
    assert sample.problem == ""
    return sample, data.warnings


def annotations(folder):
    path = folder / "annotations" / f"instances_{UNSPLIT}.json"
    return json.loads(path.read_text())["annotations"]


@pytest.mark.parametrize("name", WITH_MASKS)
@settings(max_examples=10, deadline=None)
@given(found=st.lists(arrays_of_masks(24).filter(np.any), min_size=1, max_size=3))
def test_any_mask_is_read_back_to_the_pixel(name, found):
    placed = []
    for pixels in found:
        whole = np.zeros((SIZE[1], SIZE[0]), bool)
        whole[3 : 3 + pixels.shape[0], 5 : 5 + pixels.shape[1]] = pixels
        placed.append(whole)
    with temporary() as top:
        judgements = [with_mask(judged("dog", BOX), pixels) for pixels in placed]
        sample, warnings = read(write(name, top, *judgements))
    assert sample.masks == tuple(Mask.from_array(pixels) for pixels in placed)
    assert warnings == ()


@pytest.mark.parametrize("name", WITH_MASKS)
def test_a_label_without_a_mask_stays_without_one(tmp_path, name):
    rectangle = np.zeros((SIZE[1], SIZE[0]), bool)
    rectangle[40:60, 41:70] = True
    judgements = SEGMENTED, PLAIN, with_mask(PLAIN, rectangle)
    sample, _ = read(write(name, tmp_path, *judgements))
    assert sample.masks == tuple(judgement.mask for judgement in judgements)
    assert sample.boxes[1].tolist() == pytest.approx(PLAIN.box, abs=0.01)


@pytest.mark.parametrize("name", WITH_MASKS)
def test_nobody_reads_masks_without_asking(tmp_path, name):
    assert read(write(name, tmp_path, SEGMENTED), masks=False)[0].masks == ()


def test_coco_has_codes_or_polygons_of_the_same_mask(tmp_path):
    (code,) = annotations(write("coco", tmp_path, SEGMENTED))
    (polygons,) = annotations(write("coco-polygons", tmp_path, SEGMENTED))
    assert code["segmentation"] == {"size": [64, 72], "counts": SEGMENTED.mask.counts}
    assert coco_masks.decode(code["segmentation"]).tolist() == DISC.astype(int).tolist()
    merged = coco_masks.merge(coco_masks.frPyObjects(polygons["segmentation"], 64, 72))
    assert merged["counts"].decode() == SEGMENTED.mask.counts
    assert len(polygons["segmentation"]) == 2
    for one in (code, polygons):
        assert one["area"] == DISC.sum() and one["bbox"] == [8.0, 4.0, 32.0, 32.5]
        told = {key: value for key, value in one["attributes"].items() if "mask" in key}
        scores = {"mask_quality": 0.9, "mask_stability": 0.95}
        assert told == {**scores, "mask_model": "scripted@1"}


def test_an_unsure_mask_is_a_crowd_region(tmp_path):
    unsure = with_mask(judged("dog", BOX, Outcome.UNSURE), DISC)
    for name in ("coco", "coco-polygons"):
        (found,) = annotations(write(name, tmp_path, unsure))
        assert (found["iscrowd"], found["area"]) == (1, DISC.sum())
        assert found["segmentation"]["counts"] == Mask.from_array(DISC).runs.tolist()


def test_what_no_polygon_can_hold_stays_a_code(tmp_path, monkeypatch):
    monkeypatch.setattr("secondlook.core.masks.MAX_CORNERS", 10)
    (found,) = annotations(write("coco-polygons", tmp_path, SEGMENTED))
    assert found["segmentation"]["counts"] == SEGMENTED.mask.counts
    (row,) = rows(write("yolo-seg", tmp_path, SEGMENTED))
    assert len(row) == 9  # the class and the corners of the box


def rows(folder):
    text = (folder / f"labels/{UNSPLIT}/a.txt").read_text()
    return [line.split() for line in text.splitlines()]


def test_yolo_has_one_row_an_object_and_an_outline_for_each(tmp_path):
    folder = write("yolo-seg", tmp_path, SEGMENTED, PLAIN)
    with_parts, box = rows(folder)
    assert "task: segment" in (folder / "data.yaml").read_text()
    assert len(with_parts) > 9 and len(box) == 9
    corners = np.array([float(value) for value in with_parts[1:]]).reshape(-1, 2) * SIZE
    assert mask_from_polygons([corners], *SIZE) == SEGMENTED.mask
    boxes = write("yolo", tmp_path, SEGMENTED, PLAIN)
    assert [len(row) for row in rows(boxes)] == [5, 5]
    assert "task" not in (boxes / "data.yaml").read_text()


def test_voc_has_palette_images_of_classes_and_objects(tmp_path):
    unsure = with_mask(judged("dog", (0, 50, 9, 60), Outcome.UNSURE), disc(*SIZE, (0, 50, 9, 60)))
    inner = np.zeros((SIZE[1], SIZE[0]), bool)
    inner[6:9, 20:26] = True
    rejected = with_mask(judged("dog", BOX, Outcome.REJECT), ~DISC)
    cat = with_mask(judged("cat", (20, 6, 26, 9)), inner)
    folder = write("voc", tmp_path, cat, SEGMENTED, unsure, PLAIN, rejected)
    classes, objects = (
        Image.open(folder / name / "a.png") for name in ("SegmentationClass", "SegmentationObject")
    )
    assert classes.mode == objects.mode == "P" and classes.size == SIZE
    assert classes.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
    of_class, of_object = np.array(classes), np.array(objects)
    assert (of_object[inner] == 1).all() and (of_class[inner] == 2).all()
    only_dog = DISC & ~inner
    assert (of_object[only_dog] == 2).all() and (of_class[only_dog] == 1).all()
    for found in (of_class, of_object):
        assert (found[unsure.mask.to_array()] == 255).all() and found[50, 60] == 255
    assert (folder / "ImageSets/Segmentation/default.txt").read_text() == "a\n"
    root = ElementTree.parse(folder / "Annotations/a.xml").getroot()
    assert root.findtext("segmented") == "1"


def test_voc_without_masks_is_as_before(tmp_path):
    folder = write("voc", tmp_path, PLAIN)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [
        "Annotations",
        "ImageSets",
        "JPEGImages",
    ]
    assert not (folder / "ImageSets/Segmentation").exists()


def brushed(code):
    """What Label Studio's decoder makes of a code: the values, four a pixel."""
    bits = "".join(f"{byte:08b}" for byte in code)
    at = 0

    def take(count):
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values = []
    while len(values) < total:
        repeated = take(1)
        length = take(sizes[take(2)]) + 1
        values += [take(word)] * length if repeated else [take(word) for _ in range(length)]
    return np.array(values)


@given(arrays_of_masks())
def test_a_brush_stroke_is_the_mask(pixels):
    values = brushed(brush_code(Mask.from_array(pixels))).reshape(*pixels.shape, 4)
    assert (values == pixels[..., None] * 255).all()


def test_label_studio_has_a_rectangle_and_a_stroke(tmp_path):
    folder = write("label-studio", tmp_path, SEGMENTED, PLAIN, judged("dog", BOX, Outcome.REJECT))
    (task,) = json.loads((folder / "tasks.json").read_text())
    assert (folder / "images/default/a.png").is_file()
    assert task["data"]["image"] == "/data/local-files/?d=label-studio/images/default/a.png"
    found = task["predictions"][0]["result"]
    kinds = ["rectanglelabels", "brushlabels", "rectanglelabels"]
    assert [one["type"] for one in found] == kinds
    assert found[0]["value"]["x"] == pytest.approx(100 * 8 / 72)
    assert (brushed(found[1]["value"]["rle"]).reshape(64, 72, 4)[..., 3] == DISC * 255).all()
    config = ElementTree.parse(folder / "label_config.xml").getroot()
    assert {one["from_name"] for one in found} == {"box", "mask"}
    assert [tag.get("name") for tag in config if tag.tag.endswith("Labels")] == ["box", "mask"]


CODE = {"size": [64, 72], "counts": SEGMENTED.mask.counts}
SQUARE = [10, 10, 20, 10, 20, 20, 10, 20]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [72, 64], "counts": SEGMENTED.mask.counts}, "the image has"),
        ({"size": "large", "counts": "0"}, "the image has"),
        ({**CODE, "counts": SEGMENTED.mask.counts[:-2]}, "run-length code"),
        ({**CODE, "counts": "\u2028~~~"}, "not ASCII"),
        ({**CODE, "counts": "~~~"}, "characters that none has"),
        ({**CODE, "counts": [1, 2, 3]}, "does not fill its image"),
        ({**CODE, "counts": [-1, 4609]}, "does not fill its image"),
        ({**CODE, "counts": [None, "x"]}, "expected a number"),
        ({**CODE, "counts": [0] * (2**20 + 1)}, "1,048,577 runs"),
        ({**CODE, "counts": None}, "expected counts"),
        ({**CODE, "counts": [4608]}, "covers no pixel"),
        ([[float("nan"), 1, 5, 1, 5, 5]], "no numbers"),
        ([[1e9, 1, 5, 1, 5, 5]], "far outside"),
        ([[1e400, "x", 5, 1, 5, 5]], "no numbers"),
        ([[1, 2, 3]], "not a list of x and y"),
        ([SQUARE, {"x": 1}], "not a list of x and y"),
        ([[0, 0] * 10**6], "1,000,000 corners"),
        ([[1, 1, 2, 2]], "covers no pixel"),
        ("polygon", "expected a run-length code or polygons"),
    ],
)
def test_a_foreign_mask_costs_a_sentence_and_never_the_box(tmp_path, segmentation, message):
    folder = write("coco", tmp_path, SEGMENTED)
    path = folder / "annotations" / f"instances_{UNSPLIT}.json"
    plain = json.loads(path.read_text())
    plain["annotations"][0]["segmentation"] = segmentation
    path.write_text(json.dumps(plain))
    sample, (warning,) = read(folder)
    assert len(sample.boxes) == 1 and sample.masks == (None,)
    assert "1 of 1 masks cannot be read and are left out: 'a.png', label 1: " in warning
    assert message in warning and len(warning) < 400


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [64, 72], "counts": Mask.from_array(DISC).runs.tolist()},
        {"size": [64.0, "72"], "counts": SEGMENTED.mask.counts},
    ],
)
def test_codes_of_other_programs_are_read(tmp_path, segmentation):
    folder = write("coco", tmp_path, SEGMENTED)
    path = folder / "annotations" / f"instances_{UNSPLIT}.json"
    plain = json.loads(path.read_text())
    plain["annotations"][0]["segmentation"] = segmentation
    path.write_text(json.dumps(plain))
    assert read(folder)[0].masks == (SEGMENTED.mask,)


def yolo_row(tmp_path, row, task=""):
    folder = write("yolo-seg", tmp_path, SEGMENTED)
    (folder / f"labels/{UNSPLIT}/a.txt").write_text(row + "\n")
    yaml = (folder / "data.yaml").read_text().replace("task: segment\n", task)
    (folder / "data.yaml").write_text(yaml)
    return read(folder)


def test_four_corners_may_be_a_rotated_box(tmp_path):
    row = "0 0.5 0.1 0.9 0.5 0.5 0.9 0.1 0.5"
    assert yolo_row(tmp_path, row)[0].masks == (None,)
    (mask,) = yolo_row(tmp_path, row, "task: segment\n")[0].masks
    assert mask.area == pytest.approx(0.32 * 72 * 64, rel=0.05)
    assert yolo_row(tmp_path, "0 0.1 0.1 0.5 0.1 0.3 0.6")[0].masks[0] is not None


def test_an_outline_without_a_pixel_costs_its_mask(tmp_path):
    # YOLO names its only split twice.
    sample, (warning,) = yolo_row(tmp_path, "0 0.1 0.1 0.5 0.1 0.3 0.1001")
    assert sample.masks == (None,) and len(sample.boxes) == 1
    assert "2 of 2 masks cannot be read" in warning and "covers no pixel" in warning


@pytest.mark.parametrize("name", WITH_MASKS)
def test_verified_annotations_keep_their_masks(tmp_path, name):
    data = read_path(write(name, tmp_path, SEGMENTED, PLAIN), masks=True)
    labels = kept_labels(AnnotatedSet.of(data), {}, {})
    ((_, kept),) = next(iter(labels.values())).results()
    assert [judgement.mask for judgement in kept.judgements] == [SEGMENTED.mask, None]
    assert kept.judgements[0].segmentation.model == "annotation"
