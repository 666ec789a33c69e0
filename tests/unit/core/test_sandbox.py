"""Functions in children with limits: what they return, and what becomes of bad ones."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import sandboxed

from secondlook.core.sandbox import (
    SMALL_ARRAY,
    SMALL_PAYLOAD,
    CannotStart,
    Crashed,
    FunctionFailed,
    OutOfMemory,
    OutOfTime,
    Sandbox,
    SandboxCall,
    SandboxLimits,
    Withdrawn,
)
from secondlook_client.errors import BadImage

LIMITS = SandboxLimits(cpu_s=20, memory_bytes=2**28)
SHORT = SandboxLimits(cpu_s=0.2, memory_bytes=2**28)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(workers=2)
    yield made
    made.close()


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_values_and_arguments(sandbox: Sandbox) -> None:
    assert sandbox.run(sandboxed.echo, b"abc", 1, "two", within=LIMITS) == ["abc", 1, "two"]
    for size in (0, 1, SMALL_PAYLOAD - 1, SMALL_PAYLOAD, 10_000_000):
        assert sandbox.run(sandboxed.length, bytes(size), within=LIMITS) == size


@pytest.mark.parametrize("kind", ["u1", "f4", "i8", "?"])
@pytest.mark.parametrize("shape", [(0, 3), (1,), (SMALL_ARRAY // 8,), (2, 3, SMALL_ARRAY // 8), ()])
def test_arrays(sandbox: Sandbox, shape: tuple[int, ...], kind: str) -> None:
    found = sandbox.run(sandboxed.numbers, b"", shape, kind, within=LIMITS)
    np.testing.assert_array_equal(found, sandboxed.numbers(b"", shape, kind), strict=True)
    found[...] = 0  # it may be written to


@pytest.mark.parametrize("width", [10, 3000])
def test_results_do_not_share_memory(sandbox: Sandbox, width: int) -> None:
    results = [sandbox.run(sandboxed.filled, b"", (1000, width), within=LIMITS) for _ in range(3)]
    results[0][...] = 1
    assert [int(result.min()) for result in results] == [1, 7, 7]


def test_errors_of_ours_keep_class_reason_and_words(sandbox: Sandbox) -> None:
    with pytest.raises(BadImage, match=r"^no good$") as caught:
        sandbox.run(sandboxed.refuse, within=LIMITS)
    assert caught.value.reason == "a_reason"
    assert not caught.value.from_server
    with pytest.raises(FunctionFailed, match="KeyError: 'a word'"):
        sandbox.run(sandboxed.stumble, within=LIMITS)
    with pytest.raises(FunctionFailed):
        sandbox.run(sandboxed.objects, within=LIMITS)


def test_an_error_leaves_the_child_alive() -> None:
    sandbox = Sandbox()
    before = sandbox.run(sandboxed.process_id, within=LIMITS)
    for function in (sandboxed.refuse, sandboxed.stumble):
        with pytest.raises((BadImage, FunctionFailed)):
            sandbox.run(function, within=LIMITS)
    assert sandbox.run(sandboxed.process_id, within=LIMITS) == before
    sandbox.close()


@pytest.mark.parametrize(
    ("function", "limits", "failure"),
    [
        (sandboxed.compute, SHORT, OutOfTime),
        (sandboxed.wait, SHORT, OutOfTime),
        (sandboxed.crash, LIMITS, Crashed),
        (sandboxed.leave, LIMITS, Crashed),
        (sandboxed.killed, LIMITS, OutOfMemory),
        (sandboxed.lie, LIMITS, Crashed),
    ],
)
def test_a_bad_call_fails_alone(
    function: Callable[..., object], limits: SandboxLimits, failure: type[Exception]
) -> None:
    sandbox = Sandbox()
    before = sandbox.run(sandboxed.process_id, within=LIMITS)
    began = time.monotonic()
    with pytest.raises(failure):
        sandbox.run(function, within=limits)
    assert time.monotonic() - began < 10
    wait_until(lambda: not is_running(before))
    assert sandbox.run(sandboxed.process_id, within=LIMITS) != before  # another took its place
    sandbox.close()


def test_memory_is_bounded(sandbox: Sandbox) -> None:
    limits = SandboxLimits(20, 2**26)
    assert sandbox.run(sandboxed.fill_memory, b"", 2**25, within=limits) == 2**25
    with pytest.raises(OutOfMemory):
        sandbox.run(sandboxed.fill_memory, b"", 2**27, within=limits)
    with pytest.raises(OutOfMemory):  # an array would be shared memory, not private
        sandbox.run(sandboxed.filled, b"", (2**27,), within=limits)


@pytest.mark.parametrize("granted", [True, False])
def test_more_memory_is_asked_for(sandbox: Sandbox, granted: bool) -> None:
    asked = []

    class Asking(SandboxCall):
        def grant(self, size: int) -> bool:
            asked.append(size)
            return granted

    limits = SandboxLimits(20, 2**24)
    call = Asking(sandboxed.ask_for_memory, b"", 2**26, within=limits)
    assert sandbox.submit(call).result() is granted
    assert asked == [2**26]
    with pytest.raises(OutOfMemory):  # it is granted to one call, not to the child
        for _ in range(2):
            sandbox.run(sandboxed.fill_memory, b"", 2**26, within=limits)


def test_a_cancelled_call_is_not_begun_or_is_killed() -> None:
    sandbox = Sandbox()
    pid = sandbox.run(sandboxed.process_id, within=LIMITS)
    running = sandbox.submit(SandboxCall(sandboxed.wait, within=LIMITS))
    waiting = sandbox.submit(SandboxCall(sandboxed.crash, within=LIMITS))
    wait_until(running.running)
    assert waiting.cancel()
    running.cancel()
    with pytest.raises(Withdrawn):
        running.result(10)
    wait_until(lambda: not is_running(pid))
    assert sandbox.run(sandboxed.length, b"x", within=LIMITS) == 1
    sandbox.close()


def test_a_call_that_takes_little_is_not_killed_because_nobody_waits() -> None:
    """Else callers with short deadlines would have us start a process each time."""
    sandbox = Sandbox()
    pid = sandbox.run(sandboxed.process_id, within=LIMITS)
    call = sandbox.submit(SandboxCall(sandboxed.wait, b"", 0.1, within=LIMITS))
    wait_until(call.running)
    call.cancel()
    assert call.result(10) == pid
    assert sandbox.run(sandboxed.process_id, within=LIMITS) == pid
    sandbox.close()


def test_deadlines(sandbox: Sandbox) -> None:
    with pytest.raises(Withdrawn):
        sandbox.run(sandboxed.length, within=LIMITS, deadline=time.monotonic() - 0.01)
    began = time.monotonic()
    with pytest.raises(Withdrawn):
        sandbox.run(sandboxed.wait, within=LIMITS, deadline=began + 0.1)
    assert time.monotonic() - began < 10


def test_close_ends_all_at_once() -> None:
    sandbox = Sandbox(workers=2)
    calls = [sandbox.submit(SandboxCall(sandboxed.compute, within=LIMITS)) for _ in range(4)]
    wait_until(lambda: len(sandbox.pids()) == 2 and calls[1].running())
    pids = sandbox.pids()
    sandbox.close()
    for call in calls:
        with pytest.raises(Withdrawn):
            call.result(10)
    wait_until(lambda: not any(is_running(pid) for pid in pids))
    with pytest.raises(Withdrawn):
        sandbox.run(sandboxed.length, within=LIMITS)


def test_children_outlive_the_thread_that_started_them() -> None:
    sandbox = Sandbox()
    pids: list[int] = []
    thread = threading.Thread(
        target=lambda: pids.append(sandbox.run(sandboxed.process_id, within=LIMITS))
    )
    thread.start()
    thread.join()
    assert sandbox.run(sandboxed.process_id, within=LIMITS) == pids[0]
    sandbox.close()


@pytest.mark.parametrize("function", ["compute", "wait"])
def test_children_end_with_their_parent_however_it_ends(function: str) -> None:
    program = (
        "import sys, time, sandboxed\n"
        "from secondlook.core.sandbox import *\n"
        "sandbox, limits = Sandbox(), SandboxLimits(1000, 2**28)\n"
        "pid = sandbox.run(sandboxed.process_id, within=limits)\n"
        f"call = sandbox.submit(SandboxCall(sandboxed.{function}, within=limits))\n"
        "while not call.running(): time.sleep(0.01)\n"
        "print(pid, flush=True)\n"
        "call.result()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    wait_until(lambda: not is_running(pid))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_for_the_whole_group_do_not_end_a_call(
    sandbox: Sandbox, number: signal.Signals
) -> None:
    pid = sandbox.run(sandboxed.process_id, within=LIMITS)
    assert os.getpgid(pid) != os.getpgid(0)
    os.kill(pid, number)
    assert sandbox.run(sandboxed.length, b"x", within=LIMITS) == 1
    assert is_running(pid)


def test_little_is_inherited(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDLOOK_OPENAI_API_KEY", "a secret")
    alone = Sandbox()
    with (tmp_path / "open.txt").open("w") as opened:
        os.set_inheritable(opened.fileno(), True)
        found = alone.run(sandboxed.surroundings, within=LIMITS)
    alone.close()
    assert "open.txt" not in str(found["files"])
    kinds = sorted(name.split(":")[0] for name in found["files"] if not name.startswith("/dev"))
    assert [kind for kind in kinds if "/proc" not in kind] == ["/memfd", "pipe", "socket"]
    assert "SECONDLOOK_OPENAI_API_KEY" not in found["variables"]
    assert "PATH" in found["variables"]


def test_a_machine_that_can_start_no_process_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(CannotStart, match="No such file"):
        sandbox.run(sandboxed.length, within=LIMITS)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(CannotStart, match="before it was ready"):
        sandbox.run(sandboxed.length, within=LIMITS)
    monkeypatch.undo()
    assert sandbox.run(sandboxed.length, b"x", within=LIMITS) == 1
    sandbox.close()
