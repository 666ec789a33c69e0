"""Label Studio's converter makes tasks of the COCO export."""

import json

import pytest
from exported import IMAGES, exported, numbers

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
