"""``LabelStream`` in live and in capture mode; each frame is answered exactly once.

Live: the newest frames win. A frame is waiting (at most ``max_pending``, oldest first) or being
labelled (at most ``CONCURRENT_FRAMES``). A frame that arrives when all places are taken pushes
the oldest waiting one out, so no answer is older than that many frames, however fast they come.
Answers are written one at a time; when a client does not read them, reading its frames stops
(gRPC's flow control), so that nothing piles up here.

Capture: a frame is acknowledged once it is durable and labelled later. Frames are stored in the
order in which they came, as many in one commit as have arrived while the last one was written.
Only a bounded number of bytes is read before they are durable; then reading stops, and gRPC's
flow control slows the client.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from secondlook.core.types import Labelled
from secondlook.server.converters import checked_name, stored_name
from secondlook.store.ingest import CapturedFrame, FrameStatus
from secondlook_client import wire
from secondlook_client.errors import BadRequest, Busy, SecondlookError, ShuttingDown
from secondlook_client.v1 import labeling_pb2 as pb

log = logging.getLogger(__name__)

CONCURRENT_FRAMES = 2
"""One frame in each stage; more would only make the answers older."""
DEFAULT_PENDING = 2
MAX_PENDING = 32
MAX_FRAMES_A_COMMIT = 64
"""Frames in one commit."""
MAX_BYTES = 32 * 2**20
"""Bytes of frames read and not yet durable; one frame more may come on top."""
LARGEST_SEQUENCE = 2**63 - 1
INTERNAL_MESSAGE = "something failed on the server; its log has the details"

Answer = pb.Labelled | pb.FrameFailure | pb.FrameDropped


class LiveSession:
    """One client's frames, from the first after the opening to the end of the stream."""

    def __init__(
        self,
        label: Callable[[bytes, str], Awaitable[Labelled]],
        write: Callable[[pb.LabelStreamResponse], Awaitable[None]],
        *,
        every: bool,
        max_pending: int,
        stopping: asyncio.Event,
        observe: Callable[[str], None],
    ) -> None:
        """``label`` takes a frame's bytes and name; ``write`` sends one message to the client.

        ``every`` judgement or only labels are told; ``observe`` hears what became of each frame:
        ``labelled``, ``failure`` or ``dropped``.
        """
        self._label = label
        self._write = write
        self._every = every
        self._max_pending = max_pending
        self._stopping = stopping
        self._observe = observe
        self._waiting: deque[pb.StreamFrame] = deque()
        self._ended = False
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()

    async def run(self, requests: AsyncIterator[pb.LabelStreamRequest]) -> None:
        """Answer every frame of ``requests``; returns when the last answer is written.

        When the server stops, frames already read are finished first, then ``ShuttingDown`` is
        raised. Raises ``BadRequest`` for a message that is no frame or a number out of order.
        """
        workers = [asyncio.create_task(self._work()) for _ in range(CONCURRENT_FRAMES)]
        try:
            await self._read(requests)
            self._ended = True
            self._changed.set()
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        if self._stopping.is_set():
            raise ShuttingDown("the server is shutting down; open the stream again in a moment")

    async def _read(self, requests: AsyncIterator[pb.LabelStreamRequest]) -> None:
        last = -1
        async for request in until(self._stopping, requests):
            if request.WhichOneof("message") != "frame":
                raise BadRequest("expected a frame; a stream is opened once, by its first message")
            frame = request.frame
            if frame.sequence <= last:
                raise BadRequest(
                    f"expected a frame numbered above {last}, got {frame.sequence}; "
                    "frames are numbered upwards, so that each can be answered once"
                )
            last = frame.sequence
            await self._offer(frame)

    async def _offer(self, frame: pb.StreamFrame) -> None:
        self._waiting.append(frame)
        self._changed.set()
        if len(self._waiting) > self._max_pending:
            oldest = self._waiting.popleft()
            dropped = pb.FrameDropped(reason=pb.DROP_REASON_SUPERSEDED)
            await self._answer(oldest.sequence, dropped)

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                if self._ended:
                    return
                self._changed.clear()
                await self._changed.wait()
            frame = self._waiting.popleft()
            await self._answer(frame.sequence, await self._judge(frame))

    async def _judge(self, frame: pb.StreamFrame) -> Answer:
        try:
            labelled = await self._label(frame.image, checked_name(frame.name))
        except Busy:
            return pb.FrameDropped(reason=pb.DROP_REASON_SERVER_BUSY)
        except ShuttingDown:
            return pb.FrameDropped(reason=pb.DROP_REASON_SHUTTING_DOWN)
        except SecondlookError as failure:
            return pb.FrameFailure(reason=failure.reason, message=str(failure))
        except Exception:
            log.exception("a frame failed", extra={"sequence": frame.sequence})
            return pb.FrameFailure(reason="internal", message=INTERNAL_MESSAGE)
        return wire.labelled_message(labelled.result, self._every)

    async def _answer(self, sequence: int, answer: Answer) -> None:
        if isinstance(answer, pb.Labelled):
            message = pb.FrameAnswer(sequence=sequence, labelled=answer)
        elif isinstance(answer, pb.FrameFailure):
            message = pb.FrameAnswer(sequence=sequence, failure=answer)
        else:
            message = pb.FrameAnswer(sequence=sequence, dropped=answer)
        self._observe(message.WhichOneof("answer") or "")
        async with self._writing:  # gRPC allows one write at a time
            await self._write(pb.LabelStreamResponse(answer=message))


