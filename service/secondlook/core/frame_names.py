"""Frames of videos by their time: ``clip.mp4@00-01-02.345.jpg`` is the frame at 62.345 seconds.

The name sorts by time, is the same however often a video is read, and is a file name on every
system, which one with colons is not: an exported frame is called the same.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

FRAME_SUFFIX = ".jpg"
"""Frames are encoded as JPEG when they leave their video."""
DEFAULT_FPS = 5.0
"""Frames of each second that are labelled: neighbours show the same objects, and each costs as much
as an image."""
MAX_MS = 1000 * 3600 * 1000
"""A thousand hours, which no name of a frame reaches."""
_NAME = re.compile(r"(.+)@(\d{2,3})-([0-5]\d)-([0-5]\d)\.(\d{3})\.jpg", re.DOTALL)


@dataclass(frozen=True, order=True)
class FrameAddress:
    """A frame of a video."""

    clip: str
    """Name of the video: its path, with forward slashes."""
    ms: int
    """Time in the video, milliseconds from its first frame, below ``MAX_MS``."""

    @property
    def name(self) -> str:
        """As ``frame_address`` reads it."""
        return f"{self.clip}@{time_text(self.ms, '-')}{FRAME_SUFFIX}"


def frame_address(name: str) -> FrameAddress | None:
    """The frame that an image's name means; None for an image that is no frame of a video."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    hours, minutes, seconds, ms = map(int, found.groups()[1:])
    address = FrameAddress(found[1], ((hours * 60 + minutes) * 60 + seconds) * 1000 + ms)
    return address if address.name == name else None


def sequence_of(name: str) -> str:
    """What an image is a frame of: its video, or else the folder that it lies in."""
    address = frame_address(name)
    return address.clip if address else f"{PurePosixPath(name).parent}/"


def time_text(ms: int, separator: str = ":") -> str:
    """``00:01:02.345``, with another ``separator`` where it is given."""
    seconds, part = divmod(ms, 1000)
    hours, minutes, seconds = seconds // 3600, seconds // 60 % 60, seconds % 60
    return separator.join((f"{hours:02}", f"{minutes:02}", f"{seconds:02}")) + f".{part:03}"
