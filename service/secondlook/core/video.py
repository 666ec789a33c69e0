"""Videos through PyAV (the extra ``video``): which frames a file has, and each of them upright.

A video may come from anybody. The file is opened by us and handed over as a stream of bytes, so
that it cannot make the library open another file or address, as a playlist would; only the formats
below are tried; sizes are checked before a frame is decoded; frames are counted. What is damaged
costs its own frames, not the rest.
"""

import contextlib
import io
import itertools
import os
import stat
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from secondlook.config.extras import missing_extra
from secondlook.config.settings import ImageSettings
from secondlook.core.frame_names import MAX_MS
from secondlook.core.images import DEFAULT_LIMITS
from secondlook.core.types import Pixels
from secondlook_client.errors import BadImage, ImageTooLarge, InvalidInput

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,asf,flv,ogg"
"""FFmpeg's names of the containers that are read; none of them refers to other files."""
MAX_FRAMES = 10_000_000
"""Of one video: four days at 30 a second. Of each its time is in memory, 17 bytes."""
MAX_DAMAGED = 500
"""Damaged packets in a row after which the rest of a file is given up."""
FRAMES_TO_SKIP = 64
"""A frame that is fewer frames ahead is reached by decoding, for a seek begins at a keyframe."""
JPEG_QUALITY = 95
_END = 2**63 - 1
"""Behind every frame."""
MIN_FRAME_S = 1e-6
"""Frames are sampled as if they came at most this much earlier: times are rounded."""


def load_av(what: str, *extras: str) -> Any:
    """PyAV, for ``what``. Raises ``MissingExtra``, which names the ``extras``."""
    try:
        import av
    except ImportError as missing:
        raise missing_extra(what, *extras) from missing
    av.logging.set_level(None)  # ffmpeg writes to stderr; failures are reported as our errors
    return av


def video_stream(container: Any) -> Any:
    """The video stream of an open container. Raises ``InvalidInput`` where it has none."""
    if not container.streams.video:
        raise InvalidInput("the file has no video stream; give a video file or a folder of images")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return stream


def check_video_size(width: int, height: int, limits: ImageSettings) -> None:
    """Raises ``ImageTooLarge`` for frames over the limits of images; 0: not known yet."""
    if width * height > limits.max_image_pixels or max(width, height) > limits.max_image_side:
        raise ImageTooLarge(
            f"the video is {width}×{height}; at most {limits.max_image_pixels:,} pixels and "
            f"{limits.max_image_side:,} along a side are allowed. Scale it down"
        )


def upright_pixels(frame: Any, limits: ImageSettings) -> Pixels:
    """A decoded frame as (H, W, 3) uint8 RGB, turned as its video says.

    Raises ``ImageTooLarge``: a stream may change its size.
    """
    check_video_size(frame.width, frame.height, limits)
    pixels = frame.to_ndarray(format="rgb24")
    quarters = round(frame.rotation / 90) % 4  # counterclockwise
    return np.ascontiguousarray(np.rot90(pixels, quarters) if quarters else pixels)


def encoded_frame(pixels: Pixels) -> bytes:
    """A frame as JPEG; the same pixels are the same bytes with one version of Pillow."""
    out = io.BytesIO()
    PILImage.fromarray(pixels).save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


class FrameSampler:
    """Takes at most so many frames of each second of video."""

    def __init__(self, fps: float) -> None:
        """``fps`` 0: every frame."""
        self._gap_s = 1 / fps if fps > 0 else 0.0
        self._due = float("-inf")

    def takes(self, at_s: float) -> bool:
        """Whether the frame at this time, seconds, is taken; times of one video, in order."""
        if self._due - self._gap_s <= at_s < self._due - MIN_FRAME_S:
            return False
        # The next one is due by the clock of the one before, not of this one, which is late:
        # 7 a second of 30 would be 6 otherwise.
        steady = at_s - self._due < self._gap_s and at_s >= self._due - MIN_FRAME_S
        self._due = (self._due if steady else at_s) + self._gap_s
        return True


