"""HTTP to a model's server: every call bounded in time and in bytes, every failure in its words.

    ModelServerFailure     the call brought no answer; the message is safe to show
    ├── RefusedError       for good: a wrong key, a wrong address, an image that is not taken
    └── FailedError        another try may do better: overload, a reply cut off
        └── UnreachableError   nothing answers at all

A server knows best why it refuses ("image input is not supported", "Incorrect API key"), so its
words are part of every message: out of JSON of any shape or a web page, shortened, without control
characters and without our key.
"""

import asyncio
import html
import ipaddress
import json
import math
import os
import re
import ssl
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from secondlook_client.errors import BadSetting, SecondlookError, Unavailable
from secondlook_client.tracing import client_span

MAX_REPLY_BYTES = 4 << 20
"""The longest reply that is read. An answer has a few kilobytes, the list of a large provider's
models below one megabyte."""
SHOWN_WORDS = 300
"""Characters of a server's words that are shown."""

_BUSY = (408, 425, 429)
"""Statuses below 500 that another try may get past."""

T = TypeVar("T")


class ModelServerFailure(Exception):
    """A call brought no answer; the message is safe to show. ``status`` is 0 where there is none.

    ``words`` are the server's own, empty where it said nothing.
    """

    def __init__(self, message: str, status: int = 0, words: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.words = words


class RefusedError(ModelServerFailure):
    """The server refused for good."""


class FailedError(ModelServerFailure):
    """The server failed and may do better on the next try."""

    def __init__(
        self, message: str, status: int = 0, words: str = "", retry_after_s: float = 0.0
    ) -> None:
        """``retry_after_s``: how long the server asked to wait."""
        super().__init__(message, status, words)
        self.retry_after_s = retry_after_s


class UnreachableError(FailedError):
    """Nothing answers at all: no other question of this batch will fare better either."""


@dataclass(frozen=True)
class ServerAddress:
    """Where a server is, and who asks it."""

    url: str
    """Without a user, a query and a closing slash: safe to show."""
    auth: tuple[str, str] | None = None
    """User and password, when the address had them."""


def split_spec(argument: str) -> tuple[str, str]:
    """(model, address) of ``MODEL@ADDRESS``; the address is empty where none is given.

    A model's name may have "@" and ":" itself, as in ``name@sha256:…`` or ``name:tag``.
    """
    model, scheme, rest = re.fullmatch(
        r"(.*?)(?:@(https?://)(.*))?", argument, re.DOTALL | re.IGNORECASE
    ).groups()  # type: ignore[union-attr]
    if scheme:
        return model, scheme + rest
    model, at, host = argument.rpartition("@")
    if not at or not _is_host(host):
        return argument, ""
    named, at, user = model.rpartition("@")
    if at and ":" in user and not re.fullmatch(r"sha\d+:[0-9a-f]+", user):
        return named, f"{user}@{host}"  # a password must not become a part of the model's name
    return model, host


def _is_host(text: str) -> bool:
    if re.fullmatch(r"(\[[0-9a-f:.%]+\]|[a-z0-9._-]+)(:\d{1,5})?(/\S*)?", text, re.IGNORECASE):
        return True
    return _is_ipv6(text)


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def parse_address(text: str, default_port: int | None = None) -> ServerAddress:
    """The address in ``text``: a URL, or ``HOST[:PORT][/PATH]`` for http.

    ``default_port`` is that of an address without a scheme. Raises ``BadSetting``.
    """
    bare = "://" not in text
    if bare:
        text = f"http://[{text}]" if _is_ipv6(text) else f"http://{text}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as wrong:
        raise BadSetting(f"the address of a model server is wrong: {wrong}") from wrong
    if not host or parts.scheme.lower() not in ("http", "https") or re.search(r"\s", text):
        raise BadSetting("the address of a model server is http://HOST:PORT, or https://…")
    if bare and port is None:
        port = default_port
    host = "127.0.0.1" if host == "0.0.0.0" else host
    place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port is not None else "")
    url = urlunsplit((parts.scheme.lower(), place, parts.path.rstrip("/"), "", ""))
    user = (unquote(parts.username or ""), unquote(parts.password or ""))
    return ServerAddress(url, user if any(user) else None)


