"""Work whose caller has gone is given up: how the caller says so, and how long loops ask.

    cancellation = Cancellation()
    with cancelled_by(cancellation):      # in the thread that works
        for image in images:
            check_cancelled()             # raises ``Cancelled`` once ``cancellation.cancel()`` ran

It belongs to the thread's context, as a deadline does, since the loops lie many calls below the
one that knows the caller. The store asks before each transaction and breaks off statements that
run; other loops of more than a moment ask themselves.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from secondlook_client.errors import Cancelled


class Cancellation:
    """Whether some work is still wanted. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._called: dict[object, Callable[[], None]] = {}
        self.cancelled = False
        """Whether ``cancel`` was called."""

    def cancel(self) -> None:
        """The work is no longer wanted, for good."""
        with self._lock:
            self.cancelled = True
            called = [*self._called.values()]
        for call in called:
            call()

    @contextmanager
    def calling(self, call: Callable[[], None]) -> Iterator[None]:
        """Until the block ends, ``cancel`` calls ``call`` too, in its own thread: be quick."""
        key = object()
        with self._lock:
            self._called[key] = call
        try:
            yield
        finally:
            with self._lock:
                del self._called[key]


_current: ContextVar[Cancellation | None] = ContextVar("cancellation", default=None)


@contextmanager
def cancelled_by(cancellation: Cancellation) -> Iterator[None]:
    """Until the block ends, work of this thread is given up once ``cancellation`` says so."""
    token = _current.set(cancellation)
    try:
        yield
    finally:
        _current.reset(token)


def current_cancellation() -> Cancellation | None:
    """That of the work which this thread does; None where nobody can cancel it."""
    return _current.get()


def check_cancelled() -> None:
    """Raises ``Cancelled`` when the work of this thread is no longer wanted."""
    cancellation = _current.get()
    if cancellation is not None and cancellation.cancelled:
        raise Cancelled("the call was given up, and its work with it; send it again")
