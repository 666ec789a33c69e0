"""Subscribers learn of changes at once."""

import asyncio
import threading

import pytest
from sqlalchemy import text

from secondlook.store import Store
from secondlook.store.database import ChangeNotifier


def test_all_subscribers_are_notified_and_none_afterwards() -> None:
    notifier, notified = ChangeNotifier(), []
    notifier.notify()
    with (
        notifier.subscribed(lambda: notified.append("a")),
        notifier.subscribed(lambda: notified.append("b")),
    ):
        notifier.notify()
    notifier.notify()
    assert notified == ["a", "b"]


def test_an_event_loop_is_woken_by_another_thread() -> None:
    notifier = ChangeNotifier()

    async def wait() -> bool:
        with notifier.event() as event:
            threading.Thread(target=notifier.notify).start()
            return await asyncio.wait_for(event.wait(), 10)

    assert asyncio.run(wait())


def test_a_closed_loop_does_no_harm_to_whoever_notifies() -> None:
    notifier = ChangeNotifier()
    loop = asyncio.new_event_loop()
    notified: list[int] = []

    async def listen() -> None:
        notifier.event().__enter__()

    loop.run_until_complete(listen())
    loop.close()
    with notifier.subscribed(lambda: notified.append(1)):
        notifier.notify()
    assert notified == [1], "the other subscribers are still notified"


def test_every_committed_transaction_notifies(store: Store) -> None:
    notified: list[int] = []
    with store.database.changes.subscribed(lambda: notified.append(1)):
        with store.database.reading() as connection:
            connection.execute(text("SELECT 1"))
        with pytest.raises(ZeroDivisionError), store.database.writing():
            raise ZeroDivisionError
        assert not notified
        with store.database.writing() as connection:
            connection.execute(text("SELECT 1"))
        assert len(notified) == 1
