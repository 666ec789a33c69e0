"""HTTP with bounds: what ``WebEndpoint`` and the backend of Label Studio serve by.

aiohttp's low-level server, with what it lacks: a number of connections, a time for the first
request of each, for a body at a fair rate, and for an answer that nobody reads.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from aiohttp import web

from secondlook.server.bridge import connect
from secondlook.server.bridge.same_origin import HEADERS
from secondlook.server.call_limits import ANSWER_TAKEN_S, FAIR_BYTES_S, RequestBytes
from secondlook_client.errors import BadRequest, DeadlineExceeded, MessageTooLarge

MAX_CONNECTIONS = 256
"""A browser opens six; idle ones make room for others."""
HEAD_S = 10.0
"""Time of a new connection for its first request."""
KEEP_ALIVE_S = 75.0
"""Of a connection without a request."""
LINGER_S = 1.0
"""How long the rest of a request that was refused is read, so that the client reads why."""


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
        check_unanswered(request)
        told = connect.ConnectError("invalid_argument", "expected a request of HTTP/1.1")
        response = response_of(connect.error_json(told), connect.UNARY, {}, told.http_status)
        response.force_close()
        return response


class BoundedServer(web.Server):
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


def check_unanswered(request: web.BaseRequest) -> None:
    """Raises ``ConnectionResetError``, which closes the connection, where an answer has begun."""
    if request.writer.output_size > 0:
        raise ConnectionResetError("the answer failed in the middle")


async def received_body(
    request: web.BaseRequest, most: int, time_s: float, bodies: RequestBytes
) -> bytes:
    """The body, of ``most`` bytes at most; counted in ``bodies`` where it is whole.

    It has ``time_s`` seconds, and more at a fair rate. Raises ``MessageTooLarge``, ``Busy``,
    ``BadRequest`` for one that is cut off, and ``DeadlineExceeded`` for one that comes slowly.
    """
    loop = asyncio.get_running_loop()
    parts: list[bytes] = []
    size, ends = 0, loop.time() + time_s
    try:
        async with asyncio.timeout_at(ends) as limit:
            async for part in request.content.iter_any():
                if size + len(part) > most:
                    raise MessageTooLarge(f"expected at most {most:,} bytes of JSON, got more")
                bodies.take(len(part))
                size += len(part)
                parts.append(part)
                limit.reschedule(ends + size / FAIR_BYTES_S)
    except BaseException as failure:
        bodies.give(size)
        if isinstance(failure, TimeoutError):
            late = "the request did not arrive in time; send it again"
            raise DeadlineExceeded(late) from None
        if isinstance(failure, web.RequestPayloadError):
            raise BadRequest("the body of the request was cut off") from None
        raise
    return b"".join(parts)


def response_of(
    content: bytes, kind: str, headers: Mapping[str, str], status: int = 200
) -> web.Response:
    """An answer with the headers that every one has."""
    known = {**HEADERS, "Content-Type": kind, "Cache-Control": "no-store"}
    return web.Response(body=content, status=status, headers={**known, **headers})


async def sent(request: web.BaseRequest, response: web.Response) -> web.Response:
    """Send an answer here, where it has a time, and not behind the handler, where it has none."""
    await in_time(response.prepare(request), request)
    await in_time(response.write_eof(), request)
    return response


async def in_time(sending: Awaitable[Any], request: web.BaseRequest) -> None:
    """Raises ``ConnectionResetError`` after closing the connection of a client that does not read
    what it is sent."""
    try:
        async with asyncio.timeout(ANSWER_TAKEN_S):
            await sending
    except TimeoutError:
        with suppress(AttributeError):
            request.transport.abort()  # type: ignore[union-attr]
        raise ConnectionResetError("the client does not read its answer") from None
