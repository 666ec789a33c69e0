"""Many calls over one sync channel, a bounded number at a time, without a thread for each."""

import contextlib
import heapq
import itertools
import queue
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import grpc

from secondlook_client.errors import Cancelled, ClientError
from secondlook_client.messages import ImageInput, image_bytes
from secondlook_client.retry import Attempts

Key = TypeVar("Key")
Answer = TypeVar("Answer")


@dataclass(eq=False)
class _Sent(Generic[Key]):
    key: Key
    request: Any
    attempts: Attempts
    call: Any = field(default=None)


class Many(Generic[Key, Answer]):
    """One run over pairs of key and image; iterate over ``results`` once."""

    def __init__(
        self,
        method: Any,
        request: Callable[[Key, bytes], Any],
        read: Callable[[Any], Answer],
        attempts: Callable[[], Attempts],
        concurrency: int,
    ) -> None:
        """``method`` is the stub's; ``request`` and ``attempts`` make one of each for an image.

        ``read`` makes the answer of a response.
        """
        self._method = method
        self._request = request
        self._read = read
        self._attempts = attempts
        self._concurrency = concurrency
        self._ended: queue.SimpleQueue[_Sent[Key]] = queue.SimpleQueue()
        self._running: set[_Sent[Key]] = set()
        self._resting: list[tuple[float, int, _Sent[Key]]] = []
        self._tie = itertools.count()

    def results(
        self, items: Iterable[tuple[Key, ImageInput]]
    ) -> Iterator[tuple[Key, Answer | ClientError]]:
        """Each key once, in order of completion; leaving early cancels what is running."""
        source = iter(items)
        try:
            exhausted = False
            while not exhausted or self._running or self._resting:
                while not exhausted and len(self._running) + len(self._resting) < self._concurrency:
                    item = next(source, None)
                    if item is None:
                        exhausted = True
                    elif refused := self._begin(*item):
                        yield item[0], refused
                if ended := self._next_ended():
                    yield from self._settle(ended)
        finally:
            for sent in self._running:
                sent.call.cancel()

    def _begin(self, key: Key, image: ImageInput) -> ClientError | None:
        try:
            request = self._request(key, image_bytes(image))
        except ClientError as refused:
            return refused
        self._start(_Sent(key, request, self._attempts()))
        return None

    def _start(self, sent: _Sent[Key]) -> None:
        self._running.add(sent)
        sent.call = self._method.future(sent.request, timeout=sent.attempts.left_s())
        sent.call.add_done_callback(lambda _: self._ended.put(sent))

    def _next_ended(self) -> _Sent[Key] | None:
        """Wait for a call to end, or for a resting one to be due, which is then sent again."""
        if not self._running and not self._resting:
            return None
        due_in = self._resting[0][0] - time.monotonic() if self._resting else None
        if due_in is None or due_in > 0:
            with contextlib.suppress(queue.Empty):
                return self._ended.get(timeout=due_in)
        self._start(heapq.heappop(self._resting)[2])
        return None

    def _settle(self, sent: _Sent[Key]) -> Iterator[tuple[Key, Answer | ClientError]]:
        self._running.discard(sent)
        try:
            yield sent.key, self._read(sent.call.result())
        except grpc.FutureCancelledError:
            yield sent.key, Cancelled("the call was given up")
        except grpc.RpcError as failed:
            try:
                wait_s = sent.attempts.wait_s(failed)
            except ClientError as failure:
                yield sent.key, failure
            else:
                due = time.monotonic() + wait_s
                heapq.heappush(self._resting, (due, next(self._tie), sent))
