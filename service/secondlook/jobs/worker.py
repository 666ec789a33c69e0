"""Works on one job: its images are attempted and their outcomes written, until none is left.

While something that all images need is unavailable, the job says what it waits for and probes with
one image at a time. Results wait in memory while the database is unavailable; there are never more
of them than fit into one transaction, and the attempts in flight.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from secondlook.core.decoding import ImageDecoder
from secondlook.jobs.failure_policy import FailurePolicy
from secondlook.jobs.failures import CircuitBreaker
from secondlook.jobs.image_source import ImageReader, allowed_folder, list_folder
from secondlook.jobs.in_flight import InFlight, JobAttempts, LabelledItem, LabelsElsewhere
from secondlook.jobs.result_writer import BATCH, ResultWriter
from secondlook.labeling.engine import Engine
from secondlook.store import Store
from secondlook.store.guarantees import guarantee_of
from secondlook.store.queue import Item, JobRow, NewItem
from secondlook_client.errors import (
    BadOntology,
    LostLease,
    MissingExtra,
    NotAllowed,
    NotFound,
    NotSupported,
    StorageFull,
    Unavailable,
)
from secondlook_client.retry import RetryPolicy
from secondlook_client.values import JobState

log = logging.getLogger(__name__)

PAGE = 128
"""Items fetched at a time."""
POLL_S = 0.25
"""Between two polls for what is not notified: due retries, and what other servers write."""
LINGER_S = 2.0
"""An open job with nothing to do is released after this long."""
UNREADABLE_PAUSE_S = 5.0
"""Before a job whose folder this server cannot read is claimed again."""
ERROR_PAUSE_S = 30.0
"""Before a job that failed unexpectedly is claimed again."""
LISTING_RETRY = RetryPolicy(first_s=1.0, longest_s=30.0)
"""Waits between attempts to list a folder."""
GRACE_S = 20.0
"""For images in flight when the server stops."""
STORE_ERRORS = (Unavailable, StorageFull)

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class WorkerContext:
    """What the workers of one server share."""

    store: Store
    engine: Engine
    threads: Executor
    """They read images, and wait for them to be decoded."""
    decoder: ImageDecoder
    roots: Sequence[Path]
    """Folders that may be read."""
    lease_s: float
    share: Callable[[], int]
    """How many images one job may have in flight at present."""
    verified: Callable[[str, float], None] = lambda created_by, seconds: None
    """Hears how long the verifier took for an image, and of whose job."""


class Worker:
    """Works on one claimed job; ``run`` is its thread."""

    def __init__(self, context: WorkerContext, job: JobRow) -> None:
        self.job = job
        self.idle = False
        """True while there is nothing to do."""
        self._context = context
        self._queue = context.store.queue
        self._stopping = threading.Event()
        self._drained_by = 0.0
        """Once stopped: until when images in flight are waited for."""
        self._lost = False
        """Another server has the job, or it was cancelled."""
        self._database = CircuitBreaker()
        self._listing_error = ""
        """What the listing of the folder waits for."""
        self._message = job.message
        """As it was written last."""
        self._ready: deque[Item] = deque()
        self._wake: Callable[[], None] = lambda: None
        """Ends a wait for attempts."""
        self._idle_since = time.monotonic()
        self._fetch_at = self._check_at = 0.0

    def stop(self, limit_s: float = GRACE_S) -> None:
        """Begin nothing more, finish what is in flight by then, and release the job."""
        self._drained_by = time.monotonic() + limit_s
        self._stopping.set()
        self._wake()

    def abandon(self) -> None:
        """Drop everything: another server has the job, or it was cancelled."""
        self._lost = True
        self.stop(0.0)

    def wake(self) -> None:
        """Check for new work now; from any thread."""
        if not self._ready:
            self._fetch_at = self._check_at = 0.0
            self._wake()

    def run(self) -> None:
        """Work until the job ends, is lost, or ``stop`` is called; never raises."""
        pause_s = 0.0
        try:
            self._work()
        except LostLease:
            log.info("job '%s' is no longer leased by this server", self.job.name)
            self._lost = True
        except (NotAllowed, NotFound) as failure:  # the folder: another server may read it
            self._set_message(str(failure))
            pause_s = UNREADABLE_PAUSE_S
        except (BadOntology, NotSupported, MissingExtra) as failure:
            with suppress(*STORE_ERRORS):
                self._finish(JobState.FAILED, str(failure))
        except STORE_ERRORS as failure:  # before there was anything to lose
            log.warning("job '%s' is waiting: %s", self.job.name, failure)
            pause_s = UNREADABLE_PAUSE_S
        except Exception:
            log.exception("job '%s' failed; it will be retried", self.job.name)
            self._set_message("something failed on the server; its log has the details")
            pause_s = ERROR_PAUSE_S
        finally:
            self._stopping.set()
            self._release(pause_s)

    def _work(self) -> None:
        context, job = self._context, self.job
        root = allowed_folder(job.root, context.roots) if job.root else None
        self._results = ResultWriter(context.store, job.name, job.owner)
        self._warn_of_other_calibrator()
        self._policy = FailurePolicy(self._results, self._ready.append, self._replace)
        self._in_flight = self._attempts(root)
        self._wake = self._in_flight.wake
        lister = threading.Thread(
            target=self._list, args=(root,), name=f"list-{job.run_id}", daemon=True
        )
        if job.state is JobState.LISTING:
            lister.start()
        try:
            while not self._stopping.is_set():
                self._fill()
                self._collect(POLL_S)
                self._fill()  # before a commit, during which the models would have nothing to do
                self._write()
                self._update_message()
                if self._is_over():
                    return
            self._drain()
        finally:
            self._stopping.set()
            self._in_flight.stop()
            self._in_flight.close()
            if lister.ident:
                lister.join()

    def _attempts(self, root: Path | None) -> JobAttempts:
        context, source = self._context, f"job:{self.job.name}"
        pipeline, ontology = context.engine.pipeline, self._results.run.ontology
        if isinstance(pipeline, LabelsElsewhere):
            return pipeline.attempts(context.store.blobs, ontology, source)
        images = ImageReader(context.store.blobs, root, context.decoder, ontology, source)
        return InFlight(context.engine, context.threads, images)

    def _warn_of_other_calibrator(self) -> None:
        """Say so where the results of the job come to be decided in two ways."""
        run = self._results.run
        if guarantee_of(run.settings):  # which names its own
            return
        now_used = self._context.engine.calibrator_digest(run.ontology)
        if run.settings and run.calibrator != now_used:
            log.warning(
                "job '%s' began with the calibrator %s and goes on with %s, so its probabilities "
                "are of two kinds; `secondlook redecide` decides all of its results alike",
                run.name,
                run.calibrator[:12] or "none",
                now_used[:12] or "none",
            )

    def waits_for(self) -> str:
        """What the job waits for; or empty."""
        if not hasattr(self, "_policy"):
            return self._message
        return self._database.message or self._policy.breaker.message or self._listing_error

    def _fill(self) -> None:
        """Begin as many attempts as there is room for."""
        room = self._room()
        if room > 0 and not self._ready:
            self._fetch()
        while self._ready and room > 0:
            self._in_flight.begin(self._ready.popleft())
            room -= 1

    def _room(self) -> int:
        breaker = self._policy.breaker
        if len(self._results) >= BATCH or breaker.pausing:
            return 0
        limit = self._in_flight.limit or self._context.share()
        return (1 if breaker.open else limit) - len(self._in_flight.item_ids)

    def _fetch(self) -> None:
        if self._database.pausing or time.monotonic() < self._fetch_at:
            return
        busy = self._in_flight.item_ids | self._results.pending
        found = self._if_available(lambda: self._queue.next(self.job.run_id, PAGE, skip=busy))
        self._ready.extend(found or ())
        if not self._ready:
            self._fetch_at = time.monotonic() + POLL_S

    def _collect(self, timeout_s: float) -> None:
        while attempt := self._in_flight.next(timeout_s):
            if isinstance(attempt.outcome, LabelledItem):
                took_ms = attempt.outcome.labelled.timings_ms.get("verify", 0.0)
                self._context.verified(self.job.created_by, took_ms / 1000)
            self._policy.handle(attempt)
            timeout_s = 0.0

    def _write(self) -> None:
        in_flight, results = self._in_flight, self._results
        due = results.due() or in_flight.written_at_once or not in_flight.item_ids
        if results and due and not self._database.pausing:
            self._if_available(results.write)
        if not results:
            in_flight.written()

    def _if_available(self, step: Callable[[], Result]) -> Result | None:
        """Run a step; None when the database is unavailable: the step is repeated later."""
        try:
            result = step()
        except STORE_ERRORS as failure:
            self._database.trip(str(failure))
            return None
        if not self._results:  # with something to write the outage ends when that is written
            self._database.reset()
        return result

    def _replace(self, item: Item, new: NewItem) -> None:
        replaced = self._if_available(lambda: self._queue.replace(item, self.job.owner, new))
        if replaced is None:
            self._ready.append(item)
        elif replaced:
            present = replace(item, key=new.key, size=new.size, mtime_ns=new.mtime_ns)
            self._ready.appendleft(present)
        else:
            message = "the file was replaced by another one, which is an image of its own"
            self._results.failed(item, "replaced", message)

    def _is_over(self) -> bool:
        """Whether the job has ended, or has nothing to do for a while."""
        now = time.monotonic()
        if self._ready or self._in_flight.item_ids or self._results:
            self.idle, self._idle_since = False, now
            return False
        self.idle = True
        if now < self._check_at or self._database.pausing:
            return False
        self._check_at = now + POLL_S
        return bool(self._if_available(self._has_ended))

    def _has_ended(self) -> bool:
        job = self._queue.get(self.job.name)
        if job.owner != self.job.owner:
            raise LostLease(f"job '{job.name}' is no longer leased by this server")
        if job.waiting or job.state is JobState.LISTING:
            return False
        if job.closed:
            return self._finish(JobState.DONE)
        return time.monotonic() - self._idle_since > LINGER_S

    def _drain(self) -> None:
        """Wait for the attempts in flight, as far as there is time, and write their outcomes."""
        self._in_flight.stop()
        while self._in_flight.item_ids and not self._lost:
            left_s = self._drained_by - time.monotonic()
            if left_s <= 0:
                break
            self._collect(min(left_s, POLL_S))
        if not self._lost:
            self._if_available(self._results.write)

    def _list(self, root: Path) -> None:
        failed = 0
        while not self._stopping.wait(LISTING_RETRY.backoff_s(failed) if failed else 0.0):
            try:
                list_folder(self._queue, self.job.run_id, root, self._stopping.wait)
                self._listing_error = ""
                return
            except Unavailable as failure:
                self._listing_error = str(failure)
            except Exception:
                log.exception("listing the folder of job '%s' failed", self.job.name)
                self._listing_error = (
                    "the folder cannot be listed; the server's log has the details"
                )
            failed += 1

    def _finish(self, state: JobState, message: str = "") -> bool:
        return self._queue.finish(self.job.run_id, self.job.owner, state, message)

    def _update_message(self) -> None:
        message = self.waits_for()
        if message != self._message:
            self._set_message(message)

    def _set_message(self, message: str) -> None:
        with suppress(*STORE_ERRORS):
            self._queue.renew(self.job.run_id, self.job.owner, self._context.lease_s, message)
            self._message = message

    def _release(self, pause_s: float) -> None:
        if not self._lost:
            with suppress(*STORE_ERRORS):  # then the lease expires
                self._queue.release(self.job.run_id, self.job.owner, pause_s)