class ModelServer:
    """Calls to one server. Thread-safe; needs httpx."""

    def __init__(
        self,
        address: ServerAddress,
        name: str,
        timeout_s: float,
        *,
        key: str = "",
        key_hint: str = "",
        path_hint: str = "",
    ) -> None:
        """``name`` is what errors call the server; ``key`` is sent as a bearer token.

        ``timeout_s`` bounds a call, however many bytes come meanwhile. ``key_hint`` says where a
        key is set, ``path_hint`` what to do about a status 404 when the address has no path.
        """
        import httpx

        self.url = address.url
        self.name = name
        self._timeout_s = timeout_s
        self.has_path = bool(urlsplit(self.url).path)
        self._hints = {401: key_hint, 403: key_hint, 404: "" if self.has_path else path_hint}
        self._secrets = tuple(s for s in (key, *(address.auth or ())) if len(s) > 3)
        headers = {"Accept-Encoding": "identity", "User-Agent": "secondlook"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx.AsyncClient(
            base_url=f"{self.url}/",
            headers=headers,
            auth=address.auth,
            timeout=None,  # httpx limits each read, which a server that drips never exceeds
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        )

    def call(self, method: str, path: str, body: Any = None, left_s: float = math.inf) -> Any:
        """``request``, waited for; from a thread that runs no event loop."""
        return submit(self.request(method, path, body, left_s=left_s)).result()

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        left_s: float = math.inf,
        silence_s: float = 0.0,
    ) -> Any:
        """The JSON that the server answers with; raises ``ModelServerFailure``.

        The call ends after ``timeout_s`` or ``left_s``, whichever is less. ``silence_s`` is granted
        for the first byte where that is more, to a server that loads a model first.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        until_first = min(max(self._timeout_s, silence_s), left_s)
        try:
            async with asyncio.timeout(until_first) as limit:
                with client_span(f"{method} {path}", self.url) as headers:
                    sent = self._client.stream(method, path, json=body, headers=headers)
                    async with sent as reply:
                        ends = min(limit.when() or math.inf, loop.time() + self._timeout_s)
                        limit.reschedule(ends)
                        content = await self._content(reply)
        except TimeoutError as late:
            waited = f"{loop.time() - began:.3g} s"
            raise UnreachableError(f"{self.name} did not answer in time ({waited})") from late
        except ModelServerFailure:
            raise
        except Exception as failure:
            raise self._broken(failure) from failure
        return self._read(reply, content, path)

    async def _content(self, reply: Any) -> bytes:
        parts, size = [], 0
        async for part in reply.aiter_bytes():
            size += len(part)
            if size > MAX_REPLY_BYTES:
                raise FailedError(f"{self.name} sent more than {MAX_REPLY_BYTES >> 20} MiB")
            parts.append(part)
        return b"".join(parts)

    def _broken(self, failure: Exception) -> Exception:
        """Of a call that ended without a reply."""
        import httpx

        cause = printable(_root_cause(failure))
        if isinstance(failure, httpx.InvalidURL | httpx.UnsupportedProtocol):
            return RefusedError(f"the address {self.url} cannot be used: {cause}")
        if "CERTIFICATE_VERIFY_FAILED" in cause:
            why = cause.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
            return UnreachableError(
                f"the certificate of {self.url} is not trusted ({why or cause}); name a file with "
                "the certificate of its issuer in SSL_CERT_FILE"
            )
        if "WRONG_VERSION_NUMBER" in cause or "RECORD_LAYER_FAILURE" in cause:
            return UnreachableError(f"the server at {self.url} speaks no TLS; use http://")
        if isinstance(failure, httpx.ConnectError):
            return UnreachableError(f"{self.name} cannot be reached at {self.url}: {cause}")
        if isinstance(failure, httpx.HTTPError):
            return FailedError(f"{self.name} sent a reply that is cut off: {cause}")
        return failure

    def _read(self, reply: Any, content: bytes, path: str) -> Any:
        """The reply's JSON, unless it is an error, whatever its status."""
        value, words = _decode(content, reply.headers.get("content-type", ""))
        for secret in self._secrets:
            words = words.replace(secret, "…")
        status = int(reply.status_code)
        if status != 200:
            raise self._failure(status, words, reply.headers, path)
        if isinstance(value, dict) and (value.get("error") or value.get("object") == "error"):
            raise self._failure(_status_in(value), words, reply.headers, path)
        if value is None:
            said = f": {words}" if words else ""
            raise FailedError(
                f"{self.name} sent a reply that is cut off or no JSON{said}", words=words
            )
        return value

    def _failure(self, status: int, words: str, headers: Mapping[str, str], path: str) -> Exception:
        """What an HTTP status means: another try, or none."""
        said = f"{f'status {status}' if status else 'an error'}{f': {words}' if words else ''}"
        if 300 <= status < 400:
            to = shown_url(headers.get("location", ""))
            text = f"{self.name} at {self.url} redirects to {to or 'nowhere'}; name that address"
            return RefusedError(text, status, words)
        if status in _BUSY or status >= 500 or not status:
            wait_s = retry_after_s(headers.get("retry-after", ""))
            asks = f" (it asks to wait {wait_s:.0f} s)" if wait_s >= 1 else ""
            return FailedError(f"{self.name} answered with {said}{asks}", status, words, wait_s)
        hint = f"; {self._hints[status]}" if self._hints.get(status) else ""
        if status in (401, 403):
            does = "wants another key" if status == 401 else "does not allow this"
            return RefusedError(f"{self.name} {does} ({said}){hint}", status, words)
        if status == 404:
            place = f"{self.url}/{path}"
            return RefusedError(f"{self.name} has nothing at {place} ({said}){hint}", status, words)
        return RefusedError(f"{self.name} refused the question with {said}", status, words)


