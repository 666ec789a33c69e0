"""ultralytics reads the YOLO export from any folder, with no label lost and none to ignore."""

from pathlib import Path

import numpy as np
import pytest
from exported import exported, numbers
from frozen import DOG_BOX
from mask_exports import HEIGHT, MASKS, WIDTH, overlap, written_masks
from strange_names import NAMES, written

from secondlook.core.masks import mask_from_polygons

pytest.importorskip("ultralytics")


def test_its_dataset_loader_reads_the_export(tmp_path, monkeypatch):
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    out = exported(tmp_path, "yolo") / "yolo"
    monkeypatch.chdir(tmp_path)  # not the export's folder
    data = check_det_dataset(str(out / "data.yaml"), autodownload=False)
    assert data["names"] == {0: "dog", 1: "cat"}
    found = {}
    for split in ("train", "val"):
        dataset = YOLODataset(img_path=data[split], data=data, imgsz=64, augment=False)
        for label in dataset.get_labels():
            found[int(Path(label["im_file"]).name.partition("-")[0])] = label
    # Regions to ignore put an image elsewhere: YOLO has no word for them.
    assert set(found) == numbers(True, False) | numbers(False, False)
    for number in numbers(dogs=True, cats=False):
        label = found[number]
        assert label["shape"] == (64, 72) and label["cls"].tolist() == [[0.0]]
        cx, cy, w, h = label["bboxes"][0].tolist()
        box = ((cx - w / 2) * 72, (cy - h / 2) * 64, (cx + w / 2) * 72, (cy + h / 2) * 64)
        assert box == pytest.approx(DOG_BOX, abs=0.01)
    assert all(len(found[n]["cls"]) == 0 for n in numbers(dogs=False, cats=False))


def test_strange_names(tmp_path):
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    data = check_det_dataset(str(written(tmp_path).yolo / "data.yaml"), autodownload=False)
    dataset = YOLODataset(img_path=data["train"], data=data, imgsz=64, augment=False)
    assert [len(label["cls"]) for label in dataset.get_labels()] == [2] * (len(NAMES) - 1)


def test_outlines_are_the_same_masks(tmp_path):
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset, polygon2mask

    folder = written_masks(tmp_path, "yolo-seg")
    data = check_det_dataset(str(folder / "data.yaml"), autodownload=False)
    dataset = YOLODataset(
        img_path=data["train"], data=data, imgsz=64, augment=False, task="segment"
    )
    count, size = 0, np.array([WIDTH, HEIGHT])
    for label in dataset.get_labels():
        assert len(label["segments"]) == len(label["cls"]) == 2
        for (place,), outline in zip(label["cls"], label["segments"], strict=True):
            expected = MASKS[Path(label["im_file"]).name, data["names"][int(place)]]
            found = mask_from_polygons([outline * size], WIDTH, HEIGHT).to_array()
            assert (found == expected).all()
            # What it trains on has the line painted too, and with it the slits between parts.
            painted = polygon2mask((HEIGHT, WIDTH), [(outline * size).round().reshape(-1)])
            assert overlap(painted.astype(bool), expected) > 0.75
            count += 1
    assert count == len(MASKS)
