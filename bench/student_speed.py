"""A student in onnxruntime, compared with the two stages that it was distilled from.

Both sides get the same frames of the demo world: as pixels, like those of a camera, and as JPEG,
which both decode. The student runs ``OnnxDetector.detect`` with 64 frames per call; the teachers
share batches as they do in the service. The student is distilled on the verified labels of the
suite ``students`` (first seed) and exported by the product. The table has one frame per call, for
each size of a student with random weights, on which its speed does not depend.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench import fixtures
from bench.labelled_scenes import labelled_scenes
from bench.paired_timing import Figure, paired
from bench.students import IMAGES, SEEDS, place_of, settings_for
from secondlook.core.images import decode
from secondlook.core.types import Image, Pixels
from secondlook.detector.manifest import FP32, INT8, STUDENT_SIZES, StudentManifest, read_manifest
from secondlook.detector.runtime import FILES, OnnxDetector, stretch
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Task
from secondlook.training.distill import distill
from secondlook.training.export.export import write_onnx
from secondlook.training.export.quantize import quantise
from secondlook.training.model import build_student, save_student

FRAMES, TIMES = 64, 24
"""Frames per call, and calls of the student per round: one call is too short to time."""
THREADS = (1, 2)
ALONE = 96
"""Calls with one frame each."""
NOTE = (
    "No row has bfloat16: onnxruntime's CPU provider has no convolutions in it. Threads share one "
    "image only in models of 6 MB and more; in smaller ones each has images of its own, so a "
    "second one makes a single image no faster."
)


def run() -> list[Figure | str]:
    """Images per second, student ÷ two stages."""
    folder = exported()
    encoded = fixtures.jpegs(FRAMES)
    images = [decode(content) for content in encoded]
    pixels = [image.pixels for image in images]
    engine = Engine(fixtures.pipeline())
    ontology = fixtures.ontology()
    pool = ThreadPoolExecutor(2)

    def teachers(given: Callable[[], Sequence[Image]]) -> Callable[[], float]:
        def label() -> float:
            futures = [engine.submit(Task(image, ontology)) for image in given()]
            return len([future.result() for future in futures])

        return label

    def student(precision: str, given: Callable[[], Sequence[Pixels]]) -> Callable[[], float]:
        detector = OnnxDetector.open(folder, precision)

        def detect() -> float:
            return sum(len(detector.detect(given())) for _ in range(TIMES))

        return detect

    def decoded() -> Sequence[Pixels]:
        return list(pool.map(lambda content: decode(content).pixels, encoded))

    whole = teachers(lambda: images)
    sides = [("float32, frames", student("fp32", lambda: pixels), whole)]
    if INT8 in read_manifest(folder).files:
        sides.append(("int8, frames", student("int8", lambda: pixels), whole))
    precision = "int8" if len(sides) > 1 else "fp32"
    jpegs = teachers(lambda: [decode(content) for content in encoded])
    sides.append((f"{precision}, JPEG", student(precision, decoded), jpegs))
    figures = [
        paired(f"student ÷ two stages, {name}", ours, baseline, at_least=30, unit="images/s")
        for name, ours, baseline in sides
    ]
    engine.close()
    pool.shutdown()
    return [*figures, _latencies(read_manifest(folder), pixels), NOTE]


def _latencies(manifest: StudentManifest, frames: Sequence[Pixels]) -> str:
    """A row for each size, type and number of threads; frames in memory to boxes."""
    rows = ["| size | input | type | threads | p50 ms | p95 ms | images/s |"]
    rows.append("|---|---|---|---|---|---|---|")
    for size in STUDENT_SIZES:
        with TemporaryDirectory() as name:
            folder = Path(name)
            save_student(build_student(size, manifest.classes, "none").model, folder / "torch")
            side = write_onnx(folder / "torch", folder / FP32, len(manifest.classes))
            quantise(folder / FP32, folder / INT8, [stretch(one, side) for one in frames[:8]])
            of_size = replace(manifest, input_size=side)
            shape = f"| {size} | {side[0]}×{side[1]} "
            rows += [shape + row for row in _of_size(folder, of_size, frames)]
    return "\n".join(rows)


def _of_size(folder: Path, manifest: StudentManifest, frames: Sequence[Pixels]) -> Iterator[str]:
    for precision, name in FILES.items():
        if not (folder / name).exists():
            continue
        for threads in THREADS:
            detector = OnnxDetector((folder / name).read_bytes(), manifest, precision, threads)
            detector.detect(frames[:1])
            times = []
            for number in range(ALONE):
                started = time.perf_counter()
                detector.detect([frames[number % len(frames)]])
                times.append(1000 * (time.perf_counter() - started))
            started = time.perf_counter()
            detector.detect(frames)
            rate = len(frames) / (time.perf_counter() - started)
            detector.close()
            p50, p95 = np.percentile(times, [50, 95])
            yield f"| {precision} | {threads} | {p50:.1f} | {p95:.1f} | {rate:.0f} |"


def exported() -> Path:
    """The exported student of the first seed of the suite ``students``."""
    out = place_of(SEEDS[0], "verified")
    distill(labelled_scenes(SEEDS[0], IMAGES).data, settings_for(SEEDS[0]), out)
    return out
