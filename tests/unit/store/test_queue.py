"""The queue on both databases: each item once, one server a job, nothing settled twice."""

import threading
import time
from collections.abc import Sequence

import pytest

from secondlook.store import Store
from secondlook.store.images import NewImage, add_images
from secondlook.store.queue import (
    FailedAttempt,
    Item,
    JobRow,
    NewItem,
    OutcomeCounts,
    record_outcomes,
)
from secondlook_client.errors import AlreadyExists, BadRequest, LostLease, NotFound
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import JobState

DOGS = Ontology((ClassSpec("dog"),))
A, B = "server-a", "server-b"


def job(
    store: Store, name: str = "job", items: int = 3, closed: bool = True, **more: str
) -> JobRow:
    made = store.queue.create(name, "upload", DOGS, **more)
    store.queue.add(made.run_id, [NewItem(key, f"{key}.jpg") for key in range(items)])
    if closed:
        store.queue.close(made.run_id)
    return store.queue.get(name)


def image(store: Store) -> int:
    with store.database.writing() as connection:
        return add_images(connection, [NewImage("ab" * 32, 3, "jpg")])["ab" * 32]


def settled(
    store: Store,
    run_id: int,
    owner: str = A,
    done: Sequence[Item] = (),
    failed: Sequence[FailedAttempt] = (),
    retries: Sequence[FailedAttempt] = (),
) -> OutcomeCounts:
    number = image(store)
    with store.database.writing() as connection:
        ids = {item.id: number for item in done}
        return record_outcomes(connection, run_id, owner, ids, failed, retries)


def names(found: Sequence[Item]) -> list[str]:
    return [item.name for item in found]


def test_a_job_goes_from_its_first_item_to_its_end(store: Store) -> None:
    made = job(store)
    assert (made.state, made.total, made.waiting, made.owner) == (JobState.RUNNING, 3, 3, "")
    claimed = store.queue.claim(A, 60)
    assert claimed is not None and (claimed.name, claimed.owner) == ("job", A)
    items = store.queue.next(made.run_id, 10)
    assert names(items) == ["0.jpg", "1.jpg", "2.jpg"]
    assert settled(store, made.run_id, done=items[:2]) == OutcomeCounts(2, 0)
    assert not store.queue.finish(made.run_id, A, JobState.DONE), "one item is left"
    given_up = FailedAttempt(items[2].id, "bad_image", "torn")
    assert settled(store, made.run_id, failed=[given_up]) == OutcomeCounts(0, 1)
    assert store.queue.finish(made.run_id, A, JobState.DONE)
    now = store.queue.get("job")
    assert (now.state, now.done, now.failed, now.owner) == (JobState.DONE, 2, 1, "")
    assert not now.active
    assert store.queue.claim(A, 60) is None


def test_a_name_is_given_once_and_an_unknown_one_is_reported(store: Store) -> None:
    job(store)
    with pytest.raises(AlreadyExists, match="'job'"):
        store.queue.create("job", "folder", DOGS)
    with pytest.raises(NotFound, match="job list"):
        store.queue.get("no such")


def test_an_item_of_a_known_key_is_added_once(store: Store) -> None:
    made = job(store, items=2500, closed=False)
    assert made.total == 2500
    more = [NewItem(key, "again") for key in (-(2**63), 7, 7, 2499, 2**63 - 1)]
    assert store.queue.add(made.run_id, more) == 2
    assert store.queue.get("job").total == 2502


def test_what_cannot_be_labelled_at_all_fails_when_it_is_added(store: Store) -> None:
    made = job(store, items=1, closed=False)
    pipe = NewItem(9, "pipe.jpg", refusal="a named pipe, not a file")
    assert [store.queue.add(made.run_id, [pipe]) for _ in range(2)] == [1, 0]
    now = store.queue.get("job")
    assert (now.total, now.failed) == (2, 1)
    [failure] = store.queue.failures(made.run_id)
    assert (failure.name, failure.reason, failure.message) == (
        "pipe.jpg",
        "bad_image",
        "a named pipe, not a file",
    )


def test_a_closed_or_cancelled_job_takes_no_more(store: Store) -> None:
    made = job(store)
    with pytest.raises(BadRequest, match="'job' is closed"):
        store.queue.add(made.run_id, [NewItem(99, "late")])
    open_one = job(store, "other", closed=False)
    assert store.queue.cancel("other").state is JobState.CANCELLED
    with pytest.raises(BadRequest, match="'other' is cancelled"):
        store.queue.add(open_one.run_id, [NewItem(99, "late")])


