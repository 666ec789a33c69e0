"""A snapshot as the source of a torch loader: cached, checked, shared by workers, resumable."""

import io
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from frozen import DOG_BOX, photos, stored
from loader_views import hash_only, pixels
from PIL import Image as PILImage
from serving import Serving, serving

from secondlook.store import Store, open_store
from secondlook_client import Client, RetryPolicy
from secondlook_client.dataset import SnapshotDataset
from secondlook_client.errors import CacheUnusable, Damaged, InvalidInput, Unavailable
from secondlook_client.values import SnapshotQuery

HALVES = SnapshotQuery(runs=["r"], split={"train": 1, "val": 1})
AT_ONCE = RetryPolicy(unavailable_s=0)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with a run of 40 images; to be copied."""
    folder = tmp_path_factory.mktemp("labelled")
    with open_store(folder / "data") as opened:
        stored(opened, "r", photos(40))
    return folder / "data"


@pytest.fixture
def kept(labelled: Path, tmp_path: Path) -> Iterator[Store]:
    """A store with a run of 40 images; the client sees no database, so one kind is enough."""
    with open_store(shutil.copytree(labelled, tmp_path / "data")) as opened:
        yield opened


@pytest.fixture
def served(kept: Store) -> Iterator[Serving]:
    with serving(store=kept) as running, Client(running.address) as client:
        client.datasets.create("s", HALVES)
        yield running


def dataset(served: Serving, tmp_path: Path, **options: object) -> SnapshotDataset:
    given = {"transform": None, **options}
    return SnapshotDataset(served.address, "s", cache=tmp_path / "cache", **given)


def test_every_image_by_number(served: Serving, tmp_path: Path) -> None:
    data = dataset(served, tmp_path)
    assert len(data) == 40 and data.classes == ("dog", "cat")
    forwards = list(data)
    assert [example.name for example in forwards] == [data[n].name for n in range(40)]
    assert {example.content for example in forwards} == set(photos(40).values())
    assert all(example.labels[0].xyxy == DOG_BOX for example in forwards)
    assert data[-1].sha256 == forwards[-1].sha256
    for outside in (40, -41):
        with pytest.raises(IndexError, match="has 40 images"):
            data[outside]


def test_an_item_is_pixels_and_a_target_unless_asked_otherwise(
    served: Serving, tmp_path: Path
) -> None:
    data = SnapshotDataset(served.address, "s", cache=tmp_path / "cache")
    (image, target), example = data[3], dataset(served, tmp_path)[3]
    own = np.asarray(PILImage.open(io.BytesIO(example.content)).convert("RGB"))
    assert image.dtype == np.uint8 and np.array_equal(image, own)
    assert target["boxes"].tolist() == [list(DOG_BOX)] and target["boxes"].dtype == np.float32
    assert target["labels"].tolist() == [data.classes.index("dog")]
    assert (target["ignore"].shape, target["sha256"]) == ((0, 4), example.sha256)


def test_splits_and_shards_part_the_snapshot(served: Serving, tmp_path: Path) -> None:
    whole = list(dataset(served, tmp_path, split="train", transform=hash_only))
    parts = [
        list(dataset(served, tmp_path, split="train", shard=n, shards=3, transform=hash_only))
        for n in range(3)
    ]
    assert sorted(sha256 for part in parts for sha256 in part) == whole
    assert 0 < len(whole) < 40
    for wrong in ({"shard": 3, "shards": 3}, {"shard": -1}, {"split": "test"}):
        with pytest.raises(InvalidInput):
            dataset(served, tmp_path, **wrong)


def test_what_was_fetched_once_needs_no_server(kept: Store, tmp_path: Path) -> None:
    with serving(store=kept) as running, Client(running.address) as client:
        client.datasets.create("s", HALVES)
        data = dataset(running, tmp_path, retry=AT_ONCE)
        first = data[0]
        rest = dataset(running, tmp_path, retry=AT_ONCE)
    assert rest[0] == first
    with pytest.raises(Unavailable):
        rest[1]


def test_download_fetches_what_lacks_and_only_that(kept: Store, tmp_path: Path) -> None:
    with serving(store=kept) as running, Client(running.address) as client:
        client.datasets.create("s", HALVES)
        data = dataset(running, tmp_path, retry=AT_ONCE)
        data[3], data[30]
        before = stamps(tmp_path)
        data.download()
    after = stamps(tmp_path)
    assert len(before) == 2 and len(after) == 40
    assert before.items() <= after.items()
    assert len(list(data)) == 40


def stamps(tmp_path: Path) -> dict[str, int]:
    paths = (tmp_path / "cache" / "images").rglob("*")
    return {path.name: path.stat().st_ino for path in paths if path.is_file()}


@pytest.mark.parametrize("harm", [b"", b"rot"])
def test_a_damaged_file_of_the_cache_is_fetched_again(
    served: Serving, tmp_path: Path, harm: bytes
) -> None:
    data = dataset(served, tmp_path)
    wanted = data[5]
    (path,) = (tmp_path / "cache" / "images").rglob(wanted.sha256)
    path.write_bytes(harm)
    assert data[5] == wanted
    assert path.read_bytes() == wanted.content


@pytest.mark.parametrize("name", ["all-0-of-1", "all-0-of-1.places"])
def test_a_damaged_index_is_pulled_again(served: Serving, tmp_path: Path, name: str) -> None:
    before = list(dataset(served, tmp_path))
    (path,) = (tmp_path / "cache" / "snapshots").rglob(name)
    path.write_bytes(path.read_bytes()[:-9])
    assert list(dataset(served, tmp_path)) == before


def test_a_wrong_image_never_reaches_the_training(
    served: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset(served, tmp_path)
    monkeypatch.setattr("secondlook.store.blobs.verify_hash", lambda sha256, content: b"wrong")
    with pytest.raises(Damaged, match="other bytes than its hash says"):
        data[0]
    assert stamps(tmp_path) == {}


def test_the_hash_that_was_asked_for_is_insisted_on(served: Serving, tmp_path: Path) -> None:
    manifest = dataset(served, tmp_path).snapshot.manifest
    assert len(dataset(served, tmp_path, manifest=manifest)) == 40
    with pytest.raises(InvalidInput, match="removed and made anew"):
        dataset(served, tmp_path, manifest="0" * 64)


def test_a_cache_that_cannot_be_written_says_so(served: Serving, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(CacheUnusable, match="give another folder with cache="):
        dataset(served, tmp_path)


def test_it_travels_to_another_process(served: Serving, tmp_path: Path) -> None:
    data = dataset(served, tmp_path, transform=hash_only)
    copy = pickle.loads(pickle.dumps(data))
    assert list(copy) == list(data) == sorted(copy)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_torch_loads_it_with_two_workers(served: Serving, tmp_path: Path, start: str) -> None:
    from torch.utils.data import DataLoader

    data = dataset(served, tmp_path, transform=pixels)
    data[0]  # this process has a line open when the workers are forked
    loader = DataLoader(
        data,
        batch_size=7,
        shuffle=True,
        num_workers=2,
        multiprocessing_context=start,
        collate_fn=list,
        persistent_workers=True,
        timeout=100,
    )
    for _ in range(2):
        seen = [image.tobytes() for batch in loader for image, boxes in batch]
        assert len(seen) == len(set(seen)) == 40
    own = {np.array(PILImage.open(io.BytesIO(c))).tobytes() for c in photos(40).values()}
    assert set(seen) == own
    assert data[1][1].tolist() == [list(DOG_BOX)]


FORKS = """
import os, shutil, signal, sys, time
from secondlook_client.dataset import SnapshotDataset

data = SnapshotDataset(sys.argv[1], "s", cache=sys.argv[2], transform=None)
for number in range(60):
    shutil.rmtree(os.path.join(sys.argv[2], "images"), ignore_errors=True)
    data[number % 40]
    child = os.fork()
    if not child:
        os._exit(data[(number + 1) % 40] is None)
    deadline = time.monotonic() + 20
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            sys.exit(f"the child of round {number} hangs")
        time.sleep(0.005)
    assert ended[1] == 0, number
"""


def test_a_fork_takes_no_lock_of_grpc_along(served: Serving, tmp_path: Path) -> None:
    """Each child asks the server right after its parent did; without the wait some hang."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS, served.address, str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
