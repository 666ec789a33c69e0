"""A captured stream: every frame reaches the server, however often the line breaks.

A frame is in the spool on disk from ``send`` until the server has acknowledged it, and is deleted
only then. A thread sends what is there; the camera loop waits for the disk alone.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc

from secondlook_client.errors import (
    BadSequence,
    Cancelled,
    DeadlineExceeded,
    MessageTooLarge,
    SecondlookError,
    SpoolUnusable,
    from_reason,
)
from secondlook_client.images import ImageInput, image_bytes, image_name
from secondlook_client.retry import RetryPolicy, typed
from secondlook_client.spool import MAX_FOLLOWED, SEQUENCE_TAKEN, Spool, SpooledFrame
from secondlook_client.v1 import labeling_pb2 as pb

log = logging.getLogger(__name__)

MAX_FRAMES_IN_FLIGHT, MAX_BYTES_IN_FLIGHT = 64, 16 * 2**20
"""Sent and not acknowledged, at most; one frame alone may be larger."""
LONGEST_REST_S = 30.0
MAX_RENUMBERED = 8
"""A frame whose number was refused so often, each time another one, is given up."""


@dataclass(frozen=True)
class CaptureState:
    """Where the frames of a captured stream are."""

    pending: int
    """In the spool: not acknowledged yet."""
    pending_bytes: int
    stored: int
    """Acknowledged since the stream was opened here."""
    refused: int
    """Given up because the server will never take them, since then."""
    dropped: int
    """Given up for want of room in the spool, or damaged on the disk, since then."""
    connected: bool
    problem: SecondlookError | None
    """Why nothing moves at present, if nothing does."""


class CaptureStream:
    """Frames in; the server labels them when it can, and ``Client.jobs.results`` has the labels.

        with client.capture("gate-3", spool="spool/", classes=["dog"]) as capture:
            for frame in camera():
                capture.send(frame)         # on disk when it returns
            capture.flush(timeout_s=60)     # wait until the server has everything

    The line is tried for as long as the stream is open, whatever is wrong with it; ``state`` says
    what. Leaving the ``with`` keeps in the spool what was not acknowledged, and the next stream
    on that spool sends it. Thread-safe.
    """

    def __init__(
        self,
        method: Any,
        opening: pb.StreamOpening,
        spool: Spool,
        retry: RetryPolicy,
        address: str,
        on_refused: Callable[[int, SecondlookError], None] | None = None,
    ) -> None:
        """Use ``Client.capture``. ``on_refused(number, why)`` is called from the thread."""
        self._method = method
        self._opening = opening
        self._spool = spool
        self._retry = retry
        self._address = address
        self._on_refused = on_refused or (lambda sequence, why: None)
        self._changed = threading.Condition()
        self._in_flight: OrderedDict[int, int] = OrderedDict()
        """Bytes by number, of this connection."""
        self._sent = -1
        self._connection = 0
        self._failures = 0
        self._stored = self._refused = 0
        self._seen = -1
        """The highest number that the server has of this stream, as far as is known."""
        self._renumbered: dict[int, int] = {}
        """How often a frame had another number, by its number now."""
        self._too_high: int | None = None
        """The lowest number that was refused as too high on this connection, which then ends."""
        self._restarts = 0
        """Connections that ended so since a frame was last stored."""
        self._open = self._closed = False
        self._problem: SecondlookError | None = None
        self._problem_on_disk: SecondlookError | None = None
        self._call: Any = None
        self._thread = threading.Thread(target=self._keep, name="secondlook-capture", daemon=True)
        self._thread.start()

    def send(self, image: ImageInput, *, name: str = "") -> int | None:
        """Put one frame into the spool and return its number; None when the spool dropped it.

        Raises ``SpoolFull`` (where the limits say so), ``SpoolUnusable``, and ``Cancelled`` after
        ``close``.
        """
        data = image_bytes(image)
        if self._closed:
            raise Cancelled("the stream is closed; open a new one")
        sequence = self._spool.put(data, image_name(image, name))
        with self._changed:
            self._changed.notify_all()
        return sequence

    def flush(self, timeout_s: float = 60.0) -> None:
        """Wait until everything sent so far is acknowledged.

        Raises what keeps it from moving, or ``DeadlineExceeded``, when the time is over; the
        frames stay in the spool.
        """
        ends = time.monotonic() + timeout_s
        with self._changed:
            while self._spool.frames:
                left = ends - time.monotonic()
                if left <= 0 or self._closed:
                    raise self._problem or _late(self._spool.frames, self._address, timeout_s)
                self._changed.wait(min(left, 1.0))

    @property
    def state(self) -> CaptureState:
        """Where the frames are now."""
        spool = self._spool
        return CaptureState(
            spool.frames,
            spool.total_bytes,
            self._stored,
            self._refused,
            spool.dropped,
            self._open,
            self._problem,
        )

    def close(self) -> None:
        """Hang up and close the spool; what was not acknowledged stays in it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            call = self._call
        if call is not None:
            call.cancel()
        self._thread.join()
        self._spool.close()

    def __enter__(self) -> "CaptureStream":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _keep(self) -> None:
        """The thread: connect, listen, rest, and again until the stream is closed."""
        while not self._closed:
            cause = self._listen()
            with self._changed:
                self._connection += 1
                self._open = False
                self._lost(cause)
                self._lower_numbers()
                self._failures += 1
                hint = cause.retry_after_s if cause is not None else None
                rest_s = max(self._retry.backoff_s(self._failures), hint or 0.0)
                self._changed.wait_for(lambda: self._closed, min(rest_s, LONGEST_REST_S))

    def _listen(self) -> SecondlookError | None:
        """One connection, to its end; why it broke, or None when the server ended it in order."""
        with self._changed:
            if self._closed or not self._await_frames():
                return None
            self._sent = -1
            self._call = call = self._method(self._messages(self._connection))
        try:
            for response in call:
                self._receive(response)
        except grpc.RpcError as failed:
            return self._problem_on_disk or typed(failed, self._address)
        return None

    def _await_frames(self) -> bool:
        """No line is needed while there is nothing to send; False when the stream was closed."""
        self._changed.wait_for(lambda: self._closed or self._spool.frames)
        return not self._closed

    def _receive(self, response: pb.LabelStreamResponse) -> None:
        with self._changed:
            if response.HasField("opened"):
                self._open = True
                self._problem = None
                if response.opened.HasField("resume_after"):
                    resume_after = response.opened.resume_after
                    self._spool.number_above(resume_after)
                    if resume_after <= MAX_FOLLOWED:
                        self._seen = max(self._seen, resume_after)
            else:
                self._answered(response.answer)
            self._changed.notify_all()

    def _answered(self, answer: pb.FrameAnswer) -> None:
        self._in_flight.pop(answer.sequence, None)
        if answer.HasField("stored"):
            self._failures = self._restarts = 0
            self._renumbered.pop(answer.sequence, None)
            self._seen = max(self._seen, answer.sequence)
            self._spool.remove(answer.sequence)
            self._stored += 1
        elif answer.HasField("failure"):
            failure = from_reason(answer.failure.reason, answer.failure.message)
            if not self._is_renumbered(answer.sequence, failure):
                self._failures = 0
                self._refuse(answer.sequence, failure)

    def _is_renumbered(self, sequence: int, why: SecondlookError) -> bool:
        """Whether a frame that was refused for its number alone has another one now.

        It was not stored, so it is stored once all the same.
        """
        if why.reason == SEQUENCE_TAKEN:
            times = self._renumbered.pop(sequence, 0)
            if times == MAX_RENUMBERED:
                return False
            # Farther each time: whoever took the number may have taken those behind it too.
            try:
                new = self._spool.renumber(sequence, 4**times)
            except SpoolUnusable as failed:
                self._problem = failed
                return True  # it is sent under the same number on the next connection
            if new is not None:
                self._renumbered[new] = times + 1
            return True
        if not isinstance(why, BadSequence) or self._restarts == MAX_RENUMBERED:
            return False
        if self._too_high is None or sequence < self._too_high:
            self._too_high = sequence
        return True

    def _lower_numbers(self) -> None:
        """Between two connections, as numbers only rise on one and all answers are in."""
        if self._too_high is not None:
            try:
                self._spool.renumber_from(self._too_high, self._seen)
            except SpoolUnusable as failed:
                self._problem = failed
            self._too_high = None
            self._restarts += 1

    def _refuse(self, sequence: int, why: SecondlookError) -> None:
        """Sending it again would end the same way, for ever."""
        log.warning("frame %d will not be stored: %s", sequence, why)
        self._renumbered.pop(sequence, None)
        self._spool.remove(sequence)
        self._refused += 1
        self._on_refused(sequence, why)

    def _lost(self, cause: SecondlookError | None) -> None:
        if isinstance(cause, MessageTooLarge) and self._in_flight:
            largest = max(self._in_flight, key=self._in_flight.__getitem__)
            self._refuse(largest, cause)
        elif cause is not None and not self._closed:
            if type(cause) is not type(self._problem):
                log.warning("captured frames wait in the spool: %s", cause)
            self._problem = cause
        self._in_flight.clear()

    def _messages(self, connection: int) -> Iterator[pb.LabelStreamRequest]:
        """What goes out on one connection; gRPC runs this in a thread of its own."""
        yield pb.LabelStreamRequest(opening=self._opening)
        self._problem_on_disk = None
        try:
            while frame := self._next(connection):
                wire = pb.StreamFrame(sequence=frame.sequence, image=frame.data, name=frame.name)
                yield pb.LabelStreamRequest(frame=wire)
        except SpoolUnusable as failed:
            self._problem_on_disk = failed
            raise

    def _next(self, connection: int) -> SpooledFrame | None:
        """Waits for a frame that may be sent; None ends the sending side of the connection."""
        with self._changed:
            while not self._closed and self._connection == connection:
                if self._too_high is not None:
                    return None
                frame = self._spool.after(self._sent) if self._may_send() else None
                if frame is not None:
                    self._sent = frame.sequence
                    self._in_flight[frame.sequence] = len(frame.data)
                    return frame
                self._changed.wait()
            return None

    def _may_send(self) -> bool:
        sent = self._in_flight
        room = len(sent) < MAX_FRAMES_IN_FLIGHT and sum(sent.values()) < MAX_BYTES_IN_FLIGHT
        return self._open and room


def _late(frames: int, address: str, timeout_s: float) -> SecondlookError:
    return DeadlineExceeded(
        f"{frames} frames are still on their way to {address} after {timeout_s:g} s; they stay in "
        "the spool and are sent when the line allows"
    )
