"""Trainings of the server: each a process of its own, which may crash, fill a GPU or be killed.

    DIR/7/             output of `secondlook distill`: checkpoints, progress.jsonl, the student
    DIR/7.cache/       downloaded images, while it lasts
    DIR/7.log          its stderr
    DIR/7.lock         locked by the process of training 7, also after its server has died

A training resumes from its last checkpoint, after an orderly restart of the server as after a
crash. Its student becomes a version of its model; ``7/torch`` stays, to train on.
"""

import fcntl
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from secondlook.config.extras import check_extras
from secondlook.detector.manifest import read_manifest, read_verified, verify_files
from secondlook.jobs.runner import server_name
from secondlook.store import Store
from secondlook.store.training_jobs import TrainingRow
from secondlook_client.errors import (
    Damaged,
    NotFound,
    SecondlookError,
    ShuttingDown,
    StorageFull,
    Unavailable,
)
from secondlook_client.values import TrainingState

log = logging.getLogger(__name__)

NICENESS = 10
"""Of a training process: requests to label go first."""
POLL_S = 0.5
"""How soon a new training, its progress and its cancellation are noticed."""
LOCK_POLL_S = 0.2
LEASE_S = 15.0
PAUSE_S = 2.0
"""Before another attempt at a database that failed."""
STOP_TIMEOUT_S = 20.0
"""For a process to terminate: long enough to write a checkpoint."""
KILL_S = 0.5
"""Of the time to close: for a process that had to be killed, and to release its training."""
PROGRESS_FILE = "progress.jsonl"
MAX_TAIL = 64 * 2**10
"""Bytes read from the end of a file that a process writes."""
MAX_CURVE, MAX_POINTS = 2**20, 400
"""Bytes of progress that a curve is made of, and its points."""
MAX_STEPS = 2**31 - 1
MAX_REPORT = 2 * 2**20
"""Bytes of a report that is stored with the version."""
CHECKPOINT_FOLDER = "torch"
"""Stays when a training is done."""

Command = Callable[[TrainingRow, str, Path], Sequence[str]]
"""What to run for a training, the server's address and the output folder."""