def test_settling_twice_counts_once(store: Store) -> None:
    made = job(store)
    store.queue.claim(A, 60)
    items = store.queue.next(made.run_id, 10)
    assert settled(store, made.run_id, done=items) == OutcomeCounts(3, 0)
    late = FailedAttempt(items[0].id, "bad_image", "torn")
    assert settled(store, made.run_id, done=items, failed=[late], retries=[late]) == OutcomeCounts(
        0, 0
    )
    assert store.queue.get("job").done == 3
    assert store.queue.failures(made.run_id) == []


def test_who_lost_the_lease_writes_nothing(store: Store) -> None:
    made = job(store)
    store.queue.claim(A, -1)  # over at once: as if the server had slept
    assert store.queue.renew(made.run_id, A, -1), "nobody took it yet"
    taken = store.queue.claim(B, 60)
    assert taken is not None and taken.owner == B
    assert not store.queue.renew(made.run_id, A, 60)
    items = store.queue.next(made.run_id, 10)
    with pytest.raises(LostLease):
        settled(store, made.run_id, A, done=items)
    assert not store.queue.finish(made.run_id, A, JobState.FAILED)
    store.queue.release(made.run_id, A)
    assert store.queue.get("job").owner == B
    assert settled(store, made.run_id, B, done=items).done == 3


def test_a_lease_given_back_is_free_after_its_pause(store: Store) -> None:
    made = job(store)
    store.queue.claim(A, 60)
    assert store.queue.claim(B, 60) is None
    store.queue.release(made.run_id, A, pause_s=60)
    assert store.queue.claim(B, 60) is None
    store.queue.clear_leases()
    assert store.queue.claim(B, 60) is not None


def test_many_servers_take_each_job_once(store: Store) -> None:
    for index in range(6):
        job(store, f"job {index}", items=1)
    taken: list[str] = []

    def take(owner: str) -> None:
        while claimed := store.queue.claim(owner, 60):
            taken.append(claimed.name)

    servers = [threading.Thread(target=take, args=(f"server {i}",)) for i in range(4)]
    for server in servers:
        server.start()
    for server in servers:
        server.join()
    assert sorted(taken) == [f"job {index}" for index in range(6)]


def test_an_open_job_with_nothing_queued_is_left_alone(store: Store) -> None:
    made = job(store, items=0, closed=False)
    assert store.queue.claim(A, 60) is None
    store.queue.add(made.run_id, [NewItem(1, "a")])
    assert store.queue.claim(A, 60) is not None


def test_a_folder_is_listed_before_anything_else(store: Store) -> None:
    made = job(store, items=0, closed=False, root="/images")
    assert made.state is JobState.LISTING
    assert store.queue.claim(A, 60) is not None
    store.queue.close(made.run_id)
    assert store.queue.get("job").state is JobState.RUNNING
    assert store.queue.finish(made.run_id, A, JobState.DONE)


def test_what_is_put_off_comes_back_when_it_is_due(store: Store) -> None:
    made = job(store)
    store.queue.claim(A, 60)
    items = store.queue.next(made.run_id, 10)
    due, not_due = (
        FailedAttempt(items[i].id, "internal", "no luck", t) for i, t in ((0, 1.0), (1, 9e9))
    )
    settled(store, made.run_id, retries=[due, not_due])
    found = store.queue.next(made.run_id, 10)
    assert names(found) == ["2.jpg", "0.jpg"], "fresh ones first"
    assert [item.attempts for item in found] == [0, 1]
    assert not store.queue.finish(made.run_id, A, JobState.DONE)


def test_items_at_work_are_not_given_again(store: Store) -> None:
    made = job(store, items=10)
    first = store.queue.next(made.run_id, 4)
    rest = store.queue.next(made.run_id, 4, skip={item.id for item in first})
    assert names(first + rest) == [f"{i}.jpg" for i in range(8)]


def test_cancelling_takes_the_job_away_from_its_server(store: Store) -> None:
    made = job(store)
    store.queue.claim(A, 60)
    assert store.queue.cancel("job").state is JobState.CANCELLED
    assert not store.queue.renew(made.run_id, A, 60)
    with pytest.raises(LostLease):
        settled(store, made.run_id, done=store.queue.next(made.run_id, 1))
    assert store.queue.claim(B, 60) is None
    assert store.queue.retry("job") == 0
    assert store.queue.get("job").state is JobState.RUNNING


def test_a_paused_job_takes_images_and_nobody_claims_it(store: Store) -> None:
    made = job(store, closed=False)
    assert store.queue.pause("job").state is JobState.PAUSED
    assert store.queue.claim(A, 60) is None
    assert store.queue.add(made.run_id, [NewItem(99, "late")]) == 1
    assert store.queue.retry("job") == 0
    store.queue.close(made.run_id)
    assert store.queue.get("job").state is JobState.PAUSED
    assert store.queue.resume("job").state is JobState.RUNNING
    assert (claimed := store.queue.claim(A, 60)) and claimed.waiting == 4
    assert store.queue.pause("job").owner == A, "what is under way may be finished"
    assert store.queue.paused([made.run_id, 77]) == [made.run_id]
    assert store.queue.cancel("job").state is JobState.CANCELLED
    assert store.queue.pause("job").state is store.queue.resume("job").state is JobState.CANCELLED


