"""What may befall the database and the blob store of a running server, for a while."""

import random
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from crash_trial import Server, Trial
from postgres import Postgres
from sqlalchemy import text

from secondlook.store import BLOBS_FOLDER

Fault = Callable[[Trial, Server], AbstractContextManager[None]]


@contextmanager
def blobs_gone(trial: Trial, server: Server) -> Iterator[None]:
    """The folder of the blobs is not there, as when its disk was unmounted."""
    here, away = trial.data / BLOBS_FOLDER, trial.data / "away"
    here.rename(away)
    try:
        yield
    finally:
        away.rename(here)


@contextmanager
def disk_full(trial: Trial, server: Server) -> Iterator[None]:
    """Nothing can be written to any file: to the blobs, nor to SQLite's."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)


@contextmanager
def database_locked(trial: Trial, server: Server) -> Iterator[None]:
    """Somebody else writes for a long time, so that every write waits."""
    with trial.opened() as store, store.database.writing() as connection:
        if store.database.dialect == "postgresql":
            connection.execute(text("LOCK TABLE items, jobs IN EXCLUSIVE MODE"))
        yield


def database_crashed(postgres: Postgres) -> Fault:
    """PostgreSQL dies and comes back."""

    @contextmanager
    def crashed(trial: Trial, server: Server) -> Iterator[None]:
        postgres.stop("immediate")
        try:
            yield
        finally:
            postgres.start()

    return crashed


def disturb(trial: Trial, count: int, seed: int, postgres: Postgres | None = None) -> None:
    """Label everything while ``count`` things go wrong; nothing is lost and no image fails."""
    chance = random.Random(seed)
    kinds: list[Fault] = [blobs_gone, disk_full, database_locked]
    if postgres:
        kinds.append(database_crashed(postgres))
    server = trial.start()
    with trial.clients():
        assert server.is_ready(), trial.log()
        for number in range(count):
            trial.advance(trial.frames * (number + 1) // count - trial.frames * number // count)
            time.sleep(chance.uniform(0.1, 0.8))
            kind = kinds[number] if number < len(kinds) else chance.choice(kinds)
            with kind(trial, server):
                time.sleep(chance.uniform(0.2, 1.5))
        trial.finish()
    server.stop()
    trial.inspect(complete=True)
