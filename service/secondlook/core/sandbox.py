"""Run functions on bytes from strangers in child processes with limits of time and memory.

    sandbox = Sandbox(workers=2)
    limits = SandboxLimits(cpu_s=10, memory_bytes=2**30)
    sandbox.run(rgb_of, data, within=limits)    # what rgb_of(data) returns or raises, or one of:

    SandboxError
    ├── OutOfTime       the call took more CPU or wall time than its limit, and was killed
    ├── OutOfMemory     the call wanted more memory than its limit
    ├── Crashed         the child ended by itself, as by a fault in a decoder written in C
    ├── Withdrawn       the call was cancelled, its deadline passed, or the sandbox closed
    ├── FunctionFailed  the function raised something that is not ours; the words are its own
    └── CannotStart     no child could be started: the fault of this machine, not of the bytes

A child is a fresh interpreter (never a fork: the parent has threads of torch and gRPC) with little
in its environment. It inherits one socket and one pipe, ignores the signals that a terminal or a
service manager sends to a whole group, and is first to go when the machine runs out of memory. It
serves one call after another until it is killed, or its parent ends in whatever way. A call over a
limit is ended by SIGKILL or by the kernel's timer, and a new child takes the place.

Results are plain JSON values or arrays of numbers in shared memory, never pickles, so that a child
that went wrong cannot run code here. It runs as the same user, however: this bounds what hangs,
swells or crashes, and is no wall against code that takes the child over.

Memory is bounded by ``RLIMIT_DATA``, which counts private writable memory. ``RLIMIT_AS`` would also
count mapped libraries and reserved addresses, which differ by machine, and who watches the resident
size sees only what has already been taken.
"""

import contextlib
import fcntl
import json
import math
import mmap
import os
import pickle
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from secondlook_client import errors

START_S = 60.0
"""For a child to start, on a machine that is busy; usually 0.3 s."""
WALL_PER_CPU = 4.0
"""Wall time allowed for each second of CPU time: a busy machine is no fault of the bytes."""
ABANDONED_S = 0.5
"""A call that nobody waits for any more may run this long in all. To kill and replace a child
costs about as much, which callers with very short deadlines could have made us pay each time."""
POLL_S = 0.1
"""How soon it is noticed that nobody waits for a running call any more."""
SMALL_ARRAY = 4 * 2**20
"""Bytes of an array that are copied from a buffer, which a child keeps. New memory, which larger
ones are handed over in, costs the system more than to copy this much."""
SMALL_PAYLOAD = 2**18
"""Bytes that are copied to be sent at once with what goes before them."""
MAX_ANSWER = 2**20
"""Bytes of a result besides arrays."""
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "TZ")
"""Of the environment, in which there may be passwords and keys."""
OWN_VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # glibc keeps freed memory up to so much; by default it hands the few megabytes of each call
    # back and fetches them again, which took longer than to decode a small image.
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(8 * 2**20),
}
_LENGTHS = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
_SEALS = getattr(fcntl, "F_SEAL_SHRINK", 0) | getattr(fcntl, "F_SEAL_GROW", 0)


class SandboxError(Exception):
    """Base of what can go wrong with a call besides what its function raises on purpose."""


class OutOfTime(SandboxError):
    """The call took more time than its limit."""


class OutOfMemory(SandboxError):
    """The call wanted more memory than its limit."""


class Crashed(SandboxError):
    """The child ended by itself during the call."""


class Withdrawn(SandboxError):
    """Nobody waits for the call any more, or the sandbox was closed."""


class FunctionFailed(SandboxError):
    """The function raised an error that is none of ``secondlook_client.errors``."""


class CannotStart(SandboxError):
    """The machine could not start a child process."""


@dataclass(frozen=True)
class SandboxLimits:
    """What one call may take."""

    cpu_s: float
    """Seconds of CPU time, of all threads together; four times as much wall time."""
    memory_bytes: int
    """Private memory on top of what the child has at rest; what ``request_memory`` gets adds."""

    @property
    def wall_s(self) -> float:
        """Seconds of wall time."""
        return self.cpu_s * WALL_PER_CPU


