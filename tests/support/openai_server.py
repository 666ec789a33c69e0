"""A stand-in for an OpenAI-compatible server over a real socket, faults included.

Answers ``GET /v1/models`` and ``POST /v1/chat/completions`` as vLLM and llama.cpp's server do, with
``choices[0].logprobs.content[n].top_logprobs`` as OpenAI's reference gives them.
"""

import base64
import io
import json
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image as PILImage

Top = list[tuple[str, float]]
Refusal = tuple[int, Any]


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
    refuse: Callable[[dict[str, Any]], Refusal | None] = lambda request: None
    """(status, body) for a chat request with this body; None answers it."""
    models_status: int = 200
    """Of the list of models; the body is ``body`` if there is one."""
    content: Callable[[str], Any] = lambda text: text
    """How the text of an answer is put into its message."""
    drip_s: float = 0.0
    """Pause between the bytes of an answer; 0 sends them at once."""
    kind: str = "application/json"


class FakeOpenAI:
    """The server and the chat requests that it saw."""

    def __init__(
        self, behaviour: Behaviour, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        self.behaviour = behaviour
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Message] = []
        """Of every request."""
        kind = _Server6 if ":" in host else ThreadingHTTPServer
        self._server = kind((host, 0), _handler(self))
        self._server.daemon_threads = True
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        place = f"[{host}]" if ":" in host else host
        self.host = f"{place}:{self._server.server_port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Server6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


def _handler(server: FakeOpenAI) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.headers.append(self.headers)
            behaviour = server.behaviour
            if behaviour.models_status != 200:
                self._raw(behaviour.body or b"", behaviour.models_status)
            elif not self._allowed():
                self._send({"error": {"message": "invalid key"}}, 401)
            elif self.path == "/v1/models":
                listed = [{"id": name, "object": "model"} for name in server.behaviour.models]
                self._send({"object": "list", "data": listed})
            else:
                self._send({"error": {"message": "not found"}}, 404)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append(body)
            server.headers.append(self.headers)
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
            elif refusal := behaviour.refuse(body):
                self._send(refusal[1], refusal[0])
            elif behaviour.body is not None:
                self._raw(behaviour.body, 200)
            else:
                reply = _reply(body, behaviour.reply)
                message = reply["choices"][0]["message"]
                message["content"] = behaviour.content(message["content"])
                self._send(reply)

        def _allowed(self) -> bool:
            wanted = server.behaviour.key
            return not wanted or self.headers.get("Authorization") == f"Bearer {wanted}"

        def _send(self, value: Any, status: int = 200) -> None:
            self._raw(json.dumps(value).encode(), status)

        def _raw(self, data: bytes, status: int) -> None:
            self.send_response(status)
            for name, value in server.behaviour.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", server.behaviour.kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with suppress(OSError):  # a client may leave in the middle
                if server.behaviour.drip_s and self.command == "POST":
                    for byte in data:
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        time.sleep(server.behaviour.drip_s)
                else:
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
