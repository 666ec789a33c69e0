"""The state of a live stream: which frames wait, which are in flight, which are reported.

No thread and no socket, so that both clients share it and tests can drive it. Every
frame that was offered leaves it exactly once, as a ``FrameResult``.
"""

import time
from collections import deque
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from secondlook_client.errors import (
    AlreadyExists,
    InvalidInput,
    MessageTooLarge,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    NotReady,
    NotSupported,
    SecondlookError,
    from_reason,
)
from secondlook_client.images import image_bytes
from secondlook_client.retry import RetryPolicy
from secondlook_client.v1 import labeling_pb2 as pb
from secondlook_client.values import FrameResult
from secondlook_client.wire import label_result

if TYPE_CHECKING:
    from PIL import Image as PILImage

DROP_NAMES = {
    pb.DROP_REASON_SUPERSEDED: "superseded",
    pb.DROP_REASON_SERVER_BUSY: "server_busy",
    pb.DROP_REASON_SHUTTING_DOWN: "shutting_down",
}


_REFUSALS = (NotSupported, NotReady, NotFound, NotAllowed, NotAuthenticated, AlreadyExists)
"""What a server says again when it is asked again."""


@dataclass(frozen=True)
class LiveOptions:
    """How many frames may be where. Small numbers keep the answers fresh."""

    max_pending: int = 2
    """Waiting on this machine; one more pushes the oldest out."""
    max_in_flight: int = 4
    """Sent and not answered yet."""
    server_pending: int = 2
    """Waiting on the server, 1 to 32."""
    max_unread: int = 1000
    """Results that nobody has read; at this many, ``send`` raises ``ResultsUnread``."""

    def __post_init__(self) -> None:
        for field, value in vars(self).items():
            if value < 1:
                raise InvalidInput(f"expected {field} of at least 1, got {value}")


@dataclass(frozen=True)
class LiveFrame:
    """One image on its way."""

    sequence: int
    key: Any
    name: str
    image: "bytes | PILImage.Image"
    sent_before: bool = False
    """On a connection that broke before the answer came."""

    @cached_property
    def data(self) -> bytes:
        """The encoded image, made when it is sent: most frames of a fast camera never are."""
        return image_bytes(self.image)

    def message(self) -> pb.LabelStreamRequest:
        """For the wire."""
        frame = pb.StreamFrame(sequence=self.sequence, image=self.data, name=self.name)
        return pb.LabelStreamRequest(frame=frame)

    def dropped(self, why: str) -> FrameResult:
        """The report that it was left out."""
        return FrameResult(self.sequence, self.key, dropped=why)

    def failed(self, error: SecondlookError) -> FrameResult:
        """The report that it could not be labelled."""
        return FrameResult(self.sequence, self.key, error=error)


class FrameQueue:
    """Frames waiting and in flight. Not thread-safe: its owner has the lock."""

    def __init__(self, options: LiveOptions) -> None:
        self._options = options
        self._waiting: deque[LiveFrame] = deque()
        self._in_flight: dict[int, LiveFrame] = {}

    @property
    def waiting(self) -> int:
        """Frames not sent."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """True when every frame has been reported."""
        return not self._waiting and not self._in_flight

    def offer(self, frame: LiveFrame, connected: bool) -> list[FrameResult]:
        """Let a new frame wait; the reports of those that it pushed out."""
        self._waiting.append(frame)
        return self._shorten("superseded" if connected else "not_connected")

    def take(self) -> LiveFrame | None:
        """The next frame to send, or None while there is none or enough are in flight."""
        if not self._waiting or len(self._in_flight) >= self._options.max_in_flight:
            return None
        frame = self._waiting.popleft()
        self._in_flight[frame.sequence] = frame
        return frame

    def answered(self, answer: pb.FrameAnswer) -> list[FrameResult]:
        """The report of an answer; none for a frame that was reported before."""
        frame = self._in_flight.pop(answer.sequence, None)
        if frame is None:
            return []
        kind = answer.WhichOneof("answer")
        if kind == "labelled":
            result = label_result(answer.labelled)
            return [FrameResult(frame.sequence, frame.key, result=result)]
        if kind == "failure":
            return [frame.failed(from_reason(answer.failure.reason, answer.failure.message))]
        return [frame.dropped(DROP_NAMES.get(answer.dropped.reason, "superseded"))]

    def lost(self, cause: SecondlookError | None) -> list[FrameResult]:
        """The connection broke: frames in flight wait again, each of them once.

        When one of them was too large for the server, it is the largest, and it fails alone.
        """
        reports = []
        if isinstance(cause, MessageTooLarge) and self._in_flight:
            largest = max(self._in_flight.values(), key=lambda frame: len(frame.data))
            reports.append(self._in_flight.pop(largest.sequence).failed(cause))
        for frame in reversed(self._in_flight.values()):
            if frame.sent_before:
                reports.append(frame.dropped("connection_lost"))
            else:
                self._waiting.appendleft(replace(frame, sent_before=True))
        self._in_flight.clear()
        return reports + self._shorten("connection_lost")

    def give_up(self, error: SecondlookError | None, why: str = "closed") -> list[FrameResult]:
        """The stream is over: everything left, failed with ``error`` or dropped for ``why``."""
        left = [*self._in_flight.values(), *self._waiting]
        self._in_flight.clear()
        self._waiting.clear()
        return [frame.failed(error) if error else frame.dropped(why) for frame in left]

    def _shorten(self, why: str) -> list[FrameResult]:
        dropped = []
        while len(self._waiting) > self._options.max_pending:
            dropped.append(self._waiting.popleft().dropped(why))
        return dropped


class ReconnectPolicy:
    """When a stream that broke is opened again."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failures = 0
        self._silent_since = 0.0

    def frame_answered(self) -> None:
        """A frame was answered: the next break is the first again."""
        self._failures = 0

    def wait_s(self, cause: SecondlookError | None, finished: bool) -> float | None:
        """How long to wait before the next try; None when there shall be none.

        A request that the server refuses is refused again. All else may pass, however long it
        takes: a device outlives many servers. Only when no more frames will come does it
        give up as a single call does.
        """
        if isinstance(cause, _REFUSALS):
            return None
        if isinstance(cause, InvalidInput) and not isinstance(cause, MessageTooLarge):
            return None
        self._failures += 1
        now = time.monotonic()
        if self._failures == 1:
            self._silent_since = now
        if finished and now - self._silent_since >= self._policy.unavailable_s:
            return None
        hint = cause.retry_after_s if cause is not None else None
        return max(self._policy.backoff_s(self._failures), hint or 0.0)
