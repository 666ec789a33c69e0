"""How much of a captured stream is taken in before it is durable."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from secondlook.server import streams
from secondlook.server.call_limits import RequestBytes
from secondlook.server.streams import CaptureSession
from secondlook.store.ingest import CapturedFrame, FrameStatus
from secondlook_client.v1 import labeling_pb2 as pb

FRAMES, SIZE, ROOM = 100, 100, 10


def test_no_more_is_read_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_BYTES", SIZE * ROOM)
    read = 0
    disk, answered = threading.Event(), []

    async def requests() -> AsyncIterator[pb.LabelStreamRequest]:
        nonlocal read
        for read in range(1, FRAMES + 1):
            frame = pb.StreamFrame(sequence=read, image=bytes(SIZE))
            yield pb.LabelStreamRequest(frame=frame)

    def keep(frames: Sequence[CapturedFrame]) -> list[FrameStatus]:
        assert disk.wait(30)
        return [FrameStatus.NEW for _ in frames]

    async def write(response: pb.LabelStreamResponse) -> None:
        answered.append(response.answer.sequence)

    async def main() -> None:
        stream = CaptureSession(
            keep,
            write,
            request_bytes=(held := RequestBytes(SIZE * 5 * ROOM)),
            resume_after=None,
            max_frame_bytes=SIZE,
            stopping=asyncio.Event(),
            observe=lambda answer: None,
        )
        running = asyncio.create_task(stream.run(requests()))
        await asyncio.sleep(0.3)
        # As many as wait, as many as the disk has, and the one that has no room.
        assert ROOM < read <= 2 * ROOM + 1 and not answered
        assert held.used >= SIZE * ROOM
        disk.set()
        await running
        assert held.used == 0

    asyncio.run(main())
    assert answered == list(range(1, FRAMES + 1))
