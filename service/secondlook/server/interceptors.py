"""One interceptor around every call of ours: errors to statuses, a log line, a count.

An error of ours travels as its own status and sentence, with trailing metadata for programs (see
``labeling.proto``). Any other exception is logged whole under a request id and answered with a
fixed sentence. Bytes that are no message are refused like other bad input; left alone, gRPC would
answer them with UNKNOWN and the exception's text.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from uuid import uuid4

import grpc
from google.protobuf.message import DecodeError

from secondlook.server.metrics import Metrics
from secondlook_client.errors import BadRequest, SecondlookError, ShuttingDown

log = logging.getLogger(__name__)

OURS = "/secondlook."
INTERNAL_MESSAGE = (
    "something failed on the server; its log has the details under request id {request_id}"
)

Behaviour = Callable[[Any, Any], Awaitable[Any]]


_KINDS: Mapping[tuple[bool, bool], Callable[[Any], tuple[Any, Behaviour]]] = {
    (False, False): lambda h: (grpc.unary_unary_rpc_method_handler, h.unary_unary),
    (False, True): lambda h: (grpc.unary_stream_rpc_method_handler, h.unary_stream),
    (True, False): lambda h: (grpc.stream_unary_rpc_method_handler, h.stream_unary),
    (True, True): lambda h: (grpc.stream_stream_rpc_method_handler, h.stream_stream),
}
"""gRPC's maker of handlers and the handler's behaviour, by (request, response) streaming."""


class _Undecodable:
    """Stands where a message should be."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Maps errors, logs and counts calls, and refuses new ones once ``stopping`` is set."""

    def __init__(self, metrics: Metrics, stopping: asyncio.Event) -> None:
        self._metrics = metrics
        self._stopping = stopping
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def wait_idle(self) -> None:
        """Returns when no call of ours is running."""
        await self._idle.wait()

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """gRPC's hook: the handler of a method, wrapped when the method is ours."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or not method.startswith(OURS):
            return handler
        make, behaviour = _KINDS[handler.request_streaming, handler.response_streaming](handler)
        return make(
            self._guarded(method.rsplit("/", 1)[-1], behaviour, handler),
            _tolerant(handler.request_deserializer),
            handler.response_serializer,
        )

    def _guarded(self, method: str, behaviour: Behaviour, handler: Any) -> Behaviour:
        lasting = handler.request_streaming or handler.response_streaming

        async def run(request: Any, context: Any) -> Any:
            request_id, started, reason = uuid4().hex[:12], time.perf_counter(), "ok"
            self._enter()
            try:
                admitted = self._admit(request, handler.request_streaming)
                return await behaviour(admitted, context)
            except asyncio.CancelledError:
                reason = "cancelled"
                raise
            except SecondlookError as failure:
                reason = failure.reason
                await _abort(context, failure, request_id)
            except Exception:
                reason = "internal"
                log.exception("a call failed", extra={"method": method, "request_id": request_id})
                await _abort_unknown(context, request_id)
            finally:
                self._leave(method, reason, time.perf_counter() - started, request_id, lasting)

        return run

    def _admit(self, request: Any, streaming: bool) -> Any:
        if self._stopping.is_set():
            raise ShuttingDown("the server is shutting down; send this again in a moment")
        return _decodable(request) if streaming else _checked(request)

    def _enter(self) -> None:
        self._running += 1
        self._idle.clear()

    def _leave(
        self, method: str, reason: str, seconds: float, request_id: str, streaming: bool
    ) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()
        self._metrics.call_ended(method, reason, seconds, streaming)
        if log.isEnabledFor(logging.INFO):
            ms = round(seconds * 1000, 1)
            facts = {"method": method, "reason": reason, "ms": ms, "request_id": request_id}
            log.info("call", extra=facts)


def _tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _Undecodable()

    return read


def _checked(request: Any) -> Any:
    if isinstance(request, _Undecodable):
        raise BadRequest("the bytes are no message of this method; do client and server fit?")
    return request


async def _decodable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)


async def _abort(context: Any, failure: SecondlookError, request_id: str) -> None:
    trailing = [
        ("secondlook-reason", failure.reason),
        ("secondlook-request-id", request_id),
    ]
    if failure.retry_after_s is not None:
        wait_ms = round(failure.retry_after_s * 1000)
        trailing.append(("secondlook-retry-after-ms", str(wait_ms)))
    await context.abort(grpc.StatusCode[failure.status], str(failure), tuple(trailing))


async def _abort_unknown(context: Any, request_id: str) -> None:
    trailing = (("secondlook-reason", "internal"), ("secondlook-request-id", request_id))
    message = INTERNAL_MESSAGE.format(request_id=request_id)
    await context.abort(grpc.StatusCode.INTERNAL, message, trailing)
