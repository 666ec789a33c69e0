"""Datumaro (and with it CVAT) knows each folder by itself, and reads every image and box."""

import pytest
from exported import IMAGES, exported
from mask_exports import CLASSES, HEIGHT, MASKS, WIDTH, written_masks
from pycocotools import mask as coco_masks
from strange_names import NAMES, written

datumaro = pytest.importorskip("datumaro")


def read(folder, form):
    """Subsets, and the number of images with pixels, boxes, and class names."""
    data = datumaro.Dataset.import_from(str(folder), form)
    items = [*data]
    boxes = sum(a.type.name == "bbox" for item in items for a in item.annotations)
    readable = sum(item.media.data is not None for item in items)
    classes = [c.name for c in data.categories()[datumaro.AnnotationType.label]]
    return {item.subset for item in items}, readable, boxes, classes


@pytest.mark.parametrize(
    ("form", "detected"), [("coco", "coco_instances"), ("yolo", "yolo"), ("voc", "voc_detection")]
)
def test_exports_of_a_snapshot(tmp_path, form, detected):
    from datumaro.components.environment import Environment

    folder = exported(tmp_path, form) / form
    assert detected in Environment().detect_dataset(str(folder))
    subsets, images, boxes, classes = read(folder, form)
    assert subsets == {"train", "val"}
    dogs = sum(bool(n % 4) for n in range(IMAGES))
    unsure = IMAGES // 3
    if form == "yolo":  # its images with an unsure box are elsewhere
        assert (images, boxes) == (IMAGES - unsure, sum(n % 4 > 0 < n % 3 for n in range(IMAGES)))
    else:
        assert (images, boxes) == (IMAGES, dogs + unsure)
    assert [name for name in classes if name != "background"] == ["dog", "cat"]


def test_strange_names(tmp_path):
    made = written(tmp_path)
    for form, count in (("coco", len(NAMES)), ("yolo", len(NAMES) - 1), ("voc", len(NAMES))):
        subsets, images, boxes, _ = read(getattr(made, form), form)
        assert (subsets, images, boxes) == ({"default"}, count, 2 * count), form


def pixels_of(annotation):
    """The mask of an annotation, a code or a polygon."""
    if annotation.type.name == "polygon":
        code = coco_masks.frPyObjects([annotation.points], HEIGHT, WIDTH)
        return coco_masks.decode(code)[..., 0].astype(bool)
    return annotation.image.astype(bool)


@pytest.mark.parametrize(
    ("form", "importer"),
    [("coco", "coco_instances"), ("coco-polygons", "coco_instances"), ("voc", "voc_segmentation")],
)
def test_masks_are_the_same_to_the_pixel(tmp_path, form, importer):
    data = datumaro.Dataset.import_from(str(written_masks(tmp_path, form)), importer)
    names = [c.name for c in data.categories()[datumaro.AnnotationType.label]]
    found = {}
    for item in data:
        for annotation in item.annotations:
            if annotation.type.name in ("mask", "polygon"):
                key = f"{item.id}.png", names[annotation.label]
                pixels = pixels_of(annotation)
                found[key] = found[key] | pixels if key in found else pixels
    assert {*found} == {*MASKS}
    if form == "voc":  # of pixels that two objects claim the smaller one has them
        for key in found:
            image, name = key
            (other,) = (found[image, one] for one in CLASSES if one != name)
            assert (found[key] | (other & MASKS[key]) == MASKS[key]).all()
    else:
        assert all((found[key] == MASKS[key]).all() for key in MASKS)


def test_cvat_for_images(tmp_path):
    folder = exported(tmp_path, "cvat") / "cvat"
    dogs = cats = 0
    for split in ("train", "val"):
        data = datumaro.Dataset.import_from(str(folder / split / "annotations.xml"), "cvat")
        boxes = [a for item in data for a in item.annotations if a.type.name == "bbox"]
        scores = {box.attributes["probability"] for box in boxes}
        dogs += sum(box.attributes["outcome"] == "accept" for box in boxes)
        cats += sum(box.attributes["outcome"] == "unsure" for box in boxes)
        assert all(0 <= float(score) <= 1 for score in scores)
    assert (dogs, cats) == (sum(bool(n % 4) for n in range(IMAGES)), IMAGES // 3)


def test_masks_of_cvat_are_the_same_to_the_pixel(tmp_path):
    file = written_masks(tmp_path, "cvat") / "default" / "annotations.xml"
    data = datumaro.Dataset.import_from(str(file), "cvat")
    names = [label.name for label in data.categories()[datumaro.AnnotationType.label]]
    found = {
        (f"{item.id}.png", names[a.label]): a.image.astype(bool)
        for item in data
        for a in item.annotations
        if a.type.name == "mask"
    }
    assert found.keys() == MASKS.keys()
    assert all((found[key] == pixels).all() for key, pixels in MASKS.items())
