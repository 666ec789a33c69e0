"""A live stream: a thread keeps the connection, the camera loop never waits.

``AsyncLiveStream`` is the same stream, read from an event loop.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any

import grpc

from secondlook_client.errors import Cancelled, ResultsUnread, SecondlookError
from secondlook_client.images import ImageInput, image_name, taken_image
from secondlook_client.live import FrameQueue, LiveFrame, LiveOptions, ReconnectPolicy
from secondlook_client.retry import RetryPolicy, typed
from secondlook_client.v1 import labeling_pb2 as pb
from secondlook_client.values import FrameResult


class LiveStream:
    """Frames in, exactly one ``FrameResult`` for each out, in order of completion.

        with client.stream(classes=["dog"]) as stream:
            for frame in camera():
                stream.send(frame)            # returns at once, whatever the network does
                for found in stream.ready():  # never waits either
                    show(found)
            stream.finish()                   # no more frames
            for found in stream:              # waits for what is left
                show(found)

    When frames come faster than they are answered the newest win; those left out are reported
    with ``dropped``. A broken connection is made anew for as long as the stream is open, and
    frames that were in flight are sent once more. Thread-safe: one thread may send and another
    iterate.
    """

    def __init__(
        self,
        method: Any,
        opening: pb.StreamOpening,
        options: LiveOptions,
        retry: RetryPolicy,
        address: str,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """Use ``Client.stream``. ``method`` is the stub's ``LabelStream``.

        ``on_change`` is called by any thread, under the stream's lock, whenever there is something
        new to read.
        """
        self._method = method
        self._opening = opening
        self._options = options
        self._address = address
        self._on_change = on_change
        self._reconnect = ReconnectPolicy(retry)
        self._changed = threading.Condition()
        self._queue = FrameQueue(options)
        self._results: deque[FrameResult] = deque()
        self._next = 0
        self._connection = 0
        """Number of the connection in use; an older one's sender sees it and ends."""
        self._open = False
        self._finished = False
        self._closed = False
        self._over = False
        self._failure: SecondlookError | None = None
        self._call: Any = None
        self._thread = threading.Thread(target=self._keep, name="secondlook-stream", daemon=True)
        self._thread.start()

    def send(self, image: ImageInput, *, key: Any = None, name: str = "") -> int:
        """Offer one frame and return its number; never waits for the network.

        An array may be changed afterwards. ``key`` comes back with the result. Raises the error
        that ended the stream, ``Cancelled`` after ``finish`` or ``close``, ``ResultsUnread`` when
        nobody reads the results, and ``BadImage`` or ``UnreadableFile``.
        """
        taken = taken_image(image)
        with self._changed:
            self._check_open()
            frame = LiveFrame(self._next, key, image_name(image, name), taken)
            self._next += 1
            self._report(self._queue.offer(frame, self._open))
            return frame.sequence

    def ready(self) -> list[FrameResult]:
        """The results that are there now, without waiting."""
        with self._changed:
            found = list(self._results)
            self._results.clear()
            return found

    def finish(self) -> None:
        """No more frames will come; the iteration ends after the last result."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def close(self) -> None:
        """Hang up; frames without an answer are reported as dropped (``closed``)."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            call = self._call
        if call is not None:
            call.cancel()
        self._thread.join()

    @property
    def connected(self) -> bool:
        """Whether the server has accepted the stream and the line stands."""
        return self._open

    @property
    def readable(self) -> bool:
        """Whether ``next`` would answer without waiting."""
        return bool(self._results) or self._over

    def __iter__(self) -> Iterator[FrameResult]:
        return self

    def __next__(self) -> FrameResult:
        with self._changed:
            while not self._results and not self._over:
                self._changed.wait()
            if self._results:
                return self._results.popleft()
            if self._failure is not None:
                raise self._failure
            raise StopIteration

    def __enter__(self) -> "LiveStream":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._finished or self._closed:
            raise Cancelled("the stream takes no more frames; open a new one")
        if len(self._results) >= self._options.max_unread:
            raise ResultsUnread(
                f"{len(self._results)} results wait to be read; iterate over the stream or call "
                "ready() beside sending"
            )

    def _report(self, found: list[FrameResult]) -> None:
        self._results.extend(found)
        self._tell()

    def _tell(self) -> None:
        self._changed.notify_all()
        self._on_change()

    def _keep(self) -> None:
        """The thread: connect, listen, and connect again until the stream is over."""
        try:
            while self._connect_again(self._listen()):
                pass
        except ValueError as closed:  # gRPC's word for a channel that the client has closed
            self._failure = Cancelled(f"the client is closed, and the stream with it ({closed})")
        finally:
            with self._changed:
                self._open, self._over = False, True
                self._report(self._queue.give_up(self._failure))

    def _connect_again(self, cause: SecondlookError | None) -> bool:
        """Settle what a connection left, and wait as long as is due; False to end the stream."""
        with self._changed:
            self._connection += 1
            self._open = False
            self._report(self._queue.lost(cause))
            if self._closed or (self._finished and self._queue.idle):
                return False
            wait_s = self._reconnect.wait_s(cause, self._finished)
            if wait_s is None:
                self._failure = cause
                return False
            self._rest(wait_s)
            return True

    def _rest(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while not self._closed and (left := ends - time.monotonic()) > 0:
            self._changed.wait(left)

    def _listen(self) -> SecondlookError | None:
        """One connection, to its end; why it broke, or None when the server ended it in order."""
        with self._changed:
            if self._closed:
                return None
            self._call = call = self._method(self._messages(self._connection))
        try:
            for response in call:
                self._receive(response)
        except grpc.RpcError as failed:
            return typed(failed, self._address)
        return None

    def _receive(self, response: pb.LabelStreamResponse) -> None:
        with self._changed:
            if response.HasField("answer"):
                self._reconnect.frame_answered()
                self._report(self._queue.answered(response.answer))
            else:
                self._open = True
                self._changed.notify_all()

    def _messages(self, connection: int) -> Iterator[pb.LabelStreamRequest]:
        """What goes out on one connection; gRPC runs this in a thread of its own."""
        yield pb.LabelStreamRequest(opening=self._opening)
        while frame := self._next_frame(connection):
            yield frame.message()

    def _next_frame(self, connection: int) -> LiveFrame | None:
        """Waits for a frame that may be sent; None ends the sending side of the connection."""
        with self._changed:
            while True:
                if self._closed or self._connection != connection:
                    return None
                # Only an accepted stream takes frames: what a dead line swallows counts as sent.
                if self._open and (frame := self._queue.take()):
                    return frame
                if self._finished and not self._queue.waiting:
                    return None
                self._changed.wait()


class AsyncLiveStream:
    """Frames in, exactly one ``FrameResult`` for each out, in order of completion.

        async with client.stream(classes=["dog"]) as stream:
            stream.send(frame)                # returns at once
            stream.finish()
            async for found in stream:
                show(found)

    A ``LiveStream`` whose results wake the event loop that it was opened in, and belongs to.
    """

    def __init__(
        self,
        method: Any,
        opening: pb.StreamOpening,
        options: LiveOptions,
        retry: RetryPolicy,
        address: str,
    ) -> None:
        """Use ``AsyncClient.stream``. ``method`` is the ``LabelStream`` of a blocking stub."""
        loop, self._readable = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed before the stream
                loop.call_soon_threadsafe(self._readable.set)

        self._stream = LiveStream(method, opening, options, retry, address, wake)

    def send(self, image: ImageInput, *, key: Any = None, name: str = "") -> int:
        """Offer one frame and return its number; as ``LiveStream.send``."""
        return self._stream.send(image, key=key, name=name)

    def ready(self) -> list[FrameResult]:
        """The results that are there now, without waiting."""
        return self._stream.ready()

    def finish(self) -> None:
        """No more frames will come; the iteration ends after the last result."""
        self._stream.finish()

    async def close(self) -> None:
        """Hang up; frames without an answer are reported as dropped (``closed``)."""
        await asyncio.to_thread(self._stream.close)

    @property
    def connected(self) -> bool:
        """Whether the server has accepted the stream and the line stands."""
        return self._stream.connected

    def __aiter__(self) -> AsyncIterator[FrameResult]:
        return self

    async def __anext__(self) -> FrameResult:
        while not self._stream.readable:
            self._readable.clear()
            if not self._stream.readable:  # it may have become so before the event was cleared
                await self._readable.wait()
        try:
            return next(self._stream)
        except StopIteration:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> "AsyncLiveStream":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
