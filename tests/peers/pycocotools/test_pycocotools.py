"""pycocotools and torchvision's CocoDetection open the COCO folders; masks are the boxes."""

import contextlib
import io
from pathlib import Path

import pytest
from exported import IMAGES, exported
from mask_exports import MASKS, written_masks
from strange_names import CLASSES, DOG, ETE, NAMES, SIZE, written

coco = pytest.importorskip("pycocotools.coco")


def opened(folder: Path, split: str):
    with contextlib.redirect_stdout(io.StringIO()):
        return coco.COCO(str(folder / "annotations" / f"instances_{split}.json"))


def test_every_image_is_there_and_every_mask_fills_its_box(tmp_path):
    folder = written(tmp_path).coco
    found = opened(folder, "default")
    assert len(found.imgs) == len(NAMES) and len(found.anns) == 2 * len(NAMES)
    for image in found.imgs.values():
        assert (folder / "images" / "default" / image["file_name"]).is_file()
    for annotation in found.anns.values():
        x, y, w, h = (int(value) for value in annotation["bbox"])
        mask = found.annToMask(annotation)
        assert mask.shape == SIZE[::-1]
        assert mask.sum() == w * h == mask[y : y + h, x : x + w].sum()
    assert [a["iscrowd"] for a in found.anns.values()].count(1) == 1


def test_an_evaluation_of_the_labels_against_themselves_is_perfect(tmp_path):
    from pycocotools.cocoeval import COCOeval

    found = opened(written(tmp_path).coco, "default")
    keys = ("image_id", "category_id", "bbox", "score")
    rows = [{key: a[key] for key in keys} for a in found.anns.values() if not a["iscrowd"]]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(found, found.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_torchvision_reads_images_and_annotations(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    folder, count = exported(tmp_path, "coco") / "coco", 0
    for split in ("train", "val"):
        annotations = folder / "annotations" / f"instances_{split}.json"
        with contextlib.redirect_stdout(io.StringIO()):
            data = torchvision.datasets.CocoDetection(
                str(folder / "images" / split), str(annotations)
            )
        for image, _ in data:
            assert image.size == (72, 64)
            count += 1
    assert count == IMAGES


def test_classes_keep_their_names(tmp_path):
    found = opened(written(tmp_path).coco, "default")
    assert [category["name"] for category in found.cats.values()] == list(CLASSES)
    assert {tuple(a["bbox"]) for a in found.anns.values()} == {
        (box[0], box[1], box[2] - box[0], box[3] - box[1]) for box in (DOG, ETE)
    }


@pytest.mark.parametrize("form", ["coco", "coco-polygons"])
def test_masks_are_the_same_to_the_pixel(tmp_path, form):
    found = opened(written_masks(tmp_path, form), "default")
    for annotation in found.anns.values():
        image = found.imgs[annotation["image_id"]]["file_name"]
        expected = MASKS[image, found.cats[annotation["category_id"]]["name"]]
        assert (found.annToMask(annotation) == expected).all()
        assert annotation["area"] == expected.sum()
    assert len(found.anns) == len(MASKS)


def test_its_evaluation_of_masks_is_perfect_between_codes_and_polygons(tmp_path):
    from pycocotools.cocoeval import COCOeval

    truth = opened(written_masks(tmp_path, "coco"), "default")
    other = opened(written_masks(tmp_path, "coco-polygons"), "default")
    rows = [
        {
            **{k: a[k] for k in ("image_id", "category_id", "score")},
            "segmentation": other.annToRLE(a),
        }
        for a in other.anns.values()
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(rows), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)
