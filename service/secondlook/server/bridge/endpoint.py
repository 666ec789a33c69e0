"""The HTTP server: the page's files, images of the store, and each RPC as a gRPC call to itself.

aiohttp's low-level server: parsing and connections are its, and what is served stands here. All
input is a stranger's: the head, the body and the answer of a request have a time and a size, and
the connections have a number.
"""

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar
from uuid import uuid4

import grpc
from aiohttp import web

from secondlook.config.settings import ServerSettings
from secondlook.server.addresses import explain_web_failure, format_address
from secondlook.server.auth import FORWARDED, HEADER
from secondlook.server.bridge import connect
from secondlook.server.bridge.bounded_http import (
    MAX_CONNECTIONS,
    BoundedServer,
    check_unanswered,
    in_time,
    received_body,
    response_of,
    sent,
)
from secondlook.server.bridge.connect import ConnectError, ConnectMethod
from secondlook.server.bridge.page_files import PageFiles
from secondlook.server.bridge.page_images import PageImages, parse_view
from secondlook.server.bridge.same_origin import HEADERS, check_host, check_site
from secondlook.server.call_limits import RequestBytes
from secondlook.server.interceptors import INTERNAL_MESSAGE, OURS
from secondlook_client.errors import (
    BadSetting,
    NotSupported,
    SecondlookError,
    ServerFailure,
)

log = logging.getLogger(__name__)

STOP_S = 0.5
"""For answers that are being sent when the server stops."""
THREADS = 4
"""Messages converted to or from JSON at the same time, where they are large."""
LARGE_BYTES = 32 * 2**10
"""A message with more is converted in a thread: it takes a millisecond or longer."""
IMAGES, ORIGINALS = "/images/", "/originals/"
FOREVER: Mapping[str, str] = {
    "Cache-Control": "private, max-age=31536000, immutable",
    "Vary": "Authorization",
}
"""An image's address has its hash, so its content never changes; a browser that has kept it shows
it to the same token only."""
_ANY_SIZE = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
"""The server itself has limits."""

T = TypeVar("T")


