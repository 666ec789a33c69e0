"""Trainings of the server: each a process of its own, which may crash, fill a GPU or be killed.

    DIR/7/             what `secondlook distill` writes: checkpoints, progress.jsonl, the student
    DIR/7.cache/       the images that it pulled, while it lasts
    DIR/7.log          what it said on stderr
    DIR/7.lock         held by the process of training 7, also when the server has died meanwhile

A training goes on where its last checkpoint is: after a restart of the server in order, and after
one that was killed. Its student becomes a version of its model; ``7/torch`` stays, to train on.
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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from secondlook.core.errors import (
    Damaged,
    MissingExtra,
    NotFound,
    SecondlookError,
    ShuttingDown,
    StorageFull,
    Unavailable,
)
from secondlook.detector.manifest import read_manifest, read_verified, verify_files
from secondlook.jobs.runner import server_name
from secondlook.store import Store
from secondlook.store.training_jobs import Training, TrainingState

# The process of one training: started, followed through its files, and surely ended.

NICENESS = 10
"""Of a training: whoever waits for a label goes first."""
END_S = 20.0
"""For a process that is told to end: long enough to write a checkpoint."""
PROGRESS = "progress.jsonl"
MAX_TAIL = 64 * 2**10
"""Bytes read from the end of a file that a process writes."""
CHILD_POLL_S = 0.2
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
    """Where a training keeps the images that it pulls, until it is over."""
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
        time.sleep(CHILD_POLL_S)


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
"""How soon a new training, its progress and its cancelling are noticed."""
LEASE_S = 15.0
PAUSE_S = 2.0
"""Before another try at a database that failed."""
KEPT_FOLDER = "torch"
MAX_REPORT = 2 * 2**20
NEEDED = ("torch", "transformers", "accelerate", "faster_coco_eval", "onnx", "onnxruntime", "scipy")

Command = Callable[[Training, str, Path], Sequence[str]]
"""What to run for a training, the server's address and the folder to write into."""


