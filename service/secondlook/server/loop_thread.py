"""What needs an event loop, for plain code: a thread of its own runs the loop."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

Opened = TypeVar("Opened")


@contextmanager
def in_own_thread(
    name: str, make: Callable[[], AbstractAsyncContextManager[Opened]]
) -> Iterator[Opened]:
    """Open what ``make`` gives and close it at the end, both on the loop of a thread so named.

    Raises what making and opening it raises.
    """
    ready: Future[tuple[Opened, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        done = asyncio.Event()
        try:
            async with make() as opened:
                ready.set_result((opened, asyncio.get_running_loop(), done))
                await done.wait()
        except BaseException as failure:
            if ready.done():
                raise
            ready.set_exception(failure)

    thread = threading.Thread(target=lambda: asyncio.run(run()), name=name, daemon=True)
    thread.start()
    opened, loop, done = ready.result()
    try:
        yield opened
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()
