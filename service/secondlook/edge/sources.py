"""Where frames come from: a folder of pictures here; video files and cameras in ``video``.

A source is asked for one frame at a time and never waits longer than it is told to, so that the
loop can do its other duties beside a camera that has gone silent.
"""

import os
import stat
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from secondlook.edge.frames import Frame, Skipped
from secondlook.errors import InvalidInput, NotFound, SecondlookError
from secondlook.images import DEFAULT_LIMITS, ImageLimits, decode

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
LOOK_AGAIN_S = 0.5
"""Between two looks into a folder that is followed."""
MAX_PICTURES = 1_000_000
"""Files of a folder; their names are held in memory."""
_MOMENT_S = 0.02


class Source(Protocol):
    """Frames, one after the other. Not thread-safe."""

    live: bool
    """Whether frames are lost while nobody reads, as those of a camera are."""
    overtaken: int
    """Frames of a camera that a newer one replaced before anybody looked."""

    @property
    def ended(self) -> bool:
        """Whether no frame will ever come again."""

    def read(self, timeout_s: float) -> Frame | Skipped | None:
        """The next frame; None when there was none in time, or the source has ended."""

    def close(self) -> None:
        """Let go of the camera or file."""


def open_source(
    where: str,
    *,
    fps: float = 0.0,
    follow: bool = False,
    every_s: float = 0.0,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Source:
    """The source that ``where`` names: a folder, a video file, ``/dev/video0`` or a URL.

    ``fps`` caps the frames a second (0: all of them); ``follow`` waits for new pictures in a
    folder; ``every_s`` are the seconds between two pictures of a folder, where they were taken
    slower than they are read (0: the clock). Raises ``NotFound``, ``InvalidInput`` and, for
    video without PyAV, ``MissingExtra``.
    """
    if "://" not in where:
        mode = _mode(Path(where))
        if stat.S_ISDIR(mode):
            return FolderSource(Path(where), fps, follow, every_s, limits)
        if stat.S_ISREG(mode):
            from secondlook.edge.video import FileSource

            return FileSource(Path(where), fps, limits)
    from secondlook.edge.video import CameraSource, camera_opener

    return CameraSource(camera_opener(where), fps, limits)


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (OSError, ValueError) as cause:
        why = getattr(cause, "strerror", None) or "no path"
        raise NotFound(
            f"'{path}' cannot be read ({why}); give a folder of pictures, a video file, a camera "
            "such as /dev/video0, or rtsp://…"
        ) from cause


class FolderSource:
    """The pictures of a folder in the order of their names; with ``follow`` also those to come.

    A file that is still being written when it is looked at is skipped as damaged, and read anew
    once it has changed. Only what lies in the folder now is remembered.
    """

    live = False
    overtaken = 0

    def __init__(
        self, folder: Path, fps: float, follow: bool, every_s: float, limits: ImageLimits
    ) -> None:
        self._folder = folder
        self._follow = follow
        self._every_s = every_s
        self._limits = limits
        self._pace = Pace(fps)
        self._seen: dict[str, int] = {}
        """When each file in the folder was last changed, as of the last look."""
        self._waiting: deque[str] = deque()
        self._read = 0
        self._look_at = 0.0
        self._look()
        if not follow and not self._waiting:
            raise NotFound(f"no picture in '{folder}'; known are {', '.join(sorted(PICTURES))}")

    @property
    def ended(self) -> bool:
        """A folder that is followed never ends."""
        return not self._follow and not self._waiting

    def read(self, timeout_s: float) -> Frame | Skipped | None:
        """See ``Source``."""
        ends = time.monotonic() + timeout_s
        while not self._waiting:
            now = time.monotonic()
            if self.ended or now >= ends:
                return None
            if now >= self._look_at:
                self._look()
            else:
                time.sleep(min(_MOMENT_S, ends - now))
        if not self._pace.wait(ends):
            return None
        return self._decode(self._folder / self._waiting.popleft())

    def close(self) -> None:
        """Nothing is held."""

    def _decode(self, path: Path) -> Frame | Skipped:
        self._read += 1
        taken = self._read * self._every_s if self._every_s else time.monotonic()
        try:
            data = _bytes_of(path, self._limits)
            pixels = decode(data, path.name, self._limits).pixels
        except OSError as cause:
            return Skipped(path.name, f"it cannot be read ({cause.strerror})")
        except SecondlookError as cause:
            return Skipped(path.name, str(cause))
        return Frame(pixels, path.name, taken, time.time(), data)

    def _look(self) -> None:
        """Find files that are new or have changed; forget those that are gone."""
        self._look_at = time.monotonic() + LOOK_AGAIN_S
        try:
            found = dict(self._files())
        except OSError as cause:
            if not self._follow:
                raise InvalidInput(
                    f"'{self._folder}' cannot be read ({cause.strerror}); check its permissions"
                ) from cause
            return  # it may be a stick that comes back
        fresh = sorted(name for name, at in found.items() if self._seen.get(name) != at)
        self._seen = found
        self._waiting.extend(fresh)

    def _files(self) -> Iterator[tuple[str, int]]:
        with os.scandir(self._folder) as entries:
            for count, entry in enumerate(entries):
                if count >= MAX_PICTURES:
                    raise InvalidInput(
                        f"'{self._folder}' holds more than {MAX_PICTURES:,} files; split it up"
                    )
                suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122  # a million times
                if suffix in PICTURES and not entry.name.startswith(".") and entry.is_file():
                    yield entry.name, entry.stat().st_ctime_ns


def _bytes_of(path: Path, limits: ImageLimits) -> bytes:
    """No more of the file than tells that it is too large."""
    with path.open("rb") as file:
        return file.read(limits.max_bytes + 1)


class Pace:
    """At most so many a second."""

    def __init__(self, fps: float) -> None:
        """0 for as many as there are."""
        self._gap_s = 1 / fps if fps > 0 else 0.0
        self._next = 0.0

    def wait(self, ends: float) -> bool:
        """Wait for the next turn; False when that is after ``ends`` (monotonic seconds)."""
        now = time.monotonic()
        if self._next > ends:
            time.sleep(max(ends - now, 0.0))
            return False
        if self._next > now:
            time.sleep(self._next - now)
        self._next = max(self._next, now) + self._gap_s
        return True
