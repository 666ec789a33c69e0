"""The queue in front of a model: nothing lost, nothing mixed up, nothing done for nobody."""

import math
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.labeling.batcher import BACKGROUND_SHARE, BatchCost, Batcher
from secondlook_client.errors import Busy, DeadlineExceeded, ShuttingDown

SOON_S = 10.0


class Worker:
    """Doubles numbers and refuses negative ones. The first call waits for ``gate``."""

    def __init__(self, open_gate: bool = True) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.started = threading.Event()
        if open_gate:
            self.gate.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.started.set()
        assert self.gate.wait(SOON_S), "a test forgot to open the gate"
        if any(item < 0 for item in items):
            raise ValueError(f"negative in {list(items)}")
        return [2 * item for item in items]

    @property
    def seen(self) -> list[int]:
        return [item for batch in self.batches for item in batch]


@contextmanager
def batcher(
    run: Callable[[Sequence[int]], Sequence[int]],
    max_batch: int = 4,
    max_wait_s: float = 0.0,
    max_queue: int = 1000,
    observe: Callable[[str, int, float], None] | None = None,
) -> Iterator[Batcher[int, int]]:
    made: Batcher[int, int] = Batcher(
        "test",
        run,
        max_batch=max_batch,
        max_wait_s=max_wait_s,
        max_queue=max_queue,
        observe=observe,
    )
    try:
        yield made
    finally:
        made.close()


@contextmanager
def blocked(
    max_batch: int = 4, max_queue: int = 1000
) -> Iterator[tuple[Batcher[int, int], Worker, "Future[int]"]]:
    """A batcher whose worker is held inside its first batch, [0]."""
    worker = Worker(open_gate=False)
    with batcher(worker, max_batch=max_batch, max_queue=max_queue) as queue:
        first = queue.submit(0)
        assert worker.started.wait(SOON_S)
        try:
            yield queue, worker, first
        finally:
            worker.gate.set()


@given(st.lists(st.integers(0, 10**6), max_size=40), st.integers(1, 9))
def test_every_item_gets_its_own_result(items: list[int], max_batch: int) -> None:
    worker = Worker()
    with batcher(worker, max_batch=max_batch) as queue:
        futures = [queue.submit(item) for item in items]
        assert [future.result(SOON_S) for future in futures] == [2 * item for item in items]
    assert worker.seen == items
    assert max(map(len, worker.batches), default=0) <= max_batch


def test_what_comes_while_the_worker_is_busy_shares_batches() -> None:
    with blocked(max_batch=4) as (queue, worker, first):
        futures = [queue.submit(item) for item in range(1, 7)]
        worker.gate.set()
        assert [future.result(SOON_S) for future in (first, *futures)] == [0, 2, 4, 6, 8, 10, 12]
    assert worker.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_a_batch_waits_for_company_only_until_it_is_full() -> None:
    worker = Worker()
    with batcher(worker, max_batch=3, max_wait_s=SOON_S) as queue:
        started = time.monotonic()
        futures = [queue.submit(item) for item in range(3)]
        assert [future.result(SOON_S) for future in futures] == [0, 2, 4]
        assert time.monotonic() - started < SOON_S / 2
    assert worker.batches == [[0, 1, 2]]


def test_a_lonely_item_waits_no_longer_than_it_should() -> None:
    with batcher(Worker(), max_batch=8, max_wait_s=0.05) as queue:
        started = time.monotonic()
        assert queue.submit(1).result(SOON_S) == 2
        assert 0.05 <= time.monotonic() - started < 2


def test_a_caller_alone_soon_waits_for_nobody_and_a_crowd_brings_the_wait_back() -> None:
    def slow(items: Sequence[int]) -> Sequence[int]:
        time.sleep(0.005)
        return items

    def seconds_alone(items: int) -> float:
        started = time.monotonic()
        for number in range(items):
            assert queue.submit(number).result(SOON_S) == number
        return time.monotonic() - started

    with batcher(slow, max_batch=8, max_wait_s=0.05) as queue:
        assert seconds_alone(30) > 0.05  # at first it waits
        assert seconds_alone(40) < 40 * 0.05 / 2
        for _ in range(3):
            first = queue.submit(0)
            time.sleep(0.002)
            for future in [first, queue.submit(1), queue.submit(2)]:
                future.result(SOON_S)
        assert seconds_alone(1) >= 0.009  # itself, and as long as one more batch would take


