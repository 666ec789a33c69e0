"""Hugging Face ``datasets`` opens the Parquet export with no script, images and classes in."""

import pytest
from exported import CAT_BOX, IMAGES, exported, numbers
from frozen import DOG_BOX

datasets = pytest.importorskip("datasets")


@pytest.fixture
def opened(tmp_path, monkeypatch):
    out = exported(tmp_path, "parquet")
    return datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))


def test_splits_and_features(opened):
    assert set(opened) == {"train", "val"}
    features = opened["train"].features
    assert isinstance(features["image"], datasets.Image)
    objects = features["objects"]
    category = objects["category"] if isinstance(objects, dict) else objects.feature["category"]
    assert category.feature.names == ["dog", "cat"]
    assert sum(split.num_rows for split in opened.values()) == IMAGES


def test_images_and_boxes(opened):
    found = {int(row["name"].partition(".")[0]): row for split in opened.values() for row in split}
    assert set(found) == set(range(IMAGES))
    for number, row in found.items():
        assert row["image"].size == (72, 64) == (row["width"], row["height"])
        kinds = ["label"] * bool(number % 4) + ["ignore"] * (number % 3 == 0)
        assert row["objects"]["kind"] == kinds
        assert row["empty"] == (None if kinds else "nothing_proposed")
    for number in numbers(dogs=True, cats=True):
        objects = found[number]["objects"]
        assert objects["category"] == [0, 1]
        for found_box, box in zip(objects["bbox"], (DOG_BOX, CAT_BOX), strict=True):
            x, y, w, h = found_box
            assert (x, y, x + w, y + h) == pytest.approx(box, abs=1e-3)
