"""Runs of ``secondlook label --ray`` whose workers, driver or head are killed again and again.

The cluster is one of our own: a head in a process group, which is what a kill of the head ends.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from label_command import arguments, environment, folder_of, names_done

VICTIMS = ("worker", "driver", "head")
START_S, END_S = 300.0, 600.0
LOOKS_BEFORE = (4, 40)
"""Images that are looked at before a kill: between these two, at random."""


@dataclass
class KilledRuns:
    """What the kills did."""

    images: int = 0
    lost: int = 0
    """Images without a result in the end."""
    doubled: int = 0
    """Images with more than one."""
    again: dict[str, list[int]] = field(default_factory=dict)
    """By victim, for each kill: images that were looked at another time since."""


class OwnCluster:
    """A head of Ray, in a process group of its own."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self._log = folder / "head.log"
        self._variables = variables
        self._head: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start a head at a free port, and wait for it."""
        until = time.monotonic() + START_S
        while not self._started():  # Ray gives up by itself on a machine that is very busy
            self.kill()
            assert time.monotonic() < until, self._log.read_text()[-2000:]

    def _started(self) -> bool:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += [f"--port={self.port}", "--num-cpus=2", "--include-dashboard=false"]
        command += ["--object-store-memory=100000000", "--disable-usage-stats"]
        more = {"RAY_worker_niceness": "0", "RAY_AUTH_MODE": "disabled", **self._variables}
        with self._log.open("wb") as log:
            self._head = subprocess.Popen(
                command, env=environment(**more), stdout=log, stderr=log, start_new_session=True
            )
        while self._head.poll() is None:
            if b"Ray runtime started" in self._log.read_bytes():
                return True
            time.sleep(0.2)
        return False

    @property
    def address(self) -> str:
        """As ``--ray`` takes it."""
        return f"127.0.0.1:{self.port}"

    def workers(self) -> list[int]:
        """Processes with an actor of ours."""
        assert self._head
        group = self._head.pid
        return [pid for pid, of, title in _processes() if of == group and b"Actor" in title]

    def kill(self) -> None:
        """End the head with everything that it started, at once."""
        if self._head:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._head.pid, signal.SIGKILL)
            self._head.wait()
            self._head = None


def killed_runs(folder: Path, kills: int, images: int, pause_s: float, seed: int = 0) -> KilledRuns:
    """Label folders of ``images`` until there were so many kills; each image takes ``pause_s``."""
    found, chance = KilledRuns(again={victim: [] for victim in VICTIMS}), random.Random(seed)
    photos, log = folder_of(folder / "photos", images), folder / "looked-at"
    log.touch()
    cluster = OwnCluster(folder, SCRIPTED_LOG=str(log))
    try:
        number = 0
        while sum(map(len, found.again.values())) < kills:
            log.write_bytes(b"")
            out = folder / f"out{number}"
            _killed_run(cluster, photos, out, log, kills, pause_s, found, chance)
            done = names_done(out)
            found.images += images
            found.lost += images - len(done)
            found.doubled += sum(count - 1 for count in done.values())
            number += 1
    finally:
        cluster.kill()
    return found


def _killed_run(
    cluster: OwnCluster,
    photos: Path,
    out: Path,
    log: Path,
    kills: int,
    pause_s: float,
    found: KilledRuns,
    chance: random.Random,
) -> None:
    driver, victim, repeated = None, "", 0
    try:
        while True:
            if not cluster._head:
                cluster.start()
            if driver is None:
                driver = _driver(cluster, photos, out, pause_s)
            wait = _looks(log)[0] + chance.randint(*LOOKS_BEFORE)
            ended = _wait(driver, log, wait, victim)
            again = _looks(log)[1]
            if victim:
                found.again[victim].append(again - repeated)
                repeated = again
            if ended:
                assert driver.returncode == 0, (out.parent / "driver.log").read_text()[-3000:]
                return
            victim = "" if sum(map(len, found.again.values())) >= kills else chance.choice(VICTIMS)
            driver = _kill(cluster, driver, victim, chance)
    finally:
        if driver and driver.poll() is None:
            driver.kill()
            driver.wait()


def _kill(
    cluster: OwnCluster, driver: "subprocess.Popen[Any]", victim: str, chance: random.Random
) -> "subprocess.Popen[Any] | None":
    """Kill the ``victim``; the driver that lives on."""
    if victim == "worker":
        if workers := cluster.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(workers), signal.SIGKILL)
        return driver
    if victim == "head":
        cluster.kill()
    if victim:
        driver.kill()  # without its head it would wait for another a while
        driver.wait()
        return None
    return driver


def _driver(
    cluster: OwnCluster, photos: Path, out: Path, pause_s: float
) -> "subprocess.Popen[Any]":
    more = ("--ray", cluster.address, "--ray-actors", "2", "--ray-cpus", "0.8")
    with (out.parent / "driver.log").open("ab") as log:
        return subprocess.Popen(
            arguments(photos, out, *more, "--gallery", "0", pause=pause_s),
            env=environment(RAY_AUTH_MODE="disabled"),
            stdout=log,
            stderr=log,
            cwd=out.parent,
        )


def _wait(driver: "subprocess.Popen[Any]", log: Path, looks: int, victim: str) -> bool:
    """Until so many images were looked at; whether the driver has ended before."""
    until = time.monotonic() + END_S
    while _looks(log)[0] < looks:
        if driver.poll() is not None:
            return True
        assert time.monotonic() < until, f"no progress after a kill of {victim or 'nobody'}"
        time.sleep(0.02)
    return False


def _looks(log: Path) -> tuple[int, int]:
    """How many looks at images there were, and how many of them at one that was seen before."""
    seen = Counter(log.read_text().splitlines())
    return seen.total(), seen.total() - len(seen)


def _processes() -> Iterator[tuple[int, int, bytes]]:
    """(process, its group, its command line) of every process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                pid = int(entry.name)
                yield pid, os.getpgid(pid), (entry / "cmdline").read_bytes()
