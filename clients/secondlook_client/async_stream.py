"""A live stream for event loops; the same rules as ``stream.LiveStream``."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import grpc

from secondlook_client.errors import Cancelled, ClientError, ResultsUnread
from secondlook_client.live import Frame, FrameBook, LiveOptions, StreamRules
from secondlook_client.results import FrameResult
from secondlook_client.retry import RetryPolicy, typed
from secondlook_client.v1 import labeling_pb2 as pb


class AsyncLiveStream:
    """Frames in, exactly one ``FrameResult`` for each out, in order of completion.

        async with client.stream(classes=["dog"]) as stream:
            stream.send(jpeg)                 # returns at once
            stream.finish()
            async for found in stream:
                show(found)

    Belongs to the event loop that it was opened in.
    """

    def __init__(
        self,
        method: Any,
        opening: pb.StreamOpening,
        options: LiveOptions,
        retry: RetryPolicy,
        address: str,
    ) -> None:
        """Use ``AsyncClient.stream``. ``method`` is the stub's ``LabelStream``."""
        self._method = method
        self._opening = opening
        self._options = options
        self._address = address
        self._rules = StreamRules(retry)
        self._book = FrameBook(options)
        self._results: deque[FrameResult] = deque()
        self._readable = asyncio.Event()
        self._sendable = asyncio.Event()
        self._next = 0
        self._open = False
        self._finished = False
        self._over = False
        self._failure: ClientError | None = None
        self._task = asyncio.ensure_future(self._keep())

    def send(self, image: bytes, *, key: Any = None, name: str = "") -> int:
        """Offer one encoded frame and return its number; never waits for the network.

        ``key`` comes back with the result. Raises the error that ended the stream, ``Cancelled``
        after ``finish`` or ``close``, and ``ResultsUnread`` when nobody reads the results.
        """
        if self._failure is not None:
            raise self._failure
        if self._finished or self._over:
            raise Cancelled("the stream takes no more frames; open a new one")
        if len(self._results) >= self._options.max_unread:
            raise ResultsUnread(
                f"{len(self._results)} results wait to be read; iterate over the stream "
                "beside sending"
            )
        frame = Frame(self._next, key, name, image)
        self._next += 1
        self._report(self._book.offer(frame, self._open))
        return frame.sequence

    def ready(self) -> list[FrameResult]:
        """The results that are there now, without waiting."""
        found = list(self._results)
        self._results.clear()
        return found

    def finish(self) -> None:
        """No more frames will come; the iteration ends after the last result."""
        self._finished = True
        self._wake()

    async def close(self) -> None:
        """Hang up; frames without an answer are reported as dropped (``closed``)."""
        self._task.cancel()
        await asyncio.wait({self._task})
        self._end()  # a task that is cancelled before its first step never gets to its own

    @property
    def connected(self) -> bool:
        """Whether the server has accepted the stream and the line stands."""
        return self._open

    def __aiter__(self) -> AsyncIterator[FrameResult]:
        return self

    async def __anext__(self) -> FrameResult:
        while not self._results and not self._over:
            self._readable.clear()
            await self._readable.wait()
        if self._results:
            return self._results.popleft()
        if self._failure is not None:
            raise self._failure
        raise StopAsyncIteration

    async def __aenter__(self) -> "AsyncLiveStream":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _report(self, found: list[FrameResult]) -> None:
        self._results.extend(found)
        self._wake()

    def _wake(self) -> None:
        self._readable.set()
        self._sendable.set()

    async def _keep(self) -> None:
        """Connect, listen, and connect again until the stream is over."""
        try:
            while True:
                cause = await self._listen()
                self._open = False
                self._report(self._book.lost(cause))
                if self._finished and self._book.idle:
                    return
                wait_s = self._rules.wait_s(cause, self._finished)
                if wait_s is None:
                    self._failure = cause
                    return
                await asyncio.sleep(wait_s)
        finally:
            self._end()

    def _end(self) -> None:
        self._open, self._over = False, True
        self._report(self._book.give_up(self._failure))

    async def _listen(self) -> ClientError | None:
        """One connection, to its end; why it broke, or None when the server ended it in order."""
        call = self._method()
        sender = asyncio.ensure_future(self._send_all(call))
        try:
            async for response in call:
                if response.HasField("answer"):
                    self._rules.heard()
                    self._report(self._book.answered(response.answer))
                else:
                    self._open = True
                    self._wake()
        except grpc.RpcError as failed:
            return typed(failed, self._address)
        finally:
            sender.cancel()
            await asyncio.wait({sender})
            call.cancel()
        return None

    async def _send_all(self, call: Any) -> None:
        # A line that breaks while something is written fails here too; the reader tells why.
        try:
            await call.write(pb.LabelStreamRequest(opening=self._opening))
            while frame := await self._next_frame():
                await call.write(frame.message())
            await call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            return

    async def _next_frame(self) -> Frame | None:
        """Waits for a frame that may be sent; None when there will be no more."""
        while True:
            # Only an accepted stream takes frames: what a dead line swallows counts as sent.
            if self._open and (frame := self._book.take()):
                return frame
            if self._finished and not self._book.waiting:
                return None
            self._sendable.clear()
            await self._sendable.wait()
