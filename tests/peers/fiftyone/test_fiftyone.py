"""FiftyOne's importers read every format, without its database."""

import os
from pathlib import Path

import pytest
from exported import IMAGES, exported
from strange_names import NAMES, written

os.environ["FIFTYONE_DO_NOT_TRACK"] = "1"
pytest.importorskip("fiftyone")


def count(importer):
    """Images that exist, and boxes."""
    images = boxes = 0
    with importer:
        for path, _, label in importer:
            assert Path(path).is_file()
            found = label.get("detections") if isinstance(label, dict) else label
            images, boxes = images + 1, boxes + (len(found.detections) if found else 0)
    return images, boxes


def coco(folder, split, *types):
    from fiftyone.utils.coco import COCODetectionDatasetImporter

    return COCODetectionDatasetImporter(
        data_path=str(folder / "images" / split),
        labels_path=str(folder / "annotations" / f"instances_{split}.json"),
        label_types=[*types],
    )


def test_coco(tmp_path):
    folder = exported(tmp_path, "coco") / "coco"
    found = [count(coco(folder, split, "detections")) for split in ("train", "val")]
    dogs = sum(bool(n % 4) for n in range(IMAGES))
    assert [sum(of_all) for of_all in zip(*found, strict=True)] == [IMAGES, dogs + IMAGES // 3]
    folder = written(tmp_path).coco
    assert count(coco(folder, "default", "detections")) == (len(NAMES), 2 * len(NAMES))
    with coco(folder, "default", "segmentations") as importer:  # outlines and run lengths
        assert sum(len(label.detections) for _, _, label in importer) == 2 * len(NAMES)


def test_yolo(tmp_path):
    from fiftyone.utils.yolo import YOLOv5DatasetImporter

    folder = written(tmp_path).yolo
    importer = YOLOv5DatasetImporter(
        yaml_path=str(folder / "data.yaml"), dataset_dir=str(folder), split="train"
    )
    assert count(importer) == (len(NAMES) - 1, 2 * (len(NAMES) - 1))


def test_voc(tmp_path):
    from fiftyone.utils.voc import VOCDetectionDatasetImporter

    folder = written(tmp_path).voc
    importer = VOCDetectionDatasetImporter(
        data_path=str(folder / "JPEGImages"), labels_path=str(folder / "Annotations")
    )
    assert count(importer) == (len(NAMES), 2 * len(NAMES))
