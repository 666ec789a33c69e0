"""The verifier alone: boxes verified per second, and questions that share a view.

The baseline is ``generate`` with the same weights, one box and one question at a time.
"""

import numpy as np

from bench import fixtures
from bench.baseline import BaselineVerifier
from bench.paired_timing import Figure, paired
from secondlook.config.settings import ModelSettings
from secondlook.core.types import VQAQuery
from secondlook.models.embedded import load_verifier

BOXES, BASELINE_BOXES, VIEWS = 256, 64, 24
QUESTIONS = (
    "Is this a person?",
    "Is this person wearing glasses?",
    "Is this person not wearing glasses?",
    "Is this person wearing a helmet?",
    "Is this a dog?",
    "Is this a red car?",
    "Is this a blue ball?",
    "Is this a tree?",
)


def run() -> list[Figure | str]:
    """Two ratios."""
    verifier = load_verifier("", ModelSettings())
    baseline = BaselineVerifier()
    crops = fixtures.crops(BOXES)
    queries = [VQAQuery(np.asarray(crop), (question,)) for crop, question in crops]

    def batched() -> float:
        return len(verifier.answer(queries))

    def one_at_a_time() -> float:
        for crop, question in crops[:BASELINE_BOXES]:
            baseline.yes(crop, question)
        return BASELINE_BOXES

    def shared() -> float:
        for query in queries[:VIEWS]:
            verifier.answer([VQAQuery(query.pixels, QUESTIONS)])
        return VIEWS * len(QUESTIONS)

    def separate() -> float:
        for query in queries[:VIEWS]:
            for question in QUESTIONS:
                verifier.answer([VQAQuery(query.pixels, (question,))])
        return VIEWS * len(QUESTIONS)

    return [
        paired(
            "boxes verified ÷ one-at-a-time `generate()`",
            batched,
            one_at_a_time,
            at_least=5,
            unit="boxes/s",
        ),
        paired(
            "8 questions on one view ÷ 8 separate calls",
            shared,
            separate,
            at_least=3,
            unit="questions/s",
        ),
    ]
