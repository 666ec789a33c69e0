"""Many calls at a time in an event loop, a bounded number of them."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")


async def concurrently(
    items: Iterable[Item] | AsyncIterable[Item],
    work: Callable[[Item], Awaitable[Done]],
    concurrency: int,
) -> AsyncIterator[Done]:
    """What ``work`` makes of each item, as it is done; leaving the loop cancels the rest.

    ``items`` may be endless: it is read only as far as ``concurrency`` are under way.
    """
    running: set[asyncio.Task[Done]] = set()
    try:
        async for item in _each(items):
            running.add(asyncio.ensure_future(_run(work, item)))
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


async def _run(work: Callable[[Item], Awaitable[Done]], item: Item) -> Done:
    return await work(item)


async def _each(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncIterator[Item]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
