"""Live mode of ``LabelStream``: the newest frames win, and each frame is answered exactly once.

A frame is in one of two places: waiting (at most ``max_pending``, oldest first) or at work (at
most ``AT_WORK``). A frame that arrives when all places are taken pushes the oldest waiting one
out, so no answer is older than that many frames, however fast they come. Answers are written one
at a time; a client that does not read them stops the reading of its frames (gRPC's flow control),
so that nothing piles up here.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from secondlook.errors import BadRequest, Busy, SecondlookError, ShuttingDown
from secondlook.labels import Labelled
from secondlook.server.convert import checked_name, labelled_message
from secondlook_client.v1 import labeling_pb2 as pb

log = logging.getLogger(__name__)

AT_WORK = 2
"""One frame in each stage; more would only make the answers older."""
DEFAULT_PENDING = 2
MAX_PENDING = 32
INTERNAL_MESSAGE = "something failed on the server; its log has the details"

Answer = pb.Labelled | pb.FrameFailure | pb.FrameDropped


class LiveStream:
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
        workers = [asyncio.create_task(self._work()) for _ in range(AT_WORK)]
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
        return labelled_message(labelled, self._every)

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
