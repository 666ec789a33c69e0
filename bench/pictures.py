"""Both stages: pictures a second against a plain sequential loop.

Same weights, same pictures (encoded; both sides decode), same phrases, questions and thresholds.
"""

import io

from PIL import Image as PILImage

from bench import material, plain
from bench.paired import Figure, paired
from secondlook.core.images import decode
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Task

PICTURES, PLAIN_PICTURES = 64, 16


def run() -> list[Figure | str]:
    """One ratio."""
    ontology = material.ontology()
    encoded = material.jpegs(PICTURES)
    engine = Engine(material.pipeline())
    proposer, verifier = plain.PlainProposer(), plain.PlainVerifier()
    wanted = material.wanted()

    def ours() -> float:
        futures = [engine.submit(Task(decode(data), ontology)) for data in encoded]
        return len([future.result() for future in futures])

    def loop() -> float:
        for data in encoded[:PLAIN_PICTURES]:
            picture = PILImage.open(io.BytesIO(data)).convert("RGB")
            plain.label(proposer, verifier, picture, wanted)
        return PLAIN_PICTURES

    figure = paired(
        "two-stage pictures a second ÷ plain sequential loop",
        ours,
        loop,
        at_least=4,
        unit="pictures/s",
    )
    engine.close()
    return [figure]
