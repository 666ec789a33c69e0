"""Videos made by PyAV for a test: whose frames tell their number by their shade."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIZE = (64, 48)
STEP = 8
"""Of the shade from one frame to the next."""


def write_video(
    path: Path,
    frames: int = 20,
    *,
    codec: str = "mpeg4",
    times: Sequence[int] | None = None,
    size: tuple[int, int] = SIZE,
    gop: int = 6,
) -> Path:
    """A video of ten frames a second whose n-th is grey of shade ``STEP`` n, its left half a bit
    brighter; ``times`` (milliseconds) where they are not even."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = gop
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            pixels = np.full((size[1], size[0], 3), STEP * number % 200, np.uint8)
            pixels[:, : size[0] // 2] += 50
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """A tone, and no image."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        silence = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turned(path: Path, out: Path) -> Path:
    """The same MP4 with the mark of a camera that was held upright: a quarter turn clockwise."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # behind version, times, id, duration and the like
    one = (1 << 16).to_bytes(4, "big")
    none = bytes(4)
    assert content[at : at + 36] == one + none * 3 + one + none * 3 + (1 << 30).to_bytes(4, "big")
    matrix = none + one + none + (-(1 << 16)).to_bytes(4, "big", signed=True) + none * 4
    content[at : at + 32] = matrix
    out.write_bytes(bytes(content))
    return out


def number_of(pixels: np.ndarray) -> int:
    """Of a frame by its shade."""
    half = pixels.shape[1] // 2
    return round(float(pixels[:, half + 4 :].mean()) / STEP)
