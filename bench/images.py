"""Both stages: images a second against a plain sequential loop.

Same weights, same images (encoded; both sides decode), same phrases, questions and thresholds.
"""

import io

from PIL import Image as PILImage

from bench import material, plain
from bench.paired import Figure, paired
from secondlook.core.images import decode
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Task

IMAGES, PLAIN_IMAGES = 64, 16


def run() -> list[Figure | str]:
    """One ratio."""
    ontology = material.ontology()
    encoded = material.jpegs(IMAGES)
    engine = Engine(material.pipeline())
    proposer, verifier = plain.PlainProposer(), plain.PlainVerifier()
    wanted = material.wanted()

    def ours() -> float:
        futures = [engine.submit(Task(decode(data), ontology)) for data in encoded]
        return len([future.result() for future in futures])

    def loop() -> float:
        for data in encoded[:PLAIN_IMAGES]:
            image = PILImage.open(io.BytesIO(data)).convert("RGB")
            plain.label(proposer, verifier, image, wanted)
        return PLAIN_IMAGES

    figure = paired(
        "two-stage images a second ÷ plain sequential loop",
        ours,
        loop,
        at_least=4,
        unit="images/s",
    )
    engine.close()
    return [figure]