class SandboxCall(Future[Any]):
    """One call and the future of its result; to cancel it also ends it when it is running.

    Subclasses may override the four hooks, which run in a thread of the sandbox.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        payload: bytes = b"",
        *args: Any,
        within: SandboxLimits,
        deadline: float | None = None,
    ) -> None:
        """``function(payload, *args)`` is called in the child, which imports it by name.

        ``args`` are pickled, ``payload`` is not. The function returns a JSON value or an array of
        numbers, and may call ``request_memory`` and ``empty_result``. ``deadline`` is a
        ``time.monotonic()`` moment.
        """
        super().__init__()
        self.request = pickle.dumps((function, args, within))
        self.payload = payload
        self.within = within
        self.deadline = deadline
        self.withdrawn = False
        """Whether it was cancelled, begun or not."""

    def cancel(self) -> bool:
        """Keep the call from being begun, or have it killed if it goes on for long."""
        self.withdrawn = True
        return super().cancel()

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() > self.deadline

    def begin(self) -> None:
        """Hook: before the call is handed to a child; what it raises fails the call."""

    def grant(self, size: int) -> bool:
        """Hook: whether the function may use ``size`` bytes of memory besides its limit."""
        del size
        return True

    def finish(self, result: Any) -> None:
        """Hook: the function returned ``result``."""
        self.set_result(result)

    def fail(self, failure: BaseException) -> None:
        """Hook: the function raised an error of ``secondlook_client``, or there was another."""
        self.set_exception(failure)


class Sandbox:
    """A pool of children, started when they are needed. Thread-safe."""

    def __init__(self, workers: int = 1) -> None:
        """``workers``: most calls at the same time; the others wait in order."""
        self._workers = workers
        self._waiting: deque[SandboxCall] = deque()
        self._changed = threading.Condition()
        self._idle = 0
        self._threads = 0
        self._children: set[_Child] = set()
        self._closed = False

    def run(
        self,
        function: Callable[..., Any],
        payload: bytes = b"",
        *args: Any,
        within: SandboxLimits,
        deadline: float | None = None,
    ) -> Any:
        """What ``function(payload, *args)`` returns; arguments and errors: see ``SandboxCall``."""
        return self.submit(
            SandboxCall(function, payload, *args, within=within, deadline=deadline)
        ).result()

    def submit(self, call: SandboxCall) -> SandboxCall:
        """Begin a call when a child is free; returns it. Raises ``Withdrawn`` after ``close``."""
        with self._changed:
            if self._closed:
                raise Withdrawn("the sandbox is closed")
            self._waiting.append(call)
            if self._idle >= len(self._waiting):
                self._changed.notify()
            elif self._threads < self._workers:
                self._threads += 1
                name = f"sandbox-{self._threads}"
                threading.Thread(target=self._serve, name=name, daemon=True).start()
        return call

    def close(self) -> None:
        """Kill the children and fail every call with ``Withdrawn``. Does not wait."""
        with self._changed:
            self._closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
            for child in self._children:
                child.kill()
            self._changed.notify_all()
        for call in waiting:
            if call.set_running_or_notify_cancel():
                call.fail(Withdrawn("the sandbox was closed"))

    def pids(self) -> list[int]:
        """Process ids of the children that run now."""
        with self._changed:
            return [child.pid for child in self._children]

    def _serve(self) -> None:
        """A thread that has one child and hands it one call after another."""
        child: _Child | None = None
        while call := self._next():
            if call.set_running_or_notify_cancel():
                try:
                    if call.withdrawn or call.late:
                        raise Withdrawn("nobody waits for the call any more")
                    call.begin()
                    child = child or self._start()
                    call.finish(child.run(call))
                except BaseException as failure:  # whatever it is, somebody waits for it
                    call.fail(failure)
                if child is not None and not child.usable:
                    self._discard(child)
                    child = None
            del call  # and with it the result, which may be large
        if child is not None:
            self._discard(child)

    def _next(self) -> SandboxCall | None:
        with self._changed:
            self._idle += 1
            while not self._waiting and not self._closed:
                self._changed.wait()
            self._idle -= 1
            return self._waiting.popleft() if self._waiting else None

    def _start(self) -> "_Child":
        child = _Child()
        with self._changed:
            self._children.add(child)
            if self._closed:
                child.kill()
        return child

    def _discard(self, child: "_Child") -> None:
        with self._changed:
            self._children.discard(child)
        child.end()


class _Child:
    """One child process, as its parent sees it; belongs to one thread, except for ``kill``."""

    def __init__(self) -> None:
        """Start it. Raises ``CannotStart``."""
        self.usable = True
        """Whether it can take another call."""
        self._ready = False
        self._killed = False
        self._socket, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        buffer = _shared_file(SMALL_ARRAY)
        self._buffer = mmap.mmap(buffer, SMALL_ARRAY)
        path = [str(Path(entry).absolute()) for entry in sys.path]
        code = (
            f"import sys; sys.path[:] = {path!r}\n"
            f"from {__name__} import serve; serve({theirs.fileno()}, {lifeline}, {buffer})"
        )
        environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        environment |= OWN_VARIABLES
        try:
            self._process = subprocess.Popen(
                # Isolated: imports nothing from the working folder or by PYTHON* variables.
                [sys.executable, "-I", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), lifeline, buffer),
                env=environment,
                start_new_session=True,
            )
        except OSError as cause:
            self._socket.close()
            os.close(self._lifeline)
            raise CannotStart(f"no process can be started: {cause.strerror}") from cause
        finally:
            theirs.close()
            os.close(lifeline)
            os.close(buffer)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def kill(self) -> None:
        """End the process at once; from any thread."""
        self._killed = True
        self._process.kill()

    def end(self) -> None:
        """End it and release what it holds here."""
        self.kill()
        self._process.wait()
        self._socket.close()
        os.close(self._lifeline)

    def run(self, call: SandboxCall) -> Any:
        """What the function of a call returns; raises what it raised, or a ``SandboxError``."""
        self.usable = False  # until it has answered
        self._wait_until_ready()
        began = time.monotonic()
        self._socket.settimeout(call.within.wall_s)
        try:
            head = _LENGTHS.pack(len(call.request), len(call.payload)) + call.request
            if len(call.payload) < SMALL_PAYLOAD:  # every wait costs a turn of Python's lock
                self._socket.sendall(head + call.payload)
            else:
                self._socket.sendall(head)
                self._socket.sendall(call.payload)
            while True:
                self._wait_for_answer(call, began)
                answer, files = _received(self._socket)
                if "asks" not in answer:
                    break
                self._socket.sendall(b"\x01" if call.grant(int(answer["asks"])) else b"\x00")
            result = _result(answer, files, self._buffer)
        except TimeoutError:
            self.kill()
            raise OutOfTime("the child took no more bytes") from None
        except (OSError, EOFError, ValueError, KeyError, TypeError) as cause:
            raise self._reason_of_end() from cause
        self.usable = True
        if isinstance(result, BaseException):
            raise result
        return result

    def _wait_until_ready(self) -> None:
        if self._ready:
            return
        self._socket.settimeout(START_S)
        try:
            self._ready = self._socket.recv(1) == b"\x01"
        except OSError:
            self._ready = False
        if not self._ready:
            if self._killed:
                raise Withdrawn("the sandbox was closed")
            self.kill()
            code = self._process.wait()
            raise CannotStart(f"a child process ended with {code} before it was ready")

    def _wait_for_answer(self, call: SandboxCall, began: float) -> None:
        while not self._poll.poll(POLL_S * 1000):
            ran = time.monotonic() - began
            if ran > call.within.wall_s:
                self.kill()
                raise OutOfTime(f"the call took more than {call.within.wall_s:g} s")
            if ran > ABANDONED_S and (call.withdrawn or call.late):
                self.kill()
                raise Withdrawn("nobody waits for the call any more")

    def _reason_of_end(self) -> SandboxError:
        """Why no proper answer came."""
        if self._killed:
            return Withdrawn("the sandbox was closed")
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:  # alive, and talks nonsense
            self.kill()
            return Crashed("the child gave no proper answer")
        if code == -signal.SIGPROF:
            return OutOfTime("the call took more CPU time than its limit")
        if code == -signal.SIGKILL:
            return OutOfMemory("the system killed the child, as it does when memory runs out")
        return Crashed(f"the child ended with {code}")


def _received(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A message of the child and the file descriptors that came with it."""
    data, files, _, _ = socket.recv_fds(connection, 65536, 1)
    try:
        while len(data) < _LENGTH.size or len(data) < _LENGTH.size + _LENGTH.unpack_from(data)[0]:
            if len(data) > MAX_ANSWER or not (more := connection.recv(65536)):
                raise EOFError
            data += more
        answer = json.loads(data[_LENGTH.size :])
        if not isinstance(answer, dict):
            raise ValueError("expected an object")
    except BaseException:
        for file in files:
            os.close(file)
        raise
    return answer, files


