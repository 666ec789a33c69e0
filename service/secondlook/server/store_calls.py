"""What the servicers over a store share: the store or a refusal, threads for it, and pages."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from secondlook.core.cancellation import Cancellation, cancelled_by
from secondlook.store import Store
from secondlook_client.errors import BadRequest, NotSupported

T = TypeVar("T")

MAX_PAGE, DEFAULT_PAGE = 200, 50
"""Rows of one page at most, and where the caller asks for no number."""
MAX_TOKEN_DIGITS = 18
"""A token is a row's number, which fits into 64 bits."""


class StoreServicer:
    """Base of a servicer whose calls need a store; without one, each of them is refused."""

    def __init__(self, store: Store | None, kind: str, threads: int) -> None:
        """``kind`` is what the service is about, for errors and thread names, e.g. ``jobs``.

        ``threads`` calls at most wait for the store at the same time.
        """
        self._optional_store = store
        self._kind = kind
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=kind)

    def close(self) -> None:
        """Let the threads end; call it when no call is running."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def _store(self) -> Store:
        """Raises ``NotSupported`` where the server has none."""
        if self._optional_store is None:
            raise NotSupported(
                f"this server has no store, and so no {self._kind}; start it with --data FOLDER"
            )
        return self._optional_store

    async def _in_thread(self, work: Callable[[], T], threads: Any = None) -> T:
        """See ``in_thread``; in ``threads``, or in those of this servicer."""
        return await in_thread(threads or self._threads, work)


async def in_thread(threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """Run ``work`` in a thread: it may be slow, and the event loop never waits.

    When the call ends before, because its caller left, ``work`` is cancelled: not begun, or given
    up where it asks ``check_cancelled``.
    """
    cancellation = Cancellation()

    def run() -> T:
        with cancelled_by(cancellation):
            return work()

    running = asyncio.get_running_loop().run_in_executor(threads, run)
    try:
        return await running
    except asyncio.CancelledError:
        cancellation.cancel()
        raise


def page_of(
    size: int, token: str, call: str, most: int = MAX_PAGE, default: int = DEFAULT_PAGE
) -> tuple[int, int | None]:
    """Rows of the page that a request asks for, and the number of the row it begins after.

    Raises ``BadRequest`` for a size above ``most``, or a token that ``call`` never answers with.
    """
    if size > most:
        raise BadRequest(f"expected page_size up to {most}, got {size}")
    if token and not (token.isdecimal() and len(token) <= MAX_TOKEN_DIGITS):
        raise BadRequest(f"invalid page_token '{token:.40}'; use one that {call} returned")
    return size or default, int(token) if token else None


def next_token(found: Sequence[Any], size: int, number: str = "id") -> str:
    """Token of the next page when ``size`` + 1 rows were asked for; empty on the last page."""
    return str(getattr(found[size - 1], number)) if len(found) > size else ""


def deadline_of(context: Any) -> float | None:
    """The caller's deadline as a ``time.monotonic()`` value; None without one."""
    left = context.time_remaining()
    return None if left is None else time.monotonic() + left
