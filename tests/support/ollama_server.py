"""A stand-in for an Ollama server: its documented protocol over a real socket, faults included.

Speaks what docs/api.md of Ollama describes for /api/version, /api/tags, /api/show, /api/chat and
/api/generate with streaming off, with ``logprobs`` as 0.12.11 added them: a list with one entry a
token, ``{"token", "logprob", "bytes", "top_logprobs": [{"token", "logprob", "bytes"}, ...]}``.
"""

import base64
import io
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image as PILImage

DIGEST = "sha256:55fc3abd386771e5b5d1bbcc732f3c3f4df6e9f9f08f1131f9cc27ba2d1eec5b"

Top = list[tuple[str, float]]
"""Likeliest tokens at one place with their probabilities, best first."""


@dataclass
class Behaviour:
    """What the server does; change it between requests."""

    models: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {"moondream:latest": ("completion", "vision")}
    )
    reply: Callable[[str, PILImage.Image], list[Top]] = lambda question, image: [
        [("Yes", 0.8), ("No", 0.15)]
    ]
    """Tokens of the answer to a question about an image."""
    logprobs: bool = True
    """False for a server older than 0.12.11."""
    fault: Callable[[int], str] = lambda number: ""
    """The fault of the n-th chat request (from 1): see ``_fail``; empty for none."""
    meeting: int = 0
    """Chat requests that must be at work at the same time once before any is answered (10 s)."""
    status_body: bytes = b'{"error":"server busy, please try again.  maximum pending requests"}'


class FakeOllama:
    """The server and what it saw."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests: list[dict[str, Any]] = []
        self.traceparents: list[str] = []
        """That came with chat requests."""
        self.connections: list[socket.socket] = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop as a killed server does: connections end, later ones are refused."""
        self._server.shutdown()
        self._server.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def asked(self) -> list[dict[str, Any]]:
        """Chat requests without those of the start-up test."""
        return [r for r in self.requests if "in this image?" not in r["messages"][0]["content"]]

    def meet(self) -> None:
        """Hold a request until as many as ``behaviour.meeting`` have been at work together."""
        with self._lock:
            self._lock.wait_for(lambda: self.most_at_once >= self.behaviour.meeting, timeout=10)

    @contextmanager
    def counted(self, request: dict[str, Any]) -> Iterator[int]:
        """The number of this request, while it counts as one at work."""
        with self._lock:
            self.requests.append(request)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            self._lock.notify_all()
            number = len(self.requests)
        try:
            yield number
        finally:
            with self._lock:
                self._now -= 1


def _handler(server: FakeOllama) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            server.connections.append(self.connection)

        def do_GET(self) -> None:
            if self.path == "/api/version":
                self._json({"version": "0.12.11" if server.behaviour.logprobs else "0.5.1"})
            elif self.path == "/api/tags":
                self._json({"models": [_listed(name) for name in server.behaviour.models]})
            else:
                self._json({"error": "not found"}, 404)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            full = body["model"] if ":" in body["model"] else body["model"] + ":latest"
            if full not in server.behaviour.models:
                self._json({"error": f"model '{body['model']}' not found"}, 404)
            elif self.path == "/api/show":
                able = server.behaviour.models[full]
                shown = {"details": {"family": "phi2"}, "model_info": {}, "template": ""}
                self._json({**shown, **({"capabilities": able} if able else {})})
            elif self.path in ("/api/chat", "/api/generate"):
                if traceparent := self.headers.get("traceparent"):
                    server.traceparents.append(traceparent)
                with server.counted(body) as number:
                    self._answer(body, number)
            else:
                self._json({"error": "not found"}, 404)

        def _answer(self, body: dict[str, Any], number: int) -> None:
            assert body["stream"] is False, "the server is asked for one reply"
            fault = server.behaviour.fault(number)
            if fault:
                self._fail(fault)
                return
            server.meet()
            chat = self.path == "/api/chat"
            message = body["messages"][-1] if chat else body
            image = PILImage.open(io.BytesIO(base64.b64decode(message["images"][0])))
            image.load()
            question = message["content" if chat else "prompt"]
            tokens = server.behaviour.reply(question, image)
            self._json(_reply(body, tokens, chat, server.behaviour.logprobs))

        def _fail(self, fault: str) -> None:
            if fault.isdigit():
                self._raw(server.behaviour.status_body, int(fault))
            elif fault == "hang":
                time.sleep(1.5)
                self.close_connection = True
            elif fault == "truncated":
                self._raw(b'{"model": "moondream", "message": {"role": "assi')
            elif fault == "empty":
                self._json({"model": "moondream", "done": True, "message": _said("")})
            elif fault == "html":
                self._raw(b"<html>Sign in to the hotel network</html>", kind="text/html")
            elif fault == "list":
                self._raw(b"[1, 2]")
            elif fault == "error":
                self._json({"error": "model runner has unexpectedly stopped"})
            elif fault == "drip":
                self.send_response(200)
                self.send_header("Content-Length", "100000")
                self.end_headers()
                with suppress(OSError):  # the client leaves
                    for _ in range(1000):
                        self.wfile.write(b" ")
                        self.wfile.flush()
                        time.sleep(0.02)
                self.close_connection = True
            elif fault == "cut":
                self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"model"')
                self.close_connection = True
            else:
                raise AssertionError(f"no such fault: {fault}")

        def _json(self, value: Any, status: int = 200) -> None:
            self._raw(json.dumps(value).encode(), status)

        def _raw(self, data: bytes, status: int = 200, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    return Handler


def _listed(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "modified_at": "2026-01-04T14:56:49.277302595-07:00",
        "size": 1738451197,
        "digest": DIGEST.removeprefix("sha256:"),
        "details": {"format": "gguf", "family": "phi2", "parameter_size": "1B"},
    }


def _said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _reply(body: dict[str, Any], tokens: list[Top], chat: bool, can: bool) -> dict[str, Any]:
    text = "".join(top[0][0] for top in tokens)
    reply: dict[str, Any] = {
        "model": body["model"],
        "created_at": "2026-01-12T14:13:43.416799Z",
        "done": True,
        "done_reason": "stop",
        "total_duration": 5191566416,
        "eval_count": len(tokens),
    }
    reply |= {"message": _said(text)} if chat else {"response": text}
    if can and body.get("logprobs"):
        most = body.get("top_logprobs") or 0
        assert most <= 20, "Ollama gives at most 20"
        reply["logprobs"] = [
            {**_token(*top[0]), "top_logprobs": [_token(*one) for one in top[:most]]}
            for top in tokens
        ]
    return reply


def _token(text: str, probability: float) -> dict[str, Any]:
    return {"token": text, "logprob": math.log(probability), "bytes": list(text.encode())}
