"""ImageReader of one job under way: read and decoded in threads, labelled by the engine."""

import queue
import threading
import time
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass

from secondlook.core.errors import Busy, ShuttingDown
from secondlook.core.ontology import Ontology
from secondlook.core.types import Labelled
from secondlook.jobs.image_source import ImageReader, Prepared
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Task
from secondlook.store.images import NewImage
from secondlook.store.queue import Item


@dataclass(frozen=True, eq=False)
class Done:
    """What an attempt that came to its end made."""

    labelled: Labelled
    image: NewImage
    perceptual_hash: int


@dataclass(frozen=True, eq=False)
class Attempt:
    """One try at one item."""

    item: Item
    began: float
    """A ``time.monotonic()`` moment."""
    outcome: Done | BaseException


class Attempts:
    """Attempts begin and end; ``begin`` and ``ended`` belong to one thread."""

    def __init__(
        self,
        engine: Engine,
        threads: Executor,
        images: ImageReader,
        ontology: Ontology,
        source: str = "",
    ) -> None:
        """``threads`` read and decode; they may be shared. ``source``: see ``pipeline.Task``."""
        self._engine = engine
        self._threads = threads
        self._images = images
        self._ontology = ontology
        self._source = source
        self._ended: queue.SimpleQueue[Attempt | None] = queue.SimpleQueue()
        self._at_work: set[int] = set()
        self._stopping = threading.Event()

    @property
    def at_work(self) -> set[int]:
        """Ids of the items whose attempt has begun and was not given back yet."""
        return self._at_work

    def begin(self, item: Item) -> None:
        """Try an item; the attempt is given back by ``ended``, whatever comes of it."""
        self._at_work.add(item.id)
        self._threads.submit(self._try, item, time.monotonic())

    def ended(self, timeout_s: float) -> Attempt | None:
        """The next attempt that ended; None when none does in ``timeout_s`` (0 does not wait).

        None also after a ``nudge``.
        """
        try:
            attempt = self._ended.get(timeout=timeout_s) if timeout_s else self._ended.get_nowait()
        except queue.Empty:
            return None
        if attempt is not None:
            self._at_work.discard(attempt.item.id)
        return attempt

    def nudge(self) -> None:
        """End a wait in ``ended``; from any thread."""
        self._ended.put(None)

    def stop(self) -> None:
        """Begin nothing more: images that wait for a place in the engine end at once."""
        self._stopping.set()

    def _try(self, item: Item, began: float) -> None:
        try:
            prepared = self._images.prepare(item)
            future = self._submit(Task(prepared.image, self._ontology, self._source))
        except BaseException as failure:  # whatever it is, the attempt must be given back
            self._ended.put(Attempt(item, began, failure))
            return
        kept = _Kept(prepared)
        future.add_done_callback(
            lambda ended: self._ended.put(Attempt(item, began, kept.outcome(ended)))
        )

    def _submit(self, task: Task) -> "Future[Labelled]":
        while not self._stopping.is_set():
            try:
                return self._engine.submit(task)
            except Busy as full:
                self._stopping.wait(min(full.retry_after_s, 1.0))
        raise ShuttingDown("the server is shutting down; the image stays in the queue")


class _Kept:
    """What is needed of a prepared image after it was labelled: all but its pixels."""

    def __init__(self, prepared: Prepared) -> None:
        self._image, self._perceptual_hash = prepared.stored, prepared.perceptual_hash

    def outcome(self, ended: "Future[Labelled]") -> Done | BaseException:
        if ended.cancelled():
            return CancelledError()
        if failure := ended.exception():
            return failure
        return Done(ended.result(), self._image, self._perceptual_hash)
