import time

import pytest

from secondlook.store import Store, open_store
from secondlook.store.training_jobs import MAX_ATTEMPTS, TrainingSpec
from secondlook_client.errors import Busy, NotFound
from secondlook_client.values import TrainingState

ORDER = TrainingSpec("street", "street-1", "val", "pico", 100, 7)


def test_a_training_from_the_queue_to_its_version(store: Store) -> None:
    made = store.training_jobs.create(ORDER)
    assert (made.spec, made.state, made.progress) == (ORDER, TrainingState.QUEUED, {})
    claimed = store.training_jobs.claim("a", 60)
    assert claimed and (claimed.id, claimed.state) == (made.id, TrainingState.RUNNING)
    assert store.training_jobs.claim("b", 60) is None
    assert store.training_jobs.renew(made.id, "a", 60, {"step": 3, "of": 100})
    assert store.training_jobs.get(made.id).progress == {"step": 3, "of": 100}
    assert store.training_jobs.finish(made.id, "a", 4)
    done = store.training_jobs.get(made.id)
    assert (done.state, done.version, done.active) == (TrainingState.DONE, 4, False)
    assert store.training_jobs.claim("b", 60) is None


def test_the_oldest_goes_first_and_pages_are_newest_first(store: Store) -> None:
    ids = [store.training_jobs.create(ORDER).id for _ in range(3)]
    claimed = [store.training_jobs.claim("a", 60) for _ in range(4)]
    assert [c.id if c else None for c in claimed] == [*ids, None]
    first = store.training_jobs.page(limit=2)
    assert [t.id for t in first + store.training_jobs.page(first[-1].id)] == ids[::-1]


def test_a_server_that_lost_its_lease_writes_nothing(store: Store) -> None:
    number = store.training_jobs.create(ORDER).id
    assert store.training_jobs.claim("a", -1.0)
    assert store.training_jobs.claim("b", 60)
    assert not store.training_jobs.renew(number, "a", 60, {"step": 1})
    assert not store.training_jobs.finish(number, "a", 1)
    assert not store.training_jobs.fail(number, "a", "no")
    assert not store.training_jobs.release(number, "a")
    assert store.training_jobs.get(number).state is TrainingState.RUNNING


def test_what_is_cancelled_stays_so(store: Store) -> None:
    number = store.training_jobs.create(ORDER).id
    assert store.training_jobs.claim("a", 60)
    assert store.training_jobs.cancel(number).state is TrainingState.CANCELLED
    assert not store.training_jobs.renew(number, "a", 60)
    assert store.training_jobs.claim("b", 60) is None
    assert store.training_jobs.cancel(number).state is TrainingState.CANCELLED
    with pytest.raises(NotFound, match="no training 99"):
        store.training_jobs.cancel(99)


def test_a_training_that_kills_its_servers_is_given_up(store: Store) -> None:
    number = store.training_jobs.create(ORDER).id
    for _ in range(MAX_ATTEMPTS):
        assert store.training_jobs.claim("a", -1.0)
    assert store.training_jobs.claim("a", -1.0) is None
    failed = store.training_jobs.get(number)
    assert failed.state is TrainingState.FAILED and "crashed 5 times" in failed.message


def test_a_server_that_stops_in_order_counts_no_start(store: Store) -> None:
    number = store.training_jobs.create(ORDER).id
    for _ in range(MAX_ATTEMPTS + 2):
        assert store.training_jobs.claim("a", 60)
        assert store.training_jobs.release(number, "a")
    assert store.training_jobs.get(number).state is TrainingState.QUEUED


def test_the_next_server_of_a_folder_need_not_wait(tmp_path) -> None:
    with open_store(tmp_path / "data", serving=True) as store:
        store.training_jobs.create(ORDER)
        assert store.training_jobs.claim("a", 1e6)
    with open_store(tmp_path / "data", serving=True) as store:
        assert store.training_jobs.claim("b", 60)


def test_a_queue_has_an_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.store.training_jobs.MAX_QUEUED", 2)
    first, _ = (store.training_jobs.create(ORDER) for _ in range(2))
    with pytest.raises(Busy, match="2 trainings wait already"):
        store.training_jobs.create(ORDER)
    store.training_jobs.cancel(first.id)
    assert store.training_jobs.create(ORDER).active


def test_a_message_that_no_database_holds_is_kept_as_it_can_be(store: Store) -> None:
    number = store.training_jobs.create(ORDER).id
    store.training_jobs.claim("a", 60)
    assert store.training_jobs.fail(number, "a", "x\x00\ud800" + "y" * 5000)
    failed = store.training_jobs.get(number)
    assert failed.message.startswith("x??") and len(failed.message) == 2000
    assert failed.updated_at <= time.time()
