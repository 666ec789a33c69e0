"""Video clips of the demo world, with the objects of each frame."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from secondlook.core.types import Pixels
from secondlook.core.video import load_av
from secondlook.demo.stream import TrackedScene, tracked_frames

FPS = 5
"""Frames a second of a clip."""
EVERY = 5
"""Frames of the camera for one of a clip: what moves has gone some pixels on."""


def write_clip(path: Path, seed: int, count: int, size: int = 320) -> list[TrackedScene]:
    """Write a clip of ``count`` frames, ``size`` pixels wide, in the format of its suffix.

    Returns the frames as they were before they were encoded. Raises ``MissingExtra``.
    """
    scenes = list(tracked_frames(seed, count, size, every=EVERY))
    write_frames(path, (frame.scene.image for frame in scenes))
    return scenes


def write_frames(path: Path, frames: Iterable[Pixels], fps: float = FPS) -> None:
    """Write images of one size, (H, W, 3) uint8 RGB of even sides, as a video."""
    av = load_av("writing a video", "video")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(fps).limit_denominator(1000))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.qmin, stream.codec_context.qmax = 2, 2  # as little loss as it allows
        stream.codec_context.gop_size = 12
        for number, pixels in enumerate(frames):
            if not number:
                stream.height, stream.width = pixels.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
