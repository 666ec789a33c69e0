"""The server's side of the queue: takes jobs that wait, works on them, and keeps hold of them.

Several servers may share one store: each job is worked on by one of them, and when that one dies
another takes its jobs over as soon as the leases have run out.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from secondlook.core.errors import StorageFull, Unavailable
from secondlook.core.images import DEFAULT_LIMITS, ImageLimits
from secondlook.jobs.worker import Worker, Workshop
from secondlook.labeling.engine import Engine
from secondlook.store import Store

log = logging.getLogger(__name__)

MAX_JOBS = 64
"""Worked on at one time; the others wait."""
LOOK_EVERY_S = 0.5
"""How soon a job to which another process gave something to do is noticed."""
NOT_SOONER_S = 0.05
"""Between two looks, however much is written."""
LEASE_S = 15.0
"""A server that was not heard of for this long is taken for dead."""
PAUSE_S = 2.0
"""Before another look at a database that failed."""


def server_name() -> str:
    """A name for this server that no other has, at most 42 characters."""
    return f"{socket.gethostname()[:24]}-{os.getpid()}-{uuid4().hex[:8]}"


class JobRunner:
    """Works on every job of a store, on threads of its own, from ``start`` to ``close``."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        limits: ImageLimits = DEFAULT_LIMITS,
        roots: Sequence[Path] = (),
        *,
        owner: str = "",
        in_flight: int = 16,
        lease_s: float | None = None,
        threads: int = 4,
    ) -> None:
        """``roots`` are the folders that may be read; ``owner`` is this server's name.

        ``in_flight`` images at most are under way, of all jobs together; of each job at least
        one. ``threads`` read and decode images.
        """
        self._store = store
        self._in_flight = in_flight
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="job-image")
        self._shop = Workshop(
            store,
            engine,
            self._threads,
            limits,
            tuple(roots),
            lease_s or LEASE_S,
            self._share,
        )
        self._owner = owner or server_name()
        self._claims = 0
        self._workers: dict[int, tuple[Worker, threading.Thread]] = {}
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._renew_at = 0.0
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    @property
    def owner(self) -> str:
        """What this server's names in leases begin with."""
        return self._owner

    def start(self) -> None:
        """Begin to take jobs."""
        self._thread.start()

    def waits_for(self, run_id: int) -> str:
        """What keeps a job from going on, also while the database cannot be told; or empty."""
        found = self._workers.get(run_id)
        return found[0].waits_for() if found else ""

    def close(self) -> None:
        """Take nothing new, finish and keep the images under way, and give the jobs back.

        Call it while the engine still runs.
        """
        self._stopping.set()
        self._wake.set()
        if self._thread.ident:
            self._thread.join()
        for worker, _ in self._workers.values():
            worker.stop()
        for _, thread in self._workers.values():
            thread.join()
        self._threads.shutdown(cancel_futures=True)

    def _run(self) -> None:
        with self._store.database.written.heard_by(self._wake.set):
            while not self._stopping.is_set():
                self._wake.clear()
                if self._has_looked():
                    self._stopping.wait(NOT_SOONER_S)
                    self._wake.wait(LOOK_EVERY_S)
                else:
                    self._stopping.wait(PAUSE_S)

    def _has_looked(self) -> bool:
        try:
            self._look()
        except (Unavailable, StorageFull) as failure:
            log.warning("looking for jobs failed: %s", failure)
        except Exception:
            log.exception("looking for jobs failed")
        else:
            return True
        return False

    def _look(self) -> None:
        """Let go of workers that ended, keep the leases, take what waits."""
        for run_id, (worker, thread) in list(self._workers.items()):
            if thread.is_alive():
                worker.look()
            else:
                del self._workers[run_id]
        if time.monotonic() >= self._renew_at:
            self._renew()
            self._renew_at = time.monotonic() + self._shop.lease_s / 3
        while len(self._workers) < MAX_JOBS and not self._stopping.is_set():
            # A name for each lease: a worker that lost its job must not pass for the next one.
            self._claims += 1
            name = f"{self._owner}-{self._claims}"
            job = self._store.queue.claim(name, self._shop.lease_s, skip=self._workers)
            if job is None:
                break
            worker = Worker(self._shop, job)
            thread = threading.Thread(target=worker.run, name=f"job-{job.run_id}", daemon=True)
            self._workers[job.run_id] = worker, thread
            thread.start()

    def _renew(self) -> None:
        for run_id, (worker, thread) in list(self._workers.items()):
            held = self._store.queue.renew(run_id, worker.job.owner, self._shop.lease_s)
            if not held and thread.is_alive():
                worker.lose()

    def _share(self) -> int:
        busy = sum(not worker.idle for worker, _ in list(self._workers.values()))
        return max(1, self._in_flight // max(1, busy))
