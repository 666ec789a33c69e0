"""Who gets the next place when more is asked for than there are places: clients in turn.

A client is a token, or an address where none is asked for (``client_limits``). Calls are not kept
waiting but refused with a hint, so those that were refused and will be back stand for a queue. A
client that had more images lately than others gets a place only while as many stay free as the
refused calls of those others may take, up to their equal share of the places. A client alone gets
all, and so does whoever calls while the others do not. Frames of streams wait in line; the next
place goes to the next client, not to the next frame.

A share of the places held at a moment was tried first: 16 places are no equal shares for 11
clients, and in a simulation one that called ten times as often as ten others got a third more than
they did. By what each had lately it gets 3 % more, and places stay empty for 2 % of the time.
"""

import asyncio
import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from types import TracebackType

BACK_S = 0.25
"""A refused call is expected back so long after its retry hint; then its place is anybody's."""
MAX_EXPECTED = 256
"""Refused calls of one client that are remembered, the latest."""
LATELY_S = 10.0
"""What a client had counts for less by a factor of e after each such time."""
AHEAD, AHEAD_IMAGES = 1.03, 1.0
"""A client has had more than another from this factor on, and so many images on top: with none
each would wait for each, and places stay empty."""
MAX_KNOWN = 1000
"""Clients whose use is remembered before those without any lately are forgotten."""


class FairShares:
    """Calls that hold places, and those that were refused one, by client. One event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: Counter[str] = Counter()
        self._expected: dict[str, deque[float]] = {}
        """Until when each refused call is expected back, by client."""
        self._used: dict[str, tuple[float, float]] = {}
        """Images lately, and at which moment they were so many, by client."""

    @property
    def taken(self) -> int:
        """Places that are held."""
        return self._held.total()

    def may_enter(self, client: str, places: int) -> bool:
        """Whether one of ``places`` is free and is not another client's turn."""
        free, now = places - self.taken, self._clock()
        if free <= 0:
            return False
        self._forget_late(now)
        share = math.ceil(places / len({client} | self._held.keys() | self._expected.keys()))
        ahead_of = (self._lately(client, now) - AHEAD_IMAGES) / AHEAD
        reserved = sum(
            min(len(calls), max(share - self._held[other], 0))
            for other, calls in self._expected.items()
            if other != client and self._lately(other, now) < ahead_of
        )
        return free > reserved

    def enter(self, client: str) -> None:
        """One of its calls has a place."""
        now = self._clock()
        self._held[client] += 1
        self._used[client] = self._lately(client, now) + 1, now
        if calls := self._expected.get(client):
            calls.popleft()
        if len(self._used) > MAX_KNOWN:
            known = {one: self._lately(one, now) for one in self._used}
            self._used = {one: (used, now) for one, used in known.items() if used > 0.1}

    def leave(self, client: str) -> None:
        """One of its calls has ended."""
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]

    def refused(self, client: str, retry_after_s: float) -> None:
        """One of its calls was told to come back in ``retry_after_s`` seconds."""
        calls = self._expected.setdefault(client, deque(maxlen=MAX_EXPECTED))
        calls.append(self._clock() + retry_after_s + BACK_S)

    def _lately(self, client: str, now: float) -> float:
        images, at = self._used.get(client, (0.0, now))
        return images * math.exp((at - now) / LATELY_S)

    def _forget_late(self, now: float) -> None:
        for client, calls in list(self._expected.items()):
            while calls and calls[0] < now:
                calls.popleft()
            if not calls:
                del self._expected[client]


class FairTurns:
    """Places of frames; the clients that wait for one are served in turn. One event loop."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """In the order of the clients' next turns."""

    def of(self, client: str) -> "ClientTurns":
        """What the frames of a client enter."""
        return ClientTurns(self, client)

    async def acquire(self, client: str) -> None:
        """Wait for a place."""
        if self._free and not self._waiting:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was given a place at that moment
                self.release()
            raise

    def release(self) -> None:
        """Give a place back: to the first frame of the client whose turn it is."""
        while self._waiting:
            client, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[client] = turns  # at the end of the line
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class ClientTurns:
    """``async with`` it for one place."""

    def __init__(self, turns: FairTurns, client: str) -> None:
        self._turns = turns
        self._client = client

    async def __aenter__(self) -> None:
        await self._turns.acquire(self._client)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._turns.release()
