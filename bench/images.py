"""Both stages: images per second, compared with a plain sequential loop.

Same weights, images (encoded; both sides decode), phrases, questions and thresholds.
"""

import io

from PIL import Image as PILImage

from bench import baseline, fixtures
from bench.paired_timing import Figure, paired
from secondlook.core.images import decode
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Task

IMAGES, BASELINE_IMAGES = 64, 16


def run() -> list[Figure | str]:
    """One ratio."""
    ontology = fixtures.ontology()
    encoded = fixtures.jpegs(IMAGES)
    engine = Engine(fixtures.pipeline())
    proposer, verifier = (
        baseline.BaselineProposer(pad=baseline.DEMO_PAD),
        baseline.BaselineVerifier(),
    )
    classes = fixtures.baseline_classes()

    def ours() -> float:
        futures = [engine.submit(Task(decode(data), ontology)) for data in encoded]
        return len([future.result() for future in futures])

    def loop() -> float:
        for data in encoded[:BASELINE_IMAGES]:
            image = PILImage.open(io.BytesIO(data)).convert("RGB")
            baseline.label(proposer, verifier, image, classes)
        return BASELINE_IMAGES

    figure = paired(
        "two-stage labelling ÷ plain sequential loop",
        ours,
        loop,
        at_least=4,
        unit="images/s",
    )
    engine.close()
    return [figure]
