"""Runs of ``secondlook label --ray`` whose workers, driver or head are killed again and again.

The cluster is one of our own: a head in a session, whose processes a kill of the head ends. (Ray
gives each worker a group of its own.)
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
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
    """By victim, for each kill: images that were looked at before it and had to be again."""
    kills: int = 0


class OwnCluster:
    """A head of Ray, in a session of its own."""

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
        with socket.socket() as one, socket.socket() as other:
            for free in (one, other):
                free.bind(("127.0.0.1", 0))
            self.port, self.client_port = (free.getsockname()[1] for free in (one, other))
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += [f"--port={self.port}", f"--ray-client-server-port={self.client_port}"]
        command += ["--num-cpus=2", "--include-dashboard=false"]
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
        return [pid for pid, title in _session(self._head.pid) if b"Actor" in title]

    def kill(self) -> None:
        """End the head with everything that it started, at once."""
        if self._head:
            while living := [pid for pid, _ in _session(self._head.pid)]:
                for pid in living:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self._head.poll()
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
        while found.kills < kills:
            log.write_bytes(b"")
            out = folder / f"out{number}"
            killed = _killed_run(cluster, photos, out, log, kills - found.kills, pause_s, chance)
            for (victim, _), again in zip(killed, _redone(log, killed), strict=True):
                found.again[victim].append(again)
            found.kills += len(killed)
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
    chance: random.Random,
) -> list[tuple[str, int]]:
    """Each victim of at most so many kills, with the looks that there were by then."""
    driver, victim = None, ""
    killed: list[tuple[str, int]] = []
    try:
        while True:
            if not cluster._head:
                cluster.start()
            if driver is None:
                driver = _driver(cluster, photos, out, pause_s)
            wait = len(_looks(log)) + chance.randint(*LOOKS_BEFORE)
            if _wait(driver, log, wait, victim):
                assert driver.returncode == 0, (out.parent / "driver.log").read_text()[-3000:]
                return killed
            if len(killed) == kills:
                continue
            victim = chance.choice(VICTIMS)
            driver = _kill(cluster, driver, victim, chance)
            killed.append((victim, len(_looks(log))))
    finally:
        if driver and driver.poll() is None:
            driver.kill()
            driver.wait()


def _redone(log: Path, killed: list[tuple[str, int]]) -> list[int]:
    """For each kill the images whose look it took.

    It is the first one after that look, or the one before: actors work on for a moment after
    their driver was killed.
    """
    redone = [0] * len(killed)
    last: dict[str, int] = {}
    for place, image in enumerate(_looks(log)):
        if image in last:
            since = [at for at, (_, looks) in enumerate(killed) if last[image] < looks <= place]
            before = [at for at, (_, looks) in enumerate(killed) if looks <= last[image]]
            assert since or before, f"image {image} was looked at again without a kill"
            redone[since[0] if since else before[-1]] += 1
        last[image] = place
    return redone


def _kill(
    cluster: OwnCluster, driver: "subprocess.Popen[Any]", victim: str, chance: random.Random
) -> "subprocess.Popen[Any] | None":
    """Kill the ``victim``; the driver that lives on."""
    if victim == "worker":
        os.kill(chance.choice(cluster.workers()), signal.SIGKILL)
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
    while len(_looks(log)) < looks:
        if driver.poll() is not None:
            return True
        assert time.monotonic() < until, f"no progress after a kill of {victim or 'nobody'}"
        time.sleep(0.02)
    return False


def _looks(log: Path) -> list[str]:
    """The images that were looked at, one look after the other."""
    return log.read_text().splitlines()


def _session(leader: int) -> Iterator[tuple[int, bytes]]:
    """(process, its command line) of every process of a session that has not ended."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                title = (entry / "cmdline").read_bytes()  # empty once it has ended
                if title and os.getsid(int(entry.name)) == leader:
                    yield int(entry.name), title
