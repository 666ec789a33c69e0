"""The server's side of the job queue: claims jobs, runs a worker for each, renews the leases.

Several servers may share one store: each job is worked on by one of them, and when that one dies
another takes over its jobs as soon as the leases have expired.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from secondlook.config.settings import ServerSettings
from secondlook.core.decoding import ImageDecoder
from secondlook.jobs.guarantee_checks import count_answers
from secondlook.jobs.worker import GRACE_S, Worker, WorkerContext
from secondlook.labeling.engine import Engine
from secondlook.store import Store
from secondlook_client.errors import StorageFull, Unavailable

log = logging.getLogger(__name__)

POLL_S = 0.5
"""Between two polls: how soon changes by other processes are noticed."""
MIN_POLL_S = 0.05
"""Between two polls, however much is written."""
LEASE_S = 15.0
"""A server that did not renew its leases for this long is presumed dead."""
PAUSE_S = 2.0
"""Before another poll of a database that failed."""
RELEASE_S = 0.3
"""Of the time to close: for the outcomes of the images in flight to be written."""


def server_name() -> str:
    """A unique name for this server, at most 42 characters."""
    return f"{socket.gethostname()[:24]}-{os.getpid()}-{uuid4().hex[:8]}"


class JobRunner:
    """Works on every job of a store, on threads of its own, from ``start`` to ``close``."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        decoder: ImageDecoder | None = None,
        roots: Sequence[Path] = (),
        *,
        owner: str = "",
        in_flight: int = 16,
        lease_s: float | None = None,
        threads: int = 4,
        max_jobs: int = ServerSettings.max_jobs,
        verified: Callable[[str, float], None] = lambda created_by, seconds: None,
    ) -> None:
        """``roots`` are the folders that may be read; ``owner`` is this server's name.

        ``in_flight`` is the maximum of images in flight, of all jobs together; each job may
        have one. ``threads`` read images and wait for them to be decoded. ``max_jobs`` are worked
        on at a time. ``verified`` hears, in any thread, how long the verifier took for an image,
        and of whose job.
        """
        self._store = store
        self._in_flight = in_flight
        self._max_jobs = max_jobs
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="job-image")
        self._context = WorkerContext(
            store,
            engine,
            self._threads,
            decoder or ImageDecoder(),
            tuple(roots),
            lease_s or LEASE_S,
            self._share,
            verified,
        )
        self._owner = owner or server_name()
        self._claims = 0
        self._workers: dict[int, tuple[Worker, threading.Thread]] = {}
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._renew_at = self._count_at = self._pause_at = 0.0
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    @property
    def owner(self) -> str:
        """Prefix of this server's names in leases."""
        return self._owner

    def start(self) -> None:
        """Start claiming jobs."""
        self._thread.start()

    def waits_for(self, run_id: int) -> str:
        """What a job waits for, known even while the database is unavailable; or empty."""
        found = self._workers.get(run_id)
        return found[0].waits_for() if found else ""

    def close(self, limit_s: float = GRACE_S) -> None:
        """Claim nothing new, finish and store the images in flight, and release the jobs.

        After ``limit_s`` what is not finished is left as it is: the leases expire, and the images
        are attempted again. Call it while the engine still runs.
        """
        ends = time.monotonic() + limit_s
        self._stopping.set()
        self._wake.set()
        if self._thread.ident:
            self._thread.join(limit_s)
        workers = [*self._workers.values()]
        for worker, _ in workers:
            worker.stop(max(ends - time.monotonic() - RELEASE_S, 0.0))
        for worker, thread in workers:
            thread.join(max(ends - time.monotonic(), 0.0))
            if thread.is_alive():
                worker.abandon()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        with self._store.database.changes.subscribed(self._wake.set):
            while not self._stopping.is_set():
                self._wake.clear()
                if self._polled():
                    self._stopping.wait(MIN_POLL_S)
                    self._wake.wait(POLL_S)
                else:
                    self._stopping.wait(PAUSE_S)

    def _polled(self) -> bool:
        try:
            self._poll()
        except (Unavailable, StorageFull) as failure:
            log.warning("polling for jobs failed: %s", failure)
        except Exception:
            log.exception("polling for jobs failed")
        else:
            return True
        return False

    def _poll(self) -> None:
        """Forget workers that ended, stop those of paused jobs, renew the leases, claim jobs, count
        answered checks."""
        for run_id, (worker, thread) in list(self._workers.items()):
            if thread.is_alive():
                worker.wake()
            else:
                del self._workers[run_id]
        if time.monotonic() >= self._renew_at:
            self._renew()
            self._renew_at = time.monotonic() + self._context.lease_s / 3
        if time.monotonic() >= self._pause_at:
            for run_id in self._store.queue.paused(self._workers):
                self._workers[run_id][0].stop()  # anew each time: a slow image has its time
            self._pause_at = time.monotonic() + POLL_S
        while len(self._workers) < self._max_jobs and not self._stopping.is_set():
            # A name for each lease: a worker that lost its job must not be mistaken for the next.
            self._claims += 1
            name = f"{self._owner}-{self._claims}"
            job = self._store.queue.claim(name, self._context.lease_s, skip=self._workers)
            if job is None:
                break
            worker = Worker(self._context, job)
            thread = threading.Thread(target=worker.run, name=f"job-{job.run_id}", daemon=True)
            self._workers[job.run_id] = worker, thread
            thread.start()
        if time.monotonic() >= self._count_at:  # also while no job runs
            count_answers(self._store)
            self._count_at = time.monotonic() + POLL_S

    def _renew(self) -> None:
        for run_id, (worker, thread) in list(self._workers.items()):
            renewed = self._store.queue.renew(run_id, worker.job.owner, self._context.lease_s)
            if not renewed and thread.is_alive():
                worker.abandon()

    def _share(self) -> int:
        busy = sum(not worker.idle for worker, _ in list(self._workers.values()))
        return max(1, self._in_flight // max(1, busy))
