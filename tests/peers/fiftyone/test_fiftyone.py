"""FiftyOne's importers read every format, without its database."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from exported import IMAGES, exported
from mask_exports import HEIGHT, MASKS, WIDTH, written_masks
from strange_names import NAMES, written

from secondlook.datasets.readers.fiftyone import read_fiftyone

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


def test_its_own_dataset_with_masks_and_scores(tmp_path):
    """FiftyOne takes our samples as its own, and what it writes of them is read as we wrote it."""
    import fiftyone.types as fot
    from fiftyone.utils.data.importers import FiftyOneDatasetImporter

    folder = written_masks(tmp_path, "fiftyone")
    assert fot.FiftyOneDataset().get_dataset_importer_cls() is FiftyOneDatasetImporter
    importer = FiftyOneDatasetImporter(str(folder))
    assert importer._is_legacy_format_data(), "what needs no document of its database"
    samples, masks = [], 0
    with importer._to_legacy_importer() as found:
        for sample in found:
            assert Path(sample.filepath).is_file() and sample.tags == ["default"]
            for one in sample["secondlook"].detections:
                left, top, across, down = one.bounding_box
                height, width = one.mask.shape
                assert (round(across * WIDTH), round(down * HEIGHT)) == (width, height)
                pixels = np.zeros((HEIGHT, WIDTH), bool)
                x, y = round(left * WIDTH), round(top * HEIGHT)
                pixels[y : y + height, x : x + width] = one.mask
                assert (pixels == MASKS[Path(sample.filepath).name, one.label]).all()
                assert (one.confidence, one.proposer_score, one["p_yes"]) == (0.97, 0.5, 0.97)
                masks += 1
            samples.append(sample.to_dict(include_private=True))
    assert masks == len(MASKS)
    before = read_fiftyone(folder)
    (folder / "samples.json").write_text(json.dumps({"samples": samples}))
    after = read_fiftyone(folder)
    assert [(i.name, i.sha256, i.boxes, i.reviews) for i in after.images] == [
        (i.name, i.sha256, i.boxes, i.reviews) for i in before.images
    ]
