"""Jobs from the queue to their end, on both databases, with scripted models."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes import Row, ScriptedProposer
from job_images import DOGS, encoded, ended, fill, running, soon, wait_for
from postgres import Postgres
from sqlalchemy import update

from secondlook.config.settings import BatchingSettings
from secondlook.core.image_folder import select_images
from secondlook.core.types import Image
from secondlook.jobs import result_writer
from secondlook.jobs.image_source import list_folder
from secondlook.jobs.in_flight import Attempt, InFlight
from secondlook.store import Store, open_store
from secondlook.store.images import NewImage, add_images
from secondlook.store.queue import NewItem, QueueDepth, add_items
from secondlook.store.schema import items
from secondlook_client.values import JobState

__all__ = ["soon"]
"""A fixture of these tests."""


def test_a_folder_is_labelled_whole(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 25)
    made = store.queue.create("j", "folder", DOGS, str(folder))
    with running(store, [tmp_path]):
        job = wait_for(store, "j", ended)
    assert (job.state, job.total, job.done, job.failed) == (JobState.DONE, 25, 25, 0)
    results = store.results.page(made.run_id)
    assert {r.labelled.name for r in results} == {f"part{n // 10}/{n}.png" for n in range(25)}
    assert all(store.blobs.get(r.labelled.sha256) for r in results)
    assert all((r.labelled.width, r.labelled.height) == (40, 30) for r in results)


def test_a_job_beyond_the_most_waits_and_is_counted(store: Store, tmp_path: Path) -> None:
    folder = str(fill(tmp_path / "images", 2))
    for name in ("first", "second", "paused"):
        run_id = store.queue.create(name, "upload", DOGS).run_id
        store.queue.add(run_id, [NewItem(1, "1.png"), NewItem(2, "2.png")])
    store.queue.create("empty", "upload", DOGS)  # and open: there is nothing to do
    store.queue.pause("paused")
    assert store.queue.depth() == QueueDepth(waiting=2, images=4)
    for name in ("first", "second"):
        store.queue.cancel(name)
        store.queue.create(f"{name} folder", "folder", DOGS, folder)
    with running(store, [tmp_path], ScriptedProposer(delay_s=0.5), max_jobs=1):
        wait_for(store, "first folder", lambda job: bool(job.owner and job.total))
        assert store.queue.depth() == QueueDepth(waiting=1, running=1, images=2)
        wait_for(store, "second folder", ended)
    assert store.queue.depth() == QueueDepth()


def test_what_other_machines_give_back_does_not_wait_to_be_written(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InFlight, "written_at_once", True)
    monkeypatch.setattr(result_writer, "BATCH_WINDOW_S", 60.0)
    gate = threading.Event()

    def script(image: Image, phrases: Sequence[str]) -> list[Row]:
        if len(proposer.seen) == 3:
            gate.wait(30)
        return []

    proposer, one_by_one = ScriptedProposer(script), BatchingSettings(propose_batch=1)
    store.queue.create("j", "folder", DOGS, str(fill(tmp_path / "images", 3)))
    with running(store, [tmp_path], proposer, limits=one_by_one):
        wait_for(store, "j", lambda job: job.done == 2)
        gate.set()
        assert wait_for(store, "j", ended).done == 3


def test_attempts_hear_that_their_outcomes_are_stored_and_not_before(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []

    class Watched(InFlight):
        returned = 0

        def next(self, timeout_s: float) -> Attempt | None:
            attempt = super().next(timeout_s)
            self.returned += attempt is not None
            return attempt

        def written(self) -> None:
            told.append((self.returned, store.queue.get("j").done))

    monkeypatch.setattr("secondlook.jobs.worker.InFlight", Watched)
    monkeypatch.setattr(result_writer, "BATCH_WINDOW_S", 0.15)
    store.queue.create("j", "folder", DOGS, str(fill(tmp_path / "images", 20)))
    proposer, in_twos = ScriptedProposer(delay_s=0.1), BatchingSettings(propose_batch=2)
    with running(store, [tmp_path], proposer, limits=in_twos):
        wait_for(store, "j", ended)
    assert all(returned == done for returned, done in told)
    assert any(0 < done < 20 for _, done in told)
    assert told[-1] == (20, 20)


def test_a_job_that_goes_on_with_another_calibrator_says_so(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = str(fill(tmp_path / "images", 1))
    store.queue.create("same", "folder", DOGS, folder, {"score_floor": 0.1})
    store.queue.create("other", "folder", DOGS, folder, {"calibrator": "3fa0" * 16})
    with running(store, [tmp_path]):
        assert wait_for(store, "same", ended).done == wait_for(store, "other", ended).done == 1
    (said,) = (one.getMessage() for one in caplog.records if "calibrator" in one.getMessage())
    assert said.startswith("job 'other' began with the calibrator 3fa03fa03fa0 and goes on with")


def test_what_was_labelled_before_a_fail_over_is_not_recorded_for_another_image(
    store: Store,
) -> None:
    image = NewImage.of(store.blobs.put(encoded(1)), encoded(1))
    with store.database.writing() as connection:
        (number,) = add_images(connection, [image]).values()
    run_id = store.queue.create("j", "upload", DOGS).run_id
    store.queue.add(run_id, [NewItem(1, "1.png", image_id=number)])
    store.queue.close(run_id)
    proposer = ScriptedProposer(delay_s=0.5)
    with running(store, proposer=proposer):
        wait_for(store, "j", lambda job: bool(proposer.seen))
        with store.database.writing() as connection:  # its id is that of another image now
            connection.execute(update(items).values(key=2))
        assert wait_for(store, "j", ended).done == 1
    assert len(proposer.seen) == 2


def test_a_stopped_server_finishes_what_is_under_way_and_the_next_goes_on(
    store: Store, tmp_path: Path
) -> None:
    folder = fill(tmp_path / "images", 200)
    made = store.queue.create("j", "folder", DOGS, str(folder))
    first, second = ScriptedProposer(delay_s=0.05), ScriptedProposer()
    with running(store, [tmp_path], first):
        wait_for(store, "j", lambda job: job.done >= 10)
    stopped = store.queue.get("j")
    assert stopped.owner == "" and stopped.done < 200
    assert stopped.done == len(set(first.seen)) == len(first.seen), "all that was begun is kept"
    with running(store, [tmp_path], second):
        job = wait_for(store, "j", ended)
    assert (job.state, job.done) == (JobState.DONE, 200)
    assert not set(first.seen) & set(second.seen), "nothing was labelled twice"
    assert store.results.count(made.run_id) == 200


def test_a_job_of_a_dead_server_is_taken_over_and_the_dead_one_writes_nothing(
    store: Store, tmp_path: Path
) -> None:
    folder = fill(tmp_path / "images", 10)
    made = store.queue.create("j", "folder", DOGS, str(folder))
    assert store.queue.claim("dead", 0.6) is not None
    began = time.monotonic()
    with running(store, [tmp_path]):
        job = wait_for(store, "j", ended)
    assert time.monotonic() - began > 0.5
    assert (job.done, store.results.count(made.run_id)) == (10, 10)
    assert not store.queue.finish(made.run_id, "dead", JobState.FAILED)


def test_servers_share_jobs_and_each_image_has_one_result(store: Store, tmp_path: Path) -> None:
    runs = []
    for number in range(4):
        folder = fill(tmp_path / f"images{number}", 20)
        runs.append(store.queue.create(f"j{number}", "folder", DOGS, str(folder)).run_id)
    proposers = [ScriptedProposer(delay_s=0.02) for _ in range(2)]
    with running(store, [tmp_path], proposers[0]), running(store, [tmp_path], proposers[1]):
        for number in range(4):
            assert wait_for(store, f"j{number}", ended).done == 20
    assert [store.results.count(run_id) for run_id in runs] == [20] * 4
    assert sum(len(proposer.seen) for proposer in proposers) == 80


def test_servers_that_name_one_postgresql_differently_label_each_image_once(
    postgres: Postgres, tmp_path: Path
) -> None:
    database, folder = postgres.new_database(), fill(tmp_path / "images", 15)
    urls = [
        postgres.url(database),
        postgres.url(database).replace("host=", "host=/../") + "&application_name=other",
    ]
    places = [tmp_path / "data", tmp_path / "link"]
    places[1].symlink_to(places[0])
    proposers = [ScriptedProposer(delay_s=0.02) for _ in range(2)]
    with (
        open_store(places[0], urls[0], serving=True) as one,
        open_store(places[1], urls[1], serving=True) as two,
    ):
        made = [one.queue.create(f"j{n}", "folder", DOGS, str(folder)).run_id for n in range(10)]
        with (
            running(one, [tmp_path], proposers[0]),
            running(two, [tmp_path], proposers[1]),
        ):
            for number in range(10):
                assert wait_for(two, f"j{number}", ended).done == 15
        assert [two.results.count(run_id) for run_id in made] == [15] * 10
    assert all(proposer.seen for proposer in proposers)
    assert sum(len(proposer.seen) for proposer in proposers) == 150


def test_a_cancelled_job_stops_and_can_be_taken_up_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_writer, "BATCH_WINDOW_S", 0.1)
    folder = fill(tmp_path / "images", 60)
    proposer = ScriptedProposer(delay_s=0.1)
    store.queue.create("j", "folder", DOGS, str(folder))
    with running(store, [tmp_path], proposer, in_flight=8):
        wait_for(store, "j", lambda job: job.done >= 5 and job.closed)
        done = store.queue.cancel("j").done
        seen = 0
        while seen != len(proposer.seen):
            seen = len(proposer.seen)
            time.sleep(0.4)
        assert seen < 60, "nobody works on it"
        assert store.queue.get("j").done == done
        store.queue.retry("j")
        assert wait_for(store, "j", ended).done == 60


def test_a_paused_job_finishes_what_is_under_way_and_waits_over_a_restart(
    store: Store, tmp_path: Path
) -> None:
    folder = fill(tmp_path / "images", 200)
    first, second = ScriptedProposer(delay_s=0.1), ScriptedProposer()
    store.queue.create("j", "folder", DOGS, str(folder))
    with running(store, [tmp_path], first, in_flight=8):
        wait_for(store, "j", lambda job: job.done >= 5)
        store.queue.pause("j")
        paused = wait_for(store, "j", lambda job: job.owner == "")
        assert (paused.state, paused.done) == (JobState.PAUSED, len(first.seen))
        assert paused.done < 200
    with running(store, [tmp_path], second):
        time.sleep(0.7)  # longer than it takes to claim a job
        assert store.queue.get("j").done == paused.done and not second.seen
        store.queue.resume("j")
        job = wait_for(store, "j", ended)
    assert (job.state, job.done, job.failed) == (JobState.DONE, 200, 0)
    assert not set(first.seen) & set(second.seen), "nothing was labelled twice"


def test_an_open_job_is_gone_on_with_whenever_something_comes(store: Store) -> None:
    made = store.queue.create("j", "upload", DOGS)
    with running(store):
        for number in range(3):
            content = encoded(number)
            sha256 = store.blobs.put(content)
            with store.database.writing() as connection:
                ids = add_images(connection, [NewImage(sha256, len(content), "png")])
                add_items(connection, made, [NewItem(number, "x", image_id=ids[sha256])])
            came = time.monotonic()
            wait_for(store, "j", lambda job, done=number + 1: job.done == done)
            assert time.monotonic() - came < 2
            if number == 1:
                wait_for(store, "j", lambda job: job.owner == "")
        store.queue.close(made.run_id)
        assert wait_for(store, "j", ended).state is JobState.DONE


def test_a_file_replaced_before_its_turn_is_labelled_as_it_is_now(
    store: Store, tmp_path: Path
) -> None:
    folder = fill(tmp_path / "images", 4)
    made = store.queue.create("j", "folder", DOGS, str(folder))
    list_folder(store.queue, made.run_id, folder, lambda _: False)
    (folder / "part0/2.png").write_bytes(encoded(99))
    (folder / "part0/3.png").unlink()
    with running(store, [tmp_path]):
        job = wait_for(store, "j", ended)
    assert (job.total, job.done, job.failed) == (4, 3, 1)
    [gone] = store.queue.failures(made.run_id)
    assert (gone.name, gone.reason) == ("part0/3.png", "bad_image")
    assert "no such file" in gone.message
    now = next(r for r in store.results.page(made.run_id) if r.labelled.name == "part0/2.png")
    assert store.blobs.get(now.labelled.sha256) == encoded(99)
    [source] = [s for s in select_images([folder]).walk() if s.name == "part0/2.png"]
    assert now.key == source.key


def test_a_link_put_there_after_the_listing_is_not_followed(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 2)
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(7))
    made = store.queue.create("j", "folder", DOGS, str(folder))
    list_folder(store.queue, made.run_id, folder, lambda _: False)
    (folder / "part0/1.png").unlink()
    (folder / "part0/1.png").symlink_to(secret)
    with running(store, [folder]):
        assert wait_for(store, "j", ended).done == 1
    [failure] = store.queue.failures(made.run_id)
    assert (failure.reason, failure.attempts) == ("not_allowed", 1)
