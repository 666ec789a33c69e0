"""Deciding again what is kept, against labelling again, in images a second.

Both sides end with results under other thresholds: one through the database (SQLite, or a
PostgreSQL of its own), with every decision written and on the disk; the other through both
embedded models, decoding included, nothing written.
"""

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

from postgres import postgres_server

from bench import kept, material
from bench.paired import Figure, paired
from secondlook.core.images import decode
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Task
from secondlook.review.redecide import EVERY_CLASS, adjusted_ontology, redecide
from secondlook.store import Store, open_store

IMAGES, AGAIN = 20_000, 24


def run() -> list[Figure | str]:
    """One ratio for each database."""
    engine = Engine(material.pipeline())
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
        kept.fill(store, "first", IMAGES)
        return paired(
            f"re-deciding through {name} ÷ labelling again",
            _decided(store),
            lambda: _labelled(engine),
            at_least=200,
            unit="images/s",
        )


def _decided(store: Store) -> Callable[[], float]:
    numbers = count(1)
    stricter = adjusted_ontology(material.ontology(), {"accept": {EVERY_CLASS: 0.8}})

    def decide() -> float:
        return redecide(store, "first", f"again {next(numbers)}", stricter).images

    return decide


def _labelled(engine: Engine) -> float:
    ontology = material.ontology()
    futures = [engine.submit(Task(decode(data), ontology)) for data in material.jpegs(AGAIN)]
    return len([future.result() for future in futures])