async def until(
    stopping: asyncio.Event, requests: AsyncIterator[pb.LabelStreamRequest]
) -> AsyncIterator[pb.LabelStreamRequest]:
    """The requests, until they end or the server stops, whichever is first."""
    stop = asyncio.ensure_future(stopping.wait())
    request: asyncio.Future[pb.LabelStreamRequest] | None = None
    try:
        while True:
            request = asyncio.ensure_future(anext(requests))
            await asyncio.wait({request, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not request.done():
                return
            try:
                yield request.result()
            except StopAsyncIteration:
                return
    finally:
        stop.cancel()
        if request is not None:
            request.cancel()


class CaptureSession:
    """One client's frames, from the first after the opening to the end of the stream."""

    def __init__(
        self,
        keep: Callable[[Sequence[CapturedFrame]], list[FrameStatus]],
        write: Callable[[pb.LabelStreamResponse], Awaitable[None]],
        *,
        max_frame_bytes: int,
        stopping: asyncio.Event,
        observe: Callable[[str], None],
    ) -> None:
        """``keep`` makes frames durable and may block; ``write`` sends one message.

        ``observe`` hears what became of each frame: ``stored`` or ``failure``.
        """
        self._keep = keep
        self._write = write
        self._max_frame_bytes = max_frame_bytes
        self._stopping = stopping
        self._observe = observe
        self._waiting: deque[CapturedFrame] = deque()
        self._bytes = 0
        self._ended = False
        self._changed = asyncio.Condition()

    async def run(self, requests: AsyncIterator[pb.LabelStreamRequest]) -> None:
        """Answer every frame of ``requests``; returns when the last answer is written.

        What was read is kept and answered even when the reading ends with an error, which is
        raised afterwards: ``BadRequest``, or ``ShuttingDown`` when the server stops. What the
        store raises ends the stream at once; frames without an answer are to be sent again.
        """
        reading = asyncio.create_task(self._read(requests))
        keeping = asyncio.create_task(self._keep_all())
        try:
            await asyncio.wait({reading, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if not keeping.done():
                async with self._changed:
                    self._ended = True
                    self._changed.notify_all()
            await keeping
            await reading
        finally:
            for task in (reading, keeping):
                task.cancel()
            await asyncio.gather(reading, keeping, return_exceptions=True)
        if self._stopping.is_set():
            raise ShuttingDown("the server is shutting down; open the stream again in a moment")

    async def _read(self, requests: AsyncIterator[pb.LabelStreamRequest]) -> None:
        last = -1
        async for request in until(self._stopping, requests):
            frame = _frame(request, last)
            last = frame.sequence
            async with self._changed:
                await self._changed.wait_for(lambda: self._bytes < MAX_BYTES)
                self._waiting.append(frame)
                self._bytes += len(frame.content)
                self._changed.notify_all()

    async def _keep_all(self) -> None:
        while frames := await self._next():
            sound = [frame for frame in frames if len(frame.content) <= self._max_frame_bytes]
            kept = iter(await asyncio.to_thread(self._keep, sound) if sound else ())
            for frame in frames:
                whole = len(frame.content) <= self._max_frame_bytes
                await self._answer(_answer(frame, next(kept)) if whole else self._too_large(frame))

    async def _next(self) -> list[CapturedFrame]:
        """Waits for frames; none are left when it returns an empty list."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._waiting or self._ended)
            count = min(len(self._waiting), MAX_FRAMES_A_COMMIT)
            frames = [self._waiting.popleft() for _ in range(count)]
            self._bytes -= sum(len(frame.content) for frame in frames)
            self._changed.notify_all()
            return frames

    async def _answer(self, answer: pb.FrameAnswer) -> None:
        self._observe(answer.WhichOneof("answer") or "")
        await self._write(pb.LabelStreamResponse(answer=answer))

    def _too_large(self, frame: CapturedFrame) -> pb.FrameAnswer:
        message = (
            f"the frame has {len(frame.content):,} bytes; at most {self._max_frame_bytes:,} are "
            "taken. Send it smaller or raise the server's max_image_bytes"
        )
        failure = pb.FrameFailure(reason="image_too_large", message=message)
        return pb.FrameAnswer(sequence=frame.sequence, failure=failure)


def _frame(request: pb.LabelStreamRequest, last: int) -> CapturedFrame:
    """The checked frame of a message, numbered above ``last``."""
    if request.WhichOneof("message") != "frame":
        raise BadRequest("expected a frame; a stream is opened once, by its first message")
    frame = request.frame
    if not last < frame.sequence <= LARGEST_SEQUENCE:
        raise BadRequest(
            f"expected a frame numbered above {last} and below 2^63, got {frame.sequence}; "
            "frames are numbered upwards, so that each is stored once"
        )
    return CapturedFrame(frame.sequence, stored_name(frame.name), frame.image)


def _answer(frame: CapturedFrame, kept: FrameStatus) -> pb.FrameAnswer:
    if kept is FrameStatus.CONFLICT:
        message = (
            f"number {frame.sequence} of this stream is taken by another image; number frames "
            "upwards for ever, or give another stream_id"
        )
        failure = pb.FrameFailure(reason="sequence_taken", message=message)
        return pb.FrameAnswer(sequence=frame.sequence, failure=failure)
    stored = pb.FrameStored(already=kept is FrameStatus.DUPLICATE)
    return pb.FrameAnswer(sequence=frame.sequence, stored=stored)
