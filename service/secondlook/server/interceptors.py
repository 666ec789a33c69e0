"""One interceptor around every call: bounds of requests, statuses of errors, a log line, a count.

Requests are read by ``bounds.request_reader``, those of health and reflection too; left alone,
gRPC would answer bytes that are no message with INTERNAL and log a traceback.

An error of ours travels as its own status and sentence, with trailing metadata for programs (see
``labeling.proto``): our own words, and a ``google.rpc.Status`` for clients that know those. Any
other exception is logged whole under a request id and answered with a fixed sentence.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import grpc
from google.rpc import error_details_pb2, status_pb2

from secondlook.config.redaction import redacted
from secondlook.server.bounds import request_reader
from secondlook.server.metrics import Metrics
from secondlook.server.token_table import ANYONE, principal_of_call
from secondlook_client.errors import (
    BadRequest,
    InvalidInput,
    SecondlookError,
    ServerFailure,
    ShuttingDown,
)
from secondlook_client.tracing import server_span

log = logging.getLogger(__name__)

OURS = "/secondlook."
DOMAIN = "secondlook"
"""Whose reasons they are, in ``google.rpc.ErrorInfo``."""
MAX_MESSAGE = 2048
"""Bytes of an error's sentence as it travels: clients drop a call whose trailers are over 8 KiB."""
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


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Maps errors, logs and counts calls, and refuses new ones once ``stopping`` is set."""

    def __init__(self, metrics: Metrics, stopping: asyncio.Event) -> None:
        self._metrics = metrics
        self._stopping = stopping
        self._handlers: dict[str, Any] = {}
        """Wrapped, by method: a handful, and wrapping takes as long as a small call."""
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def wait_idle(self) -> None:
        """Returns when no call of ours is running."""
        await self._idle.wait()

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """gRPC's hook: the handler of a method, wrapped."""
        method: str = handler_call_details.method
        if known := self._handlers.get(method):
            return known
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        make, behaviour = _KINDS[handler.request_streaming, handler.response_streaming](handler)
        guard = self._guarded if method.startswith(OURS) else _checked_only
        self._handlers[method] = make(
            guard(method.removeprefix("/"), behaviour, handler),
            request_reader(method, handler.request_deserializer),
            handler.response_serializer,
        )
        return self._handlers[method]

    def _guarded(self, name: str, behaviour: Behaviour, handler: Any) -> Behaviour:
        method = name.rsplit("/", 1)[-1]
        lasting = handler.request_streaming or handler.response_streaming

        async def run(request: Any, context: Any) -> Any:
            request_id, started, reason = uuid4().hex[:12], time.perf_counter(), "ok"
            self._enter()
            try:
                admitted = self._admit(request, handler.request_streaming)
                if lasting:
                    return await behaviour(admitted, context)
                with server_span(name, context.invocation_metadata):
                    return await behaviour(admitted, context)
            except asyncio.CancelledError:
                reason = "cancelled"
                raise
            except SecondlookError as failure:
                reason = failure.reason
                await abort_call(context, failure, request_id)
            except Exception:
                reason = "internal"
                log.exception("a call failed", extra={"method": method, "request_id": request_id})
                await abort_call(context, _unknown(request_id), request_id)
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
            if (who := principal_of_call.get()) is not ANYONE:
                facts["who"] = who.name
            log.info("call", extra=facts)


def _checked_only(method: str, behaviour: Behaviour, handler: Any) -> Behaviour:
    """Other people's servicers (health, reflection): only what a client sends is checked."""

    async def run(request: Any, context: Any) -> Any:
        try:
            checked = _decodable(request) if handler.request_streaming else _checked(request)
            answer = behaviour(checked, context)
            if not isinstance(answer, AsyncIterator):
                return await answer
            async for response in answer:
                await context.write(response)
        except SecondlookError as failure:
            await abort_call(context, failure, uuid4().hex[:12])
        except (grpc.aio.AbortError, grpc.RpcError):
            raise
        except Exception:
            request_id = uuid4().hex[:12]
            log.exception("a call failed", extra={"method": method, "request_id": request_id})
            await abort_call(context, _unknown(request_id), request_id)

    return run


def _checked(request: Any) -> Any:
    if isinstance(request, BadRequest):
        raise request
    return request


async def _decodable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)


def _unknown(request_id: str) -> SecondlookError:
    return ServerFailure(INTERNAL_MESSAGE.format(request_id=request_id), reason="internal")


async def abort_call(context: Any, failure: SecondlookError, request_id: str) -> None:
    """End a call with an error: its status, its sentence, and what programs want to know of it."""
    code, status = rpc_status(failure, request_id)
    trailing = error_trailers(failure, request_id).items()
    details = ("grpc-status-details-bin", status.SerializeToString())
    await context.abort(code, status.message, (*trailing, details))


def error_trailers(failure: SecondlookError, request_id: str) -> dict[str, str]:
    """The trailing metadata of an error, in our own words."""
    trailing = {"secondlook-reason": failure.reason, "secondlook-request-id": request_id}
    if failure.retry_after_s is not None:
        trailing["secondlook-retry-after-ms"] = str(round(failure.retry_after_s * 1000))
    return trailing


def _brief(message: str) -> str:
    """The sentence, cut where it is too long to travel: each byte that is not ASCII takes three."""
    if len(message) * 12 <= MAX_MESSAGE or len(quote(message)) <= MAX_MESSAGE:
        return message
    size = 0
    for place, character in enumerate(message):
        size += len(quote(character))
        if size > MAX_MESSAGE - len("%E2%80%A6"):
            return f"{message[:place]}…"
    return message


def rpc_status(
    failure: SecondlookError, request_id: str
) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """The code of an error, and the error as ``google.rpc`` has it, for clients that know nothing
    of our trailers."""
    code, message = grpc.StatusCode[failure.status], _brief(redacted(str(failure)))
    status = status_pb2.Status(code=code.value[0], message=message)
    info = error_details_pb2.ErrorInfo(
        reason=failure.reason.upper(), domain=DOMAIN, metadata={"request_id": request_id}
    )
    status.details.add().Pack(info)
    if failure.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(failure.retry_after_s * 1000))
        status.details.add().Pack(retry)
    if isinstance(failure, InvalidInput) and failure.field:
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=failure.field, description=message)
        status.details.add().Pack(bad)
    return code, status
