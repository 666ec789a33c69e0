"""Peak resident memory of ``secondlook label`` on 5,000 images, compared with 500.

Each in a fresh process, with the embedded models, distinct images and every output format.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.paired_timing import Figure, not_above
from secondlook.demo.world import write_world

BAR = 1.1


def run() -> list[Figure | str]:
    """One ratio of peaks, from a single run of each, since peaks hardly vary."""
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
    name = "peak RSS of labelling 5,000 images ÷ 500"
    return [not_above(name, peaks[5000], peaks[500], at_most=BAR, unit="MiB")]


def peak_of_label(*arguments: object) -> float:
    """Peak resident memory of ``secondlook label`` in a process of its own, MiB."""
    command = [sys.executable, "-m", "secondlook", "label", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"label ended with status {status}")
    return usage.ru_maxrss / 1024
