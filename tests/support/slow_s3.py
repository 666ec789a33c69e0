"""An S3 that answers slowly, or with 503 SlowDown; what is behind it is moto's."""

import http.client
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

from moto.server import ThreadedMotoServer

SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


class SlowS3:
    """``refused``: share of requests that are answered with SlowDown. ``delay_s`` comes first."""

    def __init__(self) -> None:
        self.refused = 0.0
        self.delay_s = 0.0
        self.requests = 0
        """So far, the refused ones too."""
        self._chance = random.Random(0)
        self._lock = Lock()
        self._moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._moto.start()
        self._behind = self._moto.get_host_and_port()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                owner.answer(self)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _handle  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """``http://host:port``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Wait, and refuse or forward one request."""
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        with self._lock:
            self.requests += 1
            refuse = self._chance.random() < self.refused
        time.sleep(self.delay_s)
        if refuse:
            self._send(request, 503, [("Content-Type", "application/xml")], SLOW_DOWN)
            return
        line = http.client.HTTPConnection(*self._behind, timeout=30)
        line.request(request.command, request.path, body, dict(request.headers))
        found = line.getresponse()
        kept = [(n, v) for n, v in found.getheaders() if n.lower() not in _OF_THE_LINE]
        self._send(request, found.status, kept, found.read(), found.getheader("Content-Length"))
        line.close()

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes,
        length: str | None = None,
    ) -> None:
        request.send_response(status)
        for name, value in headers:
            request.send_header(name, value)
        head = request.command == "HEAD" and length
        request.send_header("Content-Length", length if head and length else str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)

    def close(self) -> None:
        """Stop both."""
        self._server.shutdown()
        self._moto.stop()


_OF_THE_LINE = ("content-length", "transfer-encoding", "connection", "server", "date")


@contextmanager
def slow_s3() -> Iterator[SlowS3]:
    """One that is quick until it is told otherwise."""
    server = SlowS3()
    try:
        yield server
    finally:
        server.close()
