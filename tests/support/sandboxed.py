"""Functions that tests have run in a sandbox: importable there, and good, bad or hostile."""

import ctypes
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secondlook.core import sandbox
from secondlook_client.errors import BadImage


def length(payload: bytes) -> int:
    return len(payload)


def echo(payload: bytes, *args: object) -> list[object]:
    return [payload.decode(), *args]


def process_id(payload: bytes) -> int:
    return os.getpid()


def surroundings(payload: bytes) -> dict[str, object]:
    """What the child has inherited: open files besides its own, and variables."""
    files = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            files.append(str(link.readlink()))
        except OSError:  # of the listing itself
            continue
    return {"files": files, "variables": sorted(os.environ)}


def compute(payload: bytes) -> None:
    """For ever, in C code that lets no other thread run."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def wait(payload: bytes, seconds: float = 1000.0) -> int:
    time.sleep(seconds)
    return os.getpid()


def fill_memory(payload: bytes, size: int) -> int:
    return len(bytes(size))


def ask_for_memory(payload: bytes, size: int) -> bool:
    if not sandbox.request_memory(size):
        return False
    return len(bytes(size)) == size


def crash(payload: bytes) -> None:
    ctypes.string_at(0)


def leave(payload: bytes) -> None:
    os._exit(3)


def killed(payload: bytes) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(payload: bytes) -> None:
    raise BadImage("no good", reason="a_reason")


def stumble(payload: bytes) -> None:
    raise KeyError("a word")


def numbers(payload: bytes, shape: tuple[int, ...], kind: str) -> NDArray[np.generic]:
    return np.arange(np.prod(shape)).astype(kind).reshape(shape)


def filled(payload: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    result = sandbox.empty_result(shape, np.uint8)
    result[...] = 7
    return result


def objects(payload: bytes) -> NDArray[np.object_]:
    return np.array([print], dtype=object)


def lie(payload: bytes) -> None:
    """Say something of which no array can be made, past the code that a child runs."""
    assert sandbox._parent is not None
    sandbox._send(sandbox._parent[0], {"array": ["|u1", [10**9]]})
    time.sleep(1000)
