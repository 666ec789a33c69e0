"""``secondlook serve`` ends at most two seconds after its grace, whatever runs in it.

Each test brings a server into a state, sends SIGTERM, and afterwards finds what was acknowledged.
"""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving import png, wait_until
from students import write_bomb

from secondlook.config.stop_signals import ABANDONED, INTERRUPTED
from secondlook_client import Client, RetryPolicy
from secondlook_client.errors import SecondlookError
from secondlook_client.values import SnapshotQuery

GRACE_S = 1.0
LIMIT_S = GRACE_S + 2.0
LONG_GRACE_S = 6.0
"""Where all ends in order before: on a busy machine an interpreter takes a second to end."""
ONE_TRY = RetryPolicy(unavailable_s=0)
CLASSES = ["dog"]
PYTHONPATH = os.pathsep.join([str(Path(__file__).parents[1] / "support"), *sys.path[1:]])
LARGE = png(200, 150)


class EndingServer:
    """A server process and a client of it; an image that it acknowledged."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self.process = process
        self.folder = folder
        assert process.stdout is not None
        self.address = process.stdout.readline().removeprefix("serving on ").strip()
        self.client = Client(self.address, retry=ONE_TRY)
        self.pool = ThreadPoolExecutor(8)

    def acknowledge(self) -> None:
        """Have an image kept."""
        self.client.jobs.create("kept", classes=CLASSES)
        ((_, answer),) = self.client.jobs.upload("kept", [("a", png())], name=str)
        assert not isinstance(answer, Exception)

    def hang(self) -> None:
        """Ask for an image that is never done, and wait until a model works on it."""
        self.pool.submit(self.client.label, LARGE, classes=CLASSES, timeout_s=60)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "hangs\n"

    def terminate(self) -> float:
        """Send SIGTERM; the seconds until the process and all its children have ended."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        seconds = time.monotonic() - began
        wait_until(lambda: not any(map(_lives, children)))
        return seconds

    def images(self) -> int:
        """Those in the database now."""
        with closing(sqlite3.connect(self.folder / "data" / "store.db")) as database:
            return int(database.execute("SELECT count(*) FROM images").fetchone()[0])


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def started(*flags: str, cwd: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "secondlook", "serve", "--data", "data", "--port", "0"),
            *("--verifier", "none", "--proposer", "scripted_models:hanging:waiting", *flags),
        ],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=(cwd / "log").open("w"),
        text=True,
    )


@contextmanager
def ending(folder: Path, *flags: str, grace_s: float = GRACE_S) -> Iterator[EndingServer]:
    server = EndingServer(started("--grace-s", str(grace_s), *flags, cwd=folder), folder)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()
        server.client.close()
        server.pool.shutdown(cancel_futures=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EndingServer]:
    with ending(tmp_path) as running:
        running.acknowledge()
        yield running


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[EndingServer]:
    with ending(tmp_path, grace_s=LONG_GRACE_S) as running:
        running.acknowledge()
        yield running


def test_with_nothing_to_do_it_ends_at_once(patient: EndingServer) -> None:
    assert patient.terminate() < LONG_GRACE_S
    assert (patient.process.returncode, patient.images()) == (0, 1)


def test_calls_that_last_do_not_hold_it_up(server: EndingServer) -> None:
    watched, opened = threading.Event(), threading.Event()

    def watch() -> None:
        with grpc.insecure_channel(server.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for _ in stub.Watch(health_pb2.HealthCheckRequest(), timeout=60):
                watched.set()

    def silent_upload() -> Iterator[Any]:
        opened.set()
        threading.Event().wait(30)
        yield from ()

    def upload() -> None:
        with suppress(grpc.RpcError), grpc.insecure_channel(server.address) as channel:
            channel.stream_unary("/secondlook.v1.ModelService/AddVersion")(silent_upload())

    server.pool.submit(watch)
    threading.Thread(target=upload, daemon=True).start()
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port))) as half_open:
        half_open.send(b"PRI * HTTP/2.0\r\n")
        assert watched.wait(10) and opened.wait(10)
        assert server.terminate() < LIMIT_S
    assert server.images() == 1


@pytest.mark.parametrize("how", ["waiting", "python"])
def test_a_model_that_never_ends_is_abandoned(tmp_path: Path, how: str) -> None:
    with ending(tmp_path, "--proposer", f"scripted_models:hanging:{how}") as server:
        server.acknowledge()
        server.hang()
        assert GRACE_S < server.terminate() < LIMIT_S
        assert (server.process.returncode, server.images()) == (ABANDONED, 1)
        assert "not ended" in (tmp_path / "log").read_text()


