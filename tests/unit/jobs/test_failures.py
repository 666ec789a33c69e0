"""Jobs whose images, models or store fail: retried, waited for or failed."""

import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from encoded_images import encoded as encode_as
from fakes import Row, ScriptedProposer, ScriptedVerifier
from flaky_store import Whim, flaky
from job_images import DOGS, SETTLED_NS, encoded, ended, fill, running, soon, wait_for
from PIL import Image as PILImage

from secondlook.config.settings import ImageSettings
from secondlook.core.decoding import ImageDecoder
from secondlook.core.types import Image
from secondlook.store import Store
from secondlook.store.images import NewImage, add_images
from secondlook.store.queue import NewItem, add_items
from secondlook_client.errors import BadOntology, Unavailable
from secondlook_client.values import Answer, JobState, Outcome

__all__ = ["soon"]
"""A fixture of these tests."""

SLOW = encode_as(PILImage.new("RGB", (5000, 5000)), "PNG", compress_level=1)
"""Takes more than a tenth of a second to decode."""


def test_an_unreadable_image_fails_and_the_rest_is_labelled(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 5)
    torn = folder / "torn.png"
    torn.write_bytes(encoded(9)[:40])
    os.utime(torn, ns=(SETTLED_NS, SETTLED_NS))
    (folder / "empty.jpg").touch()
    os.mkfifo(folder / "pipe.jpg")
    made = store.queue.create("j", "folder", DOGS, str(folder))
    with running(store, [tmp_path]):
        job = wait_for(store, "j", ended)
    assert (job.state, job.done, job.failed) == (JobState.DONE, 5, 3)
    failures = {f.name: f for f in store.queue.failures(made.run_id)}
    assert {f.reason for f in failures.values()} == {"bad_image"}
    assert "named pipe" in failures["pipe.jpg"].message
    assert failures["torn.png"].attempts == 1, "its bytes will not change any more"
    assert failures["empty.jpg"].attempts == 3, "it may have been on its way"


def test_an_image_that_breaks_the_model_is_retried_and_then_fails(
    store: Store, tmp_path: Path
) -> None:
    folder = fill(tmp_path / "images", 6)
    tried: Counter[str] = Counter()

    def script(image: Image, phrases: Sequence[str]) -> list[Row]:
        name = Path(image.name).stem
        tried[name] += 1
        if name == "3" or (name == "4" and tried[name] < 3):
            raise ValueError("this image breaks the model")
        return []

    made = store.queue.create("j", "folder", DOGS, str(folder))
    with running(store, [tmp_path], ScriptedProposer(script)):
        job = wait_for(store, "j", ended)
    assert (job.done, job.failed) == (5, 1)
    [failure] = store.queue.failures(made.run_id)
    assert (failure.name, failure.reason, failure.attempts) == ("part0/3.png", "internal", 3)
    assert "(ValueError)" in failure.message


@pytest.mark.parametrize("down", ["proposer", "verifier"])
def test_a_job_waits_for_models_that_are_away(store: Store, tmp_path: Path, down: str) -> None:
    folder = fill(tmp_path / "images", 20)
    away = threading.Event()
    away.set()

    def boxes(image: Image, phrases: Sequence[str]) -> list[Row]:
        if away.is_set() and down == "proposer":
            raise Unavailable("the model's server does not answer; start it")
        return [((1, 1, 9, 9), dict.fromkeys(phrases, 0.9))]

    def answer(question: str) -> Answer:
        if away.is_set() and down == "verifier":
            return Answer(None, error="the model's server does not answer; start it")
        return Answer(0.9)

    made = store.queue.create("j", "folder", DOGS, str(folder))
    with running(store, [tmp_path], ScriptedProposer(boxes), ScriptedVerifier(answer)) as runner:
        waiting = wait_for(store, "j", lambda job: "does not answer" in job.message)
        assert (waiting.state, waiting.done, waiting.failed) == (JobState.LISTING, 0, 0) or (
            waiting.state is JobState.RUNNING
        )
        assert "does not answer" in runner.waits_for(made.run_id)
        time.sleep(0.2)  # some more tries
        away.clear()
        job = wait_for(store, "j", ended)
    assert (job.done, job.failed, job.message) == (20, 0, "")
    assert all(len(r.labelled.of(Outcome.ACCEPT)) == 1 for r in store.results.page(made.run_id))


def test_classes_that_the_models_refuse_end_the_job(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 3)

    def refuse(image: Image, phrases: Sequence[str]) -> list[Row]:
        raise BadOntology("the phrase 'dog' is too long; shorten it")

    store.queue.create("j", "folder", DOGS, str(folder))
    with running(store, [tmp_path], ScriptedProposer(refuse)):
        job = wait_for(store, "j", ended)
    assert (job.state, job.message) == (JobState.FAILED, "the phrase 'dog' is too long; shorten it")


