"""Latency of the job queue with 1,000,000 items queued in 1,000 jobs.

Half of the items are in one job; in some jobs items have failed or are delayed. A PostgreSQL server
is started where Debian's binaries are installed.
"""

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from postgres import postgres_server

from bench.paired_timing import Figure, latency
from secondlook.jobs.worker import PAGE
from secondlook.store import Store, open_store
from secondlook.store.database import now
from secondlook.store.queue import FailedAttempt, JobRow, NewItem, record_outcomes
from secondlook_client.ontology import ClassSpec, Ontology

ITEMS, JOBS = 1_000_000, 1_000
CALLS = 400
BAR_MS = 10.0
DOGS = Ontology((ClassSpec("dog"),))


def run() -> list[Figure | str]:
    """Latency of single calls on each database."""
    rows: list[Figure | str] = []
    with tempfile.TemporaryDirectory() as folder, postgres_server(fsync=True) as postgres:
        for name, url in (("SQLite", ""), ("PostgreSQL", postgres.url(postgres.new_database()))):
            with open_store(Path(folder) / name, url) as store:
                large = _fill(store)
                rows += _measured(store, name, large)
    return rows


def _fill(store: Store) -> JobRow:
    """Create a thousand jobs; the first has half of all items."""
    began = time.perf_counter()
    for number in range(JOBS):
        job = store.queue.create(f"job {number}", "upload", DOGS)
        count = ITEMS // 2 if number == 0 else ITEMS // 2 // (JOBS - 1)
        store.queue.add(job.run_id, _new_items(count))
        store.queue.close(job.run_id)
    _record_some_failures(store)
    seconds = time.perf_counter() - began
    print(f"{ITEMS:,} items added in {seconds:.0f} s", flush=True)
    return store.queue.get("job 0")


def _new_items(count: int) -> Iterator[NewItem]:
    numbers = random.Random(count)
    for number in range(count):
        yield NewItem(numbers.getrandbits(63), f"folder {number // 1000}/{number}.jpg", 200_000, 1)


def _record_some_failures(store: Store) -> None:
    """In some jobs, items have failed for good or are delayed, as in any running job."""
    for _ in range(20):
        job = store.queue.claim("bench", 3600)
        assert job is not None
        found = store.queue.next(job.run_id, 400)
        half = len(found) // 2
        with store.database.writing() as connection:
            failed = [FailedAttempt(item.id, "bad_image", "torn") for item in found[:half]]
            delayed = [
                FailedAttempt(item.id, "internal", "failed", now() + 5) for item in found[half:]
            ]
            record_outcomes(connection, job.run_id, "bench", {}, failed, delayed)


def _measured(store: Store, name: str, large: JobRow) -> list[Figure | str]:
    mine = set(range(40))
    first = store.queue.list_jobs()

    def claim() -> None:
        job = store.queue.claim("bench", 3600)
        assert job is not None

    calls: dict[str, Callable[[], object]] = {
        "next items of the large job": lambda: store.queue.next(large.run_id, PAGE, skip=mine),
        "claiming a job": claim,
        "listing jobs, first page": lambda: store.queue.list_jobs(),
        "listing jobs, a later page": lambda: store.queue.list_jobs(before=first[-1].run_id),
        "one job": lambda: store.queue.get("job 0"),
        "failures, a page": lambda: store.queue.failures(large.run_id),
    }
    return [_figure(f"{what}, {name}", call) for what, call in calls.items()]


def _figure(name: str, call: Callable[[], object]) -> Figure:
    times = []
    for _ in range(CALLS):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1000)
    return latency(name, times, BAR_MS)