def _result(answer: dict[str, Any], files: list[int], buffer: mmap.mmap) -> Any:
    """The value, the array or the error of an answer. Raises ``ValueError`` for nonsense."""
    try:
        if "error" in answer:
            name, message, reason = map(str, answer["error"])
            kind = getattr(errors, name)
            if not issubclass(kind, errors.SecondlookError):
                raise ValueError("expected an error of ours")
            return kind(message, reason=reason)
        if "failed" in answer:
            return FunctionFailed(str(answer["failed"]))
        if "memory" in answer:
            return OutOfMemory("the call wanted more memory than its limit")
        if "array" in answer:
            return _array(files[0] if files else None, buffer, *answer["array"])
        return answer["value"]
    finally:
        for file in files:
            os.close(file)


def _array(file: int | None, buffer: mmap.mmap, kind: str, shape: list[int]) -> NDArray[Any]:
    """The array that a child wrote, into the buffer or a file of its own."""
    dtype = np.dtype(kind)
    size = math.prod(shape) * dtype.itemsize
    if dtype.kind not in "biuf" or min(shape, default=1) < 0:
        raise ValueError("the array is not one of numbers")
    if file is None:
        return np.frombuffer(buffer, dtype, math.prod(shape)).reshape(shape).copy()
    if os.fstat(file).st_size != size:
        raise ValueError("the array is not of the size that the child says")
    # A file that shrinks while it is mapped would end this process.
    if _SEALS and fcntl.fcntl(file, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise ValueError("the array is not sealed")
    return np.frombuffer(_map(file, size), dtype).reshape(shape)


def _map(file: int, size: int) -> mmap.mmap:
    return mmap.mmap(file, size, mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))


