"""Many pictures over one sync channel, a bounded number at a time, without a thread for each."""

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
from secondlook_client.messages import Picture, label_result, picture_bytes
from secondlook_client.results import LabelResult
from secondlook_client.retry import Attempts
from secondlook_client.v1 import labeling_pb2 as pb

Key = TypeVar("Key")


@dataclass(eq=False)
class _Job(Generic[Key]):
    key: Key
    request: pb.LabelRequest
    attempts: Attempts
    call: Any = field(default=None)


class Many(Generic[Key]):
    """One run over pairs of key and picture; iterate over ``results`` once."""

    def __init__(
        self,
        label: Any,
        request: Callable[[Key, bytes], pb.LabelRequest],
        attempts: Callable[[], Attempts],
        concurrency: int,
    ) -> None:
        """``label`` is the stub's method; ``request`` and ``attempts`` make one of each."""
        self._label = label
        self._request = request
        self._attempts = attempts
        self._concurrency = concurrency
        self._ended: queue.SimpleQueue[_Job[Key]] = queue.SimpleQueue()
        self._running: set[_Job[Key]] = set()
        self._resting: list[tuple[float, int, _Job[Key]]] = []
        self._tie = itertools.count()

    def results(
        self, items: Iterable[tuple[Key, Picture]]
    ) -> Iterator[tuple[Key, LabelResult | ClientError]]:
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
            for job in self._running:
                job.call.cancel()

    def _begin(self, key: Key, picture: Picture) -> ClientError | None:
        try:
            request = self._request(key, picture_bytes(picture))
        except ClientError as refused:
            return refused
        self._start(_Job(key, request, self._attempts()))
        return None

    def _start(self, job: _Job[Key]) -> None:
        self._running.add(job)
        job.call = self._label.future(job.request, timeout=job.attempts.left_s())
        job.call.add_done_callback(lambda _: self._ended.put(job))

    def _next_ended(self) -> _Job[Key] | None:
        """Wait for a call to end, or for a resting job to be due; that one is started again."""
        if not self._running and not self._resting:
            return None
        due_in = self._resting[0][0] - time.monotonic() if self._resting else None
        if due_in is None or due_in > 0:
            with contextlib.suppress(queue.Empty):
                return self._ended.get(timeout=due_in)
        self._start(heapq.heappop(self._resting)[2])
        return None

    def _settle(self, job: _Job[Key]) -> Iterator[tuple[Key, LabelResult | ClientError]]:
        self._running.discard(job)
        try:
            yield job.key, label_result(job.call.result().labelled)
        except grpc.FutureCancelledError:
            yield job.key, Cancelled("the call was given up")
        except grpc.RpcError as failed:
            try:
                wait_s = job.attempts.wait_s(failed)
            except ClientError as failure:
                yield job.key, failure
            else:
                due = time.monotonic() + wait_s
                heapq.heappush(self._resting, (due, next(self._tie), job))
