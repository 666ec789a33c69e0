"""Images of one job in flight: read and decoded in threads, labelled by the engine.

Or wherever else: what a worker needs of its attempts is ``JobAttempts``, of which ``InFlight`` runs
them in this process and ``ray_cluster`` on other machines.
"""

import queue
import threading
import time
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from secondlook.core.types import Labelled
from secondlook.jobs.image_source import ImageReader
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Task
from secondlook.store.blobs import Blobs
from secondlook.store.images import NewImage
from secondlook.store.queue import Item
from secondlook_client.errors import Busy, ShuttingDown
from secondlook_client.ontology import Ontology


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


class JobAttempts:
    """Attempts at the items of one job; ``begin`` and ``next`` are for one thread.

    Those who know how to make an attempt implement ``_start`` and call ``_end`` once for each.
    """

    def __init__(self) -> None:
        self._ended: queue.SimpleQueue[Attempt | None] = queue.SimpleQueue()
        self._item_ids: set[int] = set()
        self._stopping = threading.Event()

    @property
    def item_ids(self) -> set[int]:
        """Ids of the items whose attempt has begun and was not returned by ``next`` yet."""
        return self._item_ids

    @property
    def limit(self) -> int | None:
        """Images in flight at most; None: as many as the job's share of its server."""
        return None

    @property
    def written_at_once(self) -> bool:
        """Whether what has ended is written without waiting for more."""
        return False

    def begin(self, item: Item) -> None:
        """Begin an attempt at an item; ``next`` returns it when it ends, whatever its outcome."""
        self._item_ids.add(item.id)
        self._start(item, time.monotonic())

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

    def written(self) -> None:
        """Hear that the outcomes of all that ``next`` has returned are stored."""

    def wake(self) -> None:
        """End a wait in ``next``; from any thread."""
        self._ended.put(None)

    def stop(self) -> None:
        """Submit nothing more: attempts end that are being decoded or wait for room."""
        self._stopping.set()

    def close(self) -> None:
        """Give up whatever serves these attempts only."""

    def _start(self, item: Item, began: float) -> None:
        raise NotImplementedError

    def _end(self, item: Item, began: float, outcome: LabelledItem | BaseException) -> None:
        """Let ``next`` return an attempt; from any thread."""
        self._ended.put(Attempt(item, began, outcome))


@runtime_checkable
class LabelsElsewhere(Protocol):
    """Optional part of a ``Pipeline`` whose models run in other processes, which read the images
    of jobs themselves."""

    def attempts(self, blobs: Blobs, ontology: Ontology, source: str) -> JobAttempts:
        """Attempts at the items of a job; ``blobs`` gets the bytes of images. ``source``: see
        ``Task``."""
        ...


class InFlight(JobAttempts):
    """Attempts in this process."""

    def __init__(
        self,
        engine: Engine,
        threads: Executor,
        images: ImageReader,
    ) -> None:
        """``threads`` read and decode; they may be shared."""
        super().__init__()
        self._engine = engine
        self._threads = threads
        self._images = images

    def _start(self, item: Item, began: float) -> None:
        self._threads.submit(self._try, item, began)

    def _try(self, item: Item, began: float) -> None:
        try:
            prepared = self._images.prepare(item, self._stopping)
            future = self._submit(prepared.task)
        except BaseException as failure:  # whatever it is, the attempt must be returned
            self._end(item, began, failure)
            return
        stored, image_hash = prepared.stored, prepared.perceptual_hash  # but not the pixels
        future.add_done_callback(
            lambda ended: self._end(item, began, _outcome(ended, stored, image_hash))
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
