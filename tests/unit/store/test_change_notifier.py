"""Who waits for a change hears of it."""

import asyncio
import threading

import pytest
from sqlalchemy import text

from secondlook.store import Store
from secondlook.store.database import Bell


def test_all_who_listen_hear_it_and_none_afterwards() -> None:
    bell, heard = Bell(), []
    bell.ring()
    with bell.heard_by(lambda: heard.append("a")), bell.heard_by(lambda: heard.append("b")):
        bell.ring()
    bell.ring()
    assert heard == ["a", "b"]


def test_an_event_loop_is_woken_by_another_thread() -> None:
    bell = Bell()

    async def wait() -> bool:
        with bell.waking() as event:
            threading.Thread(target=bell.ring).start()
            return await asyncio.wait_for(event.wait(), 10)

    assert asyncio.run(wait())


def test_a_loop_that_has_gone_does_no_harm_to_whoever_rings() -> None:
    bell = Bell()
    loop = asyncio.new_event_loop()

    heard: list[int] = []

    async def listen() -> None:
        bell.waking().__enter__()

    loop.run_until_complete(listen())
    loop.close()
    with bell.heard_by(lambda: heard.append(1)):
        bell.ring()
    assert heard == [1], "the others still hear it"


def test_every_transaction_that_was_kept_rings(store: Store) -> None:
    heard: list[int] = []
    with store.database.written.heard_by(lambda: heard.append(1)):
        with store.database.reading() as connection:
            connection.execute(text("SELECT 1"))
        with pytest.raises(ZeroDivisionError), store.database.writing():
            raise ZeroDivisionError
        assert not heard
        with store.database.writing() as connection:
            connection.execute(text("SELECT 1"))
        assert len(heard) == 1
