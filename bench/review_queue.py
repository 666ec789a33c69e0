"""A queue of 1,000,000 boxes to review, on both databases, and answers given by killed programs.

Four people in turn take the next item and answer it, and now and then leave one whose lease ends.
In a smaller queue two programs at a time answer and are killed at random moments (``kill -9``), 100
times on each database: no acknowledged answer may be missing and none be there twice. Also: the
time and the memory of putting the boxes of a large run in order.
"""

import itertools
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from killed_reviewers import PEOPLE, KilledReviewers
from postgres import postgres_server

from bench.paired_timing import Figure, latency
from bench.stored_runs import labelled, write_run
from secondlook.review.queue_order import QueueItem, queue_items
from secondlook.store import Store, open_store
from secondlook_client.values import ReviewAnswer, ReviewOrder

ITEMS = 1_000_000
CALLS = 1_000
BAR_MS = 20.0
KILLS = 100
ANSWERERS = tuple(f"person {number}" for number in range(4))


def run() -> list[Figure | str]:
    """Latency of single calls on each database, then the kills."""
    rows: list[Figure | str] = []
    with tempfile.TemporaryDirectory() as folder, postgres_server(fsync=True) as postgres:
        for name in ("SQLite", "PostgreSQL"):
            url = "" if name == "SQLite" else postgres.url(postgres.new_database())
            with open_store(Path(folder) / name, url) as store:
                rows += [_made(store, name), *_measured(store, name)]
                print(f"{name}: measured", flush=True)
            url = "" if name == "SQLite" else postgres.url(postgres.new_database())
            rows.append(_killed(Path(folder) / f"{name} killed", url, name))
        with open_store(Path(folder) / "ordered") as store:
            rows.append(_ordered(store))
    return rows


def _made(store: Store, name: str) -> str:
    """Write the queue; how long that took, and what it held in memory."""
    write_run(store, "run", 2000)
    few = [*queue_items(store, "run", ReviewOrder.RANDOM)]
    with _measuring() as used:
        asked = itertools.islice(itertools.cycle(few), ITEMS)
        made = store.reviews.create_queue("all", "run", asked, "value")
    return f"{name}: {made.total:,} items written in {used}."


def _ordered(store: Store) -> str:
    """Put the boxes of a large run in order."""
    boxes = sum(len(one.judgements) for one in labelled()) / len(labelled())
    write_run(store, "run", int(ITEMS / boxes) + 1)
    with _measuring() as used:
        count = sum(1 for _ in queue_items(store, "run", ReviewOrder.VALUE))
    return f"SQLite: {count:,} judged boxes read and put in order of value in {used}."


@dataclass
class _Used:
    seconds: float = 0.0
    mib: float = 0.0

    def __str__(self) -> str:
        return f"{self.seconds:.0f} s, with {self.mib:.0f} MiB more memory at its peak"


@contextmanager
def _measuring() -> Iterator[_Used]:
    """Wall time, and how far the resident memory rose (Linux)."""
    used = _Used()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = _peak_mib(), time.perf_counter()
    yield used
    used.seconds, used.mib = time.perf_counter() - began, _peak_mib() - before


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _measured(store: Store, name: str) -> list[Figure]:
    times: dict[str, list[float]] = {}
    for number, person in zip(range(CALLS), itertools.cycle(ANSWERERS), strict=False):
        with _timed(times, "next item"):
            lease_s = 0.001 if number % 50 == 0 else 600.0
            (item,) = store.reviews.next("all", person, 1, lease_s)
        if number % 50:
            with _timed(times, "answer"):
                store.reviews.answer(item.id, person, ReviewAnswer.RIGHT)
        with _timed(times, "how the queue stands"):
            store.reviews.queue("all")
    return [latency(f"{what}, {name}", found, BAR_MS) for what, found in times.items()]


@contextmanager
def _timed(times: dict[str, list[float]], what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    times.setdefault(what, []).append((time.perf_counter() - began) * 1000)


def _killed(data: Path, url: str, name: str) -> str:
    with open_store(data, url) as store:
        write_run(store, "run", 200)
        store.reviews.create_queue("q", "run", _many(store), "random")
    trial = KilledReviewers(data, url, "q")
    began = time.perf_counter()
    answers = trial.run(KILLS // len(PEOPLE), seed=KILLS)
    seconds = time.perf_counter() - began
    return (
        f"{name}: {KILLS} × kill -9 while answering, {answers:,} answers, none lost and none "
        f"doubled ({seconds:.0f} s)."
    )


def _many(store: Store) -> Iterator[QueueItem]:
    """The boxes of the run several times over, so that no program comes to the end."""
    for seed in range(5):
        yield from queue_items(store, "run", ReviewOrder.RANDOM, seed=seed)
