"""A student in onnxruntime against the two stages that taught it, frame by frame in one run.

Both sides get the same frames of the demo world: pixels, as a camera gives them, and again as JPEG,
which both decode. The student has as many threads as the machine has cores, each with a session of
one thread; the teachers share batches as they do in the service. The student is the one of the
suite ``students`` (its first seed, verified labels), exported by the product.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import material
from bench.lessons import CACHE, lessons
from bench.paired import Figure, paired
from bench.students import PICTURES, SEEDS, STEPS
from secondlook.detector.onnx_detector import OnnxDetector
from secondlook.engine import Engine
from secondlook.images import decode
from secondlook.labels import Image, Pixels
from secondlook.pipeline import Task

FRAMES, STUDENT_FRAMES = 64, 1024
AT_ONCE = 8


def run() -> list[Figure | str]:
    """Pictures a second, student ÷ two stages."""
    folder = exported()
    encoded = material.jpegs(FRAMES)
    images = [decode(content) for content in encoded]
    many = STUDENT_FRAMES // FRAMES
    engine = Engine(material.pipeline())
    ontology = material.ontology()
    cores = os.cpu_count() or 1
    detector = OnnxDetector.open(folder, threads=1)

    def teachers(given: Callable[[], Sequence[Image]]) -> Callable[[], float]:
        def label() -> float:
            futures = [engine.submit(Task(image, ontology)) for image in given()]
            return len([future.result() for future in futures])

        return label

    def student(given: Callable[[int], Sequence[Pixels]]) -> Callable[[], float]:
        def detect() -> float:
            starts = list(range(0, FRAMES, AT_ONCE)) * many
            with ThreadPoolExecutor(cores) as pool:
                found = pool.map(lambda start: detector.detect(given(start)), starts)
                return sum(map(len, found)) and len(starts) * AT_ONCE

        return detect

    pixels = [image.pixels for image in images]
    figures = [
        paired(
            "student ÷ two-stage pipeline, frames",
            student(lambda start: pixels[start : start + AT_ONCE]),
            teachers(lambda: images),
            at_least=30,
            unit="pictures/s",
        ),
        paired(
            "student ÷ two-stage pipeline, JPEG",
            student(lambda s: [decode(e).pixels for e in encoded[s : s + AT_ONCE]]),
            teachers(lambda: [decode(content) for content in encoded]),
            at_least=30,
            unit="pictures/s",
        ),
    ]
    engine.close()
    return [*figures]


def exported() -> Path:
    """The student folder of the first seed."""
    from secondlook.distill.distilling import distill
    from secondlook.distill.settings import TrainingSettings

    out = CACHE / f"seed-{SEEDS[0]}-{PICTURES}" / f"exported-{STEPS}"
    if not (out / "manifest.json").exists():
        settings = TrainingSettings(size="pico", start="demo", steps=STEPS, workers=0, device="cpu")
        distill(lessons(SEEDS[0], PICTURES).data, settings, out)
    return out
