"""A device for a trial: its agent in a process that can be killed and restarted."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

TESTS = Path(__file__).parent
MODEL = "street"


class Device:
    """The agent's process, restarted after each kill."""

    def __init__(self, folder: Path, server: str, *flags: str) -> None:
        self.folder = folder
        self._flags = [
            *("--source", str(folder / "camera"), "--follow", "--frame-interval-s", "10"),
            *("--server", server, "--model", MODEL, "--stream", "gate"),
            *("--spool", str(folder / "spool"), "--models", str(folder / "models")),
            *("--health-file", str(folder / "health.json"), "--health-interval-s", "0.2"),
            *("--poll-s", "0.5", "--no-sync", "--threads", "1", *flags),
        ]
        self._process: subprocess.Popen[str] | None = None
        self.processed: set[str] = set()
        self.since_restart = 0
        (folder / "camera").mkdir(exist_ok=True)

    def start(self) -> None:
        """Start the process."""
        environ = {
            "PYTHONPATH": str(TESTS),
            "OMP_NUM_THREADS": "1",
            "RECORDED": str(self.folder / "record"),
        }
        with (self.folder / "agent.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(TESTS / "recorded_agent.py"), "run", *self._flags],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **environ},
            )
        self.since_restart = 0
        assert self._process.stdout is not None
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()

    def _listen(self, lines: IO[str]) -> None:
        for line in lines:
            try:
                name = json.loads(line)["frame"]
            except ValueError:  # a line that a kill truncated
                return
            self.processed.add(name)
            self.since_restart += 1

    def kill(self) -> None:
        """As a power cut would."""
        assert self._process is not None and self._process.poll() is None, self.log()
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Stop it in order."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            assert self._process.wait(30) == 0, self.log()

    def rss(self) -> int:
        """Resident bytes."""
        assert self._process is not None
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def health(self) -> dict[str, Any]:
        """Its health file; empty before there is one."""
        path = self.folder / "health.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def log(self) -> str:
        """The end of its log."""
        return (self.folder / "agent.log").read_text()[-3000:]
