"""Hours of ordinary work with restarts, kills and new certificates at default settings.

Two servers of one PostgreSQL and one folder; labellers, cameras, a reviewer, a job and a training
after another. In each round one server is restarted or killed in turn, and the certificate is
replaced. Memory is compared between the first and the last rounds in which a process lived equally
long. SECONDLOOK_SOAK_MINUTES says how long it lasts (120). Proposer and verifier are scripted.
"""

import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from certificates import Authority
from fleet import Fleet, resident_bytes
from job_images import encoded
from postgres import postgres_server
from workday import Workday

from bench import fixtures
from bench.paired_timing import Figure, none_of, not_above
from secondlook.store import open_store
from secondlook_client import Client, SecondlookError
from secondlook_client.values import SnapshotQuery

MINUTES = float(os.environ.get("SECONDLOOK_SOAK_MINUTES", "120"))
ROUND_S = 60.0
STEADY, OTHER = 0, 1
"""One server is left alone, so that its memory shows over hours; the other is restarted."""
SCENES = "scenes"
"""Job of images that differ enough to be divided for a training."""
TRAIN_EVERY, IMAGES, UPLOADED = 10, 40, 60_000_000
"""Rounds between trainings; images of an upload job, and the number of the first of all."""
WARM_S = 0.2
"""Share of the time after which a process that serves has its caches and pools."""


def run() -> list[Figure | str]:
    """What is lost, and how memory grew."""
    authority = Authority()
    with tempfile.TemporaryDirectory() as name, postgres_server() as postgres:
        folder, url = Path(name), postgres.url(postgres.new_database())
        cert, key = authority.certify("server").write(folder, "server")
        (folder / "ca.crt").write_bytes(authority.certificate)
        flags = ["--data", folder / "data", "--database-url", url, "--image-roots", folder]
        with Fleet(folder, [*flags, "--tls-cert", cert, "--tls-key", key], count=2) as fleet:
            fleet.start_all()
            ca, images = str(folder / "ca.crt"), int(MINUTES * 30)
            day = Workday(folder, fleet.address, ca=ca, job_images=images)
            day.ask(int(MINUTES * 100))
            with day.working(), _jobs_and_trainings(fleet.address, ca) as rounds:
                memory = _disturbed(fleet, authority, folder)
            with open_store(folder / "data", url) as store:
                account = day.account(store, 600)
    warm = memory[int(len(memory) * WARM_S)]
    return [
        none_of("lost, doubled, damaged or given up", account.faults),
        not_above("resident memory, end ÷ warm", memory[-1], warm, at_most=1.1, unit="bytes"),
        f"{account.sentence()}; calls that failed: {day.told()}; {rounds}.",
    ]


def _disturbed(fleet: Fleet, authority: Authority, folder: Path) -> list[int]:
    """Restart, kill and replace certificates until the time is over; the memory of ``STEADY``."""
    ends, memory = time.monotonic() + MINUTES * 60, []
    for number in count():
        time.sleep(min(ROUND_S, MINUTES * 6))
        memory.append(resident_bytes(fleet.servers[STEADY].process.pid))
        if time.monotonic() > ends:
            return memory
        authority.certify("server").write(folder, "server")
        if number % 2:
            fleet.kill(OTHER)
        else:
            fleet.stop(OTHER)
        fleet.start(OTHER)
    raise AssertionError("unreachable")


@dataclass
class Rounds:
    """What the batch user did."""

    jobs: int = 0
    trainings: Counter[str] = field(default_factory=Counter)
    """By how they ended."""

    def __str__(self) -> str:
        return f"{self.jobs} upload jobs, trainings: {dict(self.trainings)}"


@contextmanager
def _jobs_and_trainings(address: str, ca: str) -> Iterator[Rounds]:
    """One upload job after another, and a training in every tenth round."""
    rounds, over = Rounds(), threading.Event()

    def work() -> None:
        with Client(address, ca=ca) as client:
            _upload(client, SCENES, fixtures.jpegs(IMAGES))
            for number in count():
                if over.wait(ROUND_S / 4):
                    return
                first = UPLOADED + number * IMAGES
                _upload(client, f"upload-{number}", map(encoded, range(first, first + IMAGES)))
                rounds.jobs += 1
                if number % TRAIN_EVERY == 1:
                    rounds.trainings[_train(client, number)] += 1

    thread = threading.Thread(target=work, name="batch user", daemon=True)
    thread.start()
    try:
        yield rounds
    finally:
        over.set()
        thread.join(600)


def _upload(client: Client, job: str, images: Iterable[bytes]) -> None:
    """A job of ``IMAGES`` images, to its last result."""
    client.jobs.create(job, reuse=True)
    named = ((f"{number}.png", image) for number, image in enumerate(images))
    for _, uploaded in client.jobs.upload(job, named):
        assert not isinstance(uploaded, SecondlookError), uploaded
    client.jobs.finish(job)
    assert sum(1 for _ in client.jobs.results(job, follow=True)) == IMAGES


def _train(client: Client, number: int) -> str:
    """Freeze the labels of the scenes, train a student on them for a moment; how that ended."""
    try:
        client.datasets.create(f"snapshot-{number}", SnapshotQuery(runs=(SCENES,)))
        begun = client.models.train("street", f"snapshot-{number}", size="pico", steps=5)
        *_, ended = client.models.watch(begun.id)
    except SecondlookError as failure:
        return str(failure)
    return str(ended.state)
