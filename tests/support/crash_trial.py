"""A server that is killed again and again, while a folder is labelled and a camera streams to it.

The models are scripted; everything else is what ``secondlook serve`` runs: a process of its own,
the real client with its spool, the real store. After each crash the store is opened and searched
for anything that was acknowledged and is gone, or is there twice.
"""

import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from job_images import encoded
from sqlalchemy import func, select

from secondlook.store import Store, open_store
from secondlook.store.integrity import check
from secondlook.store.queue import ItemState
from secondlook.store.schema import decisions, images, items, runs
from secondlook_client import Client, RetryPolicy, SpoolLimits
from secondlook_client.values import JobState

TESTS = Path(__file__).parent
JOB, STREAM = "folder", "camera"
FRAME = 10_000_000
"""Frames are the images from this number on."""
START_S = 120.0
END_S = 600.0


@dataclass
class Server:
    """One life of the server."""

    process: "subprocess.Popen[str]"
    ready: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        threading.Thread(target=self._listen, args=(self.process.stdout,), daemon=True).start()

    def _listen(self, lines: IO[str]) -> None:
        for line in lines:
            if line.startswith("serving on"):
                self.ready.set()

    def is_ready(self) -> bool:
        """Waits until the server listens; False when it does not come to that."""
        ends = time.monotonic() + START_S
        while not self.ready.wait(0.2) and self.process.poll() is None and time.monotonic() < ends:
            pass
        return self.ready.is_set()

    def kill(self) -> None:
        """As the machine would: no warning, no last word."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """In order; fails when that takes too long or does not work."""
        self.process.terminate()
        assert self.process.wait(60) == 0


class Trial:
    """One store, one folder job, one captured stream, and any number of servers in turn."""

    def __init__(
        self, folder: Path, database_url: str, *, images: int, frames: int, pause_s: float = 0.01
    ) -> None:
        """``pause_s`` is what each image costs the models."""
        self.folder = folder
        self.data = folder / "data"
        self.database_url = database_url
        self.images, self.frames = images, frames
        self.port = _free_port()
        self._pause_s = pause_s
        self._seen: dict[int, int] = {}
        """Decision by item, as found after earlier crashes."""
        self._sent: dict[int, int] = {}
        """Frames by the number that the spool gave them."""
        self.received: list[int] = []
        """Cursors of the folder's results, in the order in which the client received them."""
        self._allowed = threading.Semaphore(0)
        self._stopped = threading.Event()
        self._servers: list[Server] = []
        self._make()

    def _make(self) -> None:
        for number in range(self.images):
            path = self.folder / "images" / f"{number // 100:03d}" / f"{number:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(number))
        (self.folder / "ontology.yaml").write_text("classes:\n  - dog\n")

    @contextmanager
    def clients(self) -> Iterator[None]:
        """A camera that streams frames as ``advance`` lets it, and a reader of results."""
        camera = threading.Thread(target=self._film, name="camera")
        reader = threading.Thread(target=self._read, name="reader", daemon=True)
        camera.start()
        reader.start()
        try:
            yield
            reader.join(END_S)
            assert not reader.is_alive(), "the results did not come to an end"
        except BaseException:
            for server in self._servers:  # none outlives a trial that failed
                server.kill()
            raise
        finally:
            self._stopped.set()
            self._allowed.release()
            camera.join()

    def advance(self, frames: int) -> None:
        """Let the camera take that many frames more."""
        self._allowed.release(frames)

    def _film(self) -> None:
        limits = SpoolLimits(sync=False)  # no power is cut here
        with (
            self._client() as client,
            client.capture(STREAM, spool=self.spool, limits=limits) as capture,
        ):
            for number in range(self.frames):
                self._allowed.acquire()
                if self._stopped.is_set():
                    return
                sequence = capture.send(encoded(FRAME + number))
                assert sequence is not None, "the spool dropped a frame"
                self._sent[sequence] = number
            capture.flush(END_S)
            self._stopped.wait()

    def _read(self) -> None:
        with self._client() as client:
            client.jobs.create(JOB, folder=str(self.folder / "images"), reuse=True, timeout_s=END_S)
            for result in client.jobs.results(JOB, follow=True):
                self.received.append(result.cursor)

    def _client(self) -> Client:
        patient = RetryPolicy(longest_s=0.5, unavailable_s=END_S)
        return Client(f"127.0.0.1:{self.port}", retry=patient)

    @property
    def spool(self) -> Path:
        """The camera's spool."""
        return self.folder / "spool"

    def start(self) -> Server:
        """A server's life begins."""
        flags = ["--data", self.data, "--image-roots", self.folder, "--port", self.port]
        flags += ["--ontology", self.folder / "ontology.yaml", "--log-level", "error"]
        flags += ["--proposer", f"scripted_models:bright_half:{self._pause_s}"]
        flags += ["--verifier", "scripted_models:agreeable:dog"]
        if self.database_url:
            flags += ["--database-url", self.database_url]
        with (self.folder / "server.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, TESTS / "crashing_server.py", *map(str, flags)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
            )
        self._servers.append(Server(process))
        return self._servers[-1]

    def run(self, kills: int, seed: int) -> None:
        """Crash ``kills`` times at random moments, looking each time; then let it finish."""
        moments = random.Random(seed)
        with self.clients():
            for count in range(kills):
                server = self.start()
                self.advance(self.frames * (count + 1) // kills - self.frames * count // kills)
                if moments.random() < 0.25:  # also while it starts
                    time.sleep(moments.uniform(0, 2))
                else:
                    assert server.is_ready(), self.log()
                    time.sleep(moments.uniform(0, 0.8))
                assert server.process.poll() is None, self.log()
                server.kill()
                self.inspect()
            server = self.start()
            if not kills:
                self.advance(self.frames)
            self.finish()
        server.stop()
        self.inspect(complete=True)

    def finish(self) -> None:
        """Wait until everything is labelled."""
        ends = time.monotonic() + END_S
        while not self._is_complete():
            assert time.monotonic() < ends, self.log()
            time.sleep(0.2)

    def _is_complete(self) -> bool:
        with self.opened() as store:
            jobs = {job.name: job for job in store.queue.list_jobs()}
        assert not any(job.failed for job in jobs.values()), "an image failed"
        ready = JOB in jobs and jobs[JOB].state is JobState.DONE
        return ready and STREAM in jobs and jobs[STREAM].done == self.frames

    def opened(self) -> Store:
        """The store, as a reader beside the server."""
        return open_store(self.data, self.database_url)

    def inspect(self, complete: bool = False) -> None:
        """Nothing acknowledged is gone, nothing is there twice, and the counts are right."""
        kept = self._acknowledged()
        with self.opened() as store:
            self._check_counts(store)
            self._check_frames(store, kept)
            assert list(check(store)) == []
            if complete:
                self._check_complete(store)

    def _acknowledged(self) -> set[int]:
        """Frames that the client has deleted, because the server said that it has them."""
        sent = set(self._sent)
        return sent - {int(path.stem) for path in self.spool.glob("*.frame")}

    def _check_counts(self, store: Store) -> None:
        with store.database.reading() as connection:
            by_item = connection.execute(select(decisions.c.item_id, decisions.c.id))
            found = {row.item_id: row.id for row in by_item}
            total = connection.execute(select(func.count()).select_from(decisions)).scalar_one()
            states = select(items.c.run_id, items.c.state, func.count()).group_by(
                items.c.run_id, items.c.state
            )
            counted = {(run, state): n for run, state, n in connection.execute(states)}
        assert total == len(found), "an item has two results"
        assert self._seen.items() <= found.items(), "a result is gone"
        self._seen = found
        for job in store.queue.list_jobs():
            of_job = {state: counted.get((job.run_id, state), 0) for state in ItemState}
            assert (job.done, job.failed) == (of_job[ItemState.DONE], of_job[ItemState.FAILED])
            assert job.total == sum(of_job.values())
            assert job.failed == 0, store.queue.failures(job.run_id)
            assert store.results.count(job.run_id) == job.done

    def _check_frames(self, store: Store, acknowledged: set[int]) -> None:
        query = (
            select(items.c.key, images.c.sha256)
            .join(images, images.c.id == items.c.image_id)
            .join(runs, runs.c.id == items.c.run_id)
            .where(runs.c.name == STREAM)
        )
        with store.database.reading() as connection:
            kept = {key: sha256.hex() for key, sha256 in connection.execute(query)}
        assert acknowledged <= kept.keys(), "an acknowledged frame is gone"
        for key in sorted(acknowledged)[-50:]:
            assert store.blobs.get(kept[key]) == encoded(FRAME + self._sent[key])

    def _check_complete(self, store: Store) -> None:
        job, stream = store.queue.get(JOB), store.queue.get(STREAM)
        assert (job.total, job.done) == (self.images, self.images)
        assert (stream.total, stream.done) == (self.frames, self.frames)
        assert not list(self.spool.glob("*.frame"))
        cursors = [result.cursor for result in _results(store, job.run_id)]
        assert self.received == cursors, "the client received each result once, in order"

    def log(self) -> str:
        """The end of the log of the servers."""
        return (self.folder / "server.log").read_text()[-3000:]


def _results(store: Store, run_id: int) -> list:
    found: list = []
    while page := store.results.page(run_id, after=found[-1].cursor if found else 0, limit=500):
        found += page
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
