"""Limits of open calls, of messages that are not whole yet, and of connections.

gRPC hands over a call when its headers are there. Nothing of its message is read before a place
is found for the call here, and a call that is sent slowly, or never, loses its place when others
need it: the slowest first. So whatever strangers leave half done, others find a place, and a health
check always does. The limits, by what they protect:

    places     calls at the same time, by group, and of one client of a group     (``CallGroup``)
    memory     bytes of messages that are not whole, and of requests being worked on
    time       of a message from its start to its end, unless it arrives at a fair rate
    sockets    connections; those without a call make room for others             (``connections``)

What a message that is not whole takes is known from its connection: the bytes that the kernel
counts, without those of messages that were handed over. They are looked at ten times a second.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import grpc

from secondlook.config.settings import LimitSettings, ServerSettings
from secondlook.server.client_limits import ClientLimits, client_of_call
from secondlook.server.connections import (
    AcceptedSocket,
    AcceptedSockets,
    Address,
    address_of,
    crowded_out,
)
from secondlook.server.interceptors import abort_call
from secondlook.server.metrics import Metrics
from secondlook_client.errors import BadRequest, Busy, DeadlineExceeded, SecondlookError

log = logging.getLogger(__name__)

WATCH_S = 0.1
"""Between two looks at the connections with open calls."""
SCAN_S = 0.5
"""Between two looks at all connections."""
YOUNG_S = 0.25
"""A message that began this short a time ago is not cut off for lack of places."""
FAIR_BYTES_S = 16 * 2**10
"""A message that arrives at this rate keeps its place, and may take longer than
``receive_timeout_s``."""
HEADER_BYTES = 256
"""A message's share of headers and frames, about; so little is no message that is not whole."""
IDLE_BYTES_S, MAX_IDLE_BYTES = 64, 4096
"""Pings and window updates of a stream that waits for its next message, about: bytes a second, and
how many of them may come at once."""
PARTIAL_BYTES = 128 * 2**10
"""More than what gRPC reads ahead of a message that nobody waits for."""
ANSWER_TAKEN_S = 120.0
"""A client that does not take the answer of a call in this time loses its connection."""
CROWDED, RELIEVED = 0.75, 0.5
"""Shares of the connections: from the first on idle ones are closed, down to the second."""
RETRY_S = 1.0
"""Hint for a call that finds no place."""

Behaviour = Callable[[Any, Any], Awaitable[Any]]


@dataclass(eq=False)
class CallGroup:
    """Calls that share their places."""

    what: str
    """In errors and metrics."""
    places: int
    places_of_client: int
    """Of one client (by its token, or else its address), so that no single one takes them all."""
    young_s: float = YOUNG_S
    open: dict["OpenCall", None] = field(default_factory=dict)
    """In the order of their arrival."""
    clients: Counter[str] = field(default_factory=Counter)


@dataclass(eq=False)
class PeerConnection:
    """What is known of one connection: its calls, and the bytes that are in no whole message."""

    address: Address | None
    host: str
    calls: dict["OpenCall", None] = field(default_factory=dict)
    delivered: int = 0
    """Bytes of messages that were handed over."""
    elsewhere: int = 0
    """Bytes received that were no message: headers and the like."""
    unfinished: int = 0
    """Bytes of messages that are not whole, when it was looked at last."""
    partial_since: float | None = None
    """Since when they are more than gRPC reads ahead."""
    idle_bytes: float = 0.0
    """That may come without being part of a message."""
    last_call: float = 0.0

    def deliver(self, size: int) -> None:
        """A message of ``size`` bytes is whole."""
        self.delivered += size + HEADER_BYTES + size // 1024

    def look(self, received: int | None, now: float, passed_s: float) -> None:
        """Compare with the kernel's count of received bytes."""
        if received is None:
            self.unfinished = 0
            return
        rest = received - self.delivered - self.elsewhere
        if not self.calls or rest < 0:  # nothing is under way, or it was counted too high
            self.elsewhere, self.unfinished, self.partial_since = received - self.delivered, 0, None
            return
        # What idles must not seem to grow into a message over the weeks.
        self.idle_bytes = min(self.idle_bytes + IDLE_BYTES_S * passed_s, MAX_IDLE_BYTES)
        idle = min(max(rest - self.unfinished, 0), int(self.idle_bytes))
        self.idle_bytes -= idle
        self.elsewhere += idle
        self.unfinished = rest - idle
        if self.unfinished < PARTIAL_BYTES:
            self.partial_since = None
        elif self.partial_since is None:
            self.partial_since = now


