"""Snapshots carry masks: in their hash, to the client, in a comparison and in every export."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fakes import ScriptedSegmenter
from frozen import drawn, encoded, entries_of, frozen, stored

from secondlook.datasets.diff import compare_snapshots
from secondlook.datasets.export import dataset_card, export
from secondlook.datasets.manifest import (
    entry_from_json,
    entry_to_json,
    load_manifest,
    part_entries,
)
from secondlook.datasets.open import read_path
from secondlook.datasets.query import Query
from secondlook.datasets.snapshot import create_snapshot
from secondlook.server.converters import image_message
from secondlook.store import open_store
from secondlook_client import wire
from secondlook_client.errors import Damaged
from secondlook_client.values import BoxKind

IMAGES = {f"{n}.png": encoded(drawn(n), "PNG") for n in range(4)}


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path / "data") as store:
        yield store


def shifted(prompt, size):
    """Other masks than those of the scripted segmenter."""
    pixels = np.zeros((size[1], size[0]), bool)
    pixels[5:20, 9:30] = True
    return pixels


def manifest_of(store, name):
    return load_manifest(store.blobs, store.snapshots.get(name).manifest)


def test_equal_masks_have_equal_hashes_and_others_others(store):
    hashes = {}
    for run, segmenter in (
        ("none", None),
        ("a", ScriptedSegmenter()),
        ("b", ScriptedSegmenter()),
        ("c", ScriptedSegmenter(shifted)),
    ):
        stored(store, run, IMAGES, segmenter=segmenter)
        hashes[run] = create_snapshot(store, run, Query((run,))).manifest
    assert hashes["a"] == hashes["b"]
    assert len(set(hashes.values())) == 3
    assert manifest_of(store, "a").models == ("scripted@p0", "scripted@s0", "scripted@v0")
    changes = [*compare_snapshots(store.blobs, manifest_of(store, "a"), manifest_of(store, "c"))]
    assert len(changes) == len(IMAGES)
    assert {change.gained for change in changes} == {("dog label",)}
    assert store.snapshots.get("a").statistics["labels_with_mask"] == len(IMAGES)


def test_an_entry_without_masks_is_written_as_before(store):
    stored(store, "r", IMAGES)
    boxes = [box for entry in frozen(store) for box in entry_to_json(entry)["boxes"]]
    assert boxes and not any("mask" in box for box in boxes)


def test_masks_reach_the_client(store):
    stored(store, "r", IMAGES, segmenter=ScriptedSegmenter())
    for entry in frozen(store):
        assert entry_from_json(json.loads(json.dumps(entry_to_json(entry)))) == entry
        message = image_message(entry, "", b"")
        example = wire.example(message, ("dog", "cat"), b"")
        (label,) = example.labels
        assert label.mask == entry.of(BoxKind.LABEL)[0].segmentation.mask
        assert label.segmentation.model == "scripted@s0" and label.mask.area > 100
        message.boxes[0].segmentation.mask.width = 5
        with pytest.raises(Damaged, match="the server sent a mask"):
            wire.example(message, ("dog", "cat"), b"")


def test_a_damaged_manifest_is_told(store):
    stored(store, "r", IMAGES, segmenter=ScriptedSegmenter())
    entry = entry_to_json(frozen(store)[0])
    entry["boxes"][0]["mask"]["counts"] = "ä"
    with pytest.raises(Damaged, match=r"a mask of image .* cannot be read"):
        list(part_entries(json.dumps(entry).encode()))


def test_an_export_has_the_masks_of_its_snapshot(store, tmp_path):
    stored(store, "r", IMAGES, segmenter=ScriptedSegmenter())
    snapshot = create_snapshot(store, "s", Query(("r",)))
    expected = {
        entry.sha256[:12]: entry.of(BoxKind.LABEL)[0].segmentation.mask
        for entry in entries_of(store)
    }
    formats = ("coco", "yolo-seg", "parquet", "label-studio")
    out = export(store, "s", tmp_path / "out", formats)
    for name in ("coco", "yolo-seg"):
        data = read_path(out / name, masks=True)
        found = {
            sample.path.stem[-12:]: sample.masks[0]
            for samples in data.samples.values()
            for sample in samples
        }
        assert found == expected
    assert parquet_masks(out / "data") == {mask.counts for mask in expected.values()}
    card = dataset_card(snapshot, manifest_of(store, "s"), formats)
    assert "4 of 4 labels have a mask" in card
    without = replace(snapshot, statistics={**snapshot.statistics, "labels_with_mask": 0})
    assert "have a mask" not in dataset_card(without, manifest_of(store, "s"), formats)


def parquet_masks(folder):
    parquet = pytest.importorskip("pyarrow.parquet")
    return {
        mask
        for path in folder.glob("*.parquet")
        for row in parquet.read_table(path).to_pylist()
        for mask in row["objects"]["mask"]
    }
