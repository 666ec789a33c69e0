"""Selected frames on their way: encoded, into the spool on disk, and from there to the server.

The camera's loop only puts a frame into a short queue. One thread writes it to the spool, which may
wait for a slow disk; another one, of the captured stream, sends what is there whenever the
connection allows. What the spool has no room for is dropped and counted, never waited for.

Frames go to a captured stream, which keeps the classes that it labels for ever: when a model with
other classes comes into use, another stream follows.
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

from secondlook.core.ontology_yaml import ontology_from_yaml
from secondlook.detector.frames import SourceFrame
from secondlook.detector.manifest import StudentManifest
from secondlook_client import CaptureState, CaptureStream, Client, SecondlookError, SpoolLimits
from secondlook_client.ontology import ClassSpec, Ontology

log = logging.getLogger(__name__)

QUEUE_SIZE = 4
"""Selected frames not in the spool yet, at most: decoded, so tens of megabytes each."""
JPEG_QUALITY = 90
"""Of a camera's frame."""
MAX_NAME = 300
"""Characters of a frame's name; the server takes no more than some thousand."""
CLOSE_S = 5.0
SWITCH_S = 10.0
"""For frames being sent when the classes change."""


@dataclass(frozen=True)
class CaptureTarget:
    """A captured stream and the classes that it labels."""

    stream_id: str
    classes: tuple[ClassSpec, ...]
    model: str = ""
    """The model in use, for people."""


def student_target(stream: str, manifest: StudentManifest, model: str = "") -> CaptureTarget:
    """A stream for the classes of a student, with their digest at the end of its name.

    ``model`` says for people which student it is.

    Raises ``BadOntology`` for a manifest whose classes cannot be labelled.
    """
    ontology = (
        ontology_from_yaml(manifest.ontology, "the student's classes")
        if manifest.ontology
        else Ontology(tuple(ClassSpec(name) for name in manifest.classes))
    )
    return CaptureTarget(f"{stream}-{ontology.digest[:8]}", ontology.classes, model)


@dataclass(frozen=True)
class SenderState:
    """What became of the selected frames since the start."""

    spooled: int
    acknowledged: int
    dropped: int
    """For lack of room in the spool or the queue, or because the disk failed."""
    refused: int
    """Given up because the server will never take them."""
    pending: int
    """In the spool now."""
    pending_bytes: int
    connected: bool
    problem: str
    """Why nothing is sent at present; empty when frames are sent."""


class Sender:
    """One spool and its stream. Thread-safe."""

    def __init__(
        self,
        client: Client,
        spool: Path,
        limits: SpoolLimits,
        target: CaptureTarget | None,
        after_each: Callable[[], None] = lambda: None,
    ) -> None:
        """``target`` None: frames are dropped until ``set_target``.

        ``after_each`` is called from the thread when a frame is in the spool. Raises
        ``SpoolUnusable``.
        """
        self._after_each = after_each
        self._client = client
        self._spool = spool
        self._limits = limits
        self._target = target
        self._capture = self._open(target) if target is not None else None
        self._opened_target = target
        self._before = CaptureState(0, 0, 0, 0, 0, False, None)
        """Counts of the streams before the present one."""
        self._queue: queue.Queue[tuple[SourceFrame, str] | None] = queue.Queue(QUEUE_SIZE)
        self._spooled = self._dropped = 0
        self._problem = ""
        self._switching = threading.Lock()
        """So that no frame is counted twice, or never, while one stream follows another."""
        self._thread = threading.Thread(target=self._run, name="spooling", daemon=True)
        self._thread.start()

    def offer(self, frame: SourceFrame, reason: str, wait_s: float = 0.0) -> bool:
        """Queue a frame for the spool; False when the disk is too slow, and the frame is dropped.

        ``wait_s``: how long the disk may take to catch up; a camera's loop cannot wait at all.
        """
        try:
            self._queue.put((frame, reason), wait_s > 0, wait_s)
        except queue.Full:
            self._dropped += 1
            return False
        return True

    def set_target(self, target: CaptureTarget) -> None:
        """Frames offered from now on go there."""
        self._target = target

    @property
    def state(self) -> SenderState:
        """Where the frames are now."""
        with self._switching:
            now = self._before
            if self._capture is not None:
                now = _sum(now, self._capture.state)
        return SenderState(
            spooled=self._spooled,
            acknowledged=now.stored,
            dropped=self._dropped + now.dropped,
            refused=now.refused,
            pending=now.pending,
            pending_bytes=now.pending_bytes,
            connected=now.connected,
            problem=self._problem or str(now.problem or ""),
        )

    def flush(self, timeout_s: float, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the server has everything offered so far; False when time is over first.

        It waits for the disk in any case: what was offered is in the spool then.
        """
        began = time.monotonic()
        while (writing := self._queue.unfinished_tasks) or self.state.pending:
            limit_s = max(timeout_s, CLOSE_S) if writing else timeout_s
            if time.monotonic() - began >= limit_s or (stopped() and not writing):
                return False
            time.sleep(0.02)
        return True

    def close(self) -> None:
        """Write what is in the queue and disconnect; what is in the spool stays there."""
        try:
            self._queue.put(None, timeout=CLOSE_S)
        except queue.Full:
            log.warning("the disk does not respond; frames not yet in the spool are lost")
        self._thread.join(CLOSE_S)
        if self._capture is not None:
            self._capture.close()

    def _open(self, target: CaptureTarget) -> CaptureStream:
        return self._client.capture(
            target.stream_id,
            spool=self._spool,
            classes=target.classes,
            device_model=target.model,
            limits=self._limits,
        )

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._spool_one(*item)
            except (SecondlookError, OSError, ValueError) as cause:
                self._dropped += 1
                if str(cause) != self._problem:
                    log.warning("a frame is dropped: %s", cause)
                self._problem = str(cause)
            finally:
                self._queue.task_done()
        self._queue.task_done()

    def _spool_one(self, frame: SourceFrame, reason: str) -> None:
        capture = self._stream()
        if capture is None:
            self._dropped += 1
            return
        # The name begins with the reason: the protocol carries nothing else beside the image.
        name = f"{reason}/{frame.name}"[:MAX_NAME].encode("utf-8", "replace").decode()
        if capture.send(frame.encoded or jpeg(frame), name=name) is not None:
            self._spooled += 1
            self._after_each()
        self._problem = ""

    def _stream(self) -> CaptureStream | None:
        """The stream of the present target; another one when that has changed.

        Also when only the model is another one, which a stream tells when it opens. The spool is
        the same: what waits in it is sent on the new stream. What is being sent gets
        a moment to arrive, as it would be stored in both.
        """
        target = self._target
        if target is not None and target != self._opened_target:
            if self._capture is not None:
                with contextlib.suppress(SecondlookError):
                    self._capture.flush(SWITCH_S if self._capture.state.connected else 0.0)
                self._capture.close()
                with self._switching:
                    self._before = _sum(self._before, self._capture.state)
                    self._capture = None
            self._capture, self._opened_target = self._open(target), target
        return self._capture


def _sum(before: CaptureState, last: CaptureState) -> CaptureState:
    """The counts of two successive streams, with the state of the later one."""
    return replace(
        last,
        stored=before.stored + last.stored,
        refused=before.refused + last.refused,
        dropped=before.dropped + last.dropped,
    )


def jpeg(frame: SourceFrame) -> bytes:
    """The frame as a JPEG of ``JPEG_QUALITY``."""
    out = io.BytesIO()
    PILImage.fromarray(frame.pixels).save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()