def test_a_job_whose_image_never_ends_is_abandoned_and_stays_in_the_queue(
    server: EndingServer,
) -> None:
    list(server.client.jobs.upload("kept", [("b", LARGE)], name=str))
    assert server.process.stdout is not None
    assert server.process.stdout.readline() == "hangs\n"
    assert server.terminate() < LIMIT_S
    assert server.images() == 2
    with ending(server.folder) as again:
        assert again.client.jobs.get("kept").total == 2


def test_a_second_signal_ends_it_at_once(patient: EndingServer) -> None:
    patient.hang()
    patient.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "stopping" in (patient.folder / "log").read_text())
    assert patient.terminate() < 2.0
    assert (patient.process.returncode, patient.images()) == (INTERRUPTED, 1)


def test_a_locked_database_does_not_hold_it_up(server: EndingServer) -> None:
    with closing(sqlite3.connect(server.folder / "data" / "store.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        create = server.client.jobs.create
        waiting = [
            server.pool.submit(create, f"job{n}", classes=CLASSES, timeout_s=20) for n in range(4)
        ]
        uploads = server.client.jobs.upload("kept", [("late", png(50))], name=str, timeout_s=20)
        waiting.append(server.pool.submit(next, uploads))
        time.sleep(0.3)  # nothing shows from outside that they have come as far as the lock
        assert server.terminate() < LIMIT_S
        other.rollback()
    *created, uploaded = waiting
    assert all(isinstance(one.exception(30), SecondlookError) for one in created)
    assert isinstance(uploaded.result(30)[1], SecondlookError)
    assert server.images() == 1


def test_a_promotion_in_progress_is_given_up(patient: EndingServer) -> None:
    write_bomb(patient.folder / "slow", side=1500, products=20_000)
    patient.client.models.add(patient.folder / "slow", "slow")
    promoting = patient.pool.submit(patient.client.models.promote, "slow", 1, timeout_s=30)
    process = psutil.Process(patient.process.pid)
    wait_until(lambda: any(child.cpu_times().user > 1 for child in process.children()), 30)
    assert patient.terminate() < LONG_GRACE_S
    assert isinstance(promoting.exception(30), SecondlookError)
    assert (patient.process.returncode, patient.images()) == (0, 1)


def many_results(database: Path, count: int) -> None:
    """Copy the first result of the store ``count`` times."""
    rows = f"WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {count}) "
    copied = {
        "images": {"id": "x + 1000", "sha256": "randomblob(32)", "perceptual_hash": "random()"},
        "items": {"id": "x + 1000", "key": "x + 1000", "image_id": "x + 1000"},
        "evidence": {"id": "x + 1000", "image_id": "x + 1000"},
        "decisions": dict.fromkeys(("id", "item_id", "image_id", "evidence_id"), "x + 1000"),
    }
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, changed in copied.items():
            named = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            values = [changed.get(name, f"{table}.{name}") for name in named]
            connection.execute(
                f"{rows} INSERT INTO {table} SELECT {', '.join(values)} FROM c, {table} "
                f"WHERE {table}.id = (SELECT min(id) FROM {table})"
            )


def test_snapshots_whose_callers_have_left_are_not_computed(patient: EndingServer) -> None:
    wait_until(lambda: patient.client.jobs.get("kept").done == 1)
    many_results(patient.folder / "data" / "store.db", 30_000)
    create, query = patient.client.datasets.create, SnapshotQuery(runs=["kept"])
    waiting = [
        patient.pool.submit(create, f"s{number}", query, timeout_s=0.5) for number in range(5)
    ]
    assert all(isinstance(one.exception(30), SecondlookError) for one in waiting)
    assert patient.terminate() < LONG_GRACE_S
    assert (patient.process.returncode, patient.images()) == (0, 30_001)


def test_a_snapshot_that_is_under_way_is_cancelled_after_the_grace(server: EndingServer) -> None:
    wait_until(lambda: server.client.jobs.get("kept").done == 1)
    many_results(server.folder / "data" / "store.db", 30_000)
    query = SnapshotQuery(runs=["kept"])
    waiting = server.pool.submit(server.client.datasets.create, "s", query, timeout_s=20)
    wait_until(lambda: psutil.Process(server.process.pid).cpu_percent(0.1) > 10)
    assert server.terminate() < LIMIT_S
    assert isinstance(waiting.exception(30), SecondlookError)
    assert server.images() == 30_001


def test_it_ends_while_it_starts(tmp_path: Path) -> None:
    process = started("--proposer", "scripted_models:slow_to_load", cwd=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    process.communicate(timeout=30)
    assert time.monotonic() - began < 2
    assert process.returncode == 128 + signal.SIGTERM
