"""Many plans at a time, a bounded number of them, in the order in which they end."""

import asyncio
import contextlib
import heapq
import itertools
import queue
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc

from secondlook_client.calls import Load, Plan, Send, Sleep, Step, run_async
from secondlook_client.errors import Cancelled, SecondlookError
from secondlook_client.images import ImageInput, image_bytes

Key = TypeVar("Key")
T = TypeVar("T")
PlanOf = Callable[[Key, ImageInput], Plan[T]]
"""What is to be done with one image."""


@dataclass(eq=False)
class _InFlight(Generic[Key, T]):
    key: Key
    plan: Plan[T]
    call: Any = None


class ManyCalls(Generic[Key, T]):
    """One run over pairs of key and image, with one thread; iterate over ``results`` once."""

    def __init__(self, plan_of: PlanOf[Key, T], concurrency: int) -> None:
        self._plan_of = plan_of
        self._concurrency = concurrency
        self._ended: queue.SimpleQueue[_InFlight[Key, T]] = queue.SimpleQueue()
        self._running: set[_InFlight[Key, T]] = set()
        self._sleeping: list[tuple[float, int, _InFlight[Key, T]]] = []
        self._tie = itertools.count()

    def results(
        self, items: Iterable[tuple[Key, ImageInput]]
    ) -> Iterator[tuple[Key, T | SecondlookError]]:
        """Each key once, in order of completion; leaving early cancels what is running."""
        source = iter(items)
        try:
            exhausted = False
            while not exhausted or self._running or self._sleeping:
                while not exhausted and self._in_flight < self._concurrency:
                    item = next(source, None)
                    if item is None:
                        exhausted = True
                    else:
                        key, image = item
                        yield from self._go_on(_InFlight(key, self._plan_of(key, image)))
                if self._in_flight:
                    yield from self._await_one()
        finally:
            for one in self._running:
                one.call.cancel()

    @property
    def _in_flight(self) -> int:
        return len(self._running) + len(self._sleeping)

    def _await_one(self) -> Iterator[tuple[Key, T | SecondlookError]]:
        """Wait for a call to end, or for a sleeping one to be due, and go on with it."""
        due_in = self._sleeping[0][0] - time.monotonic() if self._sleeping else None
        if due_in is None or due_in > 0:
            with contextlib.suppress(queue.Empty):
                ended = self._ended.get(timeout=due_in)
                self._running.discard(ended)
                yield from self._answered(ended)
                return
        yield from self._go_on(heapq.heappop(self._sleeping)[2])

    def _answered(self, one: _InFlight[Key, T]) -> Iterator[tuple[Key, T | SecondlookError]]:
        try:
            found = one.call.result()
        except grpc.FutureCancelledError:
            yield one.key, Cancelled("the call was given up")
        except grpc.RpcError as failed:
            yield from self._go_on(one, failure=failed)
        else:
            yield from self._go_on(one, found)

    def _go_on(
        self, one: _InFlight[Key, T], found: Any = None, failure: Exception | None = None
    ) -> Iterator[tuple[Key, T | SecondlookError]]:
        """Advance a plan until it waits or ends; its end is yielded."""
        try:
            step = one.plan.throw(failure) if failure else one.plan.send(found)
            while isinstance(step, Load):
                step = self._loaded(one, step)
        except StopIteration as done:
            yield one.key, done.value
        except SecondlookError as refused:
            yield one.key, refused
        else:
            self._wait(one, step)

    def _loaded(self, one: _InFlight[Key, T], step: Load) -> Step:
        try:
            data = image_bytes(step.image)
        except SecondlookError as unreadable:
            return one.plan.throw(unreadable)
        return one.plan.send(data)

    def _wait(self, one: _InFlight[Key, T], step: Step) -> None:
        if isinstance(step, Sleep):
            due = time.monotonic() + step.seconds
            heapq.heappush(self._sleeping, (due, next(self._tie), one))
            return
        assert isinstance(step, Send)
        self._running.add(one)
        one.call = step.method.future(step.request, timeout=step.timeout_s)
        one.call.add_done_callback(lambda _: self._ended.put(one))


async def many_async(
    items: Iterable[tuple[Key, ImageInput]] | AsyncIterable[tuple[Key, ImageInput]],
    plan_of: PlanOf[Key, T],
    concurrency: int,
) -> AsyncIterator[tuple[Key, T | SecondlookError]]:
    """The same in an event loop."""

    async def one(key: Key, image: ImageInput) -> tuple[Key, T | SecondlookError]:
        try:
            return key, await run_async(plan_of(key, image))
        except SecondlookError as failure:
            return key, failure

    running: set[asyncio.Task[tuple[Key, T | SecondlookError]]] = set()
    try:
        async for item in each(items):
            running.add(asyncio.ensure_future(one(*item)))
            if len(running) >= concurrency:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    finally:
        for task in running:
            task.cancel()


async def each(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    """The items, whichever kind of iterable they are."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