@given(
    st.lists(st.integers(1, 64), min_size=2, max_size=60).filter(lambda sizes: len({*sizes}) > 1),
    st.floats(0, 1),
    st.floats(0.001, 1),
)
def test_what_a_batch_costs_is_told_apart_from_its_items(
    sizes: list[int], fixed_s: float, an_item_s: float
) -> None:
    cost = BatchCost()
    for size in 2 * sizes:
        cost.add(size, fixed_s + an_item_s * size)
    if statistics.pvariance(sizes) > 1:
        assert cost.fixed_s == pytest.approx(fixed_s, abs=1e-6)


@given(st.integers(1, 64), st.integers(0, 50))
def test_half_of_a_batch_while_sizes_do_not_tell(size: int, batches: int) -> None:
    cost = BatchCost()
    for _ in range(batches):
        cost.add(size, 0.5)
    assert cost.fixed_s == (pytest.approx(0.25) if batches else math.inf)


def test_a_batch_waits_no_longer_than_one_more_would_cost() -> None:
    def run(items: Sequence[int]) -> Sequence[int]:
        time.sleep(0.05 + 0.001 * len(items))
        return items

    def seconds_of(items: int) -> float:
        began = time.monotonic()
        for future in [queue.submit(number) for number in range(items)]:
            future.result(SOON_S)
        return time.monotonic() - began

    with batcher(run, max_batch=4, max_wait_s=0.5) as queue:
        for full in (4, 4):
            assert seconds_of(full) < 0.5
        assert seconds_of(5) < 0.5


def test_where_there_is_time_a_batch_waits_for_nobody() -> None:
    def run(items: Sequence[int]) -> Sequence[int]:
        time.sleep(0.1)
        return items

    def seconds_of_two() -> float:
        began = time.monotonic()
        first = queue.submit(0)
        time.sleep(0.01)
        second = queue.submit(1)
        first.result(SOON_S)
        took_s = time.monotonic() - began
        second.result(SOON_S)
        return took_s

    with batcher(run, max_batch=4, max_wait_s=0.5) as queue:
        for future in [queue.submit(number) for number in range(4)]:
            future.result(SOON_S)
        assert seconds_of_two() >= 0.15  # a batch, and as long as half of one before it
        took_s = []
        for _ in range(3):  # a busy machine may be late once
            time.sleep(0.3)
            took_s.append(seconds_of_two())
        assert min(took_s) < 0.15


@given(st.lists(st.integers(-3, 20), min_size=1, max_size=12))
def test_a_bad_item_fails_alone(items: list[int]) -> None:
    with blocked(max_batch=6) as (queue, worker, _):
        futures = [queue.submit(item) for item in items]
        worker.gate.set()
        for item, future in zip(items, futures, strict=True):
            if item < 0:
                assert isinstance(future.exception(SOON_S), ValueError)
            else:
                assert future.result(SOON_S) == 2 * item


def test_too_few_results_are_no_results() -> None:
    with blocked() as (queue, worker, _), batcher(lambda items: items[1:]) as short:
        assert "0 results for 1 items" in str(short.submit(1).exception(SOON_S))
        worker.gate.set()
        assert queue.submit(1).result(SOON_S) == 2


def test_a_full_queue_refuses_with_a_hint() -> None:
    with blocked(max_queue=3) as (queue, worker, _):
        futures = [queue.submit(item) for item in range(3)]
        with pytest.raises(Busy, match="3 images are waiting") as refused:
            queue.submit(3)
        assert refused.value.retry_after_s > 0
        assert queue.depth() == 3
        worker.gate.set()
        assert [future.result(SOON_S) for future in futures] == [0, 2, 4]
        assert queue.submit(3).result(SOON_S) == 6
    assert worker.seen.count(3) == 1, "the refused item was run all the same"


def test_those_who_left_keep_no_place_in_a_full_queue() -> None:
    with blocked(max_queue=2) as (queue, worker, _):
        leaving, staying = queue.submit(1), queue.submit(2)
        assert leaving.cancel()
        late = queue.submit(3)
        worker.gate.set()
        assert (staying.result(SOON_S), late.result(SOON_S)) == (4, 6)
    assert 1 not in worker.seen


def test_the_cancelled_are_never_run() -> None:
    with blocked() as (queue, worker, first):
        futures = [queue.submit(item) for item in (1, 2, 3)]
        assert futures[1].cancel()
        assert not first.cancel(), "what is being computed cannot be taken back"
        worker.gate.set()
        assert (futures[0].result(SOON_S), futures[2].result(SOON_S)) == (2, 6)
        with pytest.raises(CancelledError):
            futures[1].result(SOON_S)
    assert 2 not in worker.seen


