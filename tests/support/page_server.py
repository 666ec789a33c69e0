"""A server with the page and scripted models, in a process of its own that may be killed.

python tests/support/page_server.py DATA PORT      prints the page's address when it is ready
"""

import subprocess
import sys
import time
from pathlib import Path

from serving import server_settings, serving

from secondlook.store import open_store


class PageServer:
    """The process; a context manager. The same data and port serve again after a kill."""

    def __init__(self, data: Path, port: int) -> None:
        self._command = [sys.executable, __file__, str(data), str(port)]
        self.address = f"http://127.0.0.1:{port}"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns when the page is served."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
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


def main(data: str, port: str) -> None:
    """Serves until it is killed."""
    options = server_settings(web_port=int(port))
    with open_store(Path(data)) as store, serving(store=store, options=options) as running:
        print(running.server.web_address, flush=True)
        while True:
            time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