class Trainer:
    """Runs the trainings of a store, on threads of its own, from ``start`` to ``close``."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        at_once: int = 1,
        command: Command | None = None,
        *,
        lease_s: float = LEASE_S,
    ) -> None:
        """``folder`` (created if missing) is for trainings alone; ``at_once`` run at the same time.

        ``command`` (default: `secondlook distill`) is what a training runs.
        """
        self._store = store
        self._folder = folder.absolute()  # processes have a working folder of their own
        self._command = command
        self._lease_s = lease_s
        self._address = ""
        self._stopping = threading.Event()
        self._stop_timeout_s = STOP_TIMEOUT_S
        name = server_name()
        self._threads = [
            threading.Thread(
                target=self._run, args=(f"{name}-t{n}",), name=f"training-{n}", daemon=True
            )
            for n in range(at_once)
        ]

    def start(self, address: str) -> None:
        """Start claiming trainings, which download their images from ``address``."""
        self._address = address
        self._clean_up()
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """Raises ``MissingExtra`` when a package that trainings need is missing."""
        if self._command is None:
            check_extras("a training on this server", "serve", "distill")

    def curve(self, number: int) -> list[dict[str, Any]]:
        """How a training that runs here went so far: ``step`` with ``loss``, ``map50`` or both,
        ``MAX_POINTS`` at most, of the latest part of a long one. Empty where it runs elsewhere."""
        points = _points(_tail(self._folder / str(number) / PROGRESS_FILE, MAX_CURVE))
        measured = [point for point in points if "map50" in point][-MAX_POINTS // 2 :]
        losses = [point for point in points if "map50" not in point]
        stride = -(-len(losses) // (MAX_POINTS // 2)) or 1
        kept = losses[(len(losses) - 1) % stride :: stride]  # with the last one
        return sorted(measured + kept, key=lambda point: int(point["step"]))

    def close(self, limit_s: float = STOP_TIMEOUT_S) -> None:
        """Terminate the processes; their trainings resume when a server starts.

        What has not ended ``limit_s`` later is killed: it resumes from its last checkpoint.
        """
        ends = time.monotonic() + limit_s
        self._stop_timeout_s = min(max(limit_s - KILL_S, 0.0), STOP_TIMEOUT_S)
        self._stopping.set()
        for thread in self._threads:
            if thread.ident:
                thread.join(max(ends - time.monotonic(), 0.0))

    def _run(self, owner: str) -> None:
        claims = 0
        while not self._stopping.is_set():
            pause_s, claims = POLL_S, claims + 1
            # A name for each lease: who lost a training must not be mistaken for its next holder.
            lease_owner = f"{owner}-{claims}"
            try:
                training = self._store.training_jobs.claim(lease_owner, self._lease_s)
                if training is not None:
                    self._work(training, lease_owner)
            except (Unavailable, StorageFull) as failure:
                log.warning("trainings are waiting: %s", failure)
                pause_s = PAUSE_S
            except Exception:
                log.exception("running trainings failed")
                pause_s = PAUSE_S
            self._stopping.wait(pause_s)

    def _work(self, training: TrainingRow, owner: str) -> None:
        out = self._folder / str(training.id)
        command = self._command or distill_command
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with TrainingProcess.exclusive(out, self._stopping.is_set) as process:
                if not _is_finished(out):  # by a process of a server that died
                    process.start(command(training, self._address, out))
                leased = self._follow(process, training, owner)
                failure = process.stop(self._stop_timeout_s)
            if not leased:
                self._clear_if_over(training.id, out)
            elif failure is None:
                self._register(training, owner, out)
            elif self._stopping.is_set():
                self._store.training_jobs.release(training.id, owner)
            else:
                self._fail(training, owner, out, failure)
        except (Unavailable, StorageFull):
            raise  # transient: the lease expires, and the training is claimed again
        except SecondlookError as failure:
            self._fail(training, owner, out, str(failure))
        except OSError as failure:
            why = os.strerror(failure.errno or 0)
            self._fail(training, owner, out, f"the server's folder of trainings fails ({why})")
        except Exception:
            log.exception("training failed", extra={"training": training.id})
            why = "something failed on the server; its log has the details"
            self._fail(training, owner, out, f"{why} under training {training.id}")

    def _follow(self, process: "TrainingProcess", training: TrainingRow, owner: str) -> bool:
        """Report progress until the process ends or the server stops; False: the lease is lost."""
        renew_at, reported = 0.0, None
        while process.running() and not self._stopping.is_set():
            progress = process.progress()
            try:
                if progress != reported or time.monotonic() >= renew_at:
                    if not self._store.training_jobs.renew(
                        training.id, owner, self._lease_s, progress
                    ):
                        return False
                    reported, renew_at = progress, time.monotonic() + self._lease_s / 3
                elif not self._store.training_jobs.get(training.id).active:
                    return False
            except (Unavailable, StorageFull) as failure:
                log.warning("progress of training %s cannot be stored: %s", training.id, failure)
            self._stopping.wait(POLL_S)
        return self._store.training_jobs.renew(
            training.id, owner, self._lease_s, process.progress()
        )

    def _register(self, training: TrainingRow, owner: str, out: Path) -> None:
        """Add the student as a version; idempotent."""
        manifest = read_manifest(out)
        for name in manifest.files:
            self._store.blobs.put(read_verified(out, manifest, name))
            self._store.training_jobs.renew(training.id, owner, self._lease_s)
        report = ""
        if "report.json" in manifest.files and manifest.files["report.json"].size <= MAX_REPORT:
            report = read_verified(out, manifest, "report.json").decode("utf-8", "replace")
        student, _ = self._store.model_versions.add(
            training.spec.model, manifest, report, training.created_by
        )
        self._store.training_jobs.finish(training.id, owner, student.version)
        log.info("trained", extra={"model": student.name, "version": student.version})
        _clear(out, CHECKPOINT_FOLDER)

    def _fail(self, training: TrainingRow, owner: str, out: Path, why: str) -> None:
        log.warning("training %s failed: %s", training.id, why)
        # A message to clients names no folder of the server.
        self._store.training_jobs.fail(
            training.id, owner, why.replace(str(out), "its folder").replace(str(self._folder), "…")
        )
        _clear(out)

    def _clean_up(self) -> None:
        """Delete the files of trainings that are over."""
        with suppress(OSError, Unavailable):
            for path in self._folder.iterdir():
                if path.is_dir() and path.name.isdecimal():
                    with suppress(NotFound):
                        self._clear_if_over(int(path.name), path)

    def _clear_if_over(self, number: int, out: Path) -> None:
        """Delete files that are no longer needed, if the training is over."""
        training = self._store.training_jobs.get(number)
        if not training.active:
            _clear(out, CHECKPOINT_FOLDER if training.state is TrainingState.DONE else "")


class TrainingProcess:
    """A process that is the only one to write into its folder."""

    def __init__(self, out: Path, lock: int) -> None:
        """Use ``exclusive``. ``lock`` is an open file that is locked."""
        self._out = out
        self._lock = lock
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def exclusive(cls, out: Path, stopping: Callable[[], bool]) -> "Iterator[TrainingProcess]":
        """The only process that writes into ``out``; stopped when the block ends.

        A process of a server that was killed still holds the lock: it is stopped first. Raises
        ``ShuttingDown`` when the server stops before.
        """
        path = out.with_name(f"{out.name}.lock")
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _acquire(lock, stopping)
            process = cls(out, lock)
            try:
                yield process
            finally:
                process.stop()
        finally:
            os.close(lock)

    def start(self, command: Sequence[str]) -> None:
        """Start it. Its standard error goes into a file beside the folder."""
        self._out.mkdir(exist_ok=True)
        with self._log.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=self._out.parent,
                start_new_session=True,  # not interrupted by Ctrl-C at the server's terminal
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
        """Its latest complete and valid line of progress; None before there is one."""
        for line in reversed(_tail(self._out / PROGRESS_FILE).split(b"\n")[:-1]):
            with suppress(ValueError, RecursionError):
                if found := _progress(json.loads(line)):
                    return found
        return None

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> str | None:
        """Terminate it if it runs; why it failed in one sentence, or None if it succeeded.

        It is killed when it has not ended ``timeout_s`` later.
        """
        process = self._process
        if process is None:
            return None
        if process.poll() is None:
            _signal(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                _signal(process.pid, signal.SIGKILL)
        code = process.wait()
        if code == 0:
            return None
        if code < 0:
            hint = ", perhaps out of memory; train a smaller size" if code == -9 else ""
            return f"the training was killed by signal {-code}{hint}"
        lines = [line.strip() for line in _tail(self._log).decode("utf-8", "replace").splitlines()]
        last = next((line for line in reversed(lines) if line), "")
        return last.removeprefix("error: ") or f"the training ended with status {code}"

    @property
    def _log(self) -> Path:
        return self._out.with_name(f"{self._out.name}.log")


def distill_command(training: TrainingRow, address: str, out: Path) -> list[str]:
    """`secondlook distill` for a training; run again it resumes from the last checkpoint."""
    spec = training.spec
    command = [sys.executable, "-m", "secondlook", "distill", spec.snapshot]
    command += ["--server", address, "--out", str(out), "--name", spec.model]
    command += ["--cache", str(cache_of(out)), "--size", spec.size, "--seed", str(spec.seed)]
    command += ["--progress", "jsonl"]
    if spec.steps:
        command += ["--steps", str(spec.steps)]
    if spec.split:
        command += ["--split", spec.split]
    return command


def cache_of(out: Path) -> Path:
    """Where a training caches downloaded images, until it is over."""
    return out.with_name(f"{out.name}.cache")


def _is_finished(out: Path) -> bool:
    try:
        verify_files(out, read_manifest(out))
    except (NotFound, Damaged):
        return False
    return True


def _clear(out: Path, keep: str = "") -> None:
    """Delete what a training wrote, except one folder of it."""
    shutil.rmtree(cache_of(out), ignore_errors=True)
    with suppress(OSError):
        for path in out.iterdir():
            if path.name != keep:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not any(out.iterdir()):
            out.rmdir()
    out.with_name(f"{out.name}.lock").unlink(missing_ok=True)


def _progress(plain: Any) -> dict[str, Any]:
    """The valid fields of a line."""
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


def _points(text: bytes) -> list[dict[str, Any]]:
    """The steps of a training in lines of progress; ``map50`` where it was measured."""
    points: dict[int, dict[str, Any]] = {}
    before = None
    for line in text.split(b"\n")[:-1]:
        with suppress(ValueError, RecursionError):
            found = _progress(json.loads(line))
            if found.get("phase") != "train" or "step" not in found:
                continue
            point = points.setdefault(found["step"], {"step": found["step"]})
            if "loss" in found:
                point["loss"] = found["loss"]
            if found.get("map50", before) != before:  # each line has the last one
                point["map50"] = before = found["map50"]
    return [point for _, point in sorted(points.items()) if len(point) > 1]


def _tail(path: Path, most: int = MAX_TAIL) -> bytes:
    """The end of a file; empty if it does not exist."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - most, 0))
            return file.read(most)
    except OSError:
        return b""


def _acquire(lock: int, stopping: Callable[[], bool]) -> None:
    """Take the lock; stop the process that has it, which belongs to a server that was killed."""
    begun, terminated = time.monotonic(), False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        if stopping():
            raise ShuttingDown("the server stopped before the training started")
        # The lock is held, so the process that wrote its number here, or one of its own, lives.
        number = os.pread(lock, 32, 0).strip()
        if number.isdigit() and int(number) > 1:
            if not terminated:
                _signal(int(number), signal.SIGTERM)
            elif time.monotonic() > begun + STOP_TIMEOUT_S:
                _signal(int(number), signal.SIGKILL)
            terminated = True
        time.sleep(LOCK_POLL_S)


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
