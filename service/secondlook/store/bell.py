"""Word of changes inside this process, so that those who wait for one look at once.

Nothing is right only because of it: what other processes change is found by looking now and then,
and a bell that nobody hears costs a moment and no more.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Bell:
    """Rung by whoever changed something, heard by any number. Safe for threads."""

    def __init__(self) -> None:
        self._listeners: dict[object, Callable[[], None]] = {}
        self._lock = threading.Lock()

    def ring(self) -> None:
        """Something changed."""
        with self._lock:
            listeners = [*self._listeners.values()]
        for listener in listeners:
            listener()

    @contextmanager
    def heard_by(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call ``listener`` at each ring, in the thread that rings: it must be quick."""
        key = object()
        with self._lock:
            self._listeners[key] = listener
        try:
            yield
        finally:
            with self._lock:
                del self._listeners[key]

    @contextmanager
    def waking(self) -> Iterator[asyncio.Event]:
        """An event of the running loop that each ring sets; clear it before looking."""
        event, loop = asyncio.Event(), asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has just been closed
                loop.call_soon_threadsafe(event.set)

        with self.heard_by(wake):
            yield event
