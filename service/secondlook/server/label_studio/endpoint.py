"""Label Studio's protocol of backends over HTTP, within the bounds of the page's server.

    GET  /health, /   {"status": "UP", "model_class": …}
    POST /setup       {"model_version": …}
    POST /predict     {"results": […]}, one for each task
    POST /webhook     an annotation that was handed in; 201 once it is kept, or accepted
    POST /train       nothing is trained here; the reviews are kept as they come

With a password every request but that for its health has to show it, as HTTP's basic
authentication has it (whatever the name), or as ``Authorization: Token …``. Without one only this
machine is answered, and no web page.
"""

import asyncio
import base64
import binascii
import hmac
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

from aiohttp import web

from secondlook.server.addresses import format_address, is_loopback
from secondlook.server.bridge.bounded_http import (
    MAX_CONNECTIONS,
    BoundedServer,
    check_unanswered,
    received_body,
    response_of,
    sent,
)
from secondlook.server.bridge.connect import http_status_of
from secondlook.server.bridge.same_origin import check_host, check_site
from secondlook.server.call_limits import RequestBytes
from secondlook.server.interceptors import INTERNAL_MESSAGE
from secondlook.server.label_studio.backend import LabelStudioBackend
from secondlook_client.errors import (
    BadRequest,
    BadSetting,
    Busy,
    NotAuthenticated,
    NotFound,
    SecondlookError,
)

log = logging.getLogger(__name__)

MAX_BODY = 32 * 2**20
"""Bytes of a request: a hundred tasks, or an annotation with masks."""
BODIES = 4 * MAX_BODY
RECEIVE_S = 30.0
WEBHOOK_S = 0.7
"""An event is answered after this time even if it is not kept yet: Label Studio hangs up after a
second, and does not send it again."""
MAX_PENDING = 256
"""Events that are being kept."""
STOP_S = 0.5
_JSON = "application/json"
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="secondlook"'}


def check_bind(host: str, password: str) -> None:
    """Raises ``BadSetting`` for an address that others reach, without a password."""
    if not password and not is_loopback(host):
        raise BadSetting(
            f"others reach {host}, so give --password-file FILE, with what Label Studio has to "
            "show; or leave --host out, for this machine alone"
        )


class LabelStudioEndpoint:
    """Listens on the running event loop; see ``listening``."""

    def __init__(self, backend: LabelStudioBackend, password: str = "") -> None:
        self._backend, self._password = backend, password
        self._bodies = RequestBytes(BODIES)
        self._pending: set[asyncio.Task[int | None]] = set()

    @asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[str]:
        """Listen until the block ends, and then keep what was accepted; gives the address.

        Raises ``BadSetting`` for an address that cannot be had.
        """
        check_bind(host, self._password)
        runner = web.ServerRunner(BoundedServer(self._serve), shutdown_timeout=STOP_S)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, host, port, backlog=MAX_CONNECTIONS).start()
            except OSError:
                raise BadSetting(
                    f"cannot listen on {format_address(host, port)}; is the port taken? Give "
                    "another one with --port"
                ) from None
            yield f"http://{format_address(host, runner.addresses[0][1])}"
        finally:
            await runner.cleanup()
            await asyncio.gather(*self._pending, return_exceptions=True)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """aiohttp's hook: one request."""
        try:
            status, plain = await self._answered(request)
            return await _answer(request, status, plain)
        except SecondlookError as failure:
            log.warning("%s: %s", request.path[:200], failure)
            return await _answer(request, http_status_of(failure), {"error": str(failure)})
        except (ConnectionError, asyncio.CancelledError):  # the client has gone
            raise
        except Exception:
            request_id = uuid4().hex[:12]
            log.exception("a request of Label Studio failed", extra={"request_id": request_id})
            told = INTERNAL_MESSAGE.format(request_id=request_id)
            return await _answer(request, 500, {"error": told})

    async def _answered(self, request: web.BaseRequest) -> tuple[int, Any]:
        if not self._password:
            check_host(request.headers.get("Host"), frozenset())
            check_site(request.headers, "http")
        if request.path in ("/", "/health"):
            return 200, {"status": "UP", "model_class": "secondlook"}
        self._check_password(request)
        if request.method != "POST":
            raise NotFound("expected a POST of /setup, /predict, /webhook or /train")
        if request.content_type != _JSON:  # which a form of a web page cannot send
            raise BadRequest(f"expected Content-Type {_JSON}")
        body = await received_body(request, MAX_BODY, RECEIVE_S, self._bodies)
        try:
            return await self._routed(request.path, await _parsed(body))
        finally:
            self._bodies.give(len(body))

    async def _routed(self, path: str, plain: dict[str, Any]) -> tuple[int, Any]:
        if path == "/setup":
            return 200, {"model_version": await self._backend.version(plain, "schema")}
        if path == "/predict":
            return 200, {"results": await self._backend.predict(plain)}
        if path == "/webhook":
            return await self._event(plain)
        if path == "/train":
            return 200, {"status": "nothing is trained here; reviews are kept as they come"}
        raise NotFound("expected /health, /setup, /predict, /webhook or /train")

    async def _event(self, plain: dict[str, Any]) -> tuple[int, Any]:
        """Keep an annotation, even if Label Studio hangs up meanwhile."""
        if len(self._pending) >= MAX_PENDING:
            raise Busy("too many annotations at a time", retry_after_s=1.0)
        task = asyncio.create_task(self._backend.annotated(plain))
        self._pending.add(task)
        task.add_done_callback(self._finished)
        done, _ = await asyncio.wait({task}, timeout=WEBHOOK_S)
        if not done:
            return 201, {"status": "accepted"}
        kept = task.result()
        return (200, {"status": "ignored"}) if kept is None else (201, {"reviews": kept})

    def _finished(self, task: "asyncio.Task[int | None]") -> None:
        self._pending.discard(task)
        if not task.cancelled() and (failure := task.exception()):
            log.error(
                "an annotation is not kept (%s); export the project as JSON, and read it with "
                "`secondlook review import`",
                failure if isinstance(failure, SecondlookError) else type(failure).__name__,
            )

    def _check_password(self, request: web.BaseRequest) -> None:
        """Raises ``NotAuthenticated``. The time that it takes does not tell how much is right."""
        if self._password:
            shown = _password_of(request.headers.get("Authorization", ""))
            known = self._password.encode()
            if not hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), known):
                raise NotAuthenticated(
                    "expected the password of --password-file: in the backend's settings choose "
                    "basic authentication, and give the webhook a header Authorization"
                )


def _password_of(header: str) -> str:
    """What an ``Authorization`` header shows; empty where it is of another kind."""
    kind, _, rest = header.partition(" ")
    if kind.lower() in ("token", "bearer"):
        return rest.strip()
    if kind.lower() == "basic":
        with suppress(binascii.Error, ValueError):
            return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[2]
    return ""


async def _parsed(body: bytes) -> dict[str, Any]:
    """The object in a body; in a thread, for a large one takes a while. Raises ``BadRequest``."""
    try:
        plain = await asyncio.to_thread(json.loads, body)
    except (ValueError, RecursionError):
        raise BadRequest("expected JSON") from None
    if not isinstance(plain, dict):
        raise BadRequest("expected an object of JSON")
    return plain


async def _answer(request: web.BaseRequest, status: int, plain: Any) -> web.Response:
    check_unanswered(request)
    content = await asyncio.to_thread(lambda: json.dumps(plain).encode())
    return await sent(
        request, response_of(content, _JSON, _CHALLENGE if status == 401 else {}, status)
    )
