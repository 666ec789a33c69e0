"""Chosen frames on their way: encoded, into the spool on disk, and from there to the server.

A camera's loop only puts a frame into a short queue. A thread writes it to the spool, which may
wait for a slow disk; another one, of the captured stream, sends what is there whenever the line
allows. What the spool has no room for is dropped and counted, never waited for.
"""

import contextlib
import io
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image as PILImage

from secondlook.core.ontology import ClassSpec, Ontology, for_client
from secondlook.core.ontology_yaml import ontology_from_yaml
from secondlook.detector.frames import Frame
from secondlook.detector.manifest import Manifest
from secondlook_client import CaptureState, CaptureStream, Client, ClientError, SpoolLimits
from secondlook_client import ClassSpec as ClientClass

# What the server is asked to label on the frames sent: the classes of the student, or others.


@dataclass(frozen=True)
class Teaching:
    """A captured stream and the classes that it is for; a stream keeps its classes for ever."""

    stream_id: str
    classes: tuple[ClientClass, ...]


def teaching(stream: str, given: Ontology | None, manifest: Manifest | None) -> Teaching:
    """Where frames go that were chosen with this student.

    ``given`` classes go to the stream as it was named. The student's own go to one with the
    classes' digest in its name, since a later student may have others. Raises ``BadOntology`` for
    a manifest whose classes cannot be asked for, and ``ValueError`` when there are none at all.
    """
    if given is not None:
        return Teaching(stream, for_client(given))
    if manifest is None:
        raise ValueError("neither classes nor a student that has some")
    ontology = (
        ontology_from_yaml(manifest.ontology, "the student's classes")
        if manifest.ontology
        else Ontology(tuple(ClassSpec(name) for name in manifest.classes))
    )
    return Teaching(f"{stream}-{ontology.digest[:8]}", for_client(ontology))


log = logging.getLogger(__name__)

WAITING = 4
"""Chosen frames that are not in the spool yet, at most: decoded, so tens of megabytes each."""
QUALITY = 90
"""Of the JPEG of a camera's frame."""
MAX_NAME = 300
"""Characters of a frame's name; the server takes no more than some thousand."""
CLOSE_S = 5.0
ARRIVE_S = 10.0
"""For frames on their way when the classes change."""


@dataclass(frozen=True)
class Sent:
    """What became of the chosen frames since the start."""

    spooled: int
    acknowledged: int
    dropped: int
    """For want of room in the spool or the queue, or because the disk refused."""
    refused: int
    """Given up because the server will never take them."""
    pending: int
    """In the spool now."""
    pending_bytes: int
    connected: bool
    problem: str
    """Why nothing moves at present; empty when it does."""


