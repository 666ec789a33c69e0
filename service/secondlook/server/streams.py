"""``LabelStream`` in live and in capture mode; each frame is answered exactly once.

Live: the newest frames win. A frame is waiting (at most ``max_pending``, oldest first) or being
labelled (at most ``CONCURRENT_FRAMES``, and those of all streams take turns). A frame that arrives
when all places are taken pushes the oldest waiting one out, so no answer is older than that many
frames, however fast they come.
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
from contextlib import AbstractAsyncContextManager

from secondlook.core.types import Labelled
from secondlook.server.call_limits import RequestBytes
from secondlook.store.ingest import CapturedFrame, FrameStatus
from secondlook_client import wire
from secondlook_client.errors import (
    BadRequest,
    BadSequence,
    Busy,
    ImageTooLarge,
    SecondlookError,
    ShuttingDown,
)
from secondlook_client.spool import MAX_SEQUENCE, SEQUENCE_TAKEN
from secondlook_client.v1 import labeling_pb2 as pb

log = logging.getLogger(__name__)

CONCURRENT_FRAMES = 2
"""One frame in each stage; more would only make the answers older."""
DEFAULT_PENDING = 2
MAX_FRAMES_A_COMMIT = 64
"""Frames in one commit."""
MAX_BYTES = 32 * 2**20
"""Bytes of frames read and not yet durable; one frame more may come on top."""
ANY_TIME = 2**43
"""Milliseconds since 1970 until the year 2248: devices number frames by their clock, and one of
this century is never refused."""
MAX_JUMP = 2**41
"""How far a frame's number may lie above all that its stream has: 70 years of milliseconds, as a
device may be off for years; but no single frame uses the numbers up."""
INTERNAL_MESSAGE = "something failed on the server; its log has the details"

Answer = pb.Labelled | pb.FrameFailure | pb.FrameDropped


class LiveSession:
    """One client's frames, from the first after the opening to the end of the stream."""

    def __init__(
        self,
        label: Callable[[bytes, str], Awaitable[Labelled]],
        write: Callable[[pb.LabelStreamResponse], Awaitable[None]],
        *,
        turns: AbstractAsyncContextManager[None],
        request_bytes: RequestBytes,
        every: bool,
        max_pending: int,
        stopping: asyncio.Event,
        observe: Callable[[str], None],
    ) -> None:
        """``label`` takes a frame's bytes and name; ``write`` sends one message to the client.

        ``turns`` has a place for each frame of any stream that is being labelled, and
        ``request_bytes`` counts the frames that are here.
        ``every`` judgement or only labels are told; ``observe`` hears what became of each frame:
        ``labelled``, ``failure`` or ``dropped``.
        """
        self._label = label
        self._write = write
        self._turns = turns
        self._request_bytes = request_bytes
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
            self._request_bytes.give(sum(len(frame.image) for frame in self._waiting))
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
        try:
            self._request_bytes.take(len(frame.image))
        except Busy:
            await self._answer(frame.sequence, pb.FrameDropped(reason=pb.DROP_REASON_SERVER_BUSY))
            return
        self._waiting.append(frame)
        self._changed.set()
        if len(self._waiting) > self._max_pending:
            oldest = self._waiting.popleft()
            self._request_bytes.give(len(oldest.image))
            dropped = pb.FrameDropped(reason=pb.DROP_REASON_SUPERSEDED)
            await self._answer(oldest.sequence, dropped)

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                if self._ended:
                    return
                self._changed.clear()
                await self._changed.wait()
            async with self._turns:  # a newer frame may take this one's place in the meantime
                if not self._waiting:
                    continue
                frame = self._waiting.popleft()
                try:
                    answer = await self._judge(frame)
                finally:
                    self._request_bytes.give(len(frame.image))
            await self._answer(frame.sequence, answer)

    async def _judge(self, frame: pb.StreamFrame) -> Answer:
        try:
            labelled = await self._label(frame.image, frame.name)
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
        resume_after: int | None,
        request_bytes: RequestBytes,
        max_frame_bytes: int,
        stopping: asyncio.Event,
        observe: Callable[[str], None],
    ) -> None:
        """``keep`` makes frames durable and may block; ``write`` sends one message.

        ``resume_after`` is the highest number that the stream has; None for a new one.
        ``request_bytes`` counts the frames that are here; a stream whose next one does not fit
        among those of other streams ends with ``Busy``, once what was read is kept.
        ``observe`` hears what became of each frame: ``stored`` or ``failure``.
        """
        self._keep = keep
        self._write = write
        self._request_bytes = request_bytes
        self._held = 0
        """Bytes of frames that are here."""
        self._highest = -1 if resume_after is None else resume_after
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
            self._request_bytes.give(self._held)
        if self._stopping.is_set():
            raise ShuttingDown("the server is shutting down; open the stream again in a moment")

    async def _read(self, requests: AsyncIterator[pb.LabelStreamRequest]) -> None:
        last = -1
        async for request in until(self._stopping, requests):
            frame = _frame(request, last)
            last = frame.sequence if frame.sequence <= self._ceiling else last
            self._request_bytes.take(len(frame.content))
            self._held += len(frame.content)
            async with self._changed:
                await self._changed.wait_for(lambda: self._bytes < MAX_BYTES)
                self._waiting.append(frame)
                self._bytes += len(frame.content)
                self._changed.notify_all()

    async def _keep_all(self) -> None:
        while frames := await self._next():
            refused = {id(frame): refusal for frame in frames if (refusal := self._refusal(frame))}
            sound = [frame for frame in frames if id(frame) not in refused]
            kept = iter(await asyncio.to_thread(self._keep, sound) if sound else ())
            size = sum(len(frame.content) for frame in frames)
            self._request_bytes.give(size)
            self._held -= size
            for frame in frames:
                await self._answer(refused.get(id(frame)) or _answer(frame, next(kept)))

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

    @property
    def _ceiling(self) -> int:
        return min(max(self._highest, ANY_TIME) + MAX_JUMP, MAX_SEQUENCE)

    def _refusal(self, frame: CapturedFrame) -> pb.FrameAnswer | None:
        """The answer to a frame that is not stored; None for one that may be."""
        if frame.sequence > self._ceiling:
            return _failure(
                frame,
                BadSequence.reason,
                f"expected a frame numbered at most {self._ceiling}, got {frame.sequence}; count "
                "on from the highest number of the stream",
            )
        self._highest = max(self._highest, frame.sequence)
        if len(frame.content) > self._max_frame_bytes:
            return _failure(
                frame,
                ImageTooLarge.reason,
                f"the frame has {len(frame.content):,} bytes; at most {self._max_frame_bytes:,} "
                "are taken. Send it smaller or raise the server's max_image_bytes",
            )
        return None


