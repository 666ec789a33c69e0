"""Limits of one client: with a clock that is turned by hand."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from secondlook.config.settings import LimitSettings
from secondlook.core.access import Role, TokenAccess
from secondlook.server import client_limits
from secondlook.server.client_limits import ClientLimits, client_of_call
from secondlook.server.token_table import Principal, principal_of_call
from secondlook_client.errors import Busy, StorageFull

MIDNIGHT = 20_000 * 86_400


class Clock:
    def __init__(self, now: float = MIDNIGHT + 3600.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@contextmanager
def called_by(client: str) -> Iterator[None]:
    token = client_of_call.set(client)
    try:
        yield
    finally:
        client_of_call.reset(token)


@contextmanager
def refused(why: str, told: list[tuple[str, str]]) -> Iterator[pytest.ExceptionInfo[Busy]]:
    with pytest.raises(Busy) as caught:
        yield caught
    assert told[-1] == ("client", why)


def test_images_a_minute_come_at_once_for_ten_seconds_and_then_at_their_rate() -> None:
    clock, told = Clock(), []
    limits = ClientLimits(
        LimitSettings(client_images_per_minute=120), lambda *what: told.append(what), clock=clock
    )
    with called_by("token eva"):
        for _ in range(20):
            limits.keep(1)
        with refused("rate", told) as late, limits.image():
            pass
        assert late.value.retry_after_s == pytest.approx(0.5)
        clock.now += 0.5
        limits.keep(1)
        clock.now -= 100  # a clock that jumps back gives nothing away, and takes nothing for long
        clock.now += 101
        limits.keep(1)
    with called_by("token tom"), limits.image():  # each has his own
        pass
    with called_by(""):
        for _ in range(1000):
            limits.keep(1)  # the server's own


def test_a_token_has_limits_of_its_own_in_place_of_all_clients() -> None:
    told: list[tuple[str, str]] = []
    settings = LimitSettings(client_streams=1, client_in_flight=1, client_images_per_minute=60)
    limits = ClientLimits(settings, lambda *what: told.append(what), clock=Clock())
    own = (("streams", 2), ("images_per_minute", 0))
    principal = Principal("eva", TokenAccess(frozenset({Role.LABELER}), limits=own))
    token = principal_of_call.set(principal)
    try:
        with called_by("token eva"), limits.stream(), limits.stream():
            with refused("streams", told), limits.stream():
                pass
            for _ in range(50):
                limits.keep(1)
            with limits.image(), refused("images", told), limits.image():
                pass  # of which it has no limit of its own
    finally:
        principal_of_call.reset(token)
    with called_by("token tom"), limits.stream(), refused("streams", told), limits.stream():
        pass


def test_what_is_under_way_is_counted_until_it_ends() -> None:
    told: list[tuple[str, str]] = []
    settings = LimitSettings(client_streams=2, client_in_flight=1, client_bytes=100)
    limits = ClientLimits(settings, lambda *what: told.append(what))
    with called_by("10.0.0.7"):
        with limits.stream(), limits.stream(), refused("streams", told), limits.stream():
            pass
        with limits.image(), refused("images", told), limits.image():
            pass
        limits.take_bytes(500)  # whatever its size, as it is the only one
        with refused("bytes", told):
            limits.take_bytes(1)
        limits.give_bytes(500)
        limits.take_bytes(60)
        with limits.stream(), limits.image():
            [usage] = limits.busiest(5)
            assert (usage.streams, usage.images, usage.bytes) == (1, 1, 60)
        assert not usage.idle
        limits.give_bytes(60)
        assert usage.idle and usage.total_images == 2


def test_the_verifiers_time_is_that_of_a_day() -> None:
    clock, told = Clock(), []
    limits = ClientLimits(
        LimitSettings(client_verifier_s_per_day=10), lambda *what: told.append(what), clock=clock
    )
    limits.verified("token eva", 10.5)
    limits.verified("", 99)
    with called_by("token eva"):
        with refused("verifier", told) as late:
            limits.check_verifier()
        assert late.value.retry_after_s == 23 * 3600
        with refused("verifier", told), limits.image():
            pass
        clock.now = MIDNIGHT + 86_400
        limits.check_verifier()


def test_what_a_token_has_stored_is_asked_once_and_counted_on() -> None:
    clock, asked = Clock(), []

    def stored_by(token: str) -> int:
        asked.append(token)
        return 90

    limits = ClientLimits(LimitSettings(client_stored_bytes=100), stored_by=stored_by, clock=clock)
    with called_by("token eva"):
        for _ in range(3):
            asyncio.run(limits.check_stored())
        limits.keep(15)
        with pytest.raises(StorageFull, match=r"token eva has stored 105 bytes .* may 100"):
            asyncio.run(limits.check_stored())
        with pytest.raises(StorageFull):
            limits.keep(1)
        clock.now += client_limits.STORED_AGE_S + 1
        asyncio.run(limits.check_stored())  # something was deleted meanwhile
    assert asked == ["eva", "eva"]
    with called_by("10.0.0.7"):  # whose images nobody could tell in the database
        asyncio.run(limits.check_stored())
        limits.keep(10**9)
        asyncio.run(limits.check_stored())


def test_of_many_clients_those_with_something_under_way_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_limits, "MAX_CLIENTS", 3)
    limits = ClientLimits()
    with ExitStack() as stack:
        with called_by("busy"):
            stack.enter_context(limits.image())
        for number in range(10):
            with called_by(f"10.0.0.{number}"), limits.image():
                pass
        known = [usage.name for usage in limits.busiest(10)]
    assert len(known) == 3 and "busy" in known and "10.0.0.9" in known
