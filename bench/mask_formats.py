"""100,000 masks written in every format: how many a second of processor time, and the peak memory.

Images of 640 × 480 pixels with 20 objects each, blobs of 30 to 200 pixels with holes and parts. The
images themselves are not copied. Each format is a fresh process; its peak is compared with that of
10,000 masks.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.paired_timing import Figure
from secondlook.datasets.writers import SNAPSHOT_FORMATS, UNSPLIT, Labels, write_format
from secondlook_client.masks import Mask, Segmentation
from secondlook_client.values import Decision, Judgement, LabelResult, Outcome

MASKS, FEW, A_IMAGE, SHAPES = 100_000, 10_000, 20, 80
WIDTH, HEIGHT, WINDOW = 640, 480, 230
RATE, PEAK = 2_000.0, 1.1
"""Masks a second at least, and the peak memory of many masks against that of few at most."""
CLASSES = ("dog", "cat")
FORMATS = [name for name in SNAPSHOT_FORMATS if name != "yolo"]


def run() -> list[Figure | str]:
    """Two figures a format."""
    rows: list[Figure | str] = []
    for name in FORMATS:
        few, many = (_measured(name, count) for count in (FEW, MASKS))
        rate, peak = many["rate"], many["peak_mib"] / few["peak_mib"]
        rows += [
            Figure(
                name=f"{name}: masks written a second",
                bar=f"≥ {RATE:,.0f}",
                ours=rate,
                baseline=RATE,
                unit="masks/s",
                ratio=rate / RATE,
                low=rate / RATE,
                high=rate / RATE,
                rounds=1,
                met=rate >= RATE,
                note=f"; {many['bytes'] / MASKS:,.0f} bytes a mask",
            ),
            Figure(
                name=f"{name}: peak RSS of {MASKS:,} masks ÷ {FEW:,}",
                bar=f"≤ {PEAK}",
                ours=many["peak_mib"],
                baseline=few["peak_mib"],
                unit="MiB",
                ratio=peak,
                low=peak,
                high=peak,
                rounds=1,
                met=peak <= PEAK,
            ),
        ]
    return rows


def _measured(name: str, count: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.mask_formats", name, str(count)],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(name: str, count: int) -> None:
    """Write ``count`` masks in the format ``name`` and print what it took, as JSON."""
    import resource

    shapes = [_shape(seed) for seed in range(SHAPES)]
    labels = Labels(
        CLASSES, lambda: _results(shapes, count), lambda *_: None, image_bytes=lambda _: b"image"
    )
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        out = write_format(name, {UNSPLIT: labels}, Path(folder))
        seconds = time.process_time() - started
        written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rate": count / seconds, "peak_mib": peak, "bytes": written}))


def _results(shapes: list[Judgement], count: int) -> Iterator[tuple[str, LabelResult]]:
    for number in range(count // A_IMAGE):
        some = [shapes[(number * A_IMAGE + place) % SHAPES] for place in range(A_IMAGE)]
        name = f"{number:06}.jpg"
        size = WIDTH, HEIGHT
        yield name, LabelResult(name, f"{number:064x}", *size, A_IMAGE, tuple(some), "p@1", "v@1")


def _shape(seed: int) -> Judgement:
    """A blob whose edge waves; every fourth has a hole, every eighth a part of its own."""
    rng = np.random.default_rng(seed)
    radius = rng.uniform(15, 100)
    left, top = rng.integers(0, WIDTH - WINDOW), rng.integers(0, HEIGHT - WINDOW)
    y, x = np.mgrid[:WINDOW, :WINDOW] - WINDOW / 2
    angle, distance = np.arctan2(y, x), np.hypot(y, x)
    waves = sum(rng.uniform(0, 0.08) * np.sin(n * angle + rng.uniform(0, 6)) for n in range(2, 7))
    found = distance < radius * (0.85 + waves)
    if seed % 4 == 0:
        found &= distance > radius * 0.2
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    pixels[top : top + WINDOW, left : left + WINDOW] = found
    if seed % 8 == 0:
        pixels[5:12, 5:15] = True
    mask = Mask.from_array(pixels)
    assert mask.box
    decision = Decision(Outcome.ACCEPT, 0.9, "P(yes) 0.90")
    segmentation = Segmentation(mask, 0.9, 0.95, "sam@1")
    return Judgement(CLASSES[seed % 2], mask.box, 0.5, None, decision, segmentation=segmentation)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
