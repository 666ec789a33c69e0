"""A Hugging Face hub on loopback: serves folders as repositories, breaks off, and refuses.

    with HubServer({"org/name": folder}) as hub: ...       # HF_ENDPOINT=hub.url

Speaks what ``huggingface_hub`` asks for: a repository's revision and tree, and its files by range.
"""

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BLOCK = 2**16


class HubServer:
    """The hub; what is set on it applies to the next request."""

    def __init__(self, repositories: Mapping[str, Path], licence: str = "apache-2.0") -> None:
        self.repositories = dict(repositories)
        self.licence = licence
        self.status = 0
        """Answer every request with this instead."""
        self.error_code = ""
        """``X-Error-Code`` of those answers: ``GatedRepo``, ``RevisionNotFound``, …"""
        self.break_after = 0
        """Bytes of a file after which its connection is closed; 0: all are sent."""
        self.delay_s = 0.0
        """Before each block of a file."""
        self.sent: list[tuple[str, int, int]] = []
        """File, first byte and number of bytes of each answer, as far as they went."""
        outer = self

        class Handler(_HubHandler):
            hub = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening: the next connection is refused."""
        self._server.shutdown()
        self._server.server_close()

    def total_sent(self, ending: str) -> int:
        """Bytes of files with this ending that were sent so far."""
        return sum(count for name, _, count in self.sent if name.endswith(ending))


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Make ``huggingface_hub``, which has read its variables already, use this hub and cache."""
    constants = "huggingface_hub.constants"
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(f"{constants}.ENDPOINT", url)
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(cache))


class _HubHandler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        if self.hub.status:
            more = {"X-Error-Code": self.hub.error_code} if self.hub.error_code else {}
            self._json({"error": "no"}, self.hub.status, more)
            return
        for name, folder in self.hub.repositories.items():
            if path.startswith(f"api/models/{name}"):
                self._about(name, folder, path)
                return
            if path.startswith(f"{name}/resolve/"):
                self._file(folder / path.removeprefix(f"{name}/resolve/").partition("/")[2], body)
                return
        self._json({"error": "no"}, 404, {"X-Error-Code": "RepoNotFound"})

    def _about(self, name: str, folder: Path, path: str) -> None:
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        rest = path.removeprefix(f"api/models/{name}").strip("/")
        if rest.startswith("revision/") and rest != "revision/main" and COMMIT not in rest:
            self._json({"error": "no"}, 404, {"X-Error-Code": "RevisionNotFound"})
        elif rest.startswith("tree/"):
            self._json([_tree_entry(file, folder) for file in files])
        else:
            siblings = [{"rfilename": str(file.relative_to(folder))} for file in files]
            tags = [f"license:{self.hub.licence}"] if self.hub.licence else []
            self._json({"id": name, "sha": COMMIT, "tags": tags, "siblings": siblings})

    def _file(self, file: Path, body: bool) -> None:
        if not file.is_file():
            self._json({"error": "no"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        content = file.read_bytes()
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if first else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        if body:
            self._send(file.name, content, first)

    def _send(self, name: str, content: bytes, first: int) -> None:
        end = min(len(content), first + self.hub.break_after) if self.hub.break_after else None
        at = first
        with suppress(OSError):  # the client went away
            for at in range(first, end or len(content), BLOCK):
                time.sleep(self.hub.delay_s)
                self.wfile.write(content[at : min(at + BLOCK, end or len(content))])
            at = end or len(content)
        self.hub.sent.append((name, first, at - first))
        if at < len(content):
            self.close_connection = True

    def _json(
        self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        for name, content in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, content)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)


def _tree_entry(file: Path, folder: Path) -> dict[str, Any]:
    content = file.read_bytes()
    return {
        "type": "file",
        "path": str(file.relative_to(folder)),
        "size": len(content),
        "oid": hashlib.sha1(content).hexdigest(),
    }
