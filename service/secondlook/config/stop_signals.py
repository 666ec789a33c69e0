"""SIGTERM and Ctrl-C: a process is asked to end, and ends within a known time whatever it does.

The first signal only asks; what is under way may finish. The second one, or the end of the time
that was allowed, ends the process on the spot: what is on disk is whole at any moment, so nothing
that was acknowledged is lost. Neither depends on the main thread, which may wait in C code for
ever, nor on a queue or a lock of ours: the signal's number arrives through a socket in a thread of
its own. Where C code lets no thread run afterwards, a timer in C ends the process.
"""

import contextlib
import faulthandler
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

log = logging.getLogger(__name__)

INTERRUPTED = 130
"""Exit code after a second signal, and of a command that ended early because of the first."""
ABANDONED = 1
"""Exit code of a process that did not end by itself in the time that it was allowed."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)
LAST_WORDS_S = 0.2
"""For the line in the log that says why; a log that nobody reads must not delay the end."""


class StopSignals:
    """Calls ``asked`` at the first signal, and bounds the time from then on.

    A context for the main thread, which puts the handlers of before back at its end. The bound
    holds on after it, to the end of the process: threads that are joined at exit may hang too.
    """

    def __init__(self, asked: Callable[[], None], limit_s: float) -> None:
        """``asked`` is called once, in any thread. ``limit_s``: from the signal to the end."""
        self._asked = asked
        self._limit_s = limit_s
        self._handled = 0
        self._once = threading.Lock()
        self._received, self._sent = socket.socketpair()
        self._sent.setblocking(False)  # as set_wakeup_fd wants it
        self._called_off = False

    def __enter__(self) -> "StopSignals":
        global _in_force
        _in_force = self
        self._before = [signal.signal(number, self._handle) for number in SIGNALS]
        self._fd_before = signal.set_wakeup_fd(self._sent.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="stop-signals", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._fd_before)
        for number, handler in zip(SIGNALS, self._before, strict=True):
            signal.signal(number, handler)
        if not self._once.locked():
            self.call_off()

    def call_off(self) -> None:
        """Let the process live on although it was asked to end."""
        self._called_off = True
        faulthandler.cancel_dump_traceback_later()
        with contextlib.suppress(OSError):
            self._sent.send(b"\0")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """In the main thread, as soon as it runs Python code."""
        self._handled += 1
        if self._handled > 1:
            end_at_once(INTERRUPTED)
        self._ask()

    def _ask(self) -> None:
        if self._once.acquire(blocking=False):
            _arm_timer(self._limit_s + 2 * LAST_WORDS_S)
            self._asked()

    def _watch(self) -> None:
        received, ends = 0, None
        while True:
            self._received.settimeout(None if ends is None else max(ends - time.monotonic(), 0.001))
            try:
                numbers = self._received.recv(64)
            except TimeoutError:
                end_at_once(ABANDONED, f"not ended {self._limit_s:g} s after it was asked to")
            if self._called_off:
                return
            received += sum(number in SIGNALS for number in numbers)
            if received > 1:
                end_at_once(INTERRUPTED)
            if received and ends is None:
                ends = time.monotonic() + self._limit_s
                self._ask()


_in_force: StopSignals | None = None
"""The last one that was entered."""


def call_off() -> None:
    """Let this process live on although it was asked to end."""
    if _in_force is not None:
        _in_force.call_off()


def _before_fork() -> None:
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _after_in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _after_in_child() -> None:
    if _in_force is not None:
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


_forking = threading.local()
# A forked child has our handlers for a moment, and would report its own signals through our socket.
os.register_at_fork(
    before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)


def end_at_once(code: int, why: str = "stopped at once") -> NoReturn:
    """End this process and all that it started, without closing anything."""
    telling = threading.Thread(target=_tell, args=(why,), daemon=True)
    try:
        telling.start()
    except RuntimeError:  # no thread begins while the interpreter ends, since Python 3.12
        _tell(why)  # a log that takes nothing is left to the timer
    else:
        telling.join(LAST_WORDS_S)
    kill_children()  # last: who waits for one of them would go on
    os._exit(code)


def kill_children() -> None:
    """Kill every process that descends from this one, where the system lists them (Linux)."""
    for number in _descendants(os.getpid()):
        with contextlib.suppress(OSError):
            os.kill(number, signal.SIGKILL)


def _descendants(number: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for listed in Path(f"/proc/{number}/task").glob("*/children"):
            for child in map(int, listed.read_text("ascii").split()):
                found += [child, *_descendants(child)]
    return found


def _tell(why: str) -> None:
    running = sorted(t.name for t in threading.enumerate() if t is not threading.current_thread())
    log.warning("%s; the process ends with threads %s", why, ", ".join(running))


def _arm_timer(after_s: float) -> None:
    """End the process then, without Python's help; its traceback goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    faulthandler.dump_traceback_later(after_s, exit=True, file=nowhere)
