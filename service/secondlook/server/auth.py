"""The outermost interceptor: no message of a call is read before its token is known to suffice.

    no place, no memory     for a call without a valid token: it is refused at its headers
    the role                by what the protos declare beside the method (``method_access``)
    the scope of a device   with each message that names a stream or a model
    until the end           a call whose token ends meanwhile is ended within two seconds

Health checks need no token. On a server whose store has no token nobody does; a server without a
store cannot ask for any.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any
from uuid import uuid4

import grpc

from secondlook.core.access import Role
from secondlook.server.audit import AuditLog
from secondlook.server.client_limits import TOKEN, client_of_call
from secondlook.server.connections import address_of
from secondlook.server.interceptors import abort_call
from secondlook.server.method_access import HEALTH, REFLECTION, MethodAccess
from secondlook.server.metrics import Metrics
from secondlook.server.oidc import OidcIssuer, bearer_jwt
from secondlook.server.token_table import (
    ANYONE,
    NOBODY,
    THIS_MACHINE,
    Principal,
    TokenTable,
    principal_of_call,
)
from secondlook_client.errors import (
    BadRequest,
    Busy,
    NotAllowed,
    NotAuthenticated,
    SecondlookError,
    Unavailable,
)

log = logging.getLogger(__name__)

HEADER, FORWARDED = "authorization", "secondlook-forwarded"
"""Metadata: who calls; and, at the server's own socket, the address of the client for whom another
endpoint of the server makes the call. Such a call needs the client's token."""
UNIX = "unix:"
"""What gRPC calls the client of a socket in the file system."""
WATCH_S = 0.5
"""Between two looks at the tokens of open calls."""
ATTEMPTS, ATTEMPTS_S = 10, 1.0
"""So many calls of an address without a valid token are refused for that; then one a second, and
the others for their number."""
MAX_WAITING = 1000
"""Calls that wait for the database to be asked about tokens; more are refused."""
MAX_ADDRESSES = 10_000
"""Addresses whose attempts are counted, the latest."""


class FailedAttempts:
    """Counts what was refused, by address: a token bucket each. One event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Attempts left, and when that was, by address."""

    def count(self, host: str) -> None:
        """One more of ``host``. Raises ``Busy`` when there were too many."""
        key, moment = network_of(host), self._clock()
        left, since = self._left.pop(key, (float(ATTEMPTS), moment))
        left = min(left + (moment - since) / ATTEMPTS_S, ATTEMPTS)
        self._left[key] = max(left - 1, 0.0), moment
        if len(self._left) > MAX_ADDRESSES:
            self._left.popitem(last=False)
        if left < 1:
            raise Busy(
                "too many calls from this address had no valid token; wait before the next one",
                retry_after_s=ATTEMPTS_S,
            )


def network_of(host: str) -> str:
    """The address, or of IPv6 the network that one customer has whole."""
    with suppress(ValueError):
        address = ip_address(host.partition("%")[0])
        if isinstance(address, IPv6Address) and not address.is_loopback:
            return str(IPv6Address(int(address) >> 64 << 64))
    return host


@dataclass(frozen=True)
class Origin:
    """Where a call comes from."""

    host: str
    """Its address."""
    own: bool = False
    """A program of the server's own user, by the server's own socket."""


