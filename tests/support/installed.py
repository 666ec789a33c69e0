"""The installed command line and a service of it, each as a process of its own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

Run = Callable[..., subprocess.CompletedProcess[str]]
"""Runs ``secondlook`` with these arguments in ``cwd`` and demands the exit ``code``."""


class Service(NamedTuple):
    """A running service and the folder of its store."""

    address: str
    data: Path


class Kept(NamedTuple):
    """A service whose store has the finished job ``street``."""

    address: str
    data: Path
    results: list[dict[str, Any]]


def environment() -> dict[str, str]:
    """Few threads, no hub: what a test machine has."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run_secondlook(
    *arguments: object, cwd: Path, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run ``secondlook`` as a user does and demand the exit code."""
    command = [sys.executable, "-m", "secondlook", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, f"{arguments}: {done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done


@contextmanager
def served(*arguments: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``secondlook serve`` in a process of its own, on a free port; its address and process."""
    command = [sys.executable, "-m", "secondlook", "serve", "--models", "demo", "--port", "0"]
    process = subprocess.Popen(
        [*command, *map(str, arguments)], env=environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"serving on (\S+)", line)
        assert found, f"expected the address, got {line!r}"
        yield found[1], process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
