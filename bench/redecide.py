"""Deciding stored evidence again, compared with labelling again, in images per second.

Both sides end with results under new thresholds: one through the database (SQLite, or PostgreSQL)
with every decision committed to disk; the other through both embedded models, including decoding,
with nothing written.
"""

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

from postgres import postgres_server

from bench import fixtures, stored_runs
from bench.paired_timing import Figure, paired
from secondlook.core.images import decode
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Task
from secondlook.review.redecide import EVERY_CLASS, adjusted_ontology, redecide
from secondlook.store import Store, open_store

IMAGES, AGAIN = 20_000, 24


def run() -> list[Figure | str]:
    """One ratio for each database."""
    engine = Engine(fixtures.pipeline())
    try:
        with tempfile.TemporaryDirectory() as folder, postgres_server(fsync=True) as postgres:
            url = postgres.url(postgres.new_database())
            return [
                _figure(name, Path(folder) / name, address, engine)
                for name, address in (("SQLite", ""), ("PostgreSQL", url))
            ]
    finally:
        engine.close()


def _figure(name: str, folder: Path, url: str, engine: Engine) -> Figure:
    with open_store(folder, url) as store:
        stored_runs.write_run(store, "first", IMAGES)
        return paired(
            f"re-deciding through {name} ÷ labelling again",
            _decided(store),
            lambda: _labelled(engine),
            at_least=200,
            unit="images/s",
        )


def _decided(store: Store) -> Callable[[], float]:
    numbers = count(1)
    stricter = adjusted_ontology(fixtures.ontology(), {"accept": {EVERY_CLASS: 0.8}})

    def decide() -> float:
        return redecide(store, "first", f"again {next(numbers)}", stricter).images

    return decide


def _labelled(engine: Engine) -> float:
    ontology = fixtures.ontology()
    futures = [engine.submit(Task(decode(data), ontology)) for data in fixtures.jpegs(AGAIN)]
    return len([future.result() for future in futures])
