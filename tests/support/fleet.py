"""Several servers of one store behind one address, each a process that can be stopped and killed.

The address is a line that takes each new connection to the next server that listens, as the Service
of a cluster does.
"""

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from crash_trial import Server
from flaky_line import FlakyLine

TESTS = Path(__file__).parent
SERVE = ("-m", "secondlook", "serve")
CLOCKED = (TESTS / "clocked_server.py",)
"""The same with a clock that ``Fleet.set_clock`` changes."""
PAGE_BYTES = resource.getpagesize()


class Fleet:
    """Servers numbered from 0, and the line to them; a context manager that kills what is left."""

    def __init__(
        self,
        folder: Path,
        flags: Sequence[object],
        count: int = 1,
        program: Sequence[str | Path] = SERVE,
    ) -> None:
        """``flags`` name the store; ``program`` is ``secondlook serve`` or stands in for it."""
        self.folder = folder
        self.flags = [
            *map(str, flags),
            *("--proposer", "scripted_models:bright_half:0.02"),
            *("--verifier", "scripted_models:agreeable:dog", "--log-level", "warning"),
        ]
        self._program = [sys.executable, *map(str, program)]
        self.ports = [free_port() for _ in range(count)]
        self.servers: dict[int, Server] = {}
        self._open = ExitStack()
        targets = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.line = self._open.enter_context(FlakyLine(targets))

    @property
    def address(self) -> str:
        """Of the line."""
        return self.line.address

    def start(self, number: int) -> float:
        """Start a server and wait until it listens; how long that took, seconds."""
        began = time.monotonic()
        server = self.servers[number] = self._begun(number)
        assert server.is_ready(), self.log()
        return time.monotonic() - began

    def start_all(self) -> None:
        """Start every server, all at a time."""
        self.servers = {number: self._begun(number) for number in range(len(self.ports))}
        for server in self.servers.values():
            assert server.is_ready(), self.log()

    def _begun(self, number: int) -> Server:
        (self.folder / "ontology.yaml").write_text("classes:\n  - dog\n")
        own = ["--ontology", str(self.folder / "ontology.yaml"), "--port", str(self.ports[number])]
        with (self.folder / "server.log").open("a") as log:
            process = subprocess.Popen(
                [*self._program, *self.flags, *own],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={
                    **os.environ,
                    "PYTHONPATH": python_path(),
                    "OMP_NUM_THREADS": "1",
                    "CLOCK_OFFSET": str(self._clock(number)),
                },
            )
        return Server(process)

    def stop(self, number: int) -> float:
        """Stop a server as an orchestrator does, with SIGTERM; how long it took, seconds."""
        began = time.monotonic()
        process = self.servers.pop(number).process
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0, self.log()
        return time.monotonic() - began

    def kill(self, number: int) -> None:
        """As a power cut would."""
        self.servers.pop(number).kill()

    def set_clock(self, number: int, seconds: float) -> None:
        """Let a server that is ``CLOCKED`` be off by so much."""
        part = self.folder / "clock.part"
        part.write_text(str(seconds))
        part.replace(self._clock(number))

    def _clock(self, number: int) -> Path:
        return self.folder / f"clock-{number}"

    def rss(self) -> list[int]:
        """Resident bytes of each server that runs, by its number."""
        found = [self.servers[number].process.pid for number in sorted(self.servers)]
        return [resident_bytes(pid) for pid in found]

    def log(self) -> str:
        """The end of the log of all servers."""
        return (self.folder / "server.log").read_text()[-4000:]

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind and (self.folder / "server.log").exists():
            print(self.log(), file=sys.stderr)
        for number in list(self.servers):
            self.kill(number)
        self._open.close()


def resident_bytes(pid: int) -> int:
    """Of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def python_path() -> str:
    """With the scripted models."""
    return os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
