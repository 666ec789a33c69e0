"""Peak resident memory of ``secondlook label`` on a video of 100,000 frames, compared with 1,000.

Each in a fresh process, every frame labelled (``--fps 0``) and tracked, with scripted models: small
frames of noise whose bright half changes sides. SECONDLOOK_FRAMES sets the larger number.
"""

import os
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from bench.memory import peak_of_label
from bench.paired_timing import Figure, not_above

FEW, MANY = 1_000, int(os.environ.get("SECONDLOOK_FRAMES", "100000"))
SIZE = (64, 48)
"""Width and height of a frame, in pixels."""
HELD = 40
"""Frames for which one half stays the bright one."""
BAR = 1.1


def run() -> list[Figure | str]:
    """One ratio of peaks, from a single run of each, since peaks hardly vary."""
    with tempfile.TemporaryDirectory() as folder:
        clips = {count: _clip(Path(folder) / f"{count}.mp4", count) for count in (FEW, MANY)}
        few, many = (_peak_mib(clips[count]) for count in (FEW, MANY))
    name = f"peak RSS of labelling {MANY:,} frames with tracks ÷ {FEW:,}"
    return [not_above(name, many, few, at_most=BAR, unit="MiB")]


def _clip(path: Path, frames: int) -> Path:
    rng = np.random.default_rng(frames)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            pixels = rng.integers(0, 100, (SIZE[1], SIZE[0], 3), np.uint8)
            left = SIZE[0] // 2 * (number // HELD % 2)
            pixels[:, left : left + SIZE[0] // 2] += 100
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def _peak_mib(clip: Path) -> float:
    began = time.perf_counter()
    peak = peak_of_label(
        *(clip, "--fps", 0, "--track", "-c", "dog", "--out", f"{clip}.out"),
        *("--proposer", "scripted_models:bright_half:0"),
        *("--verifier", "scripted_models:agreeable:dog"),
    )
    print(f"{clip.name}: {time.perf_counter() - began:.0f} s", flush=True)
    return peak
