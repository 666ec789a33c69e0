"""What one client may have under way and use up: the settings of ``LimitSettings``, in one place,
and in their place what a token has of its own.

A client is a token, or the address of whoever calls without one; programs of the server's own user
at its own socket are none, and have no limits. Beside these limits hold those of all clients
together (``call_limits``), and the places are shared fairly (``fair_shares``). What is used up is
counted by each server, in memory; the bytes that a token has stored are the database's.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from secondlook.config.settings import LimitSettings
from secondlook.server.token_table import principal_of_call
from secondlook_client.errors import Busy, StorageFull

client_of_call: ContextVar[str] = ContextVar("client_of_call", default="")
"""Whose limits the call that runs here counts among; empty: nobody's."""
TOKEN = "token "
"""Before the name of a token; a client without one is called by its address."""
MAX_CLIENTS = 10_000
"""Clients that are remembered; those that called last."""
BURST_S = 10.0
"""Images may come as fast as they like until they are those of so many seconds."""
STORED_AGE_S = 600.0
"""The database is asked anew what a token has stored when the last answer is older."""
RETRY_S = 1.0
"""Hint where nobody knows when something under way will end."""
DAY_S = 86_400


@dataclass(eq=False)
class ClientUsage:
    """What one client has under way and has used up."""

    name: str
    streams: int = 0
    images: int = 0
    """Under way."""
    bytes: int = 0
    """Of its requests under way."""
    total_images: int = 0
    """Taken since the server remembers it."""
    verifier_s: float = 0.0
    """Seconds of the verifier on ``day``."""
    day: int = 0
    """Since 1970."""
    stored_bytes: int = 0
    stored_at: float = float("-inf")
    """When the database was asked for ``stored_bytes``."""
    allowance: float = 0.0
    """Images that may come at once, at ``allowance_at``."""
    allowance_at: float = float("-inf")

    @property
    def idle(self) -> bool:
        """Whether nothing of it is under way."""
        return not (self.streams or self.images or self.bytes)


