"""A student in onnxruntime, compared with the two stages that it was distilled from.

Both sides get the same frames of the demo world: as pixels, like those of a camera, and as JPEG,
which both decode. The student runs ``OnnxDetector.detect`` with 64 frames per call; the teachers
share batches as they do in the service. The student is distilled on the verified labels of the
suite ``students`` (first seed) and exported by the product.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import fixtures
from bench.labelled_scenes import labelled_scenes
from bench.paired_timing import Figure, paired
from bench.students import IMAGES, SEEDS, place_of, settings_for
from secondlook.core.images import decode
from secondlook.core.types import Image, Pixels
from secondlook.detector.manifest import INT8, read_manifest
from secondlook.detector.runtime import OnnxDetector
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Task
from secondlook.training.distill import distill

FRAMES, TIMES = 64, 24
"""Frames per call, and calls of the student per round: one call is too short to time."""


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
    return [*figures]


def exported() -> Path:
    """The exported student of the first seed of the suite ``students``."""
    out = place_of(SEEDS[0], "verified")
    distill(labelled_scenes(SEEDS[0], IMAGES).data, settings_for(SEEDS[0]), out)
    return out
