"""supervision opens an export as COCO, YOLO and Pascal VOC and sees the same boxes."""

from pathlib import Path

import pytest
from exported import CAT_BOX, IMAGES, exported, numbers
from frozen import DOG_BOX

supervision = pytest.importorskip("supervision")


def number(path: str) -> int:
    return int(Path(path).name.partition("-")[0])


def boxes(dataset) -> dict[int, list[tuple[str, list[float]]]]:
    found = {}
    for path, image, detections in dataset:
        assert image.shape == (64, 72, 3)
        found[number(path)] = sorted(
            (dataset.classes[place], box)
            for place, box in zip(detections.class_id, detections.xyxy.tolist(), strict=True)
        )
    return found


def test_coco(tmp_path):
    out, found = exported(tmp_path, "coco"), {}
    for split in ("train", "val"):
        dataset = supervision.DetectionDataset.from_coco(
            str(out / "images" / split), str(out / "annotations" / f"{split}.json")
        )
        found |= boxes(dataset)
    assert len(found) == IMAGES
    assert all(found[n] == [("dog", list(DOG_BOX))] for n in numbers(dogs=True, cats=False))
    assert all(found[n] == [] for n in numbers(dogs=False, cats=False))


def test_yolo(tmp_path):
    out, found = exported(tmp_path, "yolo"), {}
    for split in ("train", "val"):
        dataset = supervision.DetectionDataset.from_yolo(
            str(out / "images" / split), str(out / "labels" / split), str(out / "data.yaml")
        )
        found |= boxes(dataset)
    assert len(found) == IMAGES
    for n in numbers(dogs=True, cats=False):
        ((name, box),) = found[n]
        assert name == "dog" and box == pytest.approx(DOG_BOX, abs=1.0)


def test_voc(tmp_path):
    out, found = exported(tmp_path, "voc"), {}
    for split in ("train", "val"):
        dataset = supervision.DetectionDataset.from_pascal_voc(
            str(out / "images" / split), str(out / "voc" / "Annotations" / split)
        )
        found |= boxes(dataset)
    assert len(found) == IMAGES
    for n in numbers(dogs=True, cats=True):
        (cat, cat_box), (dog, dog_box) = found[n]
        assert (cat, dog) == ("cat", "dog")
        # VOC has whole pixels, and supervision takes one off the right and lower edges too.
        assert cat_box == pytest.approx(CAT_BOX, abs=1.5)
        assert dog_box == pytest.approx(DOG_BOX, abs=1.5)
