"""Where frames come from: a folder of images, a video file or a camera.

A source is asked for one frame at a time and never waits longer than it is told to, so that the
agent's loop can do its other work while a camera gives nothing. Video goes through PyAV (the extra
``video``): a file is read frame by frame, and its clock is the position in it; a camera is read by
a thread that keeps the newest frame only, and reopens it whenever it fails.
"""

import logging
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from secondlook.config.settings import ImageSettings
from secondlook.core.camera import WHAT, camera_opener
from secondlook.core.frame_names import MAX_MS, FrameAddress
from secondlook.core.image_folder import OUTPUT_TAG, is_hidden
from secondlook.core.images import DEFAULT_LIMITS, decode
from secondlook.core.video import (
    MAX_DAMAGED,
    DamagedPacket,
    FrameSampler,
    VideoFile,
    check_video_size,
    load_av,
    upright_pixels,
    video_stream,
)
from secondlook.detector.frames import SkippedFrame, SourceFrame
from secondlook_client.errors import ImageTooLarge, InvalidInput, NotFound, SecondlookError

log = logging.getLogger(__name__)

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
RESCAN_S = 0.5
"""Between two scans of a folder that is followed."""
MAX_FILES = 1_000_000
"""Files of a folder; their names are held in memory."""
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 30.0
"""Wait before a camera is reopened: doubled after each failure."""
EXTRAS = ("edge", "video")
"""What reading one needs on a device."""
_SLEEP_S = 0.02


class FrameSource(Protocol):
    """Gives frames one after the other. Not thread-safe."""

    live: bool
    """Whether frames that are not read in time are lost, as those of a camera."""
    superseded: int
    """Frames of a camera that a newer one replaced before they were read."""

    @property
    def ended(self) -> bool:
        """Whether no frame will come any more."""

    def read(self, timeout_s: float) -> SourceFrame | SkippedFrame | None:
        """The next frame; None when there is none in time, or the source has ended."""

    def close(self) -> None:
        """Release the camera or file."""


def open_source(
    where: str,
    *,
    fps: float = 0.0,
    follow: bool = False,
    frame_interval_s: float = 0.0,
    limits: ImageSettings = DEFAULT_LIMITS,
) -> FrameSource:
    """The source that ``where`` names: a folder, a video file, ``/dev/video0`` or a URL.

    ``fps`` limits the frames per second (0: no limit); ``follow`` waits for new images in a
    folder; ``frame_interval_s`` is the time between two images of a folder when they were taken
    (0: they are taken as they are read). Raises ``NotFound``, ``InvalidInput`` and, for video
    without PyAV, ``MissingExtra``.
    """
    if "://" not in where:
        mode = _mode(Path(where))
        if stat.S_ISDIR(mode):
            return FolderSource(Path(where), fps, follow, frame_interval_s, limits)
        if stat.S_ISREG(mode):
            return FileSource(Path(where), fps, limits)
    return CameraSource(camera_opener(where, *EXTRAS), fps, limits)


def extras_of_source(where: str) -> tuple[str, ...]:
    """The extras that reading ``where`` needs. Raises ``NotFound`` for a path that is not there."""
    if "://" not in where and stat.S_ISDIR(_mode(Path(where))):
        return ()
    return ("video",)


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (OSError, ValueError) as cause:
        why = getattr(cause, "strerror", None) or "not a path"
        raise NotFound(
            f"'{path}' cannot be read ({why}); give a folder of images, a video file, a camera "
            "such as /dev/video0, or rtsp://…"
        ) from cause