def test_an_image_that_takes_too_long_to_decode_fails_once_and_stays_failed(store: Store) -> None:
    made = store.queue.create("j", "upload", DOGS)

    def upload(key: int, name: str, content: bytes) -> None:
        sha256 = store.blobs.put(content)
        with store.database.writing() as connection:
            ids = add_images(connection, [NewImage(sha256, len(content), "png")])
            add_items(connection, made, [NewItem(key, name, image_id=ids[sha256])])

    upload(0, "slow.png", SLOW)
    upload(1, "sound.png", encoded(1))
    with running(store, decoder=ImageDecoder(ImageSettings(max_decode_s=0.1))):
        wait_for(store, "j", lambda job: (job.done, job.failed) == (1, 1))
    upload(2, "later.png", encoded(2))
    with running(store):  # the next server, which would have the time
        job = wait_for(store, "j", lambda job: job.done == 2)
    assert (job.failed, job.waiting) == (1, 0)
    [failure] = store.queue.failures(made.run_id)
    assert (failure.name, failure.reason) == ("slow.png", "decoding_failed")
    assert failure.attempts == 1
    assert "took more than 0.1 s" in failure.message


def test_a_new_file_that_takes_too_long_to_decode_is_not_tried_again(
    store: Store, tmp_path: Path
) -> None:
    """Others are, as they may still be being written."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "slow.png").write_bytes(SLOW)
    made = store.queue.create("j", "folder", DOGS, str(folder))
    with running(store, [tmp_path], decoder=ImageDecoder(ImageSettings(max_decode_s=0.1))):
        wait_for(store, "j", ended)
    (failure,) = store.queue.failures(made.run_id)
    assert (failure.reason, failure.attempts) == ("decoding_failed", 1)


def test_a_job_waits_while_other_images_fill_the_memory(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 3)
    decoder = ImageDecoder(ImageSettings(max_decoded_bytes=2**20))
    held = decoder.submit(encode_as(PILImage.new("RGB", (2000, 2000)), "PNG")).result()
    store.queue.create("j", "folder", DOGS, str(folder))
    with running(store, [tmp_path], decoder=decoder):
        wait_for(store, "j", lambda job: job.state is JobState.RUNNING)
        assert store.queue.get("j").done == 0
        assert held.width == 2000
        del held
        job = wait_for(store, "j", ended)
    assert (job.done, job.failed) == (3, 0)


def test_bytes_that_rotted_in_the_store_set_their_image_aside(store: Store, tmp_path: Path) -> None:
    made = store.queue.create("j", "upload", DOGS)
    content = encoded(1)
    sha256 = store.blobs.put(content)
    with store.database.writing() as connection:
        ids = add_images(connection, [NewImage(sha256, len(content), "png")])
        add_items(connection, made, [NewItem(1, "x.png", image_id=ids[sha256])])
    [path] = (tmp_path / "data" / "blobs").rglob(sha256)
    path.chmod(0o600)
    path.write_bytes(b"rot")
    store.queue.close(made.run_id)
    with running(store):
        assert wait_for(store, "j", ended).failed == 1
    [failure] = store.queue.failures(made.run_id)
    assert failure.reason == "damaged" and "hash" in failure.message


def test_a_folder_that_may_not_be_read_makes_the_job_wait_and_say_so(
    store: Store, tmp_path: Path
) -> None:
    folder = fill(tmp_path / "images", 2)
    store.queue.create("j", "folder", DOGS, str(folder))
    with running(store, [tmp_path / "elsewhere"]):
        job = wait_for(store, "j", lambda job: bool(job.message))
        assert "--image-roots" in job.message
        wait_for(store, "j", lambda job: job.owner == "")
    store.queue.clear_leases()
    with running(store, [tmp_path]):
        assert wait_for(store, "j", ended).done == 2


def test_nothing_is_lost_when_the_store_fails_now_and_then(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 40)
    made = store.queue.create("j", "folder", DOGS, str(folder))
    database, blobs = Whim(0.15, 1), Whim(0.15, 101)
    with running(flaky(store, database, blobs), [tmp_path], ScriptedProposer(delay_s=0.01)):
        job = wait_for(store, "j", ended, timeout_s=60)
    assert database.failed > 3 and blobs.failed > 3
    assert (job.state, job.total, job.done, job.failed) == (JobState.DONE, 40, 40, 0)
    assert store.results.count(made.run_id) == 40


def test_a_store_that_is_away_for_long_is_waited_for(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 120)
    made = store.queue.create("j", "folder", DOGS, str(folder))
    database = Whim(0.0, 1, kinds=["refuse"])
    proposer = ScriptedProposer(delay_s=0.1)
    with running(flaky(store, database, Whim(0.0, 1)), [tmp_path], proposer) as runner:
        wait_for(store, "j", lambda job: job.done >= 3)
        database.share = 1.0
        until = time.monotonic() + 30
        while not runner.waits_for(made.run_id):
            assert time.monotonic() < until, "it says what it waits for"
            time.sleep(0.05)
        seen = len(proposer.seen)
        database.share = 0.0
        job = wait_for(store, "j", ended)
    assert (job.done, job.failed) == (120, 0)
    assert seen < 120 and len(proposer.seen) == 120, "results were held, not made again"