def _frame(request: pb.LabelStreamRequest, last: int) -> CapturedFrame:
    """The checked frame of a message, numbered above ``last``."""
    if request.WhichOneof("message") != "frame":
        raise BadRequest("expected a frame; a stream is opened once, by its first message")
    frame = request.frame
    if frame.sequence <= last:
        raise BadRequest(
            f"expected a frame numbered above {last}, got {frame.sequence}; frames are numbered "
            "upwards, so that each is stored once"
        )
    return CapturedFrame(frame.sequence, frame.name, frame.image)


def _answer(frame: CapturedFrame, kept: FrameStatus) -> pb.FrameAnswer:
    if kept is FrameStatus.CONFLICT:
        return _failure(
            frame,
            SEQUENCE_TAKEN,
            f"number {frame.sequence} of this stream is taken by another image; number frames "
            "upwards for ever, or give another stream_id",
        )
    stored = pb.FrameStored(already=kept is FrameStatus.DUPLICATE)
    return pb.FrameAnswer(sequence=frame.sequence, stored=stored)


def _failure(frame: CapturedFrame, reason: str, message: str) -> pb.FrameAnswer:
    failure = pb.FrameFailure(reason=reason, message=message)
    return pb.FrameAnswer(sequence=frame.sequence, failure=failure)