@dataclass(eq=False)
class OpenCall:
    """One call, from its headers to its status."""

    group: CallGroup
    connection: PeerConnection
    arrived: float
    """A ``time.monotonic()`` moment, like all here."""
    client: str = ""
    """Whose places it counts among."""
    whole: bool = False
    """Whether its first message has arrived: a stream may wait for the next as long as it likes."""
    reading: "asyncio.Task[Any] | None" = None
    """Waits for a message."""
    refusal: SecondlookError | None = None
    answered: float | None = None
    """When the answer was handed to gRPC."""

    def rate(self, now: float) -> float:
        """Bytes a second of its message so far; those of a connection are shared by its calls."""
        share = self.connection.unfinished / max(len(self.connection.calls), 1)
        return share / max(now - self.arrived, WATCH_S)

    def refuse(self, refusal: SecondlookError) -> None:
        """Wait no longer for its message: answer with ``refusal``."""
        if self.reading is not None and self.refusal is None:
            self.refusal = refusal
            self.reading.cancel()

    async def next(self, requests: AsyncIterator[Any]) -> Any:
        """The next message. Raises ``StopAsyncIteration`` after the last, or what it was refused
        with."""
        self.reading = task = asyncio.current_task()
        assert task
        try:
            request = await anext(requests)
        except asyncio.CancelledError:
            if self.refusal is None:
                raise
            task.uncancel()
            raise self.refusal from None
        finally:
            self.reading = None
        self.whole = True
        return request

    async def messages(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """All messages of a stream; errors as of ``next``."""
        iterator = aiter(requests)
        with suppress(StopAsyncIteration):
            while True:
                yield await self.next(iterator)


class RequestBytes:
    """Bytes of requests that are being worked on, of all calls together and of each client."""

    def __init__(self, limit: float = math.inf, clients: ClientLimits | None = None) -> None:
        self.limit = limit
        self.used = 0
        self._clients = clients or ClientLimits()

    def take(self, size: int) -> None:
        """Count one more request of the caller.

        Raises ``Busy`` when it does not fit beside the others, or beside the caller's own.
        """
        if self.used and self.used + size > self.limit:
            raise Busy(
                "the requests that are being worked on have as many bytes as the server takes "
                "at a time; try again in a moment or send smaller images",
                retry_after_s=RETRY_S,
            )
        self._clients.take_bytes(size)
        self.used += size

    def give(self, size: int) -> None:
        """One is done."""
        self._clients.give_bytes(size)
        self.used -= size


def call_groups(calls: int) -> dict[str, CallGroup]:
    """The groups by name; ``calls``: places of calls that are answered at once."""
    return {
        "health": CallGroup("health checks", 64, 64, young_s=0.0),
        "health_watch": CallGroup("health watchers", 64, 32),
        "lasting": CallGroup("streams and watchers", 256, 192),
        "call": CallGroup("calls", calls, max(calls * 3 // 4, 1)),
    }


class CallLimits(grpc.aio.ServerInterceptor):
    """The outermost interceptor: gives each call a place, and takes it back. One event loop."""

    def __init__(
        self,
        settings: ServerSettings,
        calls: int,
        max_message_bytes: int,
        metrics: Metrics,
        limits: LimitSettings | None = None,
        clients: ClientLimits | None = None,
    ) -> None:
        """``calls``: places of calls that are answered at once.

        ``limits`` and ``clients``: of each client.
        """
        self._settings = settings
        self._metrics = metrics
        self._max_unfinished = max(settings.max_request_bytes, max_message_bytes)
        self.request_bytes = RequestBytes(self._max_unfinished, clients)
        self._client_connections = (limits or LimitSettings()).client_connections
        self._groups = call_groups(calls)
        self._connections: dict[str, PeerConnection] = {}
        self._touched: dict[PeerConnection, None] = {}
        """Connections with calls since the last look."""
        self._sockets: AcceptedSockets | None = None
        self._max_connections = settings.max_connections
        self._crowded = False
        self._looked = time.monotonic()
        self._watching: asyncio.Task[None] | None = None

    def start(self, port: int, max_connections: int) -> None:
        """Watch the connections to ``port``."""
        self._sockets = AcceptedSockets(port)
        self._max_connections = max_connections
        self._metrics.watch_connections(lambda: len(self._sockets or ()), self.unfinished_bytes)
        self._watching = asyncio.ensure_future(self._watch())

    async def close(self) -> None:
        """Watch no more."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching

    def unfinished_bytes(self) -> int:
        """Of messages that are not whole, when it was looked last."""
        return sum(connection.unfinished for connection in self._connections.values())

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """gRPC's hook: the handler of a method, which finds a place for the call first.

        A method with one request gets the handler of one with many, which are the same on the wire:
        gRPC would read the message before it calls the handler otherwise.
        """
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method: str = handler_call_details.method
        limited = _LimitedCall(self, self._groups[_group_of(method, handler)], handler, method)
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(limited.run, limited.read, handler.response_serializer)

    def enter(self, group: CallGroup, peer: str, client: str = "") -> OpenCall:
        """Find a place for a call of a client (default: its address). Raises ``Busy``."""
        connection = self._connections.get(peer)
        if connection is None:
            connection = self._connections[peer] = self._first_met(peer)
        now = time.monotonic()
        client = client or connection.host
        if group.clients[client] >= group.places_of_client:
            self._make_room(group, now, client)
        elif len(group.open) >= group.places:
            self._make_room(group, now)
        call = OpenCall(group, connection, now, client)
        group.open[call] = connection.calls[call] = None
        group.clients[client] += 1
        connection.last_call = now
        self._touched[connection] = None
        return call

    def _first_met(self, peer: str) -> PeerConnection:
        address = address_of(peer)
        connection = PeerConnection(address, address[0] if address else peer)
        if address and self._sockets is not None:  # what it sent before was no message of a call
            connection.elsewhere = self._sockets.received(address) or 0
        return connection

    def leave(self, call: OpenCall) -> None:
        """The call has ended, and its answer is sent. May be called twice."""
        if call not in call.group.open:
            return
        del call.group.open[call], call.connection.calls[call]
        clients = call.group.clients
        clients[call.client] -= 1
        if not clients[call.client]:
            del clients[call.client]
        call.connection.last_call = time.monotonic()

    def refused(self, method: str, refusal: SecondlookError) -> None:
        """Count a call that never reached its servicer."""
        self._metrics.call_ended(method, refusal.reason, 0.0, streaming=True)

    def _make_room(self, group: CallGroup, now: float, client: str = "") -> None:
        """Take the place of the slowest of those whose message is not there. Raises ``Busy``."""
        waiting = [
            call
            for call in group.open
            if call.reading is not None
            and not call.whole
            and call.refusal is None
            and now - call.arrived >= group.young_s
            and call.rate(now) < FAIR_BYTES_S
            and (not client or call.client == client)
        ]
        if not waiting:
            self._metrics.call_limited(group.what, "refused")
            raise Busy(
                f"{len(group.open)} {group.what} are open already; try again in a moment",
                retry_after_s=RETRY_S,
            )
        slowest = min(waiting, key=lambda call: (call.rate(now), call.arrived))
        self._metrics.call_limited(group.what, "slow")
        slowest.refuse(
            Busy(
                "the message did not arrive while others needed its place; send it again",
                retry_after_s=RETRY_S,
            )
        )
        self.leave(slowest)

    async def _watch(self) -> None:
        scan_at = 0.0
        while True:
            await asyncio.sleep(WATCH_S)
            now = time.monotonic()
            try:
                if now >= scan_at or self._unknown():
                    scan_at = now + SCAN_S
                    self._scan()
                self._look(now)
            except Exception:
                log.exception("looking at the connections failed")

    def _unknown(self) -> bool:
        """Whether a connection with calls was not found among the descriptors yet."""
        return any(
            connection.address
            and self._sockets is not None
            and connection.address not in self._sockets
            for connection in self._touched
        )

    def _look(self, now: float) -> None:
        """At the connections with calls: what is too slow, or too large together, is cut off."""
        passed_s, self._looked = now - self._looked, now
        for connection in list(self._touched):
            received = (
                self._sockets.received(connection.address)
                if self._sockets is not None and connection.address
                else None
            )
            connection.look(received, now, passed_s)
            self._end_late(connection, now)
            if not connection.calls:
                del self._touched[connection]
        excess = self.unfinished_bytes() - self._max_unfinished
        if excess > 0:
            self._cut_largest(excess, now)

    def _end_late(self, connection: PeerConnection, now: float) -> None:
        """Calls of one connection that have had their time."""
        limit_s = self._settings.receive_timeout_s
        for call in list(connection.calls):
            if call.answered is not None and now - call.answered > ANSWER_TAKEN_S:
                self._shut_down(connection, "answer not taken")
                return
            since = call.arrived if not call.whole else connection.partial_since
            if call.reading is None or since is None or now - since <= limit_s:
                continue
            share = connection.unfinished / len(connection.calls)
            if share / (now - since) < FAIR_BYTES_S:
                self._metrics.call_limited(call.group.what, "late")
                call.refuse(
                    DeadlineExceeded(
                        f"the message was not whole after {limit_s:g} s; send it again over a "
                        "better connection, or smaller"
                    )
                )

    def _cut_largest(self, excess: int, now: float) -> None:
        """End unfinished messages of ``excess`` bytes or more: those that cost most, by size and
        time."""

        def cost(connection: PeerConnection) -> float:
            return connection.unfinished * (now - (connection.partial_since or now) + WATCH_S)

        for connection in sorted(self._touched, key=cost, reverse=True):
            if excess <= 0:
                return
            excess -= connection.unfinished
            connection.unfinished = 0
            waiting = [call for call in connection.calls if call.reading is not None]
            if not waiting:  # it sends what nobody reads
                self._shut_down(connection, "bytes")
            for call in waiting:
                self._metrics.call_limited(call.group.what, "bytes")
                call.refuse(
                    Busy(
                        "messages that are not whole yet have as many bytes as the server takes; "
                        "try again in a moment",
                        retry_after_s=RETRY_S,
                    )
                )

    def _scan(self) -> None:
        """Forget connections that have ended, and close idle ones where there are too many."""
        if self._sockets is None:
            return
        self._sockets.scan()
        for peer, connection in list(self._connections.items()):
            gone = connection.address is None or connection.address not in self._sockets
            if gone and not connection.calls:
                del self._connections[peer]
                self._touched.pop(connection, None)
        if self._client_connections:
            self._close_excess()
        if len(self._sockets) <= self._max_connections * CROWDED:
            self._crowded = self._crowded and len(self._sockets) > self._max_connections * RELIEVED
            return
        if not self._crowded:
            log.warning(
                "%d connections are open, of %d at most; idle ones are closed to make room",
                len(self._sockets),
                self._max_connections,
            )
        self._crowded = True
        excess = len(self._sockets) - int(self._max_connections * RELIEVED)
        for address in crowded_out([*self._sockets], *self._traffic(), excess):
            self._sockets.shut_down(address)
            self._metrics.call_limited("connections", "crowded")

    def _traffic(self) -> tuple[set[Address], dict[Address, float]]:
        """The addresses with calls, and when each spoke last."""
        known = [one for one in self._connections.values() if one.address]
        busy = {one.address for one in known if one.calls and one.address}
        return busy, {one.address: one.last_call for one in known if one.address}

    def _close_excess(self) -> None:
        """Of each address the connections beyond its number, but for those with calls."""
        assert self._sockets is not None
        by_host: dict[str, list[AcceptedSocket]] = {}
        for one in self._sockets:
            by_host.setdefault(one.address[0], []).append(one)
        busy, spoke = self._traffic()
        for of_host in by_host.values():
            excess = len(of_host) - self._client_connections
            for address in crowded_out(of_host, busy, spoke, excess) if excess > 0 else ():
                self._sockets.shut_down(address)
                self._metrics.call_limited("connections", "client")

    def _shut_down(self, connection: PeerConnection, why: str) -> None:
        self._metrics.call_limited("connections", why)
        if self._sockets is not None and connection.address:
            self._sockets.shut_down(connection.address)


class _LimitedCall:
    """One call of a method: reads its messages within the limits, then runs its behaviour."""

    def __init__(self, limits: CallLimits, group: CallGroup, handler: Any, method: str) -> None:
        self._limits = limits
        self._group = group
        self._method = method
        self._deserialize = handler.request_deserializer
        self._streams = handler.request_streaming
        self._behaviour: Behaviour = (
            (handler.stream_stream if handler.response_streaming else handler.stream_unary)
            if handler.request_streaming
            else (handler.unary_stream if handler.response_streaming else handler.unary_unary)
        )
        self._call: OpenCall | None = None
        self._size = 0

    def read(self, data: bytes) -> Any:
        """Count a message, and make a request of its bytes."""
        self._size = len(data)
        if self._call is not None:
            self._call.connection.deliver(len(data))
        return self._deserialize(data)

    async def run(self, requests: AsyncIterator[Any], context: Any) -> Any:
        """The handler that gRPC calls."""
        limits = self._limits
        try:
            client = client_of_call.get()
            self._call = call = limits.enter(self._group, context.peer(), client)
        except Busy as full:
            await self._refuse(context, full)
            return None
        context.add_done_callback(lambda _: limits.leave(call))
        try:
            if self._streams:
                return await self._behaviour(call.messages(requests), context)
            request = await self._whole_request(call, requests, context)
            try:
                return await self._behaviour(request, context)
            finally:
                limits.request_bytes.give(self._size)
        finally:
            call.answered = time.monotonic()

    async def _whole_request(
        self, call: OpenCall, requests: AsyncIterator[Any], context: Any
    ) -> Any:
        """The one message of a call, counted among the bytes of requests."""
        try:
            request = await call.next(aiter(requests))
            self._limits.request_bytes.take(self._size)
            return request
        except StopAsyncIteration:
            await self._refuse(context, BadRequest("the call has no message; send one"))
        except SecondlookError as refusal:
            await self._refuse(context, refusal)

    async def _refuse(self, context: Any, refusal: SecondlookError) -> None:
        self._limits.refused(self._method.rsplit("/", 1)[-1], refusal)
        await abort_call(context, refusal, uuid4().hex[:12])


def _group_of(method: str, handler: Any) -> str:
    """Name of the group of a method, ``/package.Service/Name``."""
    lasting = handler.request_streaming or handler.response_streaming
    if method.startswith("/grpc.health."):
        return "health_watch" if lasting else "health"
    return "lasting" if lasting else "call"
