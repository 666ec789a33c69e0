"""Peak resident memory of ``secondlook label`` on many images, compared with few.

Each in a fresh process: 5,000 and 500 scenes with the embedded models and three output formats; and
SECONDLOOK_LABEL_IMAGES (default 100,000) and 1,000 small distinct images with scripted models.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from job_images import fill

from bench.paired_timing import Figure, not_above
from secondlook.demo.world import write_world

BAR = 1.1
FEW, MANY = 1_000, int(os.environ.get("SECONDLOOK_LABEL_IMAGES", "100000"))


def run() -> list[Figure | str]:
    """Two ratios of peaks, from a single run of each, since peaks hardly vary."""
    return [_scripted(), _embedded()]


def _scripted() -> Figure:
    with tempfile.TemporaryDirectory() as folder:
        few, many = (_peak_of_small(Path(folder) / str(count), count) for count in (FEW, MANY))
    name = f"peak RSS of labelling {MANY:,} images ÷ {FEW:,}, scripted models"
    return not_above(name, many, few, at_most=BAR, unit="MiB")


def _peak_of_small(folder: Path, count: int) -> float:
    return peak_of_label(
        *(fill(folder / "images", count), "-c", "dog", "--out", folder / "out"),
        *("--proposer", "scripted_models:bright_half:0"),
        *("--verifier", "scripted_models:agreeable:dog"),
    )


def _embedded() -> Figure:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        peaks = {}
        for count in (500, 5000):
            world = root / f"world-{count}"
            write_world(world, 77, count, 224)
            peaks[count] = peak_of_label(
                world / "images",
                *("--ontology", world / "ontology.yaml", "--models", "demo"),
                *("--out", root / f"out-{count}", "--format", "coco,yolo,voc"),
            )
    name = "peak RSS of labelling 5,000 images ÷ 500, embedded models"
    return not_above(name, peaks[5000], peaks[500], at_most=BAR, unit="MiB")


def peak_of_label(*arguments: object) -> float:
    """Peak resident memory of ``secondlook label`` in a process of its own, MiB."""
    command = [sys.executable, "-m", "secondlook", "label", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"label ended with status {status}")
    return usage.ru_maxrss / 1024
