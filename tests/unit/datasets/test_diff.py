"""Comparing snapshots: images that were added, removed, moved or relabelled."""

from frozen import DOG_BOX, PETS, photos, stored
from stored import review_box

from secondlook.datasets.diff import ChangeKind, DiffCounts, ImageChange, compare_snapshots
from secondlook.datasets.manifest import load_manifest
from secondlook.datasets.query import Query, SplitShare
from secondlook.datasets.snapshot import create_snapshot
from secondlook.store import Store

ALL = (SplitShare("train", 1),)


def made(store: Store, name: str, *runs: str, **query: object) -> str:
    create_snapshot(store, name, Query(**{"runs": runs, "split": ALL, **query}))
    return name


def changes(store: Store, old: str, new: str) -> list[ImageChange]:
    manifests = [
        load_manifest(store.blobs, store.snapshots.get(name).manifest) for name in (old, new)
    ]
    return list(compare_snapshots(store.blobs, *manifests))


def test_the_same_content_does_not_differ(store: Store) -> None:
    stored(store, "r", photos(4))
    one, two = made(store, "one", "r"), made(store, "two", "r")
    # Classes in another order are other numbers, and the same labels.
    turned = made(store, "turned", "r", classes=tuple(reversed(PETS.names)))
    assert changes(store, one, two) == changes(store, one, turned) == []


def test_added_and_removed_images(store: Store) -> None:
    stored(store, "a", photos(5))
    stored(store, "b", photos(5, first=3))
    old, new = made(store, "old", "a"), made(store, "new", "b")
    difference = DiffCounts()
    for changed in changes(store, old, new):
        difference.add(changed)
    assert difference.changes == {ChangeKind.ADDED: 3, ChangeKind.REMOVED: 3}
    assert difference.gained == difference.lost == {}
    swapped = [c.change for c in changes(store, new, old)]
    assert sorted(swapped) == [ChangeKind.ADDED] * 3 + [ChangeKind.REMOVED] * 3
    hashes = [c.sha256 for c in changes(store, old, new)]
    assert hashes == sorted(hashes)


def test_reviews_are_changes(store: Store) -> None:
    run = stored(store, "r", photos(3))
    old = made(store, "old", "r")
    image = store.results.page(run.id)[1].image_id
    review_box(store, image, "dog", DOG_BOX, "unsure", "ada")
    review_box(store, image, "cat", (50, 40, 70, 60), "right", "ada")
    (changed,) = changes(store, old, made(store, "new", "r"))
    assert changed.change is ChangeKind.RELABELLED
    assert changed.gained == ("cat label", "dog ignore")
    assert changed.lost == ("dog label",)


def test_a_image_that_moved_to_another_split(store: Store) -> None:
    stored(store, "r", photos(20))
    halves = (SplitShare("train", 1), SplitShare("val", 1))
    found = changes(store, made(store, "old", "r"), made(store, "new", "r", split=halves))
    assert {c.change for c in found} == {ChangeKind.MOVED}
    assert 0 < len(found) < 20
