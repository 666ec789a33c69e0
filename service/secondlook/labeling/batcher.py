"""Dynamic batching: many callers submit single items, one worker runs them in batches.

The first waiting item opens a batch; it closes when it is full, or has waited for as long as one
more batch would cost by itself, ``max_wait_s`` at most. It closes at once where nobody came in that
time lately, so a caller alone waits for no one, and where the worker had nothing to do for longer
than a batch takes, so there is no time to be saved. While the worker is busy the next batch fills
by itself. What somebody waits for goes before what has time (``background``), which keeps a share
of each batch.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from secondlook_client.errors import Busy, DeadlineExceeded, ShuttingDown
from secondlook_client.tracing import QueuedTrace, batch_spans, queued

log = logging.getLogger(__name__)

BACKGROUND_SHARE = 0.25
"""Of each batch, for items in the background while others wait too: those must not starve."""

LATELY = 0.9
"""What the batches before brought counts for so much less with each one."""
COST_LATELY = 0.98
"""The same of what they cost, which is told from more of them."""
LEAST_COMPANY = 0.1
"""Items that come while a batch may wait, in the mean, for it to wait at all."""
LEAST_SPREAD = 0.05
"""Variance of the sizes of batches from which their cost is told apart from that of their items."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class _QueuedItem(Generic[Item, Result]):
    item: Item
    deadline: float | None
    future: "Future[Result]" = field(default_factory=Future)
    trace: QueuedTrace | None = field(default_factory=queued)


class BatchCost:
    """Seconds of a batch by its size: a line through the last ones, by least squares."""

    def __init__(self) -> None:
        self._count = self._sizes = self._squares = self._seconds = self._products = 0.0
        """Sums over batches, of which older ones count for less."""

    def add(self, size: int, seconds: float) -> None:
        """A batch of ``size`` items took so long."""
        self._count = COST_LATELY * self._count + 1
        self._sizes = COST_LATELY * self._sizes + size
        self._squares = COST_LATELY * self._squares + size * size
        self._seconds = COST_LATELY * self._seconds + seconds
        self._products = COST_LATELY * self._products + size * seconds

    @property
    def mean_s(self) -> float:
        """What a batch takes; infinite before the first."""
        return self._seconds / self._count if self._count else math.inf

    @property
    def fixed_s(self) -> float:
        """What a batch costs besides its items: what is saved where two become one.

        Half of it while batches are as good as alike in size.
        """
        spread = self._count * self._squares - self._sizes**2
        if spread <= LEAST_SPREAD * self._count**2:
            return self.mean_s / 2
        an_item_s = (self._count * self._products - self._sizes * self._seconds) / spread
        return max(self._seconds - an_item_s * self._sizes, 0.0) / self._count


