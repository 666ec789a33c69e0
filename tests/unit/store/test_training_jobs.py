import time

import pytest

from secondlook.core.errors import Busy, NotFound
from secondlook.store import Store, open_store
from secondlook.store.training_jobs import MAX_STARTS, TrainingOrder, TrainingState

ORDER = TrainingOrder("street", "street-1", "val", "pico", 100, 7)


def test_a_training_from_the_queue_to_its_version(store: Store) -> None:
    made = store.trainings.create(ORDER)
    assert (made.order, made.state, made.progress) == (ORDER, TrainingState.QUEUED, {})
    claimed = store.trainings.claim("a", 60)
    assert claimed and (claimed.id, claimed.state) == (made.id, TrainingState.RUNNING)
    assert store.trainings.claim("b", 60) is None
    assert store.trainings.renew(made.id, "a", 60, {"step": 3, "of": 100})
    assert store.trainings.get(made.id).progress == {"step": 3, "of": 100}
    assert store.trainings.finish(made.id, "a", 4)
    done = store.trainings.get(made.id)
    assert (done.state, done.version, done.active) == (TrainingState.DONE, 4, False)
    assert store.trainings.claim("b", 60) is None


def test_the_oldest_goes_first_and_pages_are_newest_first(store: Store) -> None:
    ids = [store.trainings.create(ORDER).id for _ in range(3)]
    claimed = [store.trainings.claim("a", 60) for _ in range(4)]
    assert [c.id if c else None for c in claimed] == [*ids, None]
    first = store.trainings.page(limit=2)
    assert [t.id for t in first + store.trainings.page(first[-1].id)] == ids[::-1]


def test_a_server_that_lost_its_lease_writes_nothing(store: Store) -> None:
    number = store.trainings.create(ORDER).id
    assert store.trainings.claim("a", -1.0)
    assert store.trainings.claim("b", 60)
    assert not store.trainings.renew(number, "a", 60, {"step": 1})
    assert not store.trainings.finish(number, "a", 1)
    assert not store.trainings.fail(number, "a", "no")
    assert not store.trainings.release(number, "a")
    assert store.trainings.get(number).state is TrainingState.RUNNING


def test_what_is_cancelled_stays_so(store: Store) -> None:
    number = store.trainings.create(ORDER).id
    assert store.trainings.claim("a", 60)
    assert store.trainings.cancel(number).state is TrainingState.CANCELLED
    assert not store.trainings.renew(number, "a", 60)
    assert store.trainings.claim("b", 60) is None
    assert store.trainings.cancel(number).state is TrainingState.CANCELLED
    with pytest.raises(NotFound, match="no training 99"):
        store.trainings.cancel(99)


def test_a_training_that_kills_its_servers_is_given_up(store: Store) -> None:
    number = store.trainings.create(ORDER).id
    for _ in range(MAX_STARTS):
        assert store.trainings.claim("a", -1.0)
    assert store.trainings.claim("a", -1.0) is None
    failed = store.trainings.get(number)
    assert failed.state is TrainingState.FAILED and "without a word" in failed.message


def test_a_server_that_stops_in_order_counts_no_start(store: Store) -> None:
    number = store.trainings.create(ORDER).id
    for _ in range(MAX_STARTS + 2):
        assert store.trainings.claim("a", 60)
        assert store.trainings.release(number, "a")
    assert store.trainings.get(number).state is TrainingState.QUEUED


def test_the_next_server_of_a_folder_need_not_wait(tmp_path) -> None:
    with open_store(tmp_path / "data", serving=True) as store:
        store.trainings.create(ORDER)
        assert store.trainings.claim("a", 1e6)
    with open_store(tmp_path / "data", serving=True) as store:
        assert store.trainings.claim("b", 60)


def test_a_queue_has_an_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.store.training_jobs.MAX_QUEUED", 2)
    first, _ = (store.trainings.create(ORDER) for _ in range(2))
    with pytest.raises(Busy, match="2 trainings wait already"):
        store.trainings.create(ORDER)
    store.trainings.cancel(first.id)
    assert store.trainings.create(ORDER).active


def test_a_message_that_no_database_holds_is_kept_as_it_can_be(store: Store) -> None:
    number = store.trainings.create(ORDER).id
    store.trainings.claim("a", 60)
    assert store.trainings.fail(number, "a", "x\x00\ud800" + "y" * 5000)
    failed = store.trainings.get(number)
    assert failed.message.startswith("x??") and len(failed.message) == 2000
    assert failed.changed_at <= time.time()
