"""The process of one training: started, followed through its files, and surely ended."""

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from secondlook.errors import ShuttingDown
from secondlook.store.trainings import Training

NICENESS = 10
"""Of a training: whoever waits for a label goes first."""
END_S = 20.0
"""For a process that is told to end: long enough to write a checkpoint."""
PROGRESS = "progress.jsonl"
MAX_TAIL = 64 * 2**10
"""Bytes read from the end of a file that a process writes."""
LOOK_EVERY_S = 0.2
MAX_STEPS = 2**31 - 1


def distill_command(training: Training, address: str, out: Path) -> list[str]:
    """`secondlook distill` for a training; the same again goes on where it stopped."""
    order = training.order
    command = [sys.executable, "-m", "secondlook", "distill", order.snapshot]
    command += ["--server", address, "--out", str(out), "--name", order.model]
    command += ["--cache", str(cache_of(out)), "--size", order.size, "--seed", str(order.seed)]
    command += ["--progress", "jsonl"]
    if order.steps:
        command += ["--steps", str(order.steps)]
    if order.split:
        command += ["--split", order.split]
    return command


def cache_of(out: Path) -> Path:
    """Where a training keeps the pictures that it pulls, until it is over."""
    return out.with_name(f"{out.name}.cache")


class Child:
    """One process that writes into a folder, and nobody else does so meanwhile."""

    def __init__(self, out: Path, lock: int) -> None:
        """Use ``alone``. ``lock`` is an open file that is locked."""
        self._out = out
        self._lock = lock
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def alone(cls, out: Path, stopping: Callable[[], bool]) -> "Iterator[Child]":
        """A child that alone writes into ``out``; it has ended when the block has.

        A process of a server that was killed holds the lock still: it is ended first. Raises
        ``ShuttingDown`` when the server stops before.
        """
        path = out.with_name(f"{out.name}.lock")
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _wait_for(lock, stopping)
            child = cls(out, lock)
            try:
                yield child
            finally:
                child.end()
        finally:
            os.close(lock)

    def start(self, command: Sequence[str]) -> None:
        """Begin. Its standard error goes into a file beside the folder."""
        self._out.mkdir(exist_ok=True)
        with self._log.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=self._out.parent,
                start_new_session=True,  # a Ctrl-C at the server's terminal is not for it
                pass_fds=(self._lock,),
            )
        number = self._process.pid
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{number}\n".encode(), 0)
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, number, NICENESS)

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process is not None and self._process.poll() is None

    def progress(self) -> Mapping[str, Any] | None:
        """The last line of its progress that is whole and makes sense; None before there is one."""
        for line in reversed(_tail(self._out / PROGRESS).split(b"\n")[:-1]):
            with suppress(ValueError, RecursionError):
                if found := _progress(json.loads(line)):
                    return found
        return None

    def end(self) -> str | None:
        """End it if it runs; why it failed in one sentence, or None when it did not."""
        process = self._process
        if process is None:
            return None
        if process.poll() is None:
            _signal(process.pid, signal.SIGTERM)
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                _signal(process.pid, signal.SIGKILL)
        code = process.wait()
        if code == 0:
            return None
        if code < 0:
            perhaps = ", perhaps for want of memory; train a smaller size" if code == -9 else ""
            return f"the training was ended by signal {-code}{perhaps}"
        said = [line.strip() for line in _tail(self._log).decode("utf-8", "replace").splitlines()]
        last = next((line for line in reversed(said) if line), "")
        return last.removeprefix("error: ") or f"the training ended with status {code}"

    @property
    def _log(self) -> Path:
        return self._out.with_name(f"{self._out.name}.log")


def _progress(plain: Any) -> dict[str, Any]:
    """What is sound of a line."""
    if not isinstance(plain, dict):
        return {}
    found: dict[str, Any] = {}
    for name in ("step", "of"):
        value = plain.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_STEPS:
            found[name] = value
    for name in ("loss", "map50"):
        value = plain.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            found[name] = float(value)
    if isinstance(phase := plain.get("phase"), str):
        found["phase"] = "".join(c for c in phase[:40] if c.isprintable())
    return found


def _tail(path: Path) -> bytes:
    """The end of a file; nothing where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - MAX_TAIL, 0))
            return file.read(MAX_TAIL)
    except OSError:
        return b""


def _wait_for(lock: int, stopping: Callable[[], bool]) -> None:
    """Take the lock; end the process that has it, which a server left behind that was killed."""
    begun, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        if stopping():
            raise ShuttingDown("the server stops before the training began")
        # The lock is held, so the process that wrote its number here, or one of its own, lives.
        number = os.pread(lock, 32, 0).strip()
        if number.isdigit() and int(number) > 1:
            if not told:
                _signal(int(number), signal.SIGTERM)
            elif time.monotonic() > begun + END_S:
                _signal(int(number), signal.SIGKILL)
            told = True
        time.sleep(LOOK_EVERY_S)


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
