"""An event loop in a thread of its own, for plain code; and threads that no loop waits for."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import TypeVar

Opened = TypeVar("Opened")
Done = TypeVar("Done")


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


def in_daemon_thread(work: Callable[[], Done]) -> "asyncio.Future[Done]":
    """Run ``work`` in a thread of its own; the outcome belongs to the running loop.

    Unlike the loop's executor, nothing waits for the thread once the outcome was cancelled: it is
    for work that may hang when the process is to end.
    """
    outcome: Future[Done] = Future()

    def run() -> None:
        with suppress(InvalidStateError):  # cancelled meanwhile
            try:
                outcome.set_result(work())
            except BaseException as failure:
                outcome.set_exception(failure)

    threading.Thread(target=run, daemon=True).start()
    return asyncio.wrap_future(outcome)