def test_a_folder_that_was_not_read_whole_is_read_on_after_a_pause(store: Store) -> None:
    store.queue.create("job", "folder", DOGS, "/photos")
    store.queue.pause("job")
    assert store.queue.resume("job").state is JobState.LISTING


def test_retry_queues_failed_items_again(store: Store) -> None:
    made = job(store)
    store.queue.claim(A, 60)
    items = store.queue.next(made.run_id, 10)
    given_up = [FailedAttempt(item.id, "bad_image", "torn") for item in items[1:]]
    settled(store, made.run_id, done=items[:1], failed=given_up)
    store.queue.finish(made.run_id, A, JobState.DONE)
    assert store.queue.retry("job") == 2
    now = store.queue.get("job")
    assert (now.state, now.done, now.failed, now.waiting) == (JobState.RUNNING, 1, 0, 2)
    assert [(i.name, i.attempts) for i in store.queue.next(made.run_id, 9)] == [
        ("1.jpg", 0),
        ("2.jpg", 0),
    ]
    assert store.queue.retry("job") == 0


def test_a_replaced_file_takes_the_place_of_the_old_one(store: Store) -> None:
    made = job(store)
    store.queue.claim(A, 60)
    first, second, _ = store.queue.next(made.run_id, 10)
    assert store.queue.replace(first, A, NewItem(77, first.name, 5, 6))
    [now] = [item for item in store.queue.next(made.run_id, 10) if item.id == first.id]
    assert (now.key, now.size, now.mtime_ns) == (77, 5, 6)
    assert not store.queue.replace(second, A, NewItem(77, first.name)), "that key is taken"
    with pytest.raises(LostLease):
        store.queue.replace(second, B, NewItem(78, "x"))
    assert store.queue.get("job").total == 3


def test_jobs_and_failures_come_in_pages(store: Store) -> None:
    for index in range(5):
        job(store, f"job {index}", items=0)
    first = store.queue.list_jobs(limit=3)
    rest = store.queue.list_jobs(before=first[-1].run_id, limit=3)
    assert [found.name for found in first + rest] == [f"job {i}" for i in (4, 3, 2, 1, 0)]
    made = job(store, "torn", items=5)
    store.queue.claim(A, 60)
    made = store.queue.get("torn")
    with store.database.writing() as connection:
        given_up = [
            FailedAttempt(i.id, "x" * 99, "NUL \0 and half \udcff")
            for i in store.queue.next(made.run_id, 9)
        ]
        record_outcomes(connection, made.run_id, made.owner, {}, given_up)
    page = store.queue.failures(made.run_id, limit=3)
    page += store.queue.failures(made.run_id, after=page[-1].item_id, limit=3)
    assert [failure.name for failure in page] == [f"{i}.jpg" for i in range(5)]
    assert (page[0].message, len(page[0].reason), page[0].attempts) == ("NUL ? and half ?", 64, 1)


def test_a_job_remembers_its_settings_and_message(store: Store) -> None:
    made = store.queue.create("job", "folder", DOGS, "/p", {"floor": 0.1, "sources": ["a"]})
    assert made.settings == {"floor": 0.1, "sources": ["a"]}
    store.queue.claim(A, 60)
    assert store.queue.renew(made.run_id, A, 60, "waits for the disk")
    assert store.queue.renew(made.run_id, A, 60)
    assert store.queue.get("job").message == "waits for the disk"


@pytest.mark.parametrize("hours", [-1, 1])
def test_servers_whose_clocks_differ_keep_their_jobs(
    store: Store, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    made = job(store)
    assert store.queue.claim(A, 60) is not None
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + hours * 3600)
    assert store.queue.claim(B, 60) is None, "it has a lease"
    assert store.queue.renew(made.run_id, A, -1), "it ends the lease"
    assert store.queue.claim(B, 60) is not None


def test_a_clock_that_was_set_back_makes_nothing_wait(store: Store) -> None:
    made = job(store, items=2)
    first, second = store.queue.next(made.run_id, 2)
    in_a_day = time.time() + 86_400
    assert store.queue.claim(A, 86_400) is not None
    failed = [FailedAttempt(first.id, "later", "", in_a_day)]
    settled(store, made.run_id, done=[second], retries=failed)
    assert names(store.queue.next(made.run_id, 2)) == [first.name]
    assert store.queue.claim(B, 60) is not None
