"""Cameras through PyAV (the extra ``video``): devices and network streams, and their recordings.

A camera gives each frame once, and a run must be able to read its images again: to go on after it
was killed, to show them, to write a dataset. So what is labelled is a recording. Packets are copied
as they come; nothing is decoded or encoded.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from secondlook.config.settings import ImageSettings
from secondlook.core.files import explain_write_errors
from secondlook.core.images import DEFAULT_LIMITS
from secondlook.core.video import check_video_size, load_av, video_stream
from secondlook_client.errors import InvalidInput, OutputExists, Unavailable

CAMERA_TIMEOUT_S = 10.0
"""A camera that gives nothing for so long has failed."""
WHAT = "a video file or camera"
SUFFIX = ".mkv"
"""Matroska: a recording that was killed can be read up to there."""


@dataclass(frozen=True)
class Recording:
    """What was recorded of a camera."""

    frames: int
    seconds: float
    complete: bool
    """Whether it ended because the time was up or it was told to stop, not because the camera
    gave nothing any more."""


def camera_opener(where: str, *extras: str) -> Callable[[], Any]:
    """A function that opens the device or URL ``where``.

    Raises ``MissingExtra``, which names the ``extras``.
    """
    av = load_av(WHAT, *extras)

    def opened() -> AbstractContextManager[Any]:
        form = "v4l2" if where.startswith("/dev/") else None
        transport = {"rtsp_transport": "tcp"} if where.startswith("rtsp") else {}
        container: AbstractContextManager[Any] = av.open(
            where, format=form, options=transport, timeout=CAMERA_TIMEOUT_S
        )
        return container

    return opened


def record(
    where: str,
    out: Path,
    seconds: float,
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[float, int], None] = lambda seconds, frames: None,
    limits: ImageSettings = DEFAULT_LIMITS,
) -> Recording:
    """Record the camera ``where`` for ``seconds`` into the Matroska file ``out``.

    ``stop`` is asked and ``tell`` told (seconds, frames) at every frame. A recording of which the
    camera fails in the middle is kept. Raises ``Unavailable`` for a camera that gives no frame at
    all, ``InvalidInput`` for what is no video, ``ImageTooLarge``, ``OutputExists``, ``StorageFull``
    and ``MissingExtra``.
    """
    if out.suffix.lower() != SUFFIX:
        raise InvalidInput(f"'{out}': recordings are Matroska files; give a name with {SUFFIX}")
    opener = camera_opener(where, "video")
    av = load_av(WHAT, "video")
    with explain_write_errors(out), _new_file(out) as file:
        try:
            container = opener()
        except (av.error.FFmpegError, OSError, ValueError) as cause:
            why = _reason(cause)
            raise Unavailable(f"the camera cannot be opened ({why}); check it") from cause
        with container:
            stream = video_stream(container)
            codec = stream.codec_context
            check_video_size(codec.width or 0, codec.height or 0, limits)
            with closing(_Recorder(av, file, stream)) as recorder:
                return recorder.record(container, seconds, stop, tell)


@contextmanager
def _new_file(out: Path) -> Iterator[BinaryIO]:
    """A file that is removed again if nothing was written."""
    try:
        file = out.open("xb")
    except FileExistsError as cause:
        raise OutputExists(f"'{out}' exists already; give another --out") from cause
    try:
        with file:
            yield file
    finally:
        if not out.stat().st_size:
            out.unlink()


class _Recorder:
    """Copies the packets of one stream into a file."""

    def __init__(self, av: Any, file: BinaryIO, stream: Any) -> None:
        self.frames = 0
        self._av, self._stream = av, stream
        self._target = av.open(file, "w", format="matroska")
        self._copy = self._target.add_stream_from_template(stream)
        self._dts = -1

    def record(
        self,
        container: Any,
        seconds: float,
        stop: Callable[[], bool],
        tell: Callable[[float, int], None],
    ) -> Recording:
        """See ``camera.record``."""
        began, why = time.monotonic(), "it ended"
        packets = container.demux(self._stream)
        while True:
            passed = time.monotonic() - began
            if stop() or (passed >= seconds and self.frames):
                return Recording(self.frames, passed, complete=True)
            try:
                packet = next(packets, None)
            except (self._av.error.FFmpegError, OSError) as cause:
                packet, why = None, _reason(cause)
            if packet is None or not packet.size:  # the end
                break
            # Nothing can be decoded before the first keyframe.
            if not packet.is_corrupt and (self.frames or packet.is_keyframe):
                self._write(packet, passed)
                tell(passed, self.frames)
        if not self.frames:
            raise Unavailable(f"the camera gives no frames ({why}); check it")
        return Recording(self.frames, time.monotonic() - began, complete=False)

    def _write(self, packet: Any, at: float) -> None:
        """Frames are timed as they come: a camera's own clock may be missing, coarse, or jump."""
        delay = 0.0  # of showing a frame, where they come in another order than they are shown
        if packet.pts is not None and packet.dts is not None:
            delay = float((packet.pts - packet.dts) * packet.time_base)
        self._dts = max(round(1000 * at), self._dts + 1)
        packet.time_base = Fraction(1, 1000)
        packet.pts, packet.dts = self._dts + round(1000 * delay), self._dts
        packet.stream = self._copy
        self._target.mux(packet)
        self.frames += 1

    def close(self) -> None:
        """Finish the file; on a full disk what was written before can be read."""
        if not self.frames:  # else it would be finished as a video without frames
            return
        with suppress(self._av.error.FFmpegError, OSError):
            self._target.close()


def _reason(cause: BaseException) -> str:
    return getattr(cause, "strerror", None) or str(cause)
