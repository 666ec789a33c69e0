"""The golden scenario: steps written once, replayed by each client, with the same outcome.

A step is made by a replayer of a language; what stands in it by name (an image, a value that an
earlier step saved) is put in here, and what differs from run to run (moments, tokens of pages,
numbers by the clock) is taken out here, so that the replayers know nothing of either.
"""

import base64
import json
import re
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

TIMES = {"createdAt", "leaseUntil", "decidedAt", "lastAt", "firstAt", "updatedAt", "finishedAt"}
"""Fields that hold a moment."""
MEASURED = {"ms", "timingsMs"}
"""Fields that are left out: how long something took."""
TRANSPORT = {"unavailable", "deadline_exceeded", "message_too_large"}
"""Reasons of gRPC itself, for which each client has words of its own."""
CLOCK = 10**12
"""From here on a number of a frame is the clock's."""


STEP_S = 60
"""A program that takes longer for a step is stopped."""


class Replayer(Protocol):
    """A client that makes steps."""

    def outcome(self, step: dict[str, Any]) -> Any:
        """What came of a step."""

    def close(self) -> None:
        """Hang up."""


class ProcessReplayer:
    """A replayer that is a program: a step a line in, an outcome a line out."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def outcome(self, step: dict[str, Any]) -> Any:
        """What came of a step."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(step) + "\n")
        self._process.stdin.flush()
        watch = threading.Timer(STEP_S, self._process.kill)
        watch.start()
        line = self._process.stdout.readline()
        watch.cancel()
        assert line, f"the program ended, or was stopped after {STEP_S} s: {step['do']}"
        return json.loads(line)

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin
        self._process.stdin.close()
        assert self._process.wait(10) == 0


class Transcript:
    """Steps made by one replayer, as they read for every replayer."""

    def __init__(self, replayer: Replayer, values: Mapping[str, Any]) -> None:
        """``values``: what steps name as ``$name``; bytes are sent as base64."""
        self._replayer = replayer
        self._values = {
            name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for name, value in values.items()
        }
        self._numbers: dict[str, list[int]] = {}

    def play(self, step: Mapping[str, Any]) -> Any:
        """Make a step; what came of it, without what differs from run to run."""
        sent = {name: self._filled(value) for name, value in step.items() if name not in ABOUT}
        got = self._replayer.outcome(sent)
        for name, path in step.get("save", {}).items():
            self._values[name] = at(got, path)
        return self._plain(got, step.get("stream", ""))

    def _filled(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: self._filled(one) for name, one in value.items()}
        if isinstance(value, list):
            return [self._filled(one) for one in value]
        if isinstance(value, str) and value.startswith("$"):
            return self._values[value[1:]]
        return value

    def _plain(self, got: Any, stream: str, key: str = "") -> Any:
        if isinstance(got, Mapping):
            if got.get("reason") in TRANSPORT:
                got = {name: value for name, value in got.items() if name != "message"}
            kept = sorted(item for item in got.items() if item[0] not in MEASURED)
            return {name: self._plain(one, stream, name) for name, one in kept}
        if isinstance(got, list):
            return [self._plain(one, stream, key) for one in got]
        if key == "code":
            return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", got).upper()
        if key == "sequence" and got >= CLOCK:
            return self._place(got, stream)
        if key in TIMES:
            return "a moment"
        if key == "refused":
            return "by the client"
        # JSON writes a 32-bit number with few digits in some languages, with many in others.
        return round(float(np.float32(got)), 3) if isinstance(got, float) else got

    def _place(self, number: int, stream: str) -> int:
        numbers = self._numbers.setdefault(stream, [])
        assert not numbers or number > numbers[-1], "numbers of a stream rise"
        numbers.append(number)
        return len(numbers) - 1


ABOUT = {"step", "expect", "only", "save", "until"}
"""Keys of a step that no replayer sees."""


def at(value: Any, path: str) -> Any:
    """What stands at a path such as ``items.0.id``."""
    for part in path.split("."):
        value = value[int(part) if isinstance(value, list) else part]
    return value


def compared(step: Mapping[str, Any], got: Any) -> Any:
    """The part of an outcome that is the same for every client."""
    if "only" not in step:
        return got
    return (
        [at(one, step["only"]) for one in got] if isinstance(got, list) else at(got, step["only"])
    )


def unlike(expected: Any, got: Any, where: str = "") -> list[str]:
    """Where ``got`` is not as expected: of an object only what is named, of "*" anything."""
    if expected == "*":
        return []
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        missing = [f"{where}.{name} is missing" for name in expected if name not in got]
        both = [(name, expected[name], got[name]) for name in expected if name in got]
    elif isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        missing, both = [], list(zip(range(len(got)), expected, got, strict=True))
    elif isinstance(expected, str) and expected.startswith("~") and isinstance(got, str):
        return [] if re.search(expected[1:], got) else [f"{where}: {expected} is not in {got}"]
    else:
        return [] if expected == got else [f"{where}: expected {expected!r}, got {got!r}"]
    return missing + [wrong for name, a, b in both for wrong in unlike(a, b, f"{where}.{name}")]
