"""A server with the page, in a process of its own that may be killed.

    python tests/support/page_server.py DATA PORT [embedded]

prints the page's address when it is ready. Its models are scripted, unless the embedded ones are
asked for.
"""

import selectors
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from serving import server_settings, serving

from secondlook.config.settings import ModelSettings
from secondlook.models import embedded
from secondlook.store import open_store

START_S = 300.0
"""What a start may take on a busy machine."""


class PageServer:
    """The process; a context manager. The same data and port serve again after a kill."""

    def __init__(self, data: Path, port: int, *models: str) -> None:
        self._command = [sys.executable, __file__, str(data), str(port), *models]
        self.address = f"http://127.0.0.1:{port}"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns when the page is served; fails where that takes too long.

        The end of the output is no sign that the process has ended: what it started may hold it.
        """
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._process.stdout, selectors.EVENT_READ)
            told = waiting.select(START_S)
        assert told, f"no page after {START_S:.0f} s, exit code {self._process.poll()}"
        assert self._process.stdout.readline().strip() == self.address

    def kill(self) -> None:
        """``kill -9``."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> "PageServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def main(data: str, port: str, models: str = "") -> None:
    """Serves until it is killed."""
    options = server_settings(web_port=int(port))
    chosen: dict[str, Any] = {}
    if models == "embedded":
        known = ModelSettings()
        chosen = {
            "proposer": embedded.load_proposer("", known),
            "verifier": embedded.load_verifier("", known),
            "segmenter": embedded.load_segmenter("", known),
        }
    with (
        open_store(Path(data)) as store,
        serving(store=store, options=options, **chosen) as running,
    ):
        print(running.server.web_address, flush=True)
        while True:
            time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
