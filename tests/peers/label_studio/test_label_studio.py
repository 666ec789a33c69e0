"""Label Studio's converter makes tasks of the COCO export."""

import json

import pytest
from exported import IMAGES, exported, numbers
from mask_exports import HEIGHT, MASKS, WIDTH, written_masks

pytest.importorskip("label_studio_sdk")


def tasks(path, out):
    from label_studio_sdk.converter.imports.coco import convert_coco_to_ls

    convert_coco_to_ls(str(path), str(out))
    return json.loads(out.read_text())


def test_every_box_is_a_rectangle(tmp_path):
    folder, rectangles, images = exported(tmp_path, "coco") / "coco", 0, 0
    for split in ("train", "val"):
        path = folder / "annotations" / f"instances_{split}.json"
        plain = json.loads(path.read_text())
        plain["annotations"] = [a for a in plain["annotations"] if not a["iscrowd"]]
        path.write_text(json.dumps(plain))
        for task in tasks(path, tmp_path / "tasks.json"):
            kinds = [found["type"] for found in task["annotations"][0]["result"]]
            rectangles, images = rectangles + kinds.count("rectanglelabels"), images + 1
    assert images == IMAGES
    assert rectangles == len(numbers(True, True) | numbers(True, False))


@pytest.mark.xfail(raises=TypeError, strict=True, reason="2.1.2 reads no run-length coded crowds")
def test_crowds(tmp_path):
    folder = exported(tmp_path, "coco") / "coco"
    assert tasks(folder / "annotations" / "instances_train.json", tmp_path / "tasks.json")


def test_brush_strokes_are_the_same_masks(tmp_path):
    from label_studio_sdk.converter.brush import decode_rle

    folder = written_masks(tmp_path, "label-studio")
    found = json.loads((folder / "tasks.json").read_text())
    count = 0
    for task in found:
        image = task["data"]["image"].rpartition("/")[2]
        for region in task["predictions"][0]["result"]:
            if region["type"] == "brushlabels":
                (name,) = region["value"]["brushlabels"]
                values = decode_rle(region["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)
                assert (values[..., 3] == MASKS[image, name] * 255).all()
                count += 1
    assert count == len(MASKS)


def test_it_takes_the_config_and_the_tasks(tmp_path):
    from label_studio_sdk.label_interface import LabelInterface

    folder = written_masks(tmp_path, "label-studio")
    interface = LabelInterface((folder / "label_config.xml").read_text())
    for task in json.loads((folder / "tasks.json").read_text()):
        assert interface.validate_prediction(task["predictions"][0])
