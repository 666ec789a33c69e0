"""A process that was told to end ends in time, whatever its threads do."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from secondlook.config.stop_signals import ABANDONED, INTERRUPTED

LIMIT_S = 0.5
PROGRAM = """
import re, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from secondlook.config.stop_signals import StopSignals
asked = threading.Event()
with StopSignals(asked.set, {limit}):
    print("ready", flush=True)
    asked.wait()
    print("asked", flush=True)
    {hang}
"""


def started(hang: str) -> "subprocess.Popen[str]":
    code = PROGRAM.format(limit=LIMIT_S, hang=hang.replace("\n", "\n    "))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("hang", "code"),
    [
        ("pass", 0),
        ("sys.exit(3)", 3),
        ("lock = threading.Lock(); lock.acquire(); lock.acquire()", ABANDONED),
        ("threading.Thread(target=threading.Event().wait).start()", ABANDONED),
        ("ThreadPoolExecutor(1).submit(threading.Event().wait)", ABANDONED),
        ("\nwhile True: pass", ABANDONED),
        ("re.match('(a*)*b', 'a' * 40)", ABANDONED),
    ],
    ids=["nothing", "own code", "main thread", "thread", "pool", "Python", "C with the GIL"],
)
def test_the_process_ends_in_time(hang: str, code: int) -> None:
    process = started(hang)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=30)
    assert process.returncode == code
    assert time.monotonic() - began < LIMIT_S + 1.5
    assert told == "asked\n"


def test_children_of_an_abandoned_process_end_with_it() -> None:
    child = "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(600)"
    process = started(
        f"import subprocess; c = subprocess.Popen([sys.executable, '-c', {child!r}]); c.wait()"
    )
    assert process.stdout is not None
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    number = int(process.stdout.readline())
    process.communicate(timeout=30)  # returns once nobody holds its output
    assert process.returncode == ABANDONED
    ends = time.monotonic() + 10
    while running(number):
        assert time.monotonic() < ends
        time.sleep(0.01)


def running(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_at_once(second: signal.Signals) -> None:
    process = started("lock = threading.Lock(); lock.acquire(); lock.acquire()")
    assert process.stdout is not None
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "asked\n"
    began = time.monotonic()
    process.send_signal(second)
    process.communicate(timeout=30)
    assert process.returncode == INTERRUPTED
    assert time.monotonic() - began < LIMIT_S


def test_a_forked_child_does_not_report_its_signals_to_its_parent() -> None:
    process = started(
        "import os; n = os.fork(); n or time.sleep(60); os.kill(n, 15);"
        " print(os.waitpid(n, 0)[1], flush=True)"
    )
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=30)
    assert (told, process.returncode) == ("asked\n15\n", 0)
