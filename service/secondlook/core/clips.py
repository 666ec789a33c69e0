"""The frames of videos as images of a selection: which there are, and each as a JPEG.

One video is open at a time; of each that was listed the times of its frames stay in memory. Not
thread-safe.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from secondlook.config.extras import check_extras
from secondlook.config.settings import ImageSettings
from secondlook.core.frame_names import DEFAULT_FPS, FrameAddress, frame_address
from secondlook.core.image_folder import VIDEO_SUFFIXES, ImageFile
from secondlook.core.video import FrameIndex, VideoFile, encoded_frame
from secondlook_client.errors import BadImage, ImageTooLarge, InvalidInput, SecondlookError


def has_video(paths: Sequence[Path]) -> bool:
    """Whether a video is among ``paths``, by its suffix."""
    return any(path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir() for path in paths)


def clips_in(
    paths: Sequence[Path], limits: ImageSettings, fps: float = DEFAULT_FPS
) -> "ClipFrames | None":
    """What reads the videos among ``paths``; None where there is none. Raises ``MissingExtra``."""
    return ClipFrames(limits, fps) if has_video(paths) else None


@dataclass(frozen=True)
class _Clip:
    """A video as it was when it was listed."""

    file: ImageFile
    index: FrameIndex


class ClipFrames:
    """Lists and reads frames of videos."""

    def __init__(self, limits: ImageSettings, fps: float = DEFAULT_FPS) -> None:
        """``fps``: frames of each second at most; 0: all. Raises ``MissingExtra``."""
        check_extras("reading a video", "video")
        self._limits = limits
        self._fps = fps
        self._known: dict[str, _Clip] = {}
        """By the name of the video."""
        self._open: tuple[ImageFile, VideoFile] | None = None

    def frames(self, clip: ImageFile) -> Iterator[ImageFile]:
        """The frames of a video in order; of one that cannot be read the video, with the reason."""
        if clip.refusal:
            yield clip
            return
        try:
            index = self._index(clip)
        except SecondlookError as failure:
            yield replace(clip, refusal=str(failure))
            return
        for ms in index.sampled(self._fps).tolist():
            yield replace(clip, name=FrameAddress(clip.name, ms).name, frame_ms=ms)

    def read(self, frame: ImageFile, max_bytes: int) -> bytes:
        """A frame as an upright JPEG.

        Raises ``BadImage`` where it cannot be decoded or the video has changed, ``ImageTooLarge``.
        """
        address = frame_address(frame.name)
        if address is None or frame.frame_ms is None:
            raise BadImage("this is no frame of a video")
        clip = replace(frame, name=address.clip, frame_ms=None)
        self._check_unchanged(clip)
        try:
            content = encoded_frame(self._video(clip).read(frame.frame_ms))
        except (BadImage, ImageTooLarge):
            raise
        except InvalidInput as failure:
            raise BadImage(str(failure)) from failure
        if len(content) > max_bytes:
            raise ImageTooLarge(
                f"the frame has {len(content):,} bytes as a JPEG; at most {max_bytes:,} are "
                "allowed (--max-image-bytes)"
            )
        return content

    def named(self, name: str) -> ImageFile | None:
        """The frame of that name of a video that was listed; None where there is none."""
        address = frame_address(name)
        known = self._known.get(address.clip) if address else None
        if address is None or known is None:
            return None
        return replace(known.file, name=name, frame_ms=address.ms)

    def close(self) -> None:
        """Close the video that is open."""
        if self._open:
            self._open[1].close()
            self._open = None

    def _index(self, clip: ImageFile) -> FrameIndex:
        known = self._known.get(clip.name)
        if known is None or known.file != clip:
            known = self._known[clip.name] = _Clip(clip, self._video(clip).index)
        return known.index

    def _video(self, clip: ImageFile) -> VideoFile:
        if self._open is None or self._open[0] != clip:
            self.close()
            self._open = clip, VideoFile(clip.path, self._limits)
        return self._open[1]

    def _check_unchanged(self, clip: ImageFile) -> None:
        try:
            now = clip.path.stat()
        except OSError as failure:
            raise BadImage(f"the video is gone ({failure.strerror})") from None
        if (now.st_size, now.st_mtime_ns) != (clip.size, clip.mtime_ns):
            raise BadImage("the video has changed since its frames were listed; run this again")