# What follows runs in the child.

_parent: tuple[socket.socket, BinaryIO] | None = None
"""The connection to the parent and its reader; None in a process that is no child."""
_at_rest = 0
"""Bytes of private memory before the first call."""
_bounds = (0, 0)
"""Bytes on top of it: the limit of the call, and that in force."""
_buffer: mmap.mmap | None = None
"""Shared with the parent, for small results."""
_shared: tuple[NDArray[Any], int | None] | None = None
"""The array made by ``empty_result``, and its file unless it is in the buffer."""


def request_memory(size: int) -> bool:
    """In a function that runs in a sandbox: whether it may use ``size`` bytes besides its limit.

    True in a process that is no child.
    """
    if _parent is None:
        return True
    connection, stream = _parent
    _send(connection, {"asks": size})
    granted = stream.read(1) == b"\x01"
    if granted:
        _bound_memory(_bounds[0], _bounds[0] + size)
    return granted


def empty_result(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array to be filled and returned by a function in a sandbox, which saves a copy.

    Its memory is shared and does not count towards the limit. One for each call.
    """
    global _shared
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    if _buffer is None:
        return np.empty(shape, kind)
    _drop_shared()
    try:
        file = _shared_file(size) if size > len(_buffer) else None
    except OSError as cause:  # over the limit of files
        raise MemoryError from cause
    memory = _buffer if file is None else _map(file, size)
    made = np.frombuffer(memory, kind, math.prod(shape)).reshape(shape)
    _shared = made, file
    return made


def serve(socket_fd: int, lifeline: int, buffer: int) -> None:
    """What a child runs: answers calls that come through a socket, until it is closed.

    ``lifeline`` is the end of a pipe whose other end only the parent has; ``buffer`` a file in
    memory that both share.
    """
    global _parent, _at_rest, _buffer
    _buffer = mmap.mmap(buffer, SMALL_ARRAY)
    os.close(buffer)  # the mapping has a descriptor of its own
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    _end_with_parent(lifeline)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError), Path("/proc/self/oom_score_adj").open("w") as file:
        file.write("1000")
    connection = socket.socket(fileno=socket_fd)
    stream = connection.makefile("rb")
    _parent = connection, stream
    connection.sendall(b"\x01")
    while lengths := stream.read(_LENGTHS.size):
        of_request, of_payload = _LENGTHS.unpack(lengths)
        function, args, within = pickle.loads(stream.read(of_request))
        payload = stream.read(of_payload)
        _at_rest = _at_rest or _private_bytes()
        _bound_memory(within.memory_bytes, within.memory_bytes)
        signal.setitimer(signal.ITIMER_PROF, within.cpu_s)
        try:
            answer, file_descriptor = _answer(function, payload, args)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        del payload, args
        _send(connection, answer, file_descriptor)
        _drop_shared()


def _end_with_parent(lifeline: int) -> None:
    """Have the kernel end this process when the other end of the pipe is closed.

    Also in the middle of C code, which the end of the socket does not reach. PR_SET_PDEATHSIG
    would follow the parent's *thread*, which may end long before its process.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    with contextlib.suppress(BlockingIOError):
        os.read(lifeline, 1)
        os._exit(0)  # it was closed before


def _private_bytes() -> int:
    """What counts towards ``RLIMIT_DATA`` now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[5]) * mmap.PAGESIZE
    except OSError:  # no Linux; what a child has at rest is less
        return 2**28


def _bound_memory(limit: int, now: int) -> None:
    """Bound the private memory, and the size of files, to ``now`` bytes besides those at rest."""
    global _bounds
    if now != _bounds[1]:
        resource.setrlimit(resource.RLIMIT_DATA, (_at_rest + now, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (now, resource.RLIM_INFINITY))
    _bounds = limit, now


def _answer(
    function: Callable[..., Any], payload: bytes, args: tuple[Any, ...]
) -> tuple[dict[str, Any], int | None]:
    """A message with what the function returned or raised, and the file of an array."""
    try:
        result = function(payload, *args)
        if isinstance(result, np.ndarray):
            if _shared is None or result is not _shared[0]:
                empty_result(result.shape, result.dtype)[...] = result
            file = _shared[1] if _shared else None
            return {"array": [result.dtype.str, result.shape]}, file
    except errors.SecondlookError as failure:
        return {"error": [type(failure).__name__, str(failure), failure.reason]}, None
    except MemoryError:
        return {"memory": True}, None
    except Exception as failure:  # whatever it is, the parent shall have its words
        return {"failed": f"{type(failure).__name__}: {failure}"[:2000]}, None
    return {"value": result}, None


def _send(connection: socket.socket, message: dict[str, Any], file: int | None = None) -> None:
    data = json.dumps(message).encode()
    data = _LENGTH.pack(len(data)) + data
    if file is None:
        connection.sendall(data)
    else:
        socket.send_fds(connection, [data], [file])  # short: it fits


def _shared_file(size: int) -> int:
    """A file of zeros in memory that nobody can make shorter."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(file, size)
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
        except OSError:
            os.close(file)
            raise
        return file
    with tempfile.TemporaryFile() as opened:
        os.ftruncate(opened.fileno(), size)
        return os.dup(opened.fileno())


def _drop_shared() -> None:
    global _shared
    if _shared is not None and _shared[1] is not None:
        os.close(_shared[1])
    _shared = None
