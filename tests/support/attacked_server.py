"""``secondlook serve`` in a process of its own, watched from outside while it is attacked.

Watched are the time that health takes to answer (the event loop answers it, so a blocked loop
shows), the memory of the process and its children, and the log.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import health_watcher

END_S = 5.0
"""After the grace a server has ended, also on a machine that is busy with other tests. The bar is 2
seconds, which ``python -m bench attack`` measures."""


class AttackedServer:
    """One server process; ``started_server`` starts it and ends it for certain."""

    def __init__(
        self, process: "subprocess.Popen[str]", address: str, log: Path, ca: str = ""
    ) -> None:
        self.process = process
        self.address = address
        """``host:port``."""
        self._log = log
        self._over = threading.Event()
        self.worst_wait_s = 0.0
        """The longest that health took to answer."""
        self.peak_mb = 0.0
        """The highest sum of the resident memory of the process and its children."""
        self.at_rest_mb = health_watcher.memory_mb(process.pid)
        """The same before any call. What torch and its libraries take differs by machine: 0.85 to
        1.15 GB were seen, most of it pages of files that the system may drop at any time."""
        self.refused: set[str] = set()
        """Status codes of health checks that failed."""
        watcher = Path(health_watcher.__file__)
        self._watcher = subprocess.Popen(
            [sys.executable, str(watcher), address, str(process.pid), ca],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def channel(self) -> grpc.Channel:
        """A connection of its own, without limits on what is sent."""
        return grpc.insecure_channel(
            self.address,
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )

    def forget(self) -> None:
        """Measure anew from here."""
        self.worst_wait_s = self.peak_mb = 0.0

    def log_text(self) -> str:
        """All that the server has logged."""
        return self._log.read_text("utf-8", "replace")

    @property
    def growth_mb(self) -> float:
        """Memory that was taken beside what the server takes at rest."""
        return self.peak_mb - self.at_rest_mb

    def terminate(self, limit_s: float) -> float:
        """Send SIGTERM; the seconds until the process has ended. Kills it after ``limit_s``."""
        self._over.set()
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return time.monotonic() - began

    def kill(self) -> None:
        """End the process if it still runs."""
        self._over.set()
        self.process.kill()
        self.process.wait()
        self._watcher.kill()
        self._watcher.wait()
        self._reader.join()
        assert self._watcher.stdout is not None
        self._watcher.stdout.close()

    def _read(self) -> None:
        """What the watcher says, until it or the server is at its end."""
        assert self._watcher.stdout is not None
        for line in self._watcher.stdout:
            wait_s, memory_mb, status = json.loads(line)
            if self._over.is_set():
                return
            self.worst_wait_s = max(self.worst_wait_s, wait_s)
            self.peak_mb = max(self.peak_mb, memory_mb)
            if status != "OK":
                self.refused.add(status)


@contextlib.contextmanager
def started_server(
    folder: Path, *flags: str, environment: Mapping[str, str] | None = None, ca: str = ""
) -> Iterator[AttackedServer]:
    """A server with its data in ``folder``/data, at a free port; killed at the end.

    ``ca``: file of the authority of its certificate, where the flags turn TLS on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    program = [sys.executable, "-m", "secondlook", "serve", "--port", "0"]
    with log.open("w") as written:
        process = subprocess.Popen(
            [*program, "--data", str(folder / "data"), *flags],
            stdout=subprocess.PIPE,
            stderr=written,
            text=True,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        )
    assert process.stdout is not None
    first = process.stdout.readline()
    if not first.startswith("serving on"):
        process.kill()
        raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")
    server = AttackedServer(process, first.split()[-1], log, ca)
    try:
        yield server
    finally:
        server.kill()
        process.stdout.close()