class Trainer:
    """Works on the trainings of a store, on threads of its own, from ``start`` to ``close``."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        at_once: int = 1,
        command: Command | None = None,
        *,
        lease_s: float = LEASE_S,
    ) -> None:
        """``folder`` (made when it is not there) is for trainings alone; ``at_once`` run at a time.

        ``command`` (default: `secondlook distill`) is what a training runs.
        """
        self._store = store
        self._folder = folder.absolute()  # processes have a working folder of their own
        self._command = command
        self._lease_s = lease_s
        self._address = ""
        self._stopping = threading.Event()
        name = server_name()
        self._threads = [
            threading.Thread(
                target=self._run, args=(f"{name}-t{n}",), name=f"training-{n}", daemon=True
            )
            for n in range(at_once)
        ]

    def start(self, address: str) -> None:
        """Begin to take trainings, which pull their images from ``address``."""
        self._address = address
        self._sweep()
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """Raises ``MissingExtra`` when a training would fail for want of a package."""
        missing = [name for name in NEEDED if find_spec(name) is None]
        if missing and self._command is None:
            raise MissingExtra(
                f"a training needs {', '.join(missing)}, which the server lacks: "
                'pip install "secondlook[serve,distill]" there'
            )

    def close(self) -> None:
        """End the processes; their trainings go on where they are when a server starts."""
        self._stopping.set()
        for thread in self._threads:
            if thread.ident:
                thread.join()

    def _run(self, owner: str) -> None:
        claims = 0
        while not self._stopping.is_set():
            pause_s, claims = LOOK_EVERY_S, claims + 1
            # A name for each lease: who lost a training must not pass for its next holder.
            held = f"{owner}-{claims}"
            try:
                training = self._store.trainings.claim(held, self._lease_s)
                if training is not None:
                    self._work(training, held)
            except (Unavailable, StorageFull) as failure:
                log.warning("trainings wait: %s", failure)
                pause_s = PAUSE_S
            except Exception:
                log.exception("working on trainings failed")
                pause_s = PAUSE_S
            self._stopping.wait(pause_s)

    def _work(self, training: Training, owner: str) -> None:
        out = self._folder / str(training.id)
        command = self._command or distill_command
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with Child.alone(out, self._stopping.is_set) as child:
                if not _is_finished(out):  # by a process that its server left behind
                    child.start(command(training, self._address, out))
                held = self._follow(child, training, owner)
                failure = child.end()
            if not held:
                self._clear_cancelled(training.id, out)
            elif failure is None:
                self._register(training, owner, out)
            elif self._stopping.is_set():
                self._store.trainings.release(training.id, owner)
            else:
                self._fail(training, owner, out, failure)
        except (Unavailable, StorageFull):
            raise  # nobody's fault: the lease ends, and the training is taken again
        except SecondlookError as failure:
            self._fail(training, owner, out, str(failure))
        except OSError as failure:
            why = os.strerror(failure.errno or 0)
            self._fail(training, owner, out, f"the server's folder of trainings fails ({why})")
        except Exception:
            log.exception("training failed", extra={"training": training.id})
            why = "something failed on the server; its log has the details"
            self._fail(training, owner, out, f"{why} under training {training.id}")

    def _follow(self, child: Child, training: Training, owner: str) -> bool:
        """Until the process ends or the server stops; False once the training is not ours."""
        renew_at, told = 0.0, None
        while child.running() and not self._stopping.is_set():
            progress = child.progress()
            try:
                if progress != told or time.monotonic() >= renew_at:
                    if not self._store.trainings.renew(training.id, owner, self._lease_s, progress):
                        return False
                    told, renew_at = progress, time.monotonic() + self._lease_s / 3
                elif not self._store.trainings.get(training.id).active:
                    return False
            except (Unavailable, StorageFull) as failure:
                log.warning("training %s cannot be looked after: %s", training.id, failure)
            self._stopping.wait(LOOK_EVERY_S)
        return self._store.trainings.renew(training.id, owner, self._lease_s, child.progress())

    def _register(self, training: Training, owner: str, out: Path) -> None:
        """Keep the student as a version; made twice it is kept once."""
        manifest = read_manifest(out)
        for name in manifest.files:
            self._store.blobs.put(read_verified(out, manifest, name))
            self._store.trainings.renew(training.id, owner, self._lease_s)
        report = ""
        if "report.json" in manifest.files and manifest.files["report.json"].size <= MAX_REPORT:
            report = read_verified(out, manifest, "report.json").decode("utf-8", "replace")
        student, _ = self._store.students.add(training.order.model, manifest, report)
        self._store.trainings.finish(training.id, owner, student.version)
        log.info("trained", extra={"model": student.name, "version": student.version})
        _clear(out, KEPT_FOLDER)

    def _fail(self, training: Training, owner: str, out: Path, why: str) -> None:
        log.warning("training %s failed: %s", training.id, why)
        # A message that travels names no folder of the server.
        self._store.trainings.fail(
            training.id, owner, why.replace(str(out), "its folder").replace(str(self._folder), "…")
        )
        _clear(out)

    def _sweep(self) -> None:
        """Remove what trainings left that are over."""
        with suppress(OSError, Unavailable):
            for path in self._folder.iterdir():
                if path.is_dir() and path.name.isdecimal():
                    with suppress(NotFound):
                        self._clear_cancelled(int(path.name), path)

    def _clear_cancelled(self, number: int, out: Path) -> None:
        """Keep what is of use of a training that is over, and all of one that is not."""
        training = self._store.trainings.get(number)
        if not training.active:
            _clear(out, KEPT_FOLDER if training.state is TrainingState.DONE else "")


def _is_finished(out: Path) -> bool:
    try:
        verify_files(out, read_manifest(out))
    except (NotFound, Damaged):
        return False
    return True


def _clear(out: Path, but: str = "") -> None:
    """Remove what a training wrote, but for one folder of it."""
    shutil.rmtree(cache_of(out), ignore_errors=True)
    with suppress(OSError):
        for path in out.iterdir():
            if path.name != but:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not any(out.iterdir()):
            out.rmdir()
    out.with_name(f"{out.name}.lock").unlink(missing_ok=True)