class WebEndpoint:
    """Listens for HTTP on the running event loop, between ``start`` and ``stop``."""

    def __init__(
        self,
        settings: ServerSettings,
        max_message_bytes: int,
        images: PageImages,
        files: PageFiles | None = None,
        check: Callable[[str, Sequence[str]], Awaitable[None]] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``max_message_bytes``: of one gRPC message.

        ``check`` takes the address and the ``Authorization`` headers of whoever wants an image,
        and raises what refuses it. With ``tls`` the page is served by https.
        """
        self._settings = settings
        self._max_message_bytes = max_message_bytes
        self._images = images
        self._files = files or PageFiles()
        self._check = check
        self._tls = tls
        self._scheme = "https" if tls else "http"
        self._names = settings.web_name_set | {settings.web_host}
        self._bodies = RequestBytes(max(settings.max_request_bytes, 2 * max_message_bytes))
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="connect-json")
        self._channel: grpc.aio.Channel | None = None
        self._runner: web.ServerRunner | None = None
        self.address = ""
        """``http://host:port`` or ``https://host:port``, once it listens."""

    async def start(self, grpc_address: str) -> None:
        """Listen, and call the gRPC server at ``grpc_address``. Raises ``BadSetting``."""
        host, port = self._settings.web_host, self._settings.web_port or 0
        self._channel = grpc.aio.insecure_channel(grpc_address, options=_ANY_SIZE)
        self._runner = web.ServerRunner(BoundedServer(self._serve), shutdown_timeout=STOP_S)
        await self._runner.setup()
        try:
            site = web.TCPSite(
                self._runner, host, port, backlog=MAX_CONNECTIONS, ssl_context=self._tls
            )
            await site.start()
        except OSError as cause:
            await self.stop()
            raise BadSetting(explain_web_failure(host, port)) from cause
        self.address = f"{self._scheme}://{format_address(host, self._runner.addresses[0][1])}"

    async def stop(self) -> None:
        """Close every connection; what is being sent has ``STOP_S``."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._channel is not None:
            await self._channel.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._images.close()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """aiohttp's hook: one request."""
        request_id = uuid4().hex[:12]
        try:
            return await self._answered(request, request_id)
        except SecondlookError as failure:
            return await self._refused(request, connect.error_of(failure, request_id))
        except (ConnectionError, asyncio.CancelledError):  # the client has gone
            raise
        except Exception:
            log.exception("a web request failed", extra={"request_id": request_id})
            told = ServerFailure(INTERNAL_MESSAGE.format(request_id=request_id), reason="internal")
            return await self._refused(request, connect.error_of(told, request_id))

    async def _answered(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        check_host(request.headers.get("Host"), self._names | {_own_address(request)})
        path = request.path
        if path.startswith(OURS):
            if request.method != "POST":
                return await self._plain(request, 405, "expected POST", {"Allow": "POST"})
            check_site(request.headers, self._scheme)
            return await self._call(request, path, request_id)
        if request.method not in ("GET", "HEAD"):
            return await self._plain(request, 405, "expected GET", {"Allow": "GET, HEAD"})
        if path.startswith((IMAGES, ORIGINALS)):
            check_site(request.headers, self._scheme)
            if self._check is not None:
                await self._check(request.remote or "", _credentials(request))
            return await self._image(request, path)
        return await self._file(request, path)

    async def _call(
        self, request: web.BaseRequest, path: str, request_id: str
    ) -> web.StreamResponse:
        method = connect.find_method(path)
        expected = connect.STREAMING if method.streaming else connect.UNARY
        if _content_type(request) != expected:
            accepted = {"Accept-Post": expected}
            return await self._plain(request, 415, f"expected Content-Type {expected}", accepted)
        timeout_s = connect.timeout_of(request.headers.get("Connect-Timeout-Ms"))
        encoding = request.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise NotSupported(f"Content-Encoding '{encoding:.40}' is not supported; leave it out")
        async with self._body(request, method.max_json_bytes(self._max_message_bytes)) as body:
            if method.streaming:
                return await self._stream(request, method, body, timeout_s, request_id)
            return await self._unary(request, method, body, timeout_s)

    async def _unary(
        self, request: web.BaseRequest, method: ConnectMethod, body: bytes, timeout_s: float | None
    ) -> web.StreamResponse:
        message = await self._converted(len(body), lambda: connect.message_bytes(method, body))
        assert self._channel is not None
        try:
            answer = await self._channel.unary_unary(method.path)(
                message, timeout=timeout_s, metadata=_caller(request)
            )
        except grpc.aio.AioRpcError as failure:
            return await self._refused(request, connect.error_of_call(failure))
        return await sent(request, response_of(await self._json(method, answer), connect.UNARY, {}))

    async def _stream(
        self,
        request: web.BaseRequest,
        method: ConnectMethod,
        body: bytes,
        timeout_s: float | None,
        request_id: str,
    ) -> web.StreamResponse:
        """Failures after the head of the answer travel in its last message, as all do here."""
        response = web.StreamResponse(
            headers={**HEADERS, "Content-Type": connect.STREAMING, "Cache-Control": "no-store"}
        )
        await in_time(response.prepare(request), request)
        try:
            text = connect.opened_envelope(body)
            message = await self._converted(len(text), lambda: connect.message_bytes(method, text))
        except SecondlookError as failure:
            ending = connect.end_of_stream(connect.error_of(failure, request_id))
        else:
            ending = await self._streamed(request, response, method, message, timeout_s)
        await in_time(response.write(ending), request)
        await in_time(response.write_eof(), request)
        return response

    async def _streamed(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        method: ConnectMethod,
        message: bytes,
        timeout_s: float | None,
    ) -> bytes:
        """Write every answer; the last message."""
        assert self._channel is not None
        call = self._channel.unary_stream(method.path)(
            message, timeout=timeout_s, metadata=_caller(request)
        )
        try:
            async for answer in call:
                content = await self._json(method, answer)
                await in_time(response.write(connect.enveloped(content)), request)
        except grpc.aio.AioRpcError as failure:
            return connect.end_of_stream(connect.error_of_call(failure))
        finally:
            call.cancel()
        return connect.end_of_stream()

    async def _json(self, method: ConnectMethod, answer: bytes) -> bytes:
        return await self._converted(len(answer), lambda: connect.message_json(method, answer))

    @asynccontextmanager
    async def _body(self, request: web.BaseRequest, most: int) -> AsyncIterator[bytes]:
        """What a request brings, counted while it is worked on; raises as ``received_body``."""
        time_s = self._settings.receive_timeout_s
        body = await received_body(request, most, time_s, self._bodies)
        try:
            yield body
        finally:
            self._bodies.give(len(body))

    async def _converted(self, size: int, work: Callable[[], T]) -> T:
        if size <= LARGE_BYTES:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _image(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        if path.startswith(ORIGINALS):
            content = await self._images.original(path.removeprefix(ORIGINALS))
            kept = {**FOREVER, "Content-Disposition": "attachment"}
            return await sent(request, response_of(content, "application/octet-stream", kept))
        view = parse_view(path.removeprefix(IMAGES), request.query)
        content = await self._images.view(view)
        return await sent(request, response_of(content, "image/jpeg", FOREVER))

    async def _file(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        found = self._files.get(path)
        kept = {"ETag": found.etag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == found.etag:
            return await sent(request, response_of(b"", found.content_type, kept, 304))
        return await sent(request, response_of(found.content, found.content_type, kept))

    async def _refused(self, request: web.BaseRequest, error: ConnectError) -> web.StreamResponse:
        log.info(
            "a web request was refused",
            extra={
                "method": request.path[:200],
                "code": error.code,
                "request_id": error.metadata.get("secondlook-request-id", ""),
            },
        )
        check_unanswered(request)
        content = connect.error_json(error)
        response = response_of(content, connect.UNARY, error.metadata, error.http_status)
        return await sent(request, response)

    async def _plain(
        self, request: web.BaseRequest, status: int, message: str, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        """What Connect leaves to HTTP."""
        content = json.dumps({"code": "unknown", "message": message}).encode()
        return await sent(request, response_of(content, connect.UNARY, headers, status))


def _own_address(request: web.BaseRequest) -> str:
    """The address of this machine that the client has connected to."""
    found = request.get_extra_info("sockname")
    return str(found[0]).partition("%")[0] if found else ""


def _credentials(request: web.BaseRequest) -> list[str]:
    return [value for value in request.headers.getall("Authorization", []) if value.isascii()]


def _caller(request: web.BaseRequest) -> tuple[tuple[str, str], ...]:
    """Who makes the call: by the server's own socket it needs the token of its client."""
    shown = ((HEADER, value) for value in _credentials(request))
    return ((FORWARDED, request.remote or ""), *shown)


def _content_type(request: web.BaseRequest) -> str:
    """Without parameters; empty where another character set than UTF-8 is named."""
    charset = request.charset or "utf-8"
    return request.content_type if charset.lower() in ("utf-8", "utf8") else ""
