"""Snapshots over gRPC: made, listed, pulled whole, in shards, from a cursor, over a bad line."""

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from fakes import Row
from flaky_line import FlakyLine
from frozen import DOG_BOX, PETS, drawn, encoded, photos, stored
from PIL import Image as PILImage
from serving import png, serving, wait_until

from secondlook.store import Store
from secondlook_client import Client, RetryPolicy
from secondlook_client.errors import (
    AlreadyExists,
    Damaged,
    InvalidInput,
    NotFound,
    NotSupported,
)
from secondlook_client.v1 import datasets_pb2 as pb
from secondlook_client.values import BoxKind, EmptyReason, Example, SnapshotQuery

HALVES = SnapshotQuery(runs=["r"], split={"train": 1, "val": 1})


@pytest.fixture
def client(store: Store):
    """Of a server over a store with a run of 30 images and a snapshot of it."""
    stored(store, "r", photos(30))
    with serving(store=store) as running, Client(running.address) as connected:
        connected.datasets.create("s", HALVES)
        yield connected


def test_what_is_pulled_is_what_was_stored(client: Client) -> None:
    contents = set(photos(30).values())
    pulled = list(client.datasets.pull("s"))
    assert {example.content for example in pulled} == contents
    assert [e.sha256 for e in pulled] == sorted(e.sha256 for e in pulled)
    for example in pulled:
        (label,) = example.labels
        assert (label.class_name, label.class_index, label.xyxy) == ("dog", 0, DOG_BOX)
        assert label.kind is BoxKind.LABEL
        assert label.probability == label.p_yes == 0.95 and label.score == pytest.approx(0.8)
        assert (example.width, example.height, example.format) == (72, 64, "jpg")
        assert photos(30)[example.name] == example.content


def test_a_snapshot_is_told_as_it_is(client: Client) -> None:
    snapshot = client.datasets.get("s")
    assert snapshot.classes == PETS.names
    assert sum(snapshot.splits.values()) == snapshot.statistics["images"] == 30
    assert set(snapshot.splits) == {"train", "val"}
    assert client.datasets.create("same", HALVES).manifest == snapshot.manifest
    assert client.datasets.create("other", SnapshotQuery(["r"])).manifest != snapshot.manifest
    assert [s.name for s in client.datasets.list()] == ["other", "same", "s"]


def test_a_query_says_which_empty_images_are_kept(store: Store) -> None:
    boxes: list[list[Row]] = [[], [(DOG_BOX, {"cat": 0.8})], [(DOG_BOX, {"dog": 0.8})]]
    names = {f"{place}.jpg": rows for place, rows in enumerate(boxes)}
    images = {name: encoded(drawn(place)) for place, name in enumerate(names)}
    stored(store, "r", images, script=lambda image, _: names[image.name])

    def kept(client: Client, name: str, **query: object) -> set[EmptyReason | None]:
        client.datasets.create(name, SnapshotQuery(["r"], **query))  # type: ignore[arg-type]
        return {example.empty for example in client.datasets.pull(name)}

    with serving(store=store) as running, Client(running.address) as client:
        assert kept(client, "default") == {EmptyReason.ALL_REJECTED, None}
        assert kept(client, "all", empty=list(EmptyReason)) == {
            EmptyReason.NOTHING_PROPOSED,
            EmptyReason.ALL_REJECTED,
            None,
        }
        assert kept(client, "none", empty=()) == {None}
        left_out = client.datasets.get("default").statistics["left_out"]
        assert left_out == {"on which nothing was proposed": 1}


def test_one_captured_stream_is_divided_by_time(store: Store, tmp_path: Path) -> None:
    with (
        serving(store=store) as running,
        Client(running.address) as client,
        client.capture("gate", spool=tmp_path / "spool", classes=["dog"]) as capture,
    ):
        for shade in range(60):
            capture.send(png(shade=shade))
        capture.flush(timeout_s=30)
        run = store.results.run("gate")
        wait_until(lambda: store.results.count(run.id) == 60, 30.0)
        shares = {"train": 0.8, "val": 0.2}
        client.datasets.create("auto", SnapshotQuery(["gate"], split=shares))
        assert len(client.datasets.get("auto").splits) == 1
        query = SnapshotQuery(["gate"], split={"train": 1, "val": 1}, group_by="time")
        snapshot = client.datasets.create("time", query)
        pulled = [*client.datasets.pull("time", images=False)]
    assert set(snapshot.splits) == {"train", "val"} and sum(snapshot.splits.values()) == 60
    in_order = sorted(pulled, key=lambda example: int(example.name))
    assert [len([*of]) for _, of in groupby(e.group for e in in_order)] == [10, 11, 12, 13, 14]


def test_splits_and_shards_give_each_image_once(client: Client) -> None:
    whole = [e.sha256 for e in client.datasets.pull("s")]
    train = [e.sha256 for e in client.datasets.pull("s", split="train")]
    val = [e.sha256 for e in client.datasets.pull("s", split="val")]
    assert sorted(train + val) == whole and train and val
    shards = [
        [e.sha256 for e in client.datasets.pull("s", split="train", shard=n, shards=4)]
        for n in range(4)
    ]
    assert sorted(sha256 for shard in shards for sha256 in shard) == train
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("shard", [{}, {"split": "train", "shard": 1, "shards": 2}])
def test_a_cursor_goes_on_behind_its_image(client: Client, shard: dict[str, object]) -> None:
    whole = list(client.datasets.pull("s", **shard))
    for place, example in enumerate(whole):
        rest = client.datasets.pull("s", **shard, cursor=example.cursor, images=False)
        assert [e.sha256 for e in rest] == [e.sha256 for e in whole[place + 1 :]]