class FolderSource:
    """The images of a folder in the order of their names; with ``follow`` also those to come.

    A file that is still being written when it is read is skipped as damaged, and read again once
    it has changed. Memory is bounded by what is in the folder now.
    """

    live = False
    superseded = 0

    def __init__(
        self, folder: Path, fps: float, follow: bool, frame_interval_s: float, limits: ImageSettings
    ) -> None:
        self._folder = folder
        self._follow = follow
        self._frame_interval_s = frame_interval_s
        self._limits = limits
        self._limiter = FpsLimiter(fps)
        self._changed_ns: dict[str, int] = {}
        """When each file in the folder was last changed, as of the last scan."""
        self._waiting: deque[str] = deque()
        self._read = 0
        self._scan_at = 0.0
        self._scan()
        if not follow and not self._waiting:
            raise NotFound(f"no image in '{folder}'; images end in {', '.join(sorted(IMAGES))}")

    @property
    def ended(self) -> bool:
        """A folder that is followed never ends."""
        return not self._follow and not self._waiting

    def read(self, timeout_s: float) -> SourceFrame | SkippedFrame | None:
        """See ``FrameSource``."""
        ends = time.monotonic() + timeout_s
        while not self._waiting:
            now = time.monotonic()
            if self.ended or now >= ends:
                return None
            if now >= self._scan_at:
                self._scan()
            else:
                time.sleep(min(_SLEEP_S, ends - now))
        if not self._limiter.wait(ends):
            return None
        return self._decode(self._folder / self._waiting.popleft())

    def close(self) -> None:
        """Nothing is held open."""

    def _decode(self, path: Path) -> SourceFrame | SkippedFrame:
        self._read += 1
        taken = self._read * self._frame_interval_s if self._frame_interval_s else time.monotonic()
        try:
            data = _bytes_of(path, self._limits)
            pixels = decode(data, path.name, self._limits).pixels
        except OSError as cause:
            return SkippedFrame(path.name, f"cannot be read ({cause.strerror})")
        except SecondlookError as cause:
            return SkippedFrame(path.name, str(cause))
        return SourceFrame(pixels, path.name, taken, time.time(), data)

    def _scan(self) -> None:
        """Find files that are new or have changed; forget removed ones."""
        self._scan_at = time.monotonic() + RESCAN_S
        try:
            found = dict(self._files())
        except OSError as cause:
            if not self._follow:
                raise InvalidInput(
                    f"'{self._folder}' cannot be read ({cause.strerror}); check its permissions"
                ) from cause
            return  # a removable disk may come back
        fresh = sorted(name for name, at in found.items() if self._changed_ns.get(name) != at)
        self._changed_ns = found
        self._waiting.extend(fresh)

    def _files(self) -> Iterator[tuple[str, int]]:
        if (self._folder / OUTPUT_TAG).exists():
            return  # its images are copies that secondlook wrote
        with os.scandir(self._folder) as entries:
            for count, entry in enumerate(entries):
                if count >= MAX_FILES:
                    raise InvalidInput(
                        f"'{self._folder}' holds more than {MAX_FILES:,} files; split it up"
                    )
                suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122  # a million times
                if suffix in IMAGES and not is_hidden(entry.name) and entry.is_file():
                    yield entry.name, entry.stat().st_ctime_ns


