"""One job at work: its images go out as attempts and come back as outcomes, until none is left.

When something that all images need is away, the job says what it waits for and looks again by
itself, with one image at first. Results wait in memory while the database is away; there are
never more of them than fit into one transaction and the attempts under way.
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

from secondlook.core.errors import (
    BadOntology,
    LostLease,
    MissingExtra,
    NotAllowed,
    NotFound,
    NotSupported,
    StorageFull,
    Unavailable,
)
from secondlook.core.images import ImageLimits
from secondlook.jobs.failure_policy import Outage, Triage
from secondlook.jobs.failures import backoff_s
from secondlook.jobs.image_source import ImageReader, allowed, list_folder
from secondlook.jobs.in_flight import Attempts
from secondlook.jobs.result_writer import FULL, Commits
from secondlook.labeling.engine import Engine
from secondlook.store import Store
from secondlook.store.queue import Item, Job, JobState, NewItem

log = logging.getLogger(__name__)

PAGE = 128
"""Items fetched at a time."""
POLL_S = 0.25
"""Between two looks at what changes without a word: the time, and what other servers write."""
LINGER_S = 2.0
"""An open job with nothing to do is let go after this long."""
NOT_HERE_S = 5.0
"""Before another look at a job whose folder this server cannot read."""
BROKEN_S = 30.0
"""Before another try at a job that failed in a way nobody thought of."""
GRACE_S = 20.0
"""For images under way when the server stops."""
STORE_FAILS = (Unavailable, StorageFull)

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Workshop:
    """What all jobs of one server share."""

    store: Store
    engine: Engine
    threads: Executor
    """They read and decode images."""
    limits: ImageLimits
    roots: Sequence[Path]
    """Folders that may be read."""
    lease_s: float
    share: Callable[[], int]
    """How many images one job may have under way at present."""


class Worker:
    """Works on one claimed job; ``run`` is its thread."""

    def __init__(self, shop: Workshop, job: Job) -> None:
        self.job = job
        self.idle = False
        """True while there is nothing to do."""
        self._shop = shop
        self._queue = shop.store.queue
        self._halt = threading.Event()
        self._lost = False
        self._writes = Outage()
        self._listing = ""
        """What the listing of the folder waits for."""
        self._said = job.message
        self._ready: deque[Item] = deque()
        self._nudge: Callable[[], None] = lambda: None
        """Ends a wait for attempts."""
        self._idle_since = time.monotonic()
        self._fetch_at = self._look_at = 0.0

    def stop(self) -> None:
        """Begin nothing more, finish what is under way, and give the job back."""
        self._halt.set()
        self._nudge()

    def lose(self) -> None:
        """The job is another's, or was cancelled: drop everything."""
        self._lost = True
        self.stop()

    def look(self) -> None:
        """There may be something new to do; from any thread."""
        if not self._ready:
            self._fetch_at = self._look_at = 0.0
            self._nudge()

    def run(self) -> None:
        """Work until the job ends, is lost, or ``stop`` is called; never raises."""
        pause_s = 0.0
        try:
            self._work()
        except LostLease:
            log.info("job '%s' is not this server's any more", self.job.name)
            self._lost = True
        except (NotAllowed, NotFound) as failure:  # of the folder: another server may have it
            self._say(str(failure))
            pause_s = NOT_HERE_S
        except (BadOntology, NotSupported, MissingExtra) as failure:
            with suppress(*STORE_FAILS):
                self._finish(JobState.FAILED, str(failure))
        except STORE_FAILS as failure:  # before there was anything to hold on to
            log.warning("job '%s' waits: %s", self.job.name, failure)
            pause_s = NOT_HERE_S
        except Exception:
            log.exception("job '%s' failed; it is tried again", self.job.name)
            self._say("something failed on the server; its log has the details")
            pause_s = BROKEN_S
        finally:
            self._halt.set()
            self._release(pause_s)

    def _work(self) -> None:
        shop, job = self._shop, self.job
        root = allowed(job.root, shop.roots) if job.root else None
        self._commits = Commits(shop.store, job.name, job.owner)
        self._triage = Triage(self._commits, self._ready.append, self._replace)
        self._attempts = Attempts(
            shop.engine,
            shop.threads,
            ImageReader(shop.store.blobs, root, shop.limits),
            self._commits.ontology,
            f"job:{job.name}",
        )
        self._nudge = self._attempts.nudge
        lister = threading.Thread(target=self._list, args=(root,), name=f"list-{job.run_id}")
        if job.state is JobState.LISTING:
            lister.start()
        try:
            while not self._halt.is_set():
                self._fill()
                self._collect(POLL_S)
                self._fill()  # before a commit, during which the models would have nothing to do
                self._commit()
                self._tell()
                if self._is_over():
                    return
            self._drain()
        finally:
            self._halt.set()
            self._attempts.stop()
            if lister.ident:
                lister.join()

    def waits_for(self) -> str:
        """What keeps the job from going on; empty when nothing does."""
        if not hasattr(self, "_triage"):
            return self._said
        return self._writes.message or self._triage.outage.message or self._listing

    def _fill(self) -> None:
        """Begin as many attempts as there is room for."""
        room = self._room()
        if room > 0 and not self._ready:
            self._fetch()
        while self._ready and room > 0:
            self._attempts.begin(self._ready.popleft())
            room -= 1

    def _room(self) -> int:
        outage = self._triage.outage
        if len(self._commits) >= FULL or outage.holds:
            return 0
        return (1 if outage.on else self._shop.share()) - len(self._attempts.at_work)

    def _fetch(self) -> None:
        if self._writes.holds or time.monotonic() < self._fetch_at:
            return
        mine = self._attempts.at_work | self._commits.pending
        found = self._outlast(lambda: self._queue.next(self.job.run_id, PAGE, skip=mine))
        self._ready.extend(found or ())
        if not self._ready:
            self._fetch_at = time.monotonic() + POLL_S

    def _collect(self, timeout_s: float) -> None:
        while attempt := self._attempts.ended(timeout_s):
            self._triage.take(attempt)
            timeout_s = 0.0

    def _commit(self) -> None:
        if self._writes.holds or not self._commits:
            return
        if self._commits.due() or not self._attempts.at_work:
            self._outlast(self._commits.write)

    def _outlast(self, step: Callable[[], Result]) -> Result | None:
        """Take a step; None when the database fails, which is waited for: nothing is lost by it."""
        try:
            result = step()
        except STORE_FAILS as failure:
            self._writes.hit(str(failure))
            return None
        if not self._commits:  # with something to write it is over when that is written
            self._writes.over()
        return result

    def _replace(self, item: Item, new: NewItem) -> None:
        held = self._outlast(lambda: self._queue.replace(item, self.job.owner, new))
        if held is None:
            self._ready.append(item)
        elif held:
            now = replace(item, key=new.key, size=new.size, changed_ns=new.changed_ns)
            self._ready.appendleft(now)
        else:
            message = "the file was replaced by another one, which is an image of its own"
            self._commits.aside(item, "replaced", message)

    def _is_over(self) -> bool:
        """Whether the job has ended, or has nothing to do for a while."""
        now = time.monotonic()
        if self._ready or self._attempts.at_work or self._commits:
            self.idle, self._idle_since = False, now
            return False
        self.idle = True
        if now < self._look_at or self._writes.holds:
            return False
        self._look_at = now + POLL_S
        return bool(self._outlast(self._has_ended))

    def _has_ended(self) -> bool:
        job = self._queue.get(self.job.name)
        if job.owner != self.job.owner:
            raise LostLease(f"job '{job.name}' is not this server's any more")
        if job.waiting or job.state is JobState.LISTING:
            return False
        if job.closed:
            return self._finish(JobState.DONE)
        return time.monotonic() - self._idle_since > LINGER_S

    def _drain(self) -> None:
        """Let what is under way come to its end, as far as there is time."""
        self._attempts.stop()
        ends = time.monotonic() + GRACE_S
        while self._attempts.at_work and not self._lost and time.monotonic() < ends:
            self._collect(POLL_S)
        if not self._lost:
            self._outlast(self._commits.write)

    def _list(self, root: Path) -> None:
        tried = 0
        while not self._halt.wait(backoff_s(tried, longest_s=30.0) if tried else 0.0):
            try:
                list_folder(self._queue, self.job.run_id, root, self._halt.wait)
                self._listing = ""
                return
            except Unavailable as failure:
                self._listing = str(failure)
            except Exception:
                log.exception("listing the folder of job '%s' failed", self.job.name)
                self._listing = "the folder cannot be listed; the server's log has the details"
            tried += 1

    def _finish(self, state: JobState, message: str = "") -> bool:
        return self._queue.finish(self.job.run_id, self.job.owner, state, message)

    def _tell(self) -> None:
        message = self.waits_for()
        if message != self._said:
            self._say(message)

    def _say(self, message: str) -> None:
        with suppress(*STORE_FAILS):
            self._queue.renew(self.job.run_id, self.job.owner, self._shop.lease_s, message)
            self._said = message

    def _release(self, pause_s: float) -> None:
        if not self._lost:
            with suppress(*STORE_FAILS):  # then the lease ends by itself
                self._queue.release(self.job.run_id, self.job.owner, pause_s)
