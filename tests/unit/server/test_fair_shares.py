"""Places are divided among clients, not among calls."""

import asyncio
import random
from collections import Counter

from secondlook.server.fair_shares import BACK_S, MAX_KNOWN, FairShares, FairTurns

HINT_S = 1.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def entered(shares: FairShares, client: str, places: int) -> bool:
    if shares.may_enter(client, places):
        shares.enter(client)
        return True
    shares.refused(client, HINT_S)
    return False


def test_one_client_alone_has_all_the_places() -> None:
    shares = FairShares()
    assert [entered(shares, "a", 4) for _ in range(6)] == [True] * 4 + [False] * 2


def test_a_freed_place_is_kept_for_the_client_that_had_less() -> None:
    clock = Clock()
    shares = FairShares(clock)
    assert all(entered(shares, "greedy", 4) for _ in range(4))
    assert not entered(shares, "modest", 4)
    shares.leave("greedy")
    assert not entered(shares, "greedy", 4)  # somebody who had less will be back
    assert entered(shares, "modest", 4)
    shares.leave("greedy")
    assert entered(shares, "greedy", 4)  # nobody else wants it
    assert not entered(shares, "modest", 4)
    clock.now += HINT_S + BACK_S + 0.01
    shares.leave("greedy")
    assert entered(shares, "greedy", 4)  # who did not come back has lost the turn


def test_clients_without_use_lately_are_forgotten() -> None:
    clock = Clock()
    shares = FairShares(clock)
    for number in range(MAX_KNOWN + 10):
        clock.now += 1.0
        shares.enter(str(number))
        shares.leave(str(number))
    assert len(shares._used) < 100 and shares._used.keys() >= {str(MAX_KNOWN + 9)}


def test_ten_clients_that_ask_as_often_are_served_as_often_and_one_that_asks_more_is_not() -> None:
    clock, draw = Clock(), random.Random(1)
    shares, served, places = FairShares(clock), Counter[str](), 16
    open_calls: list[tuple[float, str]] = []
    callers = [(0.0, client) for client in "abcdefghij" for _ in range(16)]
    callers += [(0.0, "greedy")] * 100
    while clock.now < 100:
        clock.now += 0.01
        for call in [call for call in open_calls if call[0] <= clock.now]:
            open_calls.remove(call)
            shares.leave(call[1])
            served[call[1]] += 1
            callers.append((clock.now + draw.random() * 0.1, call[1]))
        due = [caller for caller in callers if caller[0] <= clock.now]
        draw.shuffle(due)
        for caller in due:
            callers.remove(caller)
            if entered(shares, caller[1], places):
                open_calls.append((clock.now + 0.2, caller[1]))
            else:
                callers.append((clock.now + HINT_S * (0.9 + draw.random() * 0.2), caller[1]))
    busy = served.total() * 0.2 / (clock.now * places)
    mean = served.total() / 11
    assert max(abs(count - mean) for count in served.values()) < 0.1 * mean
    assert busy > 0.92  # 0.97 with places for whoever comes first, of which the greedy has half


def test_frames_wait_in_a_line_of_clients() -> None:
    order: list[str] = []

    async def scene() -> None:
        turns = FairTurns(1)

        async def frame(client: str) -> None:
            async with turns.of(client):
                order.append(client)
                await asyncio.sleep(0)

        greedy = [asyncio.create_task(frame("greedy")) for _ in range(5)]
        await asyncio.sleep(0)
        cancelled = asyncio.create_task(frame("left"))
        modest = [asyncio.create_task(frame("modest")) for _ in range(2)]
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(*greedy, *modest)
        async with turns.of("later"):  # every place came back
            order.append("later")

    asyncio.run(scene())
    assert order == ["greedy"] * 3 + ["modest", "greedy", "modest", "greedy", "later"]
