"""Trainings through crashes, held locks and a failing database: none runs twice, none is lost."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from served_trainings import (
    ORDER,
    PROGRAM,
    eventually,
    kept,
    lives,
    soon,
    starts,
    until,
    working,
)

from secondlook.store import Store
from secondlook_client.errors import StoreUnavailable
from secondlook_client.values import TrainingState

__all__ = ["kept", "soon", "working"]
"""Fixtures of these tests."""

CRASHING = """
import sys, time
from pathlib import Path
from secondlook.jobs.training import Trainer
from secondlook.store import open_store
data, program, behaviour, student = sys.argv[1:]
store = open_store(Path(data), serving=True)
command = lambda training, address, out: [sys.executable, program, behaviour, student, str(out)]
Trainer(store, Path(data) / "trainings", 1, command).start("127.0.0.1:1")
time.sleep(60)
"""


def crashed(tmp_path: Path, behaviour: str, out: Path) -> int:
    """Kill -9 a server that is at a training; the process that it left behind."""
    arguments = [str(tmp_path / "data"), str(PROGRAM), behaviour, str(tmp_path / "student")]
    server = subprocess.Popen([sys.executable, "-c", CRASHING, *arguments])
    try:
        ((process, _),) = eventually(lambda: starts(out))
        time.sleep(0.2)
    finally:
        server.kill()
        server.wait()
    assert lives(process)
    return process


@pytest.mark.parametrize("behaviour", ["waits", "stubborn"])
def test_after_a_crash_the_old_process_is_ended_and_another_goes_on(
    tmp_path, working, kept, behaviour
):
    number = kept.training_jobs.create(ORDER).id
    out = tmp_path / "data" / "trainings" / str(number)
    left = crashed(tmp_path, behaviour, out)
    kept.training_jobs.clear_leases()
    with working("waits"):
        eventually(lambda: len(starts(out)) == 2)
        assert not lives(left), "two processes write into one folder"
        out.with_name(f"{number}.go").touch()
        assert until(kept, number, TrainingState.DONE).version == 1


def test_what_the_old_process_finished_is_taken_as_it_is(tmp_path, working, kept) -> None:
    number = kept.training_jobs.create(ORDER).id
    out = tmp_path / "data" / "trainings" / str(number)
    left = crashed(tmp_path, "waits", out)
    out.with_name(f"{number}.go").touch()
    eventually(lambda: not lives(left))
    kept.training_jobs.clear_leases()
    with working("fails"):
        assert until(kept, number, TrainingState.DONE).version == 1


def test_a_lock_that_somebody_else_s_process_has_is_waited_for_until_the_server_stops(
    tmp_path, working, kept
) -> None:
    import fcntl

    number = kept.training_jobs.create(ORDER).id
    lock = tmp_path / "data" / "trainings" / f"{number}.lock"
    lock.parent.mkdir()
    with lock.open("w") as held:  # names no process
        fcntl.flock(held, fcntl.LOCK_EX)
        with working("trains"):
            until(kept, number, TrainingState.RUNNING)
            time.sleep(0.2)
            assert not starts(lock.with_name(str(number)))


def test_a_database_that_fails_now_and_then_loses_nothing(kept: Store, working, monkeypatch):
    from secondlook.store.training_jobs import TrainingJobs

    number, failures = kept.training_jobs.create(ORDER).id, iter(range(6))
    real = {name: getattr(TrainingJobs, name) for name in ("renew", "claim", "finish")}

    def flaky(name: str) -> Callable[..., object]:
        def call(self, *rest, **more):
            if next(failures, 9) % 2 == 0:
                raise StoreUnavailable("try again")
            return real[name](self, *rest, **more)

        return call

    for name in real:
        monkeypatch.setattr(TrainingJobs, name, flaky(name))
    with working("trains", lease_s=0.2):
        assert until(kept, number, TrainingState.DONE).version == 1
    assert len(kept.model_versions.page()) == 1
