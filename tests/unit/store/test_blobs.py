import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from secondlook.store import blobs as module
from secondlook.store.blobs import FolderBlobs
from secondlook_client.errors import Damaged, NotFound, StorageFull, StoreUnavailable

CONTENT = b"an image" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "blobs")


def file_of(tmp_path: Path, sha256: str = SHA256) -> Path:
    return tmp_path / "blobs" / sha256[:2] / sha256


def test_what_was_put_can_be_had(blobs: FolderBlobs, tmp_path: Path) -> None:
    assert blobs.put(CONTENT) == SHA256 == blobs.put(CONTENT)
    assert blobs.get(SHA256) == CONTENT
    assert blobs.has(SHA256) and list(blobs.all()) == [SHA256]
    assert FolderBlobs(tmp_path / "blobs").get(SHA256) == CONTENT


def test_what_was_removed_is_gone(blobs: FolderBlobs) -> None:
    blobs.put(CONTENT)
    blobs.remove(SHA256)
    blobs.remove(SHA256)
    assert not blobs.has(SHA256) and list(blobs.all()) == []
    with pytest.raises(NotFound, match="secondlook restore"):
        blobs.get(SHA256)


@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b[:-1] + b"?"])
def test_bytes_that_rotted_are_noticed_and_put_right(blobs: FolderBlobs, tmp_path: Path, spoil):
    blobs.put(CONTENT)
    file_of(tmp_path).chmod(0o644)
    file_of(tmp_path).write_bytes(spoil(CONTENT))
    with pytest.raises(Damaged, match="no longer matches its hash"):
        blobs.get(SHA256)
    blobs.put(CONTENT)
    assert blobs.get(SHA256) == CONTENT


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "ab" * 31])
def test_only_hashes_are_names(blobs: FolderBlobs, name: str) -> None:
    for ask in (blobs.get, blobs.has, blobs.remove):
        with pytest.raises(NotFound, match="not a sha256"):
            ask(name)


def test_bytes_are_synced_before_they_appear(blobs: FolderBlobs, tmp_path: Path, monkeypatch):
    events: list[str] = []
    sync, replace = os.fsync, Path.replace

    def noted_sync(handle: int) -> None:
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file"  # noqa: PTH112
        events.append(f"sync {kind}")
        sync(handle)

    def noted_replace(path: Path, target: Path) -> Path:
        events.append("appear")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    blobs.put(CONTENT)
    # The new folder's own entry, too, before anything in it is promised.
    assert events == ["sync file", "sync folder", "appear", "sync folder"]
    events.clear()
    blobs.put(CONTENT)  # its writer may have died before the folder was synced
    assert events == ["sync folder"]


def test_a_full_disk_leaves_nothing_behind(blobs: FolderBlobs, tmp_path: Path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageFull, match="free some space"):
            blobs.put(CONTENT)
    assert list(blobs.all()) == [] and not any((tmp_path / "blobs" / "incoming").iterdir())
    assert blobs.put(CONTENT) == SHA256


def test_a_folder_that_went_away_is_an_outage_and_not_made_anew(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "blobs")
    (tmp_path / "blobs" / "incoming").rmdir()
    (tmp_path / "blobs").rmdir()
    with pytest.raises(StoreUnavailable, match="ENOENT"):
        blobs.put(CONTENT)
    assert not (tmp_path / "blobs").exists()


def test_what_a_dead_process_left_is_cleared_but_not_what_a_living_one_writes(tmp_path: Path):
    incoming = tmp_path / "blobs" / "incoming"
    incoming.mkdir(parents=True)
    (incoming / "new").write_bytes(b"x")
    (incoming / "old").write_bytes(b"x")
    past = time.time() - module.ABANDONED_S - 60
    os.utime(incoming / "old", (past, past))
    blobs = FolderBlobs(tmp_path / "blobs")
    assert [path.name for path in incoming.iterdir()] == ["new"]
    assert list(blobs.all()) == []


def test_the_same_bytes_from_many_threads(blobs: FolderBlobs) -> None:
    wrong: list[BaseException] = []

    def put() -> None:
        try:
            for _ in range(20):
                blobs.put(CONTENT)
                blobs.get(SHA256)
        except BaseException as failure:
            wrong.append(failure)

    threads = [threading.Thread(target=put) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and list(blobs.all()) == [SHA256]