def test_what_is_past_its_deadline_is_never_run() -> None:
    with blocked() as (queue, worker, _):
        late = queue.submit(1, deadline=time.monotonic() - 0.001)
        early = queue.submit(2, deadline=time.monotonic() + SOON_S)
        worker.gate.set()
        with pytest.raises(DeadlineExceeded, match="allow more time"):
            late.result(SOON_S)
        assert early.result(SOON_S) == 4
    assert 1 not in worker.seen


def test_close_finishes_what_was_accepted_and_takes_no_more() -> None:
    with blocked(max_batch=2) as (queue, worker, first):
        futures = [queue.submit(item) for item in range(1, 6)]
        closer = threading.Thread(target=queue.close)
        closer.start()
        with pytest.raises(ShuttingDown):
            while True:  # until the closer has got hold of the lock
                queue.submit(-7).cancel()
                time.sleep(0.001)
        worker.gate.set()
        closer.join(SOON_S)
        assert not closer.is_alive()
        assert [future.result(0) for future in (first, *futures)] == [0, 2, 4, 6, 8, 10]


def test_close_does_not_wait_for_company() -> None:
    queue: Batcher[int, int] = Batcher(
        "test", Worker(), max_batch=8, max_wait_s=60, max_queue=8, observe=None
    )
    future = queue.submit(1)
    started = time.monotonic()
    queue.close()
    assert time.monotonic() - started < SOON_S
    assert future.result(0) == 2


def test_batches_are_observed_and_a_broken_observer_harms_nobody() -> None:
    observed: list[tuple[str, int]] = []

    def observe(name: str, size: int, seconds: float) -> None:
        assert seconds >= 0
        observed.append((name, size))
        raise RuntimeError("metrics are down")

    with batcher(Worker(), observe=observe) as queue:
        assert queue.submit(1).result(SOON_S) == 2
        assert queue.submit(2).result(SOON_S) == 4
    assert observed == [("test", 1), ("test", 1)]


@pytest.mark.parametrize("seed", range(3))
def test_a_crowd_loses_nothing(seed: int) -> None:
    """Callers in many threads, some of whom send bad items or leave."""
    worker = Worker()
    with batcher(worker, max_batch=7, max_wait_s=0.001, max_queue=50) as queue:

        def caller(start: int) -> int:
            random_ = random.Random(f"{seed}-{start}")
            settled = 0
            for item in range(start, start + 60):
                wanted = -item - 1 if random_.random() < 0.1 else item
                try:
                    future = queue.submit(wanted)
                except Busy:
                    time.sleep(0.001)
                    continue
                if random_.random() < 0.1 and future.cancel():
                    continue
                failure = future.exception(SOON_S)
                assert (failure is not None) == (wanted < 0)
                assert failure or future.result() == 2 * wanted
                settled += 1
            return settled

        with ThreadPoolExecutor(12) as crowd:
            settled = sum(crowd.map(caller, range(0, 12_000, 1000)))
    assert settled > 300
    good = [item for item in worker.seen if item >= 0]
    assert set(good) == {item for item in good if item % 1000 < 60}
    assert queue.depth() == 0


@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 30))
def test_the_background_has_its_share_and_what_others_leave(
    max_batch: int, waiting: int, background: int
) -> None:
    worker = Worker(open_gate=False)
    with batcher(worker, max_batch=max_batch) as queue:
        futures = [queue.submit(0)]
        assert worker.started.wait(SOON_S)
        futures += [queue.submit(1) for _ in range(waiting)]
        futures += [queue.submit(2, background=True) for _ in range(background)]
        worker.gate.set()
        for future in futures:
            future.result(SOON_S)
    batches = worker.batches[1:]
    assert [len(batch) for batch in batches[:-1]] == [max_batch] * (len(batches) - 1)
    assert sorted(worker.seen) == [0] + [1] * waiting + [2] * background
    both = [batch for batch in batches if 1 in batch or 2 in batch]
    contested = 0.0
    for batch in both:
        left_of_each = min(waiting, background)
        waiting, background = waiting - batch.count(1), background - batch.count(2)
        if left_of_each and waiting and background:
            contested += batch.count(2) - BACKGROUND_SHARE * max_batch
            assert -1 <= contested <= 1, "the background has a quarter, with small batches in turn"