class Sender:
    """One spool and its stream. Thread-safe."""

    def __init__(
        self,
        client: Client,
        spool: Path,
        limits: SpoolLimits,
        teaching: Teaching | None,
        after_each: Callable[[], None] = lambda: None,
    ) -> None:
        """``teaching`` None: nothing is sent until ``teach`` says what frames are for.

        ``after_each`` is called from the thread when a frame is in the spool. Raises
        ``SpoolUnusable``.
        """
        self._after_each = after_each
        self._client = client
        self._spool = spool
        self._limits = limits
        self._teaching = teaching
        self._capture = self._opened(teaching) if teaching is not None else None
        self._used = teaching
        self._before = CaptureState(0, 0, 0, 0, 0, False, None)
        """Counts of the streams before the present one."""
        self._queue: queue.Queue[tuple[Frame, str] | None] = queue.Queue(WAITING)
        self._spooled = self._lost = 0
        self._problem = ""
        self._swapping = threading.Lock()
        """So that no frame is counted twice, or never, while one stream follows another."""
        self._thread = threading.Thread(target=self._run, name="spooling", daemon=True)
        self._thread.start()

    def offer(self, frame: Frame, reason: str, wait_s: float = 0.0) -> bool:
        """Take a frame on its way; False when the disk is behind, and the frame is dropped.

        ``wait_s``: how long the disk may take to catch up; a camera has no time at all.
        """
        try:
            self._queue.put((frame, reason), wait_s > 0, wait_s)
        except queue.Full:
            self._lost += 1
            return False
        return True

    def teach(self, teaching: Teaching) -> None:
        """Frames offered from now on are for these classes."""
        self._teaching = teaching

    @property
    def state(self) -> Sent:
        """Where the frames are now."""
        with self._swapping:
            now = self._before
            if self._capture is not None:
                now = _added(now, self._capture.state)
        return Sent(
            spooled=self._spooled,
            acknowledged=now.stored,
            dropped=self._lost + now.dropped,
            refused=now.refused,
            pending=now.pending,
            pending_bytes=now.pending_bytes,
            connected=now.connected,
            problem=self._problem or str(now.problem or ""),
        )

    def flush(self, timeout_s: float, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the server has everything offered so far; False when time was over first.

        In any case it waits for the disk: what was offered is in the spool then.
        """
        began = time.monotonic()
        while (writing := self._queue.unfinished_tasks) or self.state.pending:
            limit_s = max(timeout_s, CLOSE_S) if writing else timeout_s
            if time.monotonic() - began >= limit_s or (stopped() and not writing):
                return False
            time.sleep(0.02)
        return True

    def close(self) -> None:
        """Write what is in the queue and hang up; what is in the spool stays there."""
        try:
            self._queue.put(None, timeout=CLOSE_S)
        except queue.Full:
            log.warning("the disk does not answer; frames that were not in the spool are lost")
        self._thread.join(CLOSE_S)
        if self._capture is not None:
            self._capture.close()

    def _opened(self, teaching: Teaching) -> CaptureStream:
        return self._client.capture(
            teaching.stream_id, spool=self._spool, classes=teaching.classes, limits=self._limits
        )

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._spool_one(*item)
            except (ClientError, OSError, ValueError) as cause:
                self._lost += 1
                if str(cause) != self._problem:
                    log.warning("a frame is dropped: %s", cause)
                self._problem = str(cause)
            finally:
                self._queue.task_done()
        self._queue.task_done()

    def _spool_one(self, frame: Frame, reason: str) -> None:
        capture = self._stream()
        if capture is None:
            self._lost += 1
            return
        # The reason leads the name: it is all that the protocol carries beside the image.
        name = f"{reason}/{frame.name}"[:MAX_NAME]
        if capture.send(frame.encoded or jpeg(frame), name=_sendable(name)) is not None:
            self._spooled += 1
            self._after_each()
        self._problem = ""

    def _stream(self) -> CaptureStream | None:
        """The stream of the present classes; another one when they have changed.

        The spool is the same: what waits in it goes out with the new stream. What is on its way
        gets a moment to arrive, as it would be stored in both.
        """
        wanted = self._teaching
        if wanted is not None and wanted != self._used:
            if self._capture is not None:
                with contextlib.suppress(ClientError):
                    self._capture.flush(ARRIVE_S if self._capture.state.connected else 0.0)
                self._capture.close()
                with self._swapping:
                    self._before = _added(self._before, self._capture.state)
                    self._capture = None
            self._capture, self._used = self._opened(wanted), wanted
        return self._capture


def _added(before: CaptureState, last: CaptureState) -> CaptureState:
    """The counts of two streams, one after the other, and where the later one stands."""
    return replace(
        last,
        stored=before.stored + last.stored,
        refused=before.refused + last.refused,
        dropped=before.dropped + last.dropped,
    )


def jpeg(frame: Frame) -> bytes:
    """The frame as a JPEG of ``QUALITY``."""
    out = io.BytesIO()
    PILImage.fromarray(frame.pixels).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def _sendable(name: str) -> str:
    return name.encode("utf-8", "replace").decode()