class ClientLimits:
    """Counts what each client does, and refuses what is too much. One event loop."""

    def __init__(
        self,
        settings: LimitSettings | None = None,
        refused: Callable[[str, str], None] = lambda what, why: None,
        stored_by: Callable[[str], int] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``refused`` hears what was refused and why, for metrics; ``stored_by`` asks the database
        for the bytes that a token has stored, and may block. ``clock``: seconds since 1970.
        """
        self._limits = settings or LimitSettings()
        self._refused = refused
        self._stored_by = stored_by
        self._clock = clock
        self._clients: OrderedDict[str, ClientUsage] = OrderedDict()
        """The latest last."""

    def busiest(self, most: int) -> list[ClientUsage]:
        """The clients with most images, for metrics."""
        return sorted(self._clients.values(), key=lambda one: -one.total_images)[:most]

    @contextmanager
    def stream(self) -> Iterator[None]:
        """A stream of the caller, until it ends. Raises ``Busy``."""
        client, most = self._caller(), self._limits_of_caller.client_streams
        if client and most and client.streams >= most:
            raise self._busy("streams", f"has {client.streams} streams open", 5.0)
        if client is None:
            yield
            return
        client.streams += 1
        try:
            yield
        finally:
            client.streams -= 1

    @contextmanager
    def image(self) -> Iterator[None]:
        """An image of the caller that is labelled at once, until it is done. Raises ``Busy``."""
        client, most = self._caller(), self._limits_of_caller.client_in_flight
        if client is None:
            yield
            return
        if most and client.images >= most:
            raise self._busy("images", f"has {client.images} images under way", RETRY_S)
        self._count_image(client)
        client.images += 1
        try:
            yield
        finally:
            client.images -= 1

    async def check_stored(self) -> None:
        """Raises ``StorageFull`` where the caller's token has stored what it may."""
        client, most = self._caller(), self._limits_of_caller.client_stored_bytes
        if client is None or not most or not client.name.startswith(TOKEN):
            return
        now = self._clock()
        if self._stored_by is not None and now - client.stored_at > STORED_AGE_S:
            client.stored_at = now
            token = client.name.removeprefix(TOKEN)
            client.stored_bytes = await asyncio.to_thread(self._stored_by, token)
        self._check_stored(client)

    def keep(self, size: int) -> None:
        """Count an image of the caller that is stored, of ``size`` bytes, after ``check_stored``.

        Raises ``Busy`` and ``StorageFull``.
        """
        client = self._caller()
        if client is not None:
            self._check_stored(client)
            self._count_image(client)
            client.stored_bytes += size

    def check_verifier(self) -> None:
        """Raises ``Busy`` where the caller has used up the verifier's time of the day."""
        client = self._caller()
        if client is not None:
            self._check_verifier(client)

    def verified(self, name: str, seconds: float) -> None:
        """The verifier took so long for the client of that name; empty: for nobody's."""
        if name:
            client = self._usage(name)
            self._roll_day(client)
            client.verifier_s += seconds

    def take_bytes(self, size: int) -> None:
        """A request of the caller is here. Raises ``Busy``; the first fits, whatever its size."""
        client, most = self._caller(), self._limits_of_caller.client_bytes
        if client is None:
            return
        if most and client.bytes and client.bytes + size > most:
            raise self._busy("bytes", f"has {client.bytes:,} bytes of requests under way", RETRY_S)
        client.bytes += size

    def give_bytes(self, size: int) -> None:
        """It is done."""
        client = self._caller()
        if client is not None:
            client.bytes -= size

    @property
    def _limits_of_caller(self) -> LimitSettings:
        return principal_of_call.get().access.limited(self._limits)

    def _caller(self) -> ClientUsage | None:
        name = client_of_call.get()
        return self._usage(name) if name else None

    def _usage(self, name: str) -> ClientUsage:
        known = self._clients.get(name)
        if known is None:
            if len(self._clients) >= MAX_CLIENTS:
                self._forget()
            known = self._clients[name] = ClientUsage(name)
        self._clients.move_to_end(name)
        return known

    def _forget(self) -> None:
        """One that has called least lately."""
        idle = next((name for name, one in self._clients.items() if one.idle), None)
        if idle is not None:
            del self._clients[idle]

    def _count_image(self, client: ClientUsage) -> None:
        self._check_verifier(client)
        a_second = self._limits_of_caller.client_images_per_minute / 60
        if a_second:
            now, most = self._clock(), max(a_second * BURST_S, 1.0)
            passed_s = max(now - client.allowance_at, 0.0)
            client.allowance = min(client.allowance + passed_s * a_second, most)
            client.allowance_at = now
            if client.allowance < 1:
                hint_s = (1 - client.allowance) / a_second
                raise self._busy("rate", "sends images faster than it may", hint_s)
            client.allowance -= 1
        client.total_images += 1

    def _check_verifier(self, client: ClientUsage) -> None:
        most = self._limits_of_caller.client_verifier_s_per_day
        self._roll_day(client)
        if most and client.verifier_s >= most:
            left_s = DAY_S - self._clock() % DAY_S
            raise self._busy("verifier", "has used up the verifier's time of this day", left_s)

    def _roll_day(self, client: ClientUsage) -> None:
        day = int(self._clock() // DAY_S)
        if client.day != day:
            client.day, client.verifier_s = day, 0.0

    def _check_stored(self, client: ClientUsage) -> None:
        most = self._limits_of_caller.client_stored_bytes
        if most and client.name.startswith(TOKEN) and client.stored_bytes >= most:
            self._refused("client", "stored")
            raise StorageFull(
                f"the {client.name} has stored {client.stored_bytes:,} bytes of images, and may "
                f"{most:,}; ask for client_stored_bytes of the server to be raised, or for a token "
                "with a higher --limit"
            )

    def _busy(self, why: str, what: str, hint_s: float) -> Busy:
        self._refused("client", why)
        return Busy(
            f"this client ({client_of_call.get()}) {what}, as many as it may; try again in "
            f"{hint_s:.2f} s",
            retry_after_s=hint_s,
        )
