"""supervision opens an export as COCO, YOLO and Pascal VOC and sees the same boxes."""

from pathlib import Path

import pytest
from exported import CAT_BOX, IMAGES, exported, numbers
from frozen import DOG_BOX
from mask_exports import MASKS, overlap, written_masks
from strange_names import NAMES, written

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
    out, found = exported(tmp_path, "coco") / "coco", {}
    for split in ("train", "val"):
        dataset = supervision.DetectionDataset.from_coco(
            str(out / "images" / split), str(out / "annotations" / f"instances_{split}.json")
        )
        found |= boxes(dataset)
    assert len(found) == IMAGES
    assert all(found[n] == [("dog", list(DOG_BOX))] for n in numbers(dogs=True, cats=False))
    assert all(found[n] == [] for n in numbers(dogs=False, cats=False))


def test_yolo(tmp_path):
    out, found = exported(tmp_path, "yolo") / "yolo", {}
    for split in ("train", "val"):
        dataset = supervision.DetectionDataset.from_yolo(
            str(out / "images" / split), str(out / "labels" / split), str(out / "data.yaml")
        )
        found |= boxes(dataset)
    # It takes whole folders; images with a region to ignore are not in them.
    assert set(found) == numbers(True, False) | numbers(False, False)
    for n in numbers(dogs=True, cats=False):
        ((name, box),) = found[n]
        assert name == "dog" and box == pytest.approx(DOG_BOX, abs=1.0)


def test_voc(tmp_path):
    out = exported(tmp_path, "voc") / "voc"
    found = boxes(
        supervision.DetectionDataset.from_pascal_voc(
            str(out / "JPEGImages"), str(out / "Annotations")
        )
    )
    assert len(found) == IMAGES
    for n in numbers(dogs=True, cats=True):
        (cat, cat_box), (dog, dog_box) = found[n]
        assert (cat, dog) == ("cat", "dog")
        # VOC has whole pixels, and supervision takes one off the right and lower edges too.
        assert cat_box == pytest.approx(CAT_BOX, abs=1.5)
        assert dog_box == pytest.approx(DOG_BOX, abs=1.5)


def test_strange_names(tmp_path):
    made, dataset = written(tmp_path), supervision.DetectionDataset
    coco = made.coco / "annotations" / "instances_default.json"
    for masks in (False, True):
        found = dataset.from_coco(
            str(made.coco / "images" / "default"), str(coco), force_masks=masks
        )
        assert [len(detections) for _, _, detections in found] == [2] * len(NAMES)
    yolo = dataset.from_yolo(
        str(made.yolo / "images" / "default"),
        str(made.yolo / "labels" / "default"),
        str(made.yolo / "data.yaml"),
    )
    assert [len(detections) for _, _, detections in yolo] == [2] * (len(NAMES) - 1)
    voc = dataset.from_pascal_voc(str(made.voc / "JPEGImages"), str(made.voc / "Annotations"))
    assert [len(detections) for _, _, detections in voc] == [2] * len(NAMES)


def masks_of(dataset):
    for path, _, detections in dataset:
        for place, mask in zip(detections.class_id, detections.mask, strict=True):
            yield MASKS[Path(path).name, dataset.classes[place]], mask


@pytest.mark.parametrize("form", ["coco", "coco-polygons"])
def test_masks_of_coco(tmp_path, form):
    folder = written_masks(tmp_path, form)
    images, file = folder / "images/default", folder / "annotations/instances_default.json"
    found = [*masks_of(supervision.DetectionDataset.from_coco(str(images), str(file), True))]
    assert len(found) == len(MASKS)
    for expected, mask in found:
        if form == "coco":  # what it writes again it simplifies, whatever it has read
            assert (mask == expected).all()
        else:  # it paints the lines of polygons too
            assert overlap(mask, expected) > 0.75 and not (expected & ~mask).any()


def test_outlines_of_yolo(tmp_path):
    folder = written_masks(tmp_path, "yolo-seg")
    dataset = supervision.DetectionDataset.from_yolo(
        str(folder / "images/default"),
        str(folder / "labels/default"),
        str(folder / "data.yaml"),
        force_masks=True,
    )
    found = [*masks_of(dataset)]
    assert len(found) == len(MASKS)
    # It paints the lines too, and with them the slits between parts.
    assert all(overlap(mask, expected) > 0.75 for expected, mask in found)
