"""How a snapshot is divided: a group is in one split, and a large snapshot has several parts."""

import pytest
from frozen import HALVES, drawn, encoded, frozen, photos, stored
from PIL import Image as PILImage

from secondlook.datasets.manifest import Entry, entries, load_manifest
from secondlook.datasets.query import Query
from secondlook.datasets.snapshot import create_snapshot
from secondlook.store import Store
from secondlook.store.snapshots import manifest_blobs
from secondlook_client.values import GroupBy


def sides(found: list[Entry]) -> dict[str, str]:
    return {entry.name: entry.split for entry in found}


def test_near_duplicates_are_in_one_split(store: Store) -> None:
    images = {}
    for place in range(40):
        image = drawn(place)
        images[f"{place}.jpg"] = encoded(image, quality=95)
        images[f"{place}-again.jpg"] = encoded(image, quality=30)
        half = image.resize((36, 32), PILImage.Resampling.BOX)
        images[f"{place}-small.png"] = encoded(half, "PNG")
    stored(store, "r", images)
    side = sides(frozen(store, split=HALVES))
    assert set(side.values()) == {"train", "val"}
    for place in range(40):
        assert side[f"{place}.jpg"] == side[f"{place}-again.jpg"] == side[f"{place}-small.png"]


def test_frames_of_a_stream_are_in_one_split(store: Store) -> None:
    names = tuple(f"camera{n}" for n in range(12))
    for place, name in enumerate(names):
        stored(store, name, photos(4, first=10 * place), kind="capture")
    found = frozen(store, runs=names, split=HALVES)
    assert {entry.split for entry in found} == {"train", "val"}
    assert len({entry.group for entry in found}) == len(names)
    apart = frozen(store, runs=names, split=HALVES, group_by=GroupBy.SIMILARITY)
    assert len({entry.group for entry in apart}) == 4 * len(names)


def test_folders_are_in_one_split_with_group_by_folder(store: Store) -> None:
    stored(store, "r", photos(40))
    found = frozen(store, split=HALVES, group_by=GroupBy.FOLDER)
    folders = {entry.name.split("/")[0]: set() for entry in found}
    for entry in found:
        folders[entry.name.split("/")[0]].add(entry.split)
    assert all(len(sides) == 1 for sides in folders.values())
    assert len({entry.group for entry in found}) == 8


def test_a_near_duplicate_joins_two_folders(store: Store) -> None:
    shared = drawn(99)
    images = {**photos(10), "f0/x.jpg": encoded(shared), "f1/y.jpg": encoded(shared, quality=40)}
    stored(store, "r", images)
    assert len({entry.group for entry in frozen(store, group_by=GroupBy.FOLDER)}) == 1


def test_more_images_move_no_group_to_another_split(store: Store) -> None:
    stored(store, "r", photos(30))
    stored(store, "r2", photos(30, first=30))
    before = {e.sha256: e.split for e in frozen(store, split=HALVES)}
    after = {e.sha256: e.split for e in frozen(store, runs=("r", "r2"), split=HALVES)}
    assert len(after) == 60
    assert before == {sha256: after[sha256] for sha256 in before}


def test_a_large_snapshot_has_several_parts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.datasets.manifest.PART", 7)
    stored(store, "r", photos(30))
    snapshot = create_snapshot(store, "s", Query(("r",), split=HALVES))
    manifest = load_manifest(store.blobs, snapshot.manifest)
    assert [sum(p.images.values()) for p in manifest.parts] == [7, 7, 7, 7, 2]
    held = list(manifest_blobs(store.blobs, snapshot.manifest))
    assert held == [snapshot.manifest, *(part.sha256 for part in manifest.parts)]
    whole = [entry for _, entry in entries(store.blobs, manifest)]
    assert len(whole) == manifest.count() == 30
    train = [entry for _, entry in entries(store.blobs, manifest, "train")]
    assert train == [entry for entry in whole if entry.split == "train"]
    shards = [list(entries(store.blobs, manifest, "train", 0, n, 3)) for n in range(3)]
    assert sorted(pair[0] for shard in shards for pair in shard) == list(range(len(train)))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    for place, entry in enumerate(train):
        assert next(entries(store.blobs, manifest, "train", place)) == (place, entry)
    assert list(entries(store.blobs, manifest, "train", len(train))) == []
