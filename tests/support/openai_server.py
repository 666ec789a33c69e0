"""A stand-in for an OpenAI-compatible server over a real socket, faults included.

Answers ``GET /v1/models`` and ``POST /v1/chat/completions`` as vLLM and llama.cpp's server do, with
``choices[0].logprobs.content[n].top_logprobs`` as OpenAI's reference gives them.
"""

import base64
import io
import json
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image as PILImage

Top = list[tuple[str, float]]


@dataclass
class Behaviour:
    """What the server does; change it between requests."""

    models: tuple[str, ...] = ("tiny-vlm",)
    reply: Callable[[str, PILImage.Image], list[Top]] = lambda question, shown: [
        [("Yes", 0.8), ("No", 0.15)]
    ]
    most_top: int = 20
    """Likeliest tokens that may be asked for; 0 refuses the parameter altogether."""
    key: str = ""
    """Wanted as bearer token; empty for none."""
    status: Callable[[int], int] = lambda number: 200
    """Status of the n-th chat request, from 1."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Sent in place of any answer."""


class FakeOpenAI:
    """The server and the chat requests that it saw."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def _handler(server: FakeOpenAI) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self._allowed():
                self._send({"error": {"message": "invalid key"}}, 401)
            elif self.path == "/v1/models":
                listed = [{"id": name, "object": "model"} for name in server.behaviour.models]
                self._send({"object": "list", "data": listed})
            else:
                self._send({"error": {"message": "not found"}}, 404)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append(body)
            behaviour = server.behaviour
            status = behaviour.status(len(server.requests))
            if not self._allowed():
                self._send({"error": {"message": "invalid key"}}, 401)
            elif self.path != "/v1/chat/completions":
                self._send({"error": {"message": "not found"}}, 404)
            elif status != 200:
                self._send({"error": {"message": "overloaded"}}, status)
            elif body.get("top_logprobs", 0) > behaviour.most_top:
                self._send({"error": {"message": "top_logprobs is too large"}}, 400)
            elif behaviour.body is not None:
                self._raw(behaviour.body, 200)
            else:
                self._send(_reply(body, behaviour.reply))

        def _allowed(self) -> bool:
            wanted = server.behaviour.key
            return not wanted or self.headers.get("Authorization") == f"Bearer {wanted}"

        def _send(self, value: Any, status: int = 200) -> None:
            self._raw(json.dumps(value).encode(), status)

        def _raw(self, data: bytes, status: int) -> None:
            self.send_response(status)
            for name, value in server.behaviour.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    return Handler


def _reply(body: dict[str, Any], reply: Callable[[str, PILImage.Image], list[Top]]) -> Any:
    image, text = body["messages"][-1]["content"]
    head, _, data = image["image_url"]["url"].partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    shown = PILImage.open(io.BytesIO(base64.b64decode(data)))
    shown.load()
    tokens = reply(text["text"], shown)
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(top[0][0] for top in tokens)},
        "finish_reason": "length",
        "logprobs": None,
    }
    if body.get("logprobs"):
        content = [
            {**_token(*top[0]), "top_logprobs": [_token(*t) for t in top[: body["top_logprobs"]]]}
            for top in tokens
        ]
        choice["logprobs"] = {"content": content}
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice]}


def _token(text: str, probability: float) -> dict[str, Any]:
    return {"token": text, "logprob": math.log(probability), "bytes": list(text.encode())}