@dataclass(eq=False)
class AuthorizedCall:
    """One call that was let in, until it ends."""

    principal: Principal
    task: "asyncio.Task[Any]"
    changes: bool
    ended: bool = False
    """Its token is not valid any more."""
    cancelled: bool = False
    """By its client, or as the server stops."""


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Lets calls in by their tokens and writes the audit log. One event loop."""

    def __init__(
        self,
        table: TokenTable | None,
        methods: Mapping[str, MethodAccess],
        metrics: Metrics,
        audit: AuditLog,
        oidc: OidcIssuer | None = None,
    ) -> None:
        """``table`` None: no token is asked for. ``methods``: of the services, by path.

        ``oidc``: whose JWTs are accepted in place of tokens; it takes a ``table``.
        """
        self._table = table
        self._oidc = oidc
        self._methods = methods
        self._metrics = metrics
        self._audit = audit
        self._attempts = FailedAttempts()
        self._lines = FailedAttempts()
        """Of refusals in the audit log, so that nobody can flood it."""
        self._waiting = 0
        """Calls that wait for the tokens to be read; they have no place yet."""
        self._open: dict[AuthorizedCall, None] = {}
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch the tokens of open calls."""
        if self._table is not None:
            self._watching = asyncio.ensure_future(self._watch())

    async def close(self) -> None:
        """Watch no more."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        if self._table is not None:
            self._table.close()
        self._audit.close()

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """gRPC's hook. What is behind takes the messages of any call one by one."""
        method: str = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None or method.startswith(HEALTH):
            return handler
        rule = self._rule(method)
        if handler.response_streaming:
            behaviour, make = handler.stream_stream, grpc.stream_stream_rpc_method_handler
        else:
            behaviour, make = handler.stream_unary, grpc.stream_unary_rpc_method_handler

        async def run(requests: AsyncIterator[Any], context: Any) -> Any:
            return await self._run(rule, behaviour, requests, context)

        return make(run, handler.request_deserializer, handler.response_serializer)

    async def admit(self, origin: Origin, credentials: Sequence[str]) -> Principal:
        """Who calls from there with these ``authorization`` headers.

        Raises ``NotAuthenticated``, ``Busy`` after too many attempts, and ``Unavailable`` where
        the tokens cannot be read.
        """
        if origin.own:
            return THIS_MACHINE
        if self._table is None:
            return ANYONE
        if self._waiting >= MAX_WAITING:
            raise Unavailable("the database is slow, and many calls wait; try again in a moment")
        self._waiting += 1
        try:
            await self._table.fresh()
        except SecondlookError as cause:
            raise Unavailable(
                f"tokens cannot be checked at present ({cause}); try again in a moment"
            ) from cause
        finally:
            self._waiting -= 1
        try:
            if self._oidc is not None and (jwt := bearer_jwt(credentials)):
                return await self._oidc.principal(jwt)
            return self._table.principal(credentials)
        except NotAuthenticated:
            self._attempts.count(origin.host)
            raise

    async def check(self, rule: MethodAccess, host: str, credentials: Sequence[str]) -> None:
        """Raises what a call from ``host`` with these headers is refused with."""
        principal = NOBODY
        try:
            principal = await self.admit(Origin(host), credentials)
            rule.check_role(principal.name, principal.access)
        except SecondlookError as refusal:
            self._write_refusal(principal, rule, host, refusal)
            raise

    def _rule(self, method: str) -> MethodAccess:
        if method.startswith(REFLECTION):
            return MethodAccess(method, frozenset({Role.VIEWER}))
        # What nobody declared is for nobody but administrators.
        return self._methods.get(method) or MethodAccess(method, frozenset({Role.ADMIN}))

    async def _run(
        self,
        rule: MethodAccess,
        behaviour: Callable[[Any, Any], Awaitable[Any]],
        requests: AsyncIterator[Any],
        context: Any,
    ) -> Any:
        principal = NOBODY
        try:
            principal = await self.admit(origin_of(context), _metadata(context, HEADER))
            rule.check_role(principal.name, principal.access)
        except SecondlookError as refusal:
            await self._refuse(context, rule, principal, refusal)
            return None
        principal_of_call.set(principal)
        client_of_call.set(client_name(principal, origin_of(context)))
        task = asyncio.current_task()
        assert task
        call = AuthorizedCall(principal, task, rule.changes)
        self._open[call] = None
        try:
            return await behaviour(self._checked(call, rule, requests), context)
        except asyncio.CancelledError:
            if not call.ended:
                call.cancelled = True
                raise
            task.uncancel()
            await self._refuse(context, rule, principal, _ended(principal))
        finally:
            del self._open[call]
            self._tell(call, rule, context)

    def _checked(
        self, call: AuthorizedCall, rule: MethodAccess, requests: AsyncIterator[Any]
    ) -> AsyncIterator[Any]:
        """The messages, those of a device within its scope; as they are where none can be wrong."""
        access = call.principal.access
        beyond = access.grants_beyond_scope(rule.roles)
        if beyond and not rule.changes_if:
            return requests

        async def checked() -> AsyncIterator[Any]:
            async for request in requests:
                if not isinstance(request, BadRequest):  # which is refused where others are
                    if not beyond:
                        rule.check_scope(call.principal.name, access, request)
                    call.changes |= bool(rule.changes_if) and rule.changed_by(request)
                yield request

        return checked()

    async def _refuse(
        self, context: Any, rule: MethodAccess, principal: Principal, refusal: SecondlookError
    ) -> None:
        self._metrics.call_ended(rule.name, refusal.reason, 0.0, streaming=True)
        self._write_refusal(principal, rule, origin_of(context).host, refusal)
        await abort_call(context, refusal, uuid4().hex[:12])

    def _write_refusal(
        self, principal: Principal, rule: MethodAccess, host: str, refusal: SecondlookError
    ) -> None:
        with suppress(Busy):
            self._lines.count(f"{principal.name}@{host}")
            self._write(principal, rule, host, refusal.status)

    def _tell(self, call: AuthorizedCall, rule: MethodAccess, context: Any) -> None:
        """The line of a call that has ended, where there is one."""
        if call.ended:  # told as a refusal
            return
        result = "CANCELLED" if call.cancelled else _result(context)
        refused = result == NotAllowed.status and call.principal.is_bound
        if call.changes or refused:
            self._write(call.principal, rule, origin_of(context).host, result)

    def _write(self, principal: Principal, rule: MethodAccess, host: str, result: str) -> None:
        """Without a file, only where tokens are asked for: each call is in the log anyway."""
        if self._audit.in_file or (self._table is not None and self._table.asks):
            self._audit.write(principal.name, principal.roles, rule.name, host, result)

    async def _watch(self) -> None:
        table = self._table
        assert table
        while True:
            await asyncio.sleep(WATCH_S)
            if not self._open:
                continue
            try:
                await table.fresh()
            except SecondlookError as failure:  # new calls are refused, open ones go on
                log.debug("open calls are not compared with the tokens: %s", failure)
            except Exception:
                log.exception("looking at the tokens of open calls failed")
            for call in list(self._open):
                if not call.ended and not table.still(call.principal):
                    call.ended = True
                    call.task.cancel()


def _metadata(context: Any, name: str) -> list[str]:
    metadata = context.invocation_metadata() or ()
    return [value for key, value in metadata if key == name and isinstance(value, str)]


def _ended(principal: Principal) -> SecondlookError:
    if principal.token is None:
        return NotAuthenticated("this server wants a token since a moment ago; call again with one")
    return NotAuthenticated(
        f"the token '{principal.name}' has ended while the call was open; call again with another"
    )


def _result(context: Any) -> str:
    """The status of a call that has ended."""
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    return next((known.name for known in grpc.StatusCode if known.value[0] == code), "OK")


def client_name(principal: Principal, origin: Origin) -> str:
    """Whose limits a call counts among; empty: nobody's, as it is this server's own."""
    if principal.token is not None:
        return f"{TOKEN}{principal.name}"
    return "" if origin.own else network_of(origin.host)


def origin_of(context: Any) -> Origin:
    """Where a call comes from."""
    peer = context.peer()
    if not peer.startswith(UNIX):
        address = address_of(peer)
        return Origin(address[0] if address else peer.partition(":")[0])
    forwarded = _metadata(context, FORWARDED)
    return Origin(forwarded[0], own=False) if forwarded else Origin("this server", own=True)
