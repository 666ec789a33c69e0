"""Lost and duplicate results after 100 × ``kill -9`` and 100 faults of the stores.

The server is killed at random moments while it labels a folder of 2,000 images and a camera streams
2,000 frames; the database and the blob store refuse, stall or run full. After each crash the store
is opened and checked completely: every frame that was acknowledged to the client must be there, and
no result may be missing or duplicate. The models are scripted, everything else is the product. Both
databases run at the same time. The number of crashes can be set: SECONDLOOK_CRASHES=20.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crash_faults import disturb
from crash_trial import Trial
from postgres import Postgres, postgres_server

from bench.paired_timing import Figure

COUNT = int(os.environ.get("SECONDLOOK_CRASHES", "100"))
IMAGES = 20 * COUNT
"""And as many frames: enough to last until the last crash."""


def run() -> list[Figure | str]:
    """One line per trial; a trial that finds something wrong ends the suite with an error."""
    head = "| what | database | lost | duplicate | time |\n|---|---|---|---|---|"
    with ThreadPoolExecutor(2) as pool:  # the servers do the work, in processes of their own
        lines = [line for of in pool.map(_lines, ("SQLite", "PostgreSQL")) for line in of]
    about = f"{IMAGES:,} images and {IMAGES:,} frames each; `check` clean each time."
    return [about, "\n".join([head, *lines])]


def _lines(database: str) -> list[str]:
    with _trial(database, pause_s=0.01) as (trial, _):
        began = time.perf_counter()
        trial.run(COUNT, seed=COUNT)
        kills = _line(f"{COUNT} × kill -9", database, began)
    with _trial(database, pause_s=0.02) as (trial, postgres):
        began = time.perf_counter()
        disturb(trial, COUNT, seed=COUNT, postgres=postgres)
        return [kills, _line(f"{COUNT} faults of the store", database, began)]


@contextmanager
def _trial(database: str, pause_s: float) -> Iterator[tuple[Trial, Postgres | None]]:
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "images": IMAGES,
            "frames": IMAGES,
            "pause_s": pause_s,
        }
        if database == "SQLite":
            yield Trial(Path(folder), "", **settings), None
            return
        with postgres_server(fsync=True) as server:
            url = server.url(server.new_database())
            yield Trial(Path(folder), url, **settings), server


def _line(what: str, database: str, began: float) -> str:
    seconds = time.perf_counter() - began
    print(f"{what}, {database}: nothing lost, {seconds:.0f} s", flush=True)
    return f"| {what} | {database} | 0 | 0 | {seconds:.0f} s |"
