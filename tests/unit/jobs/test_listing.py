"""A folder into the queue: every image once, whatever happens on the way."""

import os
from pathlib import Path

import pytest
from flaky_store import Whim, flaky
from job_images import DOGS, fill

from secondlook.core.files import text_to_name
from secondlook.jobs.image_source import list_folder
from secondlook.store import Store
from secondlook.store.queue import change_job
from secondlook_client.errors import Unavailable
from secondlook_client.values import JobState


def never(seconds: float) -> bool:
    return False


def test_names_in_any_script_find_their_files_again(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    raw = [b"caf\xe9.jpg", "图片.jpg".encode(), b"back\\slash.jpg", b"new\nline.jpg", b"\\xe9.jpg"]
    for name in raw:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).touch()
    made = store.queue.create("j", "folder", DOGS, str(folder))
    list_folder(store.queue, made.run_id, folder, never)
    found = store.queue.next(made.run_id, 10)
    assert {os.fsencode(text_to_name(item.name)) for item in found} == set(raw)


def test_listing_again_adds_what_is_new_or_changed(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 12)
    made = store.queue.create("j", "folder", DOGS, str(folder))
    list_folder(store.queue, made.run_id, folder, never)
    assert (store.queue.get("j").total, store.queue.get("j").closed) == (12, True)
    with store.database.writing() as connection:  # as if the server had died before the end
        change_job(connection, made.run_id, state=JobState.LISTING, closed=False)
    (folder / "part0/3.png").write_bytes(b"longer than it was before, if no image")
    (folder / "new.png").touch()
    list_folder(store.queue, made.run_id, folder, never)
    now = store.queue.get("j")
    assert (now.total, now.state) == (14, JobState.RUNNING), "one new, one changed"


def test_a_folder_that_is_not_there_is_no_empty_one(store: Store, tmp_path: Path) -> None:
    made = store.queue.create("j", "folder", DOGS, str(tmp_path / "gone"))
    with pytest.raises(Unavailable, match="is missing"):
        list_folder(store.queue, made.run_id, tmp_path / "gone", never)
    assert not store.queue.get("j").closed


def test_a_listing_that_is_stopped_leaves_the_job_open(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 3)
    made = store.queue.create("j", "folder", DOGS, str(folder))
    list_folder(store.queue, made.run_id, folder, lambda seconds: True)
    assert (store.queue.get("j").closed, store.queue.get("j").total) == (False, 0)


def test_a_store_that_fails_is_waited_for(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 30)
    made = store.queue.create("j", "folder", DOGS, str(folder))
    whim, waits = Whim(0.7, 5), []
    queue = flaky(store, whim, whim).queue
    list_folder(queue, made.run_id, folder, lambda seconds: waits.append(seconds))
    assert whim.failed > 0 and max(waits) > 0
    assert (store.queue.get("j").total, store.queue.get("j").closed) == (30, True)
