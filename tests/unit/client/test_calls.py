"""Plans do the same in a thread and in an event loop."""

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from secondlook_client import AsyncClient, Client, RetryPolicy
from secondlook_client.calls import (
    END,
    Awaiting,
    Blocking,
    Connection,
    Emit,
    Load,
    Next,
    Plan,
    Send,
    Sleep,
    Streaming,
    StreamPlan,
    Unary,
    iterate,
    iterate_async,
    resumed,
    run,
    run_async,
)
from secondlook_client.errors import SecondlookError, UnreadableFile


class Broken(grpc.RpcError):
    """A line that broke, as gRPC raises it."""

    def code(self) -> Any:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "broken"

    def trailing_metadata(self) -> tuple[()]:
        return ()


class Responses:
    """A streaming call that may break; read as either kind of gRPC call is."""

    def __init__(self, *responses: object, breaks: bool = False) -> None:
        self._left = list(responses)
        self._breaks = breaks
        self.cancelled = False

    def __next__(self) -> object:
        if self._left:
            return self._left.pop(0)
        if self._breaks:
            raise Broken
        raise StopIteration

    async def read(self) -> object:
        try:
            return next(self)
        except StopIteration:
            return grpc.aio.EOF

    def cancel(self) -> None:
        self.cancelled = True


class Doubling(Connection):
    """Two methods written as plans."""

    @Unary
    def double(self, number: int, *, image: Any = b"") -> Plan[int]:
        """Twice the number, and the bytes of an image."""
        yield Sleep(0.0)
        data = yield Load(image)
        try:
            answer = yield Send(self._channel, number, 1.0)
        except Broken:
            return -1
        return int(answer) + len(data)

    @Streaming
    def count(self, calls: list[Responses]) -> StreamPlan[int]:
        """What the calls respond, one after the other, where one breaks."""
        left = iter(calls)
        yield from resumed(lambda: next(left), self._attempts)


class Plain(Doubling, Blocking):
    """For threads."""


class Async(Doubling, Awaiting):
    """For event loops."""


def plain(method: Any) -> Plain:
    return Plain(method, RetryPolicy(first_s=0.001), "host:1")


def awaiting(method: Any) -> Async:
    async def call(request: int, timeout: float) -> int:
        answer: int = method(request, timeout)
        return answer

    return Async(call, RetryPolicy(first_s=0.001), "host:1")


def twice(request: int, timeout: float) -> int:
    return 2 * request


def breaking(request: int, timeout: float) -> int:
    raise Broken


def test_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"abc")
    assert plain(twice).double(4, image=path) == 11
    assert asyncio.run(awaiting(twice).double(4, image=path)) == 11


def test_a_failure_goes_into_the_plan() -> None:
    assert plain(breaking).double(4) == -1
    assert asyncio.run(awaiting(breaking).double(4)) == -1
    with pytest.raises(UnreadableFile):
        plain(twice).double(4, image="/nowhere/x.png")
    with pytest.raises(UnreadableFile):
        asyncio.run(awaiting(twice).double(4, image="/nowhere/x.png"))


def calls() -> list[Responses]:
    return [Responses(1, 2, breaks=True), Responses(breaks=True), Responses(3)]


async def gathered(iterator: Any) -> list[Any]:
    return [found async for found in iterator]


def test_a_stream_goes_on_where_it_broke() -> None:
    assert list(plain(None).count(calls())) == [1, 2, 3]
    assert asyncio.run(gathered(awaiting(None).count(calls()))) == [1, 2, 3]


def test_leaving_a_stream_cancels_its_call() -> None:
    (call,) = given = [Responses(1, 2, 3)]
    stream = plain(None).count(given)
    assert next(stream) == 1 and not call.cancelled
    stream.close()  # type: ignore[attr-defined]
    assert call.cancelled

    async def leave(call: Responses) -> None:
        stream = awaiting(None).count([call])
        assert await anext(stream) == 1 and not call.cancelled
        await stream.aclose()  # type: ignore[attr-defined]
        assert call.cancelled

    asyncio.run(leave(Responses(1, 2, 3)))


def test_cancelling_a_call_closes_its_plan() -> None:
    closed = []

    def plan() -> Plan[None]:
        try:
            yield Sleep(60)
        finally:
            closed.append(True)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run_async(plan()), 0.01)

    asyncio.run(give_up())
    assert closed == [True]


def test_a_plan_that_asks_for_nothing() -> None:
    def nothing() -> Iterator[Any]:
        yield from ()

    assert run(nothing()) is None  # type: ignore[arg-type]
    assert list(iterate(nothing())) == []  # type: ignore[arg-type]
    assert asyncio.run(gathered(iterate_async(nothing()))) == []  # type: ignore[arg-type]


def test_an_error_of_the_plan_is_the_caller_s() -> None:
    def plan() -> Iterator[Any]:
        assert (yield Next(Responses())) is END
        yield Emit(1)
        raise SecondlookError("words")

    with pytest.raises(SecondlookError, match="words"):
        list(iterate(plan()))  # type: ignore[arg-type]
    with pytest.raises(SecondlookError, match="words"):
        asyncio.run(gathered(iterate_async(plan())))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_methods_tell_their_parameters_and_words(kind: type) -> None:
    method = inspect.getattr_static(kind, "label")
    assert "Label one image" in method.__doc__
    assert "classes" in inspect.signature(method.__wrapped__).parameters