@dataclass(frozen=True)
class DamagedPacket:
    """A part of a video that cannot be decoded."""

    number: int
    """Of the packet, from 0."""
    reason: str


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """The frames of a video in the order in which they are shown, of N; one a millisecond."""

    ms: NDArray[np.int64]
    """(N,) milliseconds since the first frame, ascending."""
    pts: NDArray[np.int64]
    """(N,) the same as the stream counts time."""
    keys: NDArray[np.int64]
    """(K,) places of the frames at which decoding can begin, ascending."""

    def __len__(self) -> int:
        return len(self.ms)

    def sampled(self, fps: float) -> NDArray[np.int64]:
        """The times of at most ``fps`` frames a second, milliseconds; 0: of all."""
        if fps <= 0:
            return self.ms
        sampler = FrameSampler(fps)
        taken = (ms for ms in self.ms if sampler.takes(float(ms) / 1000))
        return np.fromiter(taken, np.int64)


class VideoFile:
    """An open video file. A context manager; for one thread.

    ``read`` gives frames by their time; in ascending order each is decoded once, and a jump seeks.
    """

    def __init__(
        self,
        path: Path,
        limits: ImageSettings = DEFAULT_LIMITS,
        *,
        extras: tuple[str, ...] = ("video",),
    ) -> None:
        """Raises ``InvalidInput`` for what is no video, ``ImageTooLarge``, and ``MissingExtra``,
        which names the ``extras``."""
        self._av = load_av("reading a video", *extras)
        self._path, self._limits = path, limits
        self._file, self._container = _opened(self._av, path)
        try:
            self.stream = video_stream(self._container)
            codec = self.stream.codec_context
            check_video_size(codec.width or 0, codec.height or 0, limits)
        except BaseException:
            self.close()
            raise
        self._index: FrameIndex | None = None
        self._frames: Iterator[Any] = iter(())
        self._ahead: Any = None
        """The last frame that was decoded since the last restart."""
        self._at = self._passed = 0
        """The ``pts`` of that frame, or where decoding begins; no frame between the second and the
        first will come."""
        self._sought = False
        """Whether the last restart was a seek of which it is not known where it ended."""

    def close(self) -> None:
        """Close the file."""
        self._container.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def decoded(self) -> Iterator[Any]:
        """Each frame from here on as PyAV has it, and a ``DamagedPacket`` for what cannot be read.

        Packet by packet: one that is damaged costs its own frames, not the rest.
        """
        damaged = 0
        packets = self._container.demux(self.stream)
        for number in itertools.count():
            try:
                packet = next(packets, None)
                frames = packet.decode() if packet is not None else []
            except (self._av.error.FFmpegError, OSError) as cause:
                damaged += 1
                yield DamagedPacket(number, f"damaged ({cause.strerror})")
                if damaged >= MAX_DAMAGED:
                    return
                continue
            if packet is None:
                return
            damaged = 0 if frames else damaged
            yield from frames

    @property
    def index(self) -> FrameIndex:
        """Which frames there are, by the packets of the file; nothing is decoded.

        Raises ``InvalidInput`` for a video without a frame, with too many, or without times.
        """
        if self._index is None:
            self._index = self._indexed()
            self._restart(None)
        return self._index

    def _indexed(self) -> FrameIndex:
        times, keys = array("q"), bytearray()
        # A file that is cut short gives what there is.
        with contextlib.suppress(self._av.error.FFmpegError):
            for packet in self._container.demux(self.stream):
                if not packet.size or packet.is_discard:
                    continue
                if packet.pts is None:
                    raise InvalidInput(
                        f"'{self._path}' does not say when its frames are shown; copy it to "
                        "another container: ffmpeg -i IN -c copy OUT.mkv"
                    )
                times.append(packet.pts)
                keys.append(packet.is_keyframe)
                if len(times) > MAX_FRAMES:
                    raise InvalidInput(
                        f"'{self._path}' has more than {MAX_FRAMES:,} frames; cut it up"
                    )
        if not times:
            raise InvalidInput(f"'{self._path}' has no frame; it may be cut short: copy it again")
        return self._sorted(np.array(times, np.int64), np.frombuffer(keys, bool))

    def _sorted(self, pts: NDArray[np.int64], key: NDArray[np.bool_]) -> FrameIndex:
        pts, first = np.unique(pts, return_index=True)
        ms = np.round((pts - pts[0]) * (1000 * float(self.stream.time_base or 0)))
        if not 0 <= ms[-1] < MAX_MS:
            raise InvalidInput(
                f"'{self._path}' says that it lasts {ms[-1] / 3_600_000:,.0f} hours, so its times "
                "are damaged; write it anew with ffmpeg"
            )
        times, kept = np.unique(ms.astype(np.int64), return_index=True)
        keys = np.zeros(len(times), bool)
        np.logical_or.at(keys, np.searchsorted(kept, np.arange(len(pts)), "right") - 1, key[first])
        return FrameIndex(times, pts[kept], np.flatnonzero(keys))

    def read(self, ms: int) -> Pixels:
        """The upright frame at a time of the index, (H, W, 3) uint8 RGB.

        Raises ``BadImage`` where there is none or it cannot be decoded, and ``ImageTooLarge``.
        """
        index = self.index
        place = int(np.searchsorted(index.ms, ms))
        if place >= len(index) or index.ms[place] != ms:
            raise BadImage(f"the video has no frame at {ms / 1000:.3f} s any more")
        frame = self._reached(place)
        if frame is None:
            raise BadImage("the frame cannot be decoded; the video is damaged there, or cut short")
        try:
            return upright_pixels(frame, self._limits)
        except (self._av.error.FFmpegError, ValueError) as cause:
            raise BadImage("the frame has pixels of a kind that is not known") from cause

    def _reached(self, place: int) -> Any:
        """The frame at ``place`` of the index; None where it cannot be decoded."""
        wanted = int(self.index.pts[place])
        if self._passed < wanted < self._at:
            return None  # else each frame of a damaged part would be looked for from its keyframe
        begin = self._keyframe(place)
        skipped = begin - int(np.searchsorted(self.index.pts, self._at))
        if self._at > wanted or skipped > FRAMES_TO_SKIP:
            self._restart(begin)
        frame = self._until(wanted)
        if frame is None and self._sought:
            self._restart(None)  # the seek went too far, as it may in a transport stream
            frame = self._until(wanted)
        return frame

    def _keyframe(self, place: int) -> int:
        """The last place up to ``place`` at which decoding can begin; 0 where none is known."""
        before = int(np.searchsorted(self.index.keys, place, side="right"))
        return int(self.index.keys[before - 1]) if before else 0

    def _until(self, wanted: int) -> Any:
        """Decode up to the frame at ``wanted``; None where it does not come."""
        while self._ahead is None or self._ahead.pts < wanted:
            frame = next(self._frames, None)
            if isinstance(frame, DamagedPacket) or (frame is not None and frame.pts is None):
                continue
            if self._ahead is not None:
                self._passed = self._ahead.pts
            elif self._sought and frame is not None:
                self._passed = frame.pts  # what comes before it is not known
                self._sought = frame.pts > wanted
            self._ahead, self._at = frame, _END if frame is None else frame.pts
            if frame is None:
                return None
        return self._ahead if self._ahead.pts == wanted else None

    def _restart(self, place: int | None) -> None:
        """Decode from ``place`` of the index on; None: from the beginning, however it is found."""
        self._ahead, self._sought = None, bool(place)
        pts = int(self.index.pts[place]) if place else None
        self._at = int(self.index.pts[place or 0])
        self._passed = self._at if place else self._at - 1
        try:
            if pts is None:
                self._container.close()
                self._file.close()
                self._file, self._container = _opened(self._av, self._path)
                self.stream = video_stream(self._container)
            else:
                self._container.seek(pts, stream=self.stream)
        except (self._av.error.FFmpegError, OSError) as cause:
            raise BadImage(f"the video cannot be read any more ({cause.strerror})") from cause
        self._frames = self.decoded()


def _opened(av: Any, path: Path) -> tuple[IO[bytes], Any]:
    """The file and its container. Raises ``InvalidInput``."""
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "none", "fflags": "+genpts"}
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as cause:
        raise InvalidInput(f"'{path}' cannot be read ({cause.strerror})") from cause
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InvalidInput(f"'{path}' is not a regular file")
        return file, av.open(file, options=options)
    except BaseException as cause:
        file.close()
        if not isinstance(cause, av.error.FFmpegError | OSError | ValueError):
            raise
        why = getattr(cause, "strerror", None) or "unknown format"
        raise InvalidInput(
            f"'{path}' is not a video that can be read ({why}); it may be cut short. Give a video "
            "file or a folder of images"
        ) from cause
