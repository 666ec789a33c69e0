"""Datumaro (and with it CVAT) knows each folder by itself, and reads every image and box."""

import pytest
from exported import IMAGES, exported
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
