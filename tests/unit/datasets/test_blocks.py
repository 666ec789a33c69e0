"""Grouping by time: the frames of one fixed camera, all alike, are in every split, in blocks."""

import random
import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path

import pytest
from fakes import Row
from frozen import DOG_BOX, drawn, encoded, stored
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete

from secondlook.core.types import Image
from secondlook.datasets.manifest import Entry, entries, load_manifest
from secondlook.datasets.query import Query, SplitShare, query_of
from secondlook.datasets.snapshot import create_snapshot
from secondlook.datasets.splits import SHORTEST, block_id, block_of, split_of
from secondlook.store import Store, open_store
from secondlook.store.schema import decisions
from secondlook_client.values import EmptyReason, GroupBy

TENTHS = (SplitShare("train", 0.8), SplitShare("val", 0.1), SplitShare("test", 0.1))


def camera(count: int, first: int = 0) -> dict[str, bytes]:
    """Frames by number: the same scene, and one pixel that tells them apart."""
    scene, found = drawn(0), {}
    for number in range(first, first + count):
        scene.putpixel((0, 0), (number % 256, number // 256, 0))
        found[str(number)] = encoded(scene, "PNG")
    return found


def frozen(store: Store, **query: object) -> dict[str, Entry]:
    """Its images by name."""
    name = f"s{len(store.snapshots.page())}"
    create_snapshot(store, name, Query(**{"runs": ("gate",), "group_by": GroupBy.TIME, **query}))
    manifest = load_manifest(store.blobs, store.snapshots.get(name).manifest)
    return {entry.name: entry for _, entry in entries(store.blobs, manifest)}


def groups(found: Mapping[str, Entry]) -> dict[str, str]:
    return {name: entry.group for name, entry in found.items()}


def lengths(found: Mapping[str, Entry], names: Iterable[str]) -> list[int]:
    """Of the stretches of names that follow one another in one group; none comes twice."""
    stretches = [(key, len([*of])) for key, of in groupby(found[name].group for name in names)]
    assert len({key for key, _ in stretches}) == len(stretches)
    return [length for _, length in stretches]


@given(st.integers(0, 2**40))
def test_blocks_follow_one_another_and_grow_by_one(block: int) -> None:
    begins = block * SHORTEST + block * (block - 1) // 2
    assert [block_of(begins + n) for n in (0, SHORTEST + block - 1)] == [block, block]
    assert block_of(begins + SHORTEST + block) == block + 1


@given(st.text(max_size=20), st.integers(0, 10_000))
def test_blocks_that_follow_one_another_reach_every_part(run: str, first: int) -> None:
    def reached(blocks: int, shares: tuple[SplitShare, ...]) -> set[str]:
        ends = (b * SHORTEST + b * (b - 1) // 2 for b in range(first, first + blocks))
        return {split_of(block_id(run, place), shares) for place in ends}

    assert reached(13, TENTHS) == {"train", "val", "test"}
    assert reached(8, (SplitShare("train", 0.8), SplitShare("val", 0.2))) == {"train", "val"}


@pytest.mark.parametrize("kind", ["capture", "folder", "upload"])
def test_one_camera_falls_on_every_side_by_time_alone(store: Store, kind: str) -> None:
    images = camera(200)
    stored(store, "gate", images, kind=kind)
    for group_by in (GroupBy.AUTO, GroupBy.FOLDER, GroupBy.SIMILARITY):
        alike = frozen(store, split=TENTHS, group_by=group_by)
        assert len({entry.group for entry in alike.values()}) == 1
    found = frozen(store, split=TENTHS)
    assert lengths(found, images) == [*range(10, 22), 14]
    sides = {(entry.group, entry.split) for entry in found.values()}
    assert len(sides) == 13 and {side for _, side in sides} == {"train", "val", "test"}


def test_frames_that_come_later_move_none(tmp_path: Path) -> None:
    found = []
    for count in (75, 120):
        with open_store(tmp_path / str(count)) as other:
            stored(other, "gate", camera(count), kind="capture")
            found.append(groups(frozen(other)))
    assert found[0] == {name: found[1][name] for name in found[0]}


def test_what_is_not_labelled_or_left_out_holds_its_place(store: Store) -> None:
    def script(image: Image, phrases: object) -> list[Row]:
        return [] if int(image.name) % 3 else [(DOG_BOX, {"dog": 0.8, "cat": 0.1})]

    stored(store, "gate", camera(60), kind="capture", script=script)
    whole, some = groups(frozen(store, empty=tuple(EmptyReason))), groups(frozen(store))
    assert len(some) == 20 and some == {name: whole[name] for name in some}
    with store.database.writing() as connection:
        connection.execute(delete(decisions).where(decisions.c.item_id % 2 == 0))
    done = groups(frozen(store, empty=tuple(EmptyReason)))
    assert len(done) == 30 and done == {name: whole[name] for name in done}


def test_a_folder_goes_by_the_numbers_in_its_names(store: Store) -> None:
    frames = [*camera(60).items()]
    random.Random(3).shuffle(frames)
    stored(store, "gate", {f"day/{name}.png": content for name, content in frames})
    assert lengths(frozen(store), [f"day/{n}.png" for n in range(60)]) == [10, 11, 12, 13, 14]


def test_a_stream_goes_by_the_order_it_came_in(store: Store) -> None:
    frames = {f"{-number}": content for number, content in enumerate(camera(60).values())}
    stored(store, "gate", frames, kind="capture")
    assert lengths(frozen(store), frames) == [10, 11, 12, 13, 14]


def test_a_frame_that_came_twice_belongs_where_it_came_first(store: Store) -> None:
    frames = camera(60)
    stored(store, "gate", {**frames, "60": frames["0"], "61": frames["59"]}, kind="capture")
    assert lengths(frozen(store), frames) == [10, 11, 12, 13, 14]


def test_of_two_runs_over_one_image_the_first_counts(store: Store) -> None:
    stored(store, "gate", camera(60), kind="capture")
    stored(store, "again", camera(90, first=30))
    one, both = groups(frozen(store)), groups(frozen(store, runs=("gate", "again")))
    assert len(both) == 120 and one == {name: both[name] for name in one}
    assert not set(one.values()) & {group for name, group in both.items() if name not in one}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"group_by": GroupBy.AUTO}, "the snapshot has 1 group, .* with `--group-by time`"),
        ({"group_by": GroupBy.FOLDER}, "the snapshot has 1 group, .* with `--group-by time`"),
        (
            {"group_by": GroupBy.AUTO, "split": (SplitShare("all", 1),)},
            "all 9 images are one group, .* with `--group-by time`",
        ),
        ({}, "the snapshot has 1 group, .*; label more images"),
    ],
)
def test_what_a_training_cannot_divide_is_warned_of(
    store: Store, caplog: pytest.LogCaptureFixture, query: dict[str, object], words: str
) -> None:
    stored(store, "gate", camera(9), kind="capture")
    frozen(store, **query)
    (warning,) = caplog.messages
    assert re.search(words, warning)


@pytest.mark.parametrize("group_by", GroupBy)
def test_a_query_is_read_back(group_by: GroupBy) -> None:
    query = Query(("gate",), group_by=group_by)
    assert query_of(query.to_json()) == query
