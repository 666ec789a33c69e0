"""Labels of a run divided into splits: as a snapshot divides them, and nothing lost."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from frozen import HALVES, drawn, encoded, frozen, photos, stored
from hypothesis import given
from hypothesis import strategies as st
from labelled import result
from PIL import Image as PILImage

from secondlook.core.images import decode
from secondlook.core.perceptual_hash import perceptual_hash
from secondlook.datasets.division import SplitPlan, divide, empty_splits
from secondlook.datasets.query import SplitShare
from secondlook.datasets.writers import UNSPLIT, Labels
from secondlook.store import Store
from secondlook_client.errors import InvalidInput
from secondlook_client.values import GroupBy, LabelResult


def labels_of(images: Mapping[str, bytes]) -> Labels:
    """Of images by name, in their order; the cursors count from 100."""

    def rows() -> Any:
        for name, content in images.items():
            sha256 = hashlib.sha256(content).hexdigest()
            yield name, replace(result(), name=name, sha256=sha256)

    def place(name: str, found: LabelResult, path: object) -> None:
        raise AssertionError("nothing is written here")

    cursors = range(100, 100 + len(images))
    return Labels(("dog",), rows, place, cursors=lambda: iter(cursors))


def sides(images: Mapping[str, bytes], plan: SplitPlan, run: str = "r") -> dict[str, str]:
    """The split of each image by its name."""
    hashes = (perceptual_hash(decode(content, name).pixels) for name, content in images.items())
    found = divide(labels_of(images), plan, run, hashes)
    return {name: split for split, of in found.items() for name, _ in of.results()}


@pytest.mark.parametrize("group_by", [GroupBy.AUTO, GroupBy.FOLDER, GroupBy.SIMILARITY])
def test_the_splits_are_those_of_a_snapshot_of_the_run(store: Store, group_by: GroupBy) -> None:
    images = photos(30)
    images |= {f"near/{n}.jpg": encoded(drawn(n), quality=40) for n in range(0, 30, 3)}
    stored(store, "r", images)
    snapshot = {e.name: e.split for e in frozen(store, split=HALVES, group_by=group_by)}
    assert sides(images, SplitPlan(HALVES, group_by)) == snapshot
    assert group_by is GroupBy.FOLDER or set(snapshot.values()) == {"train", "val"}


def test_blocks_of_time_are_those_of_a_snapshot_of_the_run(store: Store) -> None:
    images = {f"{n}.jpg": encoded(drawn(n)) for n in range(45)}
    stored(store, "r", images)
    snapshot = {e.name: e.split for e in frozen(store, split=HALVES, group_by=GroupBy.TIME)}
    assert sides(images, SplitPlan(HALVES, GroupBy.TIME)) == snapshot
    assert len({snapshot[f"{n}.jpg"] for n in range(10)}) == 1, "the first block has ten"


def test_near_duplicates_are_in_one_split() -> None:
    images = {}
    for place in range(12):
        images[f"{place}.jpg"] = encoded(drawn(place), quality=95)
        half = drawn(place).resize((36, 32), PILImage.Resampling.BOX)
        images[f"other/{place}.png"] = encoded(half, "PNG")
    side = sides(images, SplitPlan(HALVES))
    assert set(side.values()) == {"train", "val"}
    assert all(side[f"{place}.jpg"] == side[f"other/{place}.png"] for place in range(12))


some_shares = st.lists(
    st.builds(SplitShare, st.sampled_from("abcde"), st.floats(0.1, 9)),
    max_size=4,
    unique_by=lambda share: share.name,
)


@given(some_shares, st.integers(1, 60), st.sampled_from([GroupBy.TIME, GroupBy.AUTO]))
def test_every_image_is_in_one_split_with_its_own_cursor(
    shares: list[SplitShare], count: int, group_by: GroupBy
) -> None:
    images = {f"{n}.jpg": str(n).encode() for n in range(count)}
    plan = SplitPlan(tuple(shares), group_by)
    found = divide(labels_of(images), plan)
    rows = [(i.name, i.cursor, split) for split, of in found.items() for i in of.images()]
    assert sorted(name for name, _, _ in rows) == sorted(images)
    assert all(cursor == 100 + int(name.removesuffix(".jpg")) for name, cursor, _ in rows)
    assert set(found) <= ({share.name for share in shares} or {UNSPLIT})
    told = [*empty_splits(plan, [*found])]
    assert len(told) == len(shares) - len(found) * bool(shares)


def test_labels_that_are_not_divided_are_left_alone() -> None:
    labels = labels_of({})
    assert divide(labels, SplitPlan()) == {UNSPLIT: labels}


def test_a_run_without_an_image_has_its_first_split() -> None:
    assert [*divide(labels_of({}), SplitPlan(HALVES))] == ["train"]


def test_a_split_is_named_once() -> None:
    with pytest.raises(InvalidInput, match="split 'train' is given twice"):
        SplitPlan((SplitShare("train", 1), SplitShare("train", 2)))
