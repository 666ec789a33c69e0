"""How places and bytes are counted, without a server."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.config.settings import ServerSettings
from secondlook.server.call_limits import (
    HEADER_BYTES,
    MAX_IDLE_BYTES,
    CallLimits,
    OpenCall,
    PeerConnection,
    RequestBytes,
    call_groups,
)
from secondlook.server.metrics import Metrics
from secondlook_client.errors import Busy

CALLS = 16


def limits() -> CallLimits:
    return CallLimits(ServerSettings(), CALLS, 2**20, Metrics())


def peer(host: int, port: int) -> str:
    return f"ipv4:10.0.0.{host}:{port}"


def call_on(connection: PeerConnection) -> OpenCall:
    call = OpenCall(call_groups(1)["call"], connection, 0.0)
    connection.calls[call] = None
    return call


@given(
    messages=st.lists(st.integers(0, 3_000_000), max_size=30),
    partial=st.integers(0, 60_000_000),
    headers=st.integers(0, HEADER_BYTES),
)
def test_what_is_not_whole_is_what_came_beside_whole_messages(
    messages: list[int], partial: int, headers: int
) -> None:
    connection = PeerConnection(None, "x")
    call_on(connection)
    received = 0
    for size in messages:
        received += size + headers + 9 * (size // 16_384 + 1)
        connection.deliver(size)
    connection.look(received + partial, 1.0, 0.1)
    slack = sum(HEADER_BYTES + size // 1024 for size in messages)
    assert partial - slack - MAX_IDLE_BYTES <= connection.unfinished <= partial + 9 * len(messages)


def test_a_connection_without_calls_has_nothing_unfinished() -> None:
    connection = PeerConnection(None, "x")
    connection.look(10_000_000, 1.0, 0.1)
    assert connection.unfinished == 0
    call_on(connection)
    connection.look(10_000_000, 2.0, 0.1)
    assert connection.unfinished == 0, "what came before the call is none of it"
    connection.look(10_500_000, 3.0, 0.1)
    assert connection.unfinished == pytest.approx(500_000, abs=100)
    assert connection.partial_since == 3.0
    connection.look(None, 4.0, 0.1)
    assert connection.unfinished == 0


def test_pings_of_a_stream_that_idles_for_weeks_are_no_message() -> None:
    connection, received = PeerConnection(None, "x"), 0
    call_on(connection)
    for second in range(0, 14 * 86_400, 30):
        connection.look(received, float(second), 29.9)
        received += 17
        connection.look(received, float(second), 0.1)
    assert connection.unfinished < 100
    connection.look(received + 1_000_000, float(second), 0.1)
    assert connection.unfinished > 990_000


def test_a_token_has_its_share_from_wherever_it_calls_and_its_neighbours_have_theirs() -> None:
    made = limits()
    group = made._groups["call"]
    calls = [made.enter(group, peer(host, 1), "token gate-3") for host in range(CALLS * 3 // 4)]
    with pytest.raises(Busy):
        made.enter(group, peer(99, 1), "token gate-3")
    assert made.enter(group, peer(0, 2), "token gate-4").client == "token gate-4"
    made.leave(calls[0])
    made.enter(group, peer(99, 1), "token gate-3")


def test_one_client_does_not_take_every_place() -> None:
    made = limits()
    group = made._groups["call"]
    for port in range(CALLS * 3 // 4):
        made.enter(group, peer(1, 1000 + port))
    with pytest.raises(Busy):
        made.enter(group, peer(1, 5000))
    assert made.enter(group, peer(2, 5000)).connection.host == "10.0.0.2"


def test_a_call_that_left_gives_its_place_back_once() -> None:
    made = limits()
    group = made._groups["health"]
    calls = [made.enter(group, peer(1, 1000 + port)) for port in range(group.places)]
    with pytest.raises(Busy) as refused:
        made.enter(group, peer(2, 1))
    assert refused.value.retry_after_s
    made.leave(calls[0])
    made.leave(calls[0])
    made.enter(group, peer(2, 1))
    with pytest.raises(Busy):
        made.enter(group, peer(2, 2))


def test_the_slowest_message_makes_room_and_its_call_hears_why() -> None:
    async def never() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def main() -> None:
        made = limits()
        group = made._groups["call"]
        calls = [made.enter(group, peer(port, 1000)) for port in range(CALLS)]
        waiting = [asyncio.create_task(call.next(never())) for call in calls]
        await asyncio.sleep(0)
        for number, call in enumerate(calls):
            call.arrived -= 10
            call.connection.unfinished = 50_000 if number != 5 else 7
        newcomer = made.enter(group, peer(99, 1))
        assert newcomer in group.open and calls[5] not in group.open
        with pytest.raises(Busy, match="send it again"):
            await waiting[5]
        assert not any(task.done() for task in (*waiting[:5], *waiting[6:]))
        for task in waiting:
            task.cancel()

    asyncio.run(main())


def test_messages_that_have_just_begun_are_not_cut_off() -> None:
    async def main() -> None:
        made = limits()
        group = made._groups["call"]
        for port in range(CALLS):
            made.enter(group, peer(port, 1000)).reading = asyncio.current_task()
        with pytest.raises(Busy):
            made.enter(group, peer(99, 1))

    asyncio.run(main())


@given(st.lists(st.integers(0, 1000), max_size=20))
def test_requests_fit_together_or_are_refused_and_one_always_fits(sizes: list[int]) -> None:
    held, taken = RequestBytes(500), []
    for size in sizes:
        try:
            held.take(size)
        except Busy:
            assert held.used and held.used + size > 500
        else:
            taken.append(size)
        assert held.used == sum(taken)
        assert held.used <= max(500, *taken, 0)
    for size in taken:
        held.give(size)
    assert held.used == 0
