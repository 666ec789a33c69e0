"""Looking for the next work, and listing jobs, with 1,000,000 items queued in 1,000 jobs.

Half of the items are in one job; of some jobs items were set aside or put off. A PostgreSQL of its
own is started where Debian's binaries are.
"""

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from postgres import postgres_server

from bench.paired import Figure
from secondlook.jobs.worker import PAGE
from secondlook.store import Store, open_store
from secondlook.store.database import now
from secondlook.store.queue import FailedAttempt, JobRow, NewItem, record_outcomes
from secondlook_client.ontology import ClassSpec, Ontology

ITEMS, JOBS = 1_000_000, 1_000
LOOKS = 400
BAR_MS = 10.0
DOGS = Ontology((ClassSpec("dog"),))


def run() -> list[Figure | str]:
    """Times of single calls, on each database."""
    rows: list[Figure | str] = []
    with tempfile.TemporaryDirectory() as folder, postgres_server(fsync=True) as postgres:
        for name, url in (("SQLite", ""), ("PostgreSQL", postgres.url(postgres.new_database()))):
            with open_store(Path(folder) / name, url) as store:
                large = _fill(store)
                rows += _measured(store, name, large)
    return rows


def _fill(store: Store) -> JobRow:
    """A thousand jobs; the first has half of all items."""
    began = time.perf_counter()
    for number in range(JOBS):
        job = store.queue.create(f"job {number}", "upload", DOGS)
        count = ITEMS // 2 if number == 0 else ITEMS // 2 // (JOBS - 1)
        store.queue.add(job.run_id, _new_items(count))
        store.queue.close(job.run_id)
    _work_a_little(store)
    seconds = time.perf_counter() - began
    print(f"{ITEMS:,} items added in {seconds:.0f} s", flush=True)
    return store.queue.get("job 0")


def _new_items(count: int) -> Iterator[NewItem]:
    numbers = random.Random(count)
    for number in range(count):
        yield NewItem(numbers.getrandbits(63), f"folder {number // 1000}/{number}.jpg", 200_000, 1)


def _work_a_little(store: Store) -> None:
    """Of some jobs, items are set aside and put off, as in any job that runs."""
    for _ in range(20):
        job = store.queue.claim("bench", 3600)
        assert job is not None
        found = store.queue.next(job.run_id, 400)
        half = len(found) // 2
        with store.database.writing() as connection:
            aside = [FailedAttempt(item.id, "bad_image", "torn") for item in found[:half]]
            later = [
                FailedAttempt(item.id, "internal", "failed", now() + 5) for item in found[half:]
            ]
            record_outcomes(connection, job.run_id, "bench", {}, aside, later)


def _measured(store: Store, name: str, large: JobRow) -> list[Figure | str]:
    mine = set(range(40))
    first = store.queue.list_jobs()

    def claim() -> None:
        job = store.queue.claim("bench", 3600)
        assert job is not None

    looks: dict[str, Callable[[], object]] = {
        "next work of the large job": lambda: store.queue.next(large.run_id, PAGE, skip=mine),
        "taking a job": claim,
        "listing jobs, first page": lambda: store.queue.list_jobs(),
        "listing jobs, a later page": lambda: store.queue.list_jobs(before=first[-1].run_id),
        "one job": lambda: store.queue.get("job 0"),
        "failures, a page": lambda: store.queue.failures(large.run_id),
    }
    return [_figure(f"{what}, {name}", look) for what, look in looks.items()]


def _figure(name: str, look: Callable[[], object]) -> Figure:
    times = []
    for _ in range(LOOKS):
        began = time.perf_counter()
        look()
        times.append((time.perf_counter() - began) * 1000)
    times.sort()
    median, p95 = times[len(times) // 2], times[len(times) * 95 // 100]
    return Figure(
        name=f"{name}: p95 (median–longest) of {LOOKS}",
        bar=f"≤ {BAR_MS:g} ms",
        ours=p95,
        plain=BAR_MS,
        unit="ms",
        ratio=p95,
        low=median,
        high=times[-1],
        rounds=LOOKS,
        met=p95 <= BAR_MS,
    )