class _Window:
    """How long a batch waits for others: while some come in that time of late."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = self._wait_s = longest_s
        self._opened = -math.inf
        self._came = 0
        """Items since then, in as long as a batch may wait, whether this one did or not."""
        self._mean = 1.0
        """Of the batches before."""

    def open(self, worth_s: float) -> float:
        """A batch opens: until when it waits, a ``time.monotonic()`` moment.

        ``worth_s``: to wait for longer would cost more than it saves.
        """
        self._mean += (1 - LATELY) * (self._came - self._mean)
        self._opened, self._came = time.monotonic(), 0
        self._wait_s = min(self._longest_s, worth_s)
        return self._opened + (self._wait_s if self._mean >= LEAST_COMPANY else 0.0)

    def end(self) -> None:
        """The batch has its answers: whoever comes now may be who waited for them."""
        self._opened = -math.inf

    def came(self) -> None:
        """An item was submitted."""
        self._came += time.monotonic() - self._opened <= self._wait_s


class Batcher(Generic[Item, Result]):
    """A bounded queue in front of a function that takes a batch.

    ``run`` takes a list of items and returns as many results, in order. When it raises on a
    batch of several, each item is run once more by itself, so that one bad item fails alone.
    Items whose future was cancelled, or whose deadline passed, are never run.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        max_batch: int,
        max_wait_s: float,
        max_queue: int,
        observe: Callable[[str, int, float], None] | None = None,
    ) -> None:
        self._name = name
        self._run = run
        self._max_batch = max_batch
        self._window = _Window(max_wait_s)
        self._cost = BatchCost()
        self._max_queue = max_queue
        self._observe = observe or (lambda name, size, seconds: None)
        self._waiting: deque[_QueuedItem[Item, Result]] = deque()
        self._background: deque[_QueuedItem[Item, Result]] = deque()
        self._background_credit = 0.0
        """Places in batches that the background has not used yet; small batches add up."""
        self._changed = threading.Condition()
        self._closing = False
        self._seconds_an_item = 0.1
        self._thread = threading.Thread(target=self._work, name=f"batch-{name}", daemon=True)
        self._thread.start()

    def submit(
        self, item: Item, deadline: float | None = None, background: bool = False
    ) -> "Future[Result]":
        """Queue one item; ``deadline`` is a ``time.monotonic()`` moment.

        Items in the background wait for the others. Raises ``Busy`` (with a retry hint) when the
        queue is full, ``ShuttingDown`` after close.
        """
        waiting: _QueuedItem[Item, Result] = _QueuedItem(item, deadline)
        with self._changed:
            if self._closing:
                raise ShuttingDown("the server is shutting down; send this again in a moment")
            if self.depth() >= self._max_queue:
                self._forget_cancelled()
            if self.depth() >= self._max_queue:
                seconds = max(0.05, round(self.depth() * self._seconds_an_item, 2))
                raise Busy(
                    f"{self.depth()} images are waiting already; try again in {seconds} s "
                    "or send fewer at a time",
                    retry_after_s=seconds,
                )
            (self._background if background else self._waiting).append(waiting)
            self._window.came()
            self._changed.notify()
        return waiting.future

    def depth(self) -> int:
        """Items waiting now."""
        return len(self._waiting) + len(self._background)

    def close(self) -> None:
        """Accept nothing new, finish what is queued, and return when the worker has ended."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _forget_cancelled(self) -> None:
        """Callers that went away keep no place in a full queue."""
        for queue in (self._waiting, self._background):
            for waiting in [waiting for waiting in queue if waiting.future.cancelled()]:
                waiting.future.set_running_or_notify_cancel()
                queue.remove(waiting)

    def _work(self) -> None:
        while batch := self._next_batch():
            ready = [waiting for waiting in batch if _still_wanted(waiting)]
            if ready:
                self._run_batch(ready)
            self._window.end()
            del batch, ready  # images, which would stay in memory until the next batch

    def _next_batch(self) -> list[_QueuedItem[Item, Result]]:
        """Blocks until there is work; empty only when closing and drained."""
        with self._changed:
            idle_since = time.monotonic()
            while not self.depth() and not self._closing:
                self._changed.wait()
            idle = time.monotonic() - idle_since > self._cost.mean_s
            closes = self._window.open(0.0 if idle else self._cost.fixed_s)
            while self.depth() < self._max_batch and not self._closing:
                left = closes - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            later = self._background_places()
            now = min(self._max_batch - later, len(self._waiting))
            return [self._waiting.popleft() for _ in range(now)] + [
                self._background.popleft() for _ in range(later)
            ]

    def _background_places(self) -> int:
        """Of the next batch: what the others leave free, or the background's share of it."""
        if not self._background:
            self._background_credit = 0.0
            return 0
        free = max(self._max_batch - len(self._waiting), 0)
        share = BACKGROUND_SHARE * self._max_batch
        self._background_credit = min(self._background_credit + share, share + 1)
        places = min(max(free, int(self._background_credit)), len(self._background))
        self._background_credit = max(self._background_credit - places, 0.0)
        return places

    def _run_batch(self, batch: list[_QueuedItem[Item, Result]]) -> None:
        started = time.perf_counter()
        try:
            with batch_spans(self._name, [waiting.trace for waiting in batch]):
                results = self._run([waiting.item for waiting in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{self._name}: {len(results)} results for {len(batch)} items")
        except Exception as failure:  # whatever a model raises goes to the callers of this batch
            self._fail(batch, failure)
            return
        seconds = time.perf_counter() - started
        self._cost.add(len(batch), seconds)
        self._seconds_an_item = 0.8 * self._seconds_an_item + 0.2 * seconds / len(batch)
        self._report(len(batch), seconds)
        for waiting, result in zip(batch, results, strict=True):
            waiting.future.set_result(result)

    def _report(self, size: int, seconds: float) -> None:
        try:
            self._observe(self._name, size, seconds)
        except Exception:  # a fault in the metrics must not end the worker
            log.exception("%s: the observer failed", self._name)

    def _fail(self, batch: list[_QueuedItem[Item, Result]], failure: Exception) -> None:
        if len(batch) == 1:
            batch[0].future.set_exception(failure)
            return
        log.warning("%s: a batch of %d failed, running each alone", self._name, len(batch))
        for waiting in batch:
            self._run_batch([waiting])


def _still_wanted(waiting: _QueuedItem[Item, Result]) -> bool:
    if not waiting.future.set_running_or_notify_cancel():
        return False
    if waiting.deadline is not None and time.monotonic() > waiting.deadline:
        waiting.future.set_exception(
            DeadlineExceeded("the deadline passed while the image was waiting; allow more time")
        )
        return False
    return True
