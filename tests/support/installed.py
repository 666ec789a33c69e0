"""The command line, and a service of it as a process of its own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, NamedTuple

from secondlook import cli

Run = Callable[..., CompletedProcess[str]]
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


def run_secondlook(*arguments: object, cwd: Path, code: int = 0) -> CompletedProcess[str]:
    """Run ``secondlook`` and demand the exit code; in this process, for importing torch anew takes
    longer than most commands. ``test_label_command`` and others run it as a process."""
    words, out, err = [str(one) for one in arguments], StringIO(), StringIO()
    with chdir(cwd), redirect_stdout(out), redirect_stderr(err):
        got = cli.run(words)
    done = CompletedProcess(words, got, out.getvalue(), err.getvalue())
    assert got == code, f"{arguments}: {done.stdout}\n{done.stderr}"
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
