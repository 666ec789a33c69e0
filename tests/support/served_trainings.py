"""Trainings of a store at work, each a real process that stands for ``secondlook distill``."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from students import write_student

from secondlook.jobs import training
from secondlook.jobs.training import Trainer
from secondlook.store import Store, open_store
from secondlook.store.training_jobs import TrainingRow, TrainingSpec
from secondlook_client.values import TrainingState

__all__ = ["kept", "soon", "working"]
"""Fixtures."""

PROGRAM = Path(__file__).with_name("training_program.py")
ORDER = TrainingSpec("street", "street-1")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is looked at many times a second."""
    for name in ("POLL_S", "LOCK_POLL_S", "PAUSE_S"):
        monkeypatch.setattr(training, name, 0.03)
    monkeypatch.setattr(training, "STOP_TIMEOUT_S", 0.5)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Store]:
    """A store in the folder ``data``."""
    with open_store(tmp_path / "data") as store:
        yield store


@pytest.fixture
def working(kept: Store, tmp_path: Path) -> Callable[..., object]:
    """A function from a behaviour to a context with a trainer that is at work."""
    write_student(tmp_path / "student")

    def command(behaviour: str) -> Callable[[TrainingRow, str, Path], list[str]]:
        student = str(tmp_path / "student")
        return lambda training, address, out: [
            *(sys.executable, str(PROGRAM), behaviour, student, str(out))
        ]

    @contextmanager
    def work(behaviour: str, at_once: int = 1, **options: float) -> Iterator[Trainer]:
        folder = tmp_path / "data" / "trainings"
        made = Trainer(kept, folder, at_once, command(behaviour), **options)
        made.start("127.0.0.1:1")
        try:
            yield made
        finally:
            made.close()

    return work


def until(store: Store, number: int, *states: TrainingState) -> TrainingRow:
    """The training once it is in one of the states; fails when that takes too long."""
    return eventually(lambda: (t := store.training_jobs.get(number)).state in states and t)


def eventually(look: Callable[[], Any], limit_s: float = 30.0) -> Any:
    """What ``look`` gives once it is something; fails when that takes too long."""
    ends = time.monotonic() + limit_s
    while not (found := look()):
        assert time.monotonic() < ends
        time.sleep(0.02)
    return found


def starts(out: Path) -> list[list[int]]:
    """Process and niceness of each start."""
    path = out / "starts"
    lines = path.read_text().splitlines() if path.exists() else []
    return [[int(word) for word in line.split()] for line in lines]


def lives(process: int) -> bool:
    """Whether it runs; one that ended and waits to be asked does not."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
