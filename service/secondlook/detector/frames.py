"""Values of the agent: a frame, its detections, and why a frame could not be read."""

from collections.abc import Iterable
from dataclasses import dataclass

from secondlook.core.types import Pixels


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """One image of a source."""

    pixels: Pixels
    """(H, W, 3) uint8, RGB, upright."""
    name: str
    """For people: the file's name, or the moment of a camera's frame."""
    monotonic: float
    """Seconds on a clock that never jumps: when it was taken, or, of a video file, its place in
    it. Only differences are meaningful."""
    wall: float
    """Seconds since 1970 by the device's clock, which may be wrong."""
    encoded: bytes = b""
    """The image's own file, where there is one: uploaded unchanged."""


@dataclass(frozen=True)
class SkippedFrame:
    """A frame that could not be read; the next ones may be readable."""

    name: str
    reason: str
    """One sentence for a person."""


@dataclass(frozen=True)
class Detection:
    """One object found in a frame."""

    class_name: str
    probability: float
    """P(the detection is right), [0, 1]: the score, calibrated on the student's held-out images."""
    score: float
    """The student's raw score, [0, 1]."""
    box: tuple[float, float, float, float]
    """Pixel xyxy in the frame."""
    certain: bool = True
    """Whether the score reaches the student's threshold for the class."""


def certain(found: Iterable[Detection]) -> tuple[Detection, ...]:
    """The detections that count as found; the others serve the selection of frames only."""
    return tuple(detection for detection in found if detection.certain)