def _bytes_of(path: Path, limits: ImageSettings) -> bytes:
    """The file, or as much of it as shows that it is too large; a pipe put there is not waited for.

    Raises ``OSError`` and ``InvalidInput``.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InvalidInput("it is no longer a regular file")
        return file.read(limits.max_image_bytes + 1)


class FpsLimiter:
    """Waits so that there are at most so many frames per second."""

    def __init__(self, fps: float) -> None:
        """``fps`` 0: no limit."""
        self._gap_s = 1 / fps if fps > 0 else 0.0
        self._next = 0.0

    def wait(self, ends: float) -> bool:
        """Wait until the next frame is due; False when that is after ``ends`` (monotonic)."""
        now = time.monotonic()
        if self._next > ends:
            time.sleep(max(ends - now, 0.0))
            return False
        if self._next > now:
            time.sleep(self._next - now)
        self._next = max(self._next, now) + self._gap_s
        return True


class FileSource:
    """The frames of a video file in order; with ``fps`` only so many of each second of video."""

    live = False
    superseded = 0

    def __init__(self, path: Path, fps: float, limits: ImageSettings) -> None:
        """Raises ``InvalidInput``, ``ImageTooLarge`` and ``MissingExtra``."""
        self._name = path.name
        self._limits = limits
        self._sampler = FrameSampler(fps)
        self._video = VideoFile(path, limits, extras=EXTRAS)
        self._frames = self._sampled()
        self._ended = False

    @property
    def ended(self) -> bool:
        """After the last frame was asked for."""
        return self._ended

    def read(self, timeout_s: float) -> SourceFrame | SkippedFrame | None:
        """See ``FrameSource``; a file never has to wait."""
        found = next(self._frames, None)
        self._ended = found is None
        return found

    def close(self) -> None:
        """Close the file."""
        self._frames.close()
        self._video.close()

    def _sampled(self) -> Generator[SourceFrame | SkippedFrame, None, None]:
        stream = self._video.stream
        begin_s = float((stream.start_time or 0) * stream.time_base)
        at = 0.0
        for frame in self._video.decoded():
            if isinstance(frame, DamagedPacket):
                yield SkippedFrame(f"{self._name}#packet {frame.number}", frame.reason)
                continue
            # A frame without a time is shown 40 ms after the one before.
            at = at + 0.04 if frame.time is None else max(frame.time - begin_s, 0.0)
            if self._sampler.takes(at):
                name = FrameAddress(self._name, min(round(1000 * at), MAX_MS - 1)).name
                yield _frame(frame, name, at, self._limits)


class CameraSource:
    """The newest frame of a device or network stream."""

    live = True

    def __init__(
        self, opener: Callable[[], Any], fps: float, limits: ImageSettings, first_s: float = 10.0
    ) -> None:
        """``opener`` returns an open container. Waits at most ``first_s`` for a first frame: a
        camera that is off now may be on in an hour."""
        self._av = load_av(WHAT, *EXTRAS)
        self._opener = opener
        self._gap_s = 1 / fps if fps > 0 else 0.0
        self._limits = limits
        self._changed = threading.Condition()
        self._newest: SourceFrame | SkippedFrame | None = None
        self.superseded = 0
        self.ended = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None, first_s)

    def read(self, timeout_s: float) -> SourceFrame | SkippedFrame | None:
        """See ``FrameSource``."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None, timeout_s)
            newest, self._newest = self._newest, None
            return newest

    def close(self) -> None:
        """Disconnect; a camera that hangs is left to its daemon thread."""
        self._closed.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                with self._opener() as container:
                    self._read(container)
                why = "it ended"
            except Exception as cause:  # whatever it is: the device runs unattended
                why = getattr(cause, "strerror", None) or str(cause)
            if self._closed.is_set():
                return
            log.warning("the camera gives no frames (%s); trying again", why)
            self._put(SkippedFrame("camera", f"no frames: {why}"))
            recovered = time.monotonic() - began > LONGEST_RETRY_S
            retry_s = FIRST_RETRY_S if recovered else min(retry_s * 2, LONGEST_RETRY_S)
            self._closed.wait(retry_s)

    def _read(self, container: Any) -> None:
        stream = video_stream(container)
        codec = stream.codec_context
        check_video_size(codec.width or 0, codec.height or 0, self._limits)
        due, failures = 0.0, 0
        for packet in container.demux(stream):
            if self._closed.is_set():
                return
            try:
                frames = packet.decode()
            except self._av.error.FFmpegError as cause:
                failures += 1
                if failures > MAX_DAMAGED:
                    raise
                self._put(SkippedFrame(_timestamp_name(time.time()), f"damaged ({cause.strerror})"))
                continue
            now = time.monotonic()
            if frames and now >= due:
                failures, due = 0, now + self._gap_s
                self._put(_frame(frames[-1], _timestamp_name(time.time()), now, self._limits))

    def _put(self, frame: SourceFrame | SkippedFrame) -> None:
        with self._changed:
            if isinstance(self._newest, SourceFrame):
                self.superseded += 1
                if isinstance(frame, SkippedFrame):
                    return
            self._newest = frame
            self._changed.notify_all()


def _frame(frame: Any, name: str, at: float, limits: ImageSettings) -> SourceFrame | SkippedFrame:
    try:
        return SourceFrame(upright_pixels(frame, limits), name, at, time.time())
    except ImageTooLarge as cause:  # a stream may change its size
        return SkippedFrame(name, str(cause))


def _timestamp_name(wall: float) -> str:
    """``20261121T150405.123Z.jpg``: sorts by time where the clock is right."""
    try:
        at = datetime.fromtimestamp(wall, UTC)
    except (ValueError, OverflowError, OSError):  # a clock beyond all years
        return f"{wall:.3f}.jpg"
    return f"{at:%Y%m%dT%H%M%S}.{at.microsecond // 1000:03d}Z.jpg"
