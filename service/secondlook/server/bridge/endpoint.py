"""The HTTP server: the page's files, images of the store, and each RPC as a gRPC call to itself.

aiohttp's low-level server: parsing and connections are its, and what is served stands here. All
input is a stranger's: the head, the body and the answer of a request have a time and a size, and
the connections have a number.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar
from uuid import uuid4

import grpc
from aiohttp import web

from secondlook.config.settings import ServerSettings
from secondlook.server.addresses import explain_web_failure, format_address
from secondlook.server.auth import FORWARDED, HEADER
from secondlook.server.bridge import connect
from secondlook.server.bridge.connect import ConnectError, ConnectMethod
from secondlook.server.bridge.page_files import PageFiles
from secondlook.server.bridge.page_images import PageImages, parse_view
from secondlook.server.bridge.same_origin import HEADERS, check_host, check_site
from secondlook.server.call_limits import ANSWER_TAKEN_S, FAIR_BYTES_S, RequestBytes
from secondlook.server.interceptors import INTERNAL_MESSAGE, OURS
from secondlook_client.errors import (
    BadRequest,
    BadSetting,
    DeadlineExceeded,
    MessageTooLarge,
    NotSupported,
    SecondlookError,
    ServerFailure,
)

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 256
"""A browser opens six; idle ones make room for others."""
HEAD_S = 10.0
"""Time of a new connection for its first request."""
KEEP_ALIVE_S = 75.0
"""Of a connection without a request."""
LINGER_S = 1.0
"""How long the rest of a request that was refused is read, so that the client reads why."""
STOP_S = 0.5
"""For answers that are being sent when the server stops."""
THREADS = 4
"""Messages converted to or from JSON at the same time, where they are large."""
LARGE_BYTES = 32 * 2**10
"""A message with more is converted in a thread: it takes a millisecond or longer."""
IMAGES, ORIGINALS = "/images/", "/originals/"
FOREVER = "private, max-age=31536000, immutable"
"""An image's address has its hash, so its content never changes."""
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
    ) -> None:
        """``max_message_bytes``: of one gRPC message.

        ``check`` takes the address and the ``Authorization`` headers of whoever wants an image,
        and raises what refuses it.
        """
        self._settings = settings
        self._max_message_bytes = max_message_bytes
        self._images = images
        self._files = files or PageFiles()
        self._check = check
        self._bodies = RequestBytes(max(settings.max_request_bytes, 2 * max_message_bytes))
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="connect-json")
        self._channel: grpc.aio.Channel | None = None
        self._runner: web.ServerRunner | None = None
        self.address = ""
        """``http://host:port``, once it listens."""

    async def start(self, grpc_address: str) -> None:
        """Listen, and call the gRPC server at ``grpc_address``. Raises ``BadSetting``."""
        host, port = self._settings.web_host, self._settings.web_port or 0
        self._channel = grpc.aio.insecure_channel(grpc_address, options=_ANY_SIZE)
        self._runner = web.ServerRunner(_BoundedServer(self._serve), shutdown_timeout=STOP_S)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port, backlog=MAX_CONNECTIONS).start()
        except OSError as cause:
            await self.stop()
            raise BadSetting(explain_web_failure(host, port)) from cause
        self.address = f"http://{format_address(host, self._runner.addresses[0][1])}"

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
        check_host(request.headers.get("Host"), self._settings.web_host)
        path = request.path
        if path.startswith(OURS):
            if request.method != "POST":
                return await self._plain(request, 405, "expected POST", {"Allow": "POST"})
            check_site(request.headers)
            return await self._call(request, path, request_id)
        if request.method not in ("GET", "HEAD"):
            return await self._plain(request, 405, "expected GET", {"Allow": "GET, HEAD"})
        if path.startswith((IMAGES, ORIGINALS)):
            check_site(request.headers)
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
        return await _sent(request, _response(await self._json(method, answer), connect.UNARY, {}))

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
        await _in_time(response.prepare(request), request)
        try:
            text = connect.opened_envelope(body)
            message = await self._converted(len(text), lambda: connect.message_bytes(method, text))
        except SecondlookError as failure:
            ending = connect.end_of_stream(connect.error_of(failure, request_id))
        else:
            ending = await self._streamed(request, response, method, message, timeout_s)
        await _in_time(response.write(ending), request)
        await _in_time(response.write_eof(), request)
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
                await _in_time(response.write(connect.enveloped(content)), request)
        except grpc.aio.AioRpcError as failure:
            return connect.end_of_stream(connect.error_of_call(failure))
        finally:
            call.cancel()
        return connect.end_of_stream()

    async def _json(self, method: ConnectMethod, answer: bytes) -> bytes:
        return await self._converted(len(answer), lambda: connect.message_json(method, answer))

    @asynccontextmanager
    async def _body(self, request: web.BaseRequest, most: int) -> AsyncIterator[bytes]:
        """What a request brings, counted as long as it is worked on; raises as ``_received``."""
        body = await self._received(request, most)
        try:
            yield body
        finally:
            self._bodies.give(len(body))

    async def _received(self, request: web.BaseRequest, most: int) -> bytes:
        """The body, of ``most`` bytes at most; counted in ``_bodies`` where it is whole.

        Raises ``MessageTooLarge``, ``Busy``, ``BadRequest`` for one that is cut off, and
        ``DeadlineExceeded`` for one that comes slowly.
        """
        time_s, loop = self._settings.receive_timeout_s, asyncio.get_running_loop()
        parts: list[bytes] = []
        size, ends = 0, loop.time() + time_s
        try:
            async with asyncio.timeout_at(ends) as limit:
                async for part in request.content.iter_any():
                    if size + len(part) > most:
                        raise MessageTooLarge(f"expected at most {most:,} bytes of JSON, got more")
                    self._bodies.take(len(part))
                    size += len(part)
                    parts.append(part)
                    limit.reschedule(ends + size / FAIR_BYTES_S)
        except BaseException as failure:
            self._bodies.give(size)
            if isinstance(failure, TimeoutError):
                late = "the request did not arrive in time; send it again"
                raise DeadlineExceeded(late) from None
            if isinstance(failure, web.RequestPayloadError):
                raise BadRequest("the body of the request was cut off") from None
            raise
        return b"".join(parts)

    async def _converted(self, size: int, work: Callable[[], T]) -> T:
        if size <= LARGE_BYTES:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _image(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        if path.startswith(ORIGINALS):
            content = await self._images.original(path.removeprefix(ORIGINALS))
            kept = {"Cache-Control": FOREVER, "Content-Disposition": "attachment"}
            return await _sent(request, _response(content, "application/octet-stream", kept))
        view = parse_view(path.removeprefix(IMAGES), request.query)
        content = await self._images.view(view)
        kept = {"Cache-Control": FOREVER}
        return await _sent(request, _response(content, "image/jpeg", kept))

    async def _file(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        found = self._files.get(path)
        kept = {"ETag": found.etag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == found.etag:
            return await _sent(request, _response(b"", found.content_type, kept, 304))
        return await _sent(request, _response(found.content, found.content_type, kept))

    async def _refused(self, request: web.BaseRequest, error: ConnectError) -> web.StreamResponse:
        log.info(
            "a web request was refused",
            extra={
                "method": request.path[:200],
                "code": error.code,
                "request_id": error.metadata.get("secondlook-request-id", ""),
            },
        )
        _check_unanswered(request)
        content = connect.error_json(error)
        response = _response(content, connect.UNARY, error.metadata, error.http_status)
        return await _sent(request, response)

    async def _plain(
        self, request: web.BaseRequest, status: int, message: str, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        """What Connect leaves to HTTP."""
        content = json.dumps({"code": "unknown", "message": message}).encode()
        return await _sent(request, _response(content, connect.UNARY, headers, status))


class _Connection(web.RequestHandler):
    """aiohttp's connection, which logs a traceback and tells its version when it gets no HTTP."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """aiohttp's hook: the answer to what is no request."""
        _check_unanswered(request)
        told = connect.ConnectError("invalid_argument", "expected a request of HTTP/1.1")
        response = _response(connect.error_json(told), connect.UNARY, {}, told.http_status)
        response.force_close()
        return response


class _BoundedServer(web.Server):
    """aiohttp's server with a number of connections, and a time for the first request of each."""

    def __init__(self, serve: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        super().__init__(self._counted, handler_cancellation=True)  # who has gone needs no answer
        self._serve = serve
        self._idle: dict[Any, None] = {}
        """Transports without a request, in the order in which they became idle."""
        self._silent: dict[Any, asyncio.TimerHandle] = {}
        """Transports that have sent no request yet."""

    def __call__(self) -> web.RequestHandler:
        """asyncio's hook: what speaks on a new connection."""
        return _Connection(
            self,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # none is kept
            keepalive_timeout=KEEP_ALIVE_S,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        """aiohttp's hook."""
        super().connection_made(handler, transport)
        if len(self.connections) > MAX_CONNECTIONS:
            oldest = next(iter(self._idle), transport)
            self._idle.pop(oldest, None)  # at once: the loop tells of its end later
            oldest.abort()
            if oldest is transport:
                return
        self._idle[transport] = None
        timer = asyncio.get_running_loop().call_later(HEAD_S, transport.abort)
        self._silent[transport] = timer

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        """aiohttp's hook."""
        transport = self._connections.get(handler)
        self._idle.pop(transport, None)
        self._spoke(transport)
        super().connection_lost(handler, exc)

    def _spoke(self, transport: Any) -> None:
        if timer := self._silent.pop(transport, None):
            timer.cancel()

    async def _counted(self, request: web.BaseRequest) -> web.StreamResponse:
        transport = request.transport
        self._spoke(transport)
        self._idle.pop(transport, None)
        try:
            return await self._serve(request)
        finally:
            if transport is not None and not transport.is_closing():
                self._idle[transport] = None


def _check_unanswered(request: web.BaseRequest) -> None:
    """Raises ``ConnectionResetError``, which closes the connection, where an answer has begun."""
    if request.writer.output_size > 0:
        raise ConnectionResetError("the answer failed in the middle")


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


def _response(
    content: bytes, kind: str, headers: Mapping[str, str], status: int = 200
) -> web.Response:
    known = {**HEADERS, "Content-Type": kind, "Cache-Control": "no-store"}
    return web.Response(body=content, status=status, headers={**known, **headers})


async def _sent(request: web.BaseRequest, response: web.Response) -> web.Response:
    """Send an answer here, where it has a time, and not behind the handler, where it has none."""
    await _in_time(response.prepare(request), request)
    await _in_time(response.write_eof(), request)
    return response


async def _in_time(sending: Awaitable[Any], request: web.BaseRequest) -> None:
    """Raises ``ConnectionResetError`` after closing the connection of a client that does not read
    what it is sent."""
    try:
        async with asyncio.timeout(ANSWER_TAKEN_S):
            await sending
    except TimeoutError:
        with suppress(AttributeError):
            request.transport.abort()  # type: ignore[union-attr]
        raise ConnectionResetError("the client does not read its answer") from None
