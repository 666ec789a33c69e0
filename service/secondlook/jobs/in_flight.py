"""Images of one job in flight: read and decoded in threads, labelled by the engine."""

import queue
import threading
import time
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass

from secondlook.core.types import Labelled
from secondlook.jobs.image_source import ImageReader
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Task
from secondlook.store.images import NewImage
from secondlook.store.queue import Item
from secondlook_client.errors import Busy, ShuttingDown


@dataclass(frozen=True, eq=False)
class LabelledItem:
    """The result of a successful attempt."""

    labelled: Labelled
    image: NewImage
    perceptual_hash: int


@dataclass(frozen=True, eq=False)
class Attempt:
    """An ended attempt at one item."""

    item: Item
    began: float
    """A ``time.monotonic()`` moment."""
    outcome: LabelledItem | BaseException


class InFlight:
    """Starts attempts and returns them when they end; ``begin`` and ``next`` are for one thread."""

    def __init__(
        self,
        engine: Engine,
        threads: Executor,
        images: ImageReader,
    ) -> None:
        """``threads`` read and decode; they may be shared."""
        self._engine = engine
        self._threads = threads
        self._images = images
        self._ended: queue.SimpleQueue[Attempt | None] = queue.SimpleQueue()
        self._item_ids: set[int] = set()
        self._stopping = threading.Event()

    @property
    def item_ids(self) -> set[int]:
        """Ids of the items whose attempt has begun and was not returned by ``next`` yet."""
        return self._item_ids

    def begin(self, item: Item) -> None:
        """Begin an attempt at an item; ``next`` returns it when it ends, whatever its outcome."""
        self._item_ids.add(item.id)
        self._threads.submit(self._try, item, time.monotonic())

    def next(self, timeout_s: float) -> Attempt | None:
        """The next attempt that ended; None if none does within ``timeout_s`` (0 does not wait).

        None also after a ``wake``.
        """
        try:
            attempt = self._ended.get(timeout=timeout_s) if timeout_s else self._ended.get_nowait()
        except queue.Empty:
            return None
        if attempt is not None:
            self._item_ids.discard(attempt.item.id)
        return attempt

    def wake(self) -> None:
        """End a wait in ``next``; from any thread."""
        self._ended.put(None)

    def stop(self) -> None:
        """Submit nothing more: attempts end that are being decoded or wait for room."""
        self._stopping.set()

    def _try(self, item: Item, began: float) -> None:
        try:
            prepared = self._images.prepare(item, self._stopping)
            future = self._submit(prepared.task)
        except BaseException as failure:  # whatever it is, the attempt must be returned
            self._ended.put(Attempt(item, began, failure))
            return
        stored, image_hash = prepared.stored, prepared.perceptual_hash  # but not the pixels
        future.add_done_callback(
            lambda ended: self._ended.put(Attempt(item, began, _outcome(ended, stored, image_hash)))
        )

    def _submit(self, task: Task) -> "Future[Labelled]":
        while not self._stopping.is_set():
            try:
                return self._engine.submit(task, background=True)
            except Busy as full:
                self._stopping.wait(min(full.retry_after_s, 1.0))
        raise ShuttingDown("the server is shutting down; the image stays in the queue")


def _outcome(
    ended: "Future[Labelled]", stored: NewImage, image_hash: int
) -> LabelledItem | BaseException:
    if ended.cancelled():
        return CancelledError()
    if failure := ended.exception():
        return failure
    return LabelledItem(ended.result(), stored, image_hash)