def test_labels_alone_carry_no_bytes(client: Client) -> None:
    light = list(client.datasets.pull("s", images=False))
    assert [e.content for e in light] == [b""] * 30
    assert all(e.labels for e in light)


def cursor_of(client: Client, name: str, **wanted: object) -> str:
    return next(client.datasets.pull(name, **wanted)).cursor


def test_wrong_pulls_are_refused_with_a_way_out(client: Client) -> None:
    client.datasets.create("other", SnapshotQuery(["r"]))
    strange = cursor_of(client, "other")
    of_half = cursor_of(client, "s", shard=0, shards=2)
    cases = [
        ({"cursor": strange}, "cursor is of another snapshot; leave it out"),
        ({"cursor": of_half}, "shard 0 of 2 of split '', not of shard 0 of 1"),
        ({"cursor": "x"}, "'x' is no cursor"),
        ({"cursor": of_half.rpartition(".")[0] + "." + "9" * 30}, "is no cursor"),
        ({"shard": 2, "shards": 2}, "shard 2 is out of range: of 2 shards the first is 0"),
        ({"split": "test"}, "no split 'test', only train, val"),
    ]
    for wanted, words in cases:
        with pytest.raises(InvalidInput, match=words):
            list(client.datasets.pull("s", **wanted))
    with pytest.raises(NotFound, match="no snapshot 'nothing'"):
        list(client.datasets.pull("nothing"))


def test_wrong_snapshots_are_refused_with_a_way_out(client: Client) -> None:
    with pytest.raises(AlreadyExists, match="choose another name"):
        client.datasets.create("s", HALVES)
    cases = [
        ("t", SnapshotQuery(), "name a run"),
        ("t", SnapshotQuery(["r"], since=5, until=4), "swap since and until"),
        ("t", SnapshotQuery(["r"], min_probability=1.5), r"in \[0, 1\], got 1.5"),
        ("t", SnapshotQuery(["r"], min_probability=float("nan")), "min_probability: .* finite"),
        ("t", SnapshotQuery(["r"], split={"a": 0}), "a share above 0, got 0"),
        ("t", SnapshotQuery(["r"], split={"a/b": 1}), "letters, digits"),
        ("t", SnapshotQuery(["r", "r"]), "'r' is given twice"),
        ("t", SnapshotQuery(["r"], group_by="colour"), "group_by auto, folder, similarity, time"),
        ("../t", SnapshotQuery(["r"]), "letters, digits"),
    ]
    for name, query, words in cases:
        with pytest.raises(InvalidInput, match=words):
            client.datasets.create(name, query)
    with pytest.raises(NotFound, match="no guarantee 'g' in the store"):
        client.datasets.create("t", SnapshotQuery(guarantee="g"))
    assert [s.name for s in client.datasets.list()] == ["s"]


def test_images_that_a_snapshot_lacks_are_nobody_s_business(client: Client, store: Store) -> None:
    secret = store.blobs.put(b"another image")
    with pytest.raises(NotFound, match="lacks one of these images"):
        list(client.datasets.fetch("s", [secret]))
    with pytest.raises(InvalidInput, match="64 hex digits"):
        list(client.datasets.fetch("s", ["../../etc/passwd"]))
    known = [e.sha256 for e in client.datasets.pull("s", images=False)]
    assert dict(client.datasets.fetch("s", known[:3])).keys() == set(known[:3])


def test_a_damaged_image_is_told_and_not_given(client: Client, store: Store) -> None:
    known = [e.sha256 for e in client.datasets.pull("s", images=False)]
    path = store.blobs._path(known[4])
    path.chmod(0o644)
    path.write_bytes(b"rot")
    got: list[Example] = []
    with pytest.raises(Damaged, match="no longer matches its hash"):
        got.extend(client.datasets.pull("s", cursor=cursor_at(client, 3)))
    assert got == []


def cursor_at(client: Client, place: int) -> str:
    return [e.cursor for e in client.datasets.pull("s", images=False)][place]


def test_a_server_without_a_store_says_so() -> None:
    with serving() as running, Client(running.address) as client:
        with pytest.raises(NotSupported, match="start it with --data"):
            client.datasets.get("s")
        with pytest.raises(NotSupported, match="start it with --data"):
            list(client.datasets.messages(pb.PullRequest(snapshot="s")))


def test_a_pull_goes_on_when_the_line_is_cut(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.server.datasets.IMAGES_AT_ONCE", 2)
    stored(store, "r", photos(30))
    with (
        serving(store=store) as running,
        FlakyLine(running.address) as line,
        Client(line.address) as client,
    ):
        client.datasets.create("s", HALVES)
        whole = [e.sha256 for e in client.datasets.pull("s")]
        seen = []
        for place, example in enumerate(client.datasets.pull("s")):
            seen.append(example.sha256)
            if place % 7 == 3:
                line.cut()
    assert seen == whole and len(seen) == 30


def test_a_pull_goes_on_with_another_server(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.server.datasets.IMAGES_AT_ONCE", 1)
    # Images that fill the line's buffers: the first server has not sent all when it stops.
    images = {f"{n}.png": encoded(noise(n), "PNG") for n in range(24)}
    stored(store, "r", images)
    with FlakyLine("") as line, Client(line.address, retry=RetryPolicy(unavailable_s=30)) as client:
        with serving(store=store) as first:
            line.target = first.address
            client.datasets.create("s", HALVES)
            pulled = client.datasets.pull("s")
            seen = [next(pulled).sha256 for _ in range(3)]
        with serving(store=store) as second:
            line.target = second.address
            line.cut()
            seen += [example.sha256 for example in pulled]
    assert len(seen) == 24 and seen == sorted(seen)


def noise(seed: int) -> PILImage.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    return PILImage.fromarray(pixels)