def submit(work: Coroutine[Any, Any, T]) -> "Future[T]":
    """Run a coroutine on the event loop of all model servers."""
    return asyncio.run_coroutine_threadsafe(work, _event_loop())


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """A loop in a thread of its own: only there can a call be ended at any moment.

    A daemon, so that a call under way does not hold up the end of the process.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="model-servers", daemon=True).start()
    return loop


def start_error(failure: ModelServerFailure, url: str) -> SecondlookError:
    """What a failure means when a verifier is loaded."""
    if isinstance(failure, RefusedError):
        return BadSetting(str(failure))
    if failure.status:  # llama.cpp says 503 while it loads a model
        return Unavailable(f"{failure}; start again when the server at {url} is ready")
    return Unavailable(f"no server answers at {url}; start it, or correct the address ({failure})")


def _root_cause(failure: BaseException) -> str:
    """The words of the first failure: later ones say "all connection attempts failed"."""
    cause: BaseException | None = failure
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        failure, cause = cause, cause.__cause__ or cause.__context__
    number = failure.errno if isinstance(failure, OSError) else None
    if number and number > 0 and not isinstance(failure, ssl.SSLError):
        return os.strerror(number)  # asyncio's own words name functions and addresses
    return str(failure) or type(failure).__name__


def retry_after_s(header: str) -> float:
    """Seconds that a ``Retry-After`` header asks to wait, given as seconds or as a date."""
    try:
        return max(float(header), 0.0) if re.fullmatch(r"\d{1,9}", header) else _until(header)
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _until(date: str) -> float:
    then = parsedate_to_datetime(date)
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max((then - datetime.now(UTC)).total_seconds(), 0.0)


def shown_url(url: str) -> str:
    """A URL without user, password, query and fragment: those may be secrets."""
    try:
        parts = urlsplit(url)
        place = parts.netloc.rpartition("@")[2]
        return printable(urlunsplit((parts.scheme, place, parts.path, "", "")))
    except ValueError:
        return ""


def printable(text: str, length: int = SHOWN_WORDS) -> str:
    """One line of at most ``length`` characters that no terminal takes for a command."""
    line = " ".join(text[: 4 * length].split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= length else line[: length - 1] + "…"


def _decode(content: bytes, kind: str) -> tuple[Any, str]:
    """(JSON or None, the words in it) of a body of any kind."""
    text = content.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        page = "html" in kind.lower() or re.match(r"\s*<(!doctype|html)", text, re.IGNORECASE)
        return None, printable(_page_words(text) if page else text)
    return value, printable(_words_in(value))


def _page_words(page: str) -> str:
    """The title of a web page, or else its text."""
    page = page[: 16 << 10]
    title = re.search(r"<title[^>]*>([^<]*)", page, re.IGNORECASE)
    if title and title[1].strip():
        return f"the web page '{html.unescape(title[1]).strip()}'"
    text = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL | re.IGNORECASE)
    return f"a web page: {html.unescape(text).strip()}"


def _words_in(value: Any, depth: int = 0) -> str:
    """The sentence in an error of any of the usual shapes; empty where there is none."""
    if isinstance(value, str):
        return value
    if depth > 4:
        return ""
    if isinstance(value, list):
        return "; ".join(filter(None, (_words_in(one, depth + 1) for one in value[:3])))
    if isinstance(value, dict):
        for name in ("error", "message", "detail", "msg", "title", "reason"):
            if words := _words_in(value.get(name), depth + 1):
                where = value.get("loc")  # as FastAPI names the field
                return f"{_path(where)}: {words}" if isinstance(where, list) else words
    return ""


def _path(where: list[Any]) -> str:
    return ".".join(str(part) for part in where[:6])


def _status_in(value: Mapping[str, Any]) -> int:
    """The status that an error names which came with status 200; 0 when it names none."""
    error = value.get("error")
    code = error.get("code") if isinstance(error, dict) else value.get("code")
    return code if isinstance(code, int) and 400 <= code < 600 else 0
