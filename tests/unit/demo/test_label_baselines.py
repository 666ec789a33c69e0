"""The same images under other labels."""

from pathlib import Path

import numpy as np
import pytest

from secondlook.datasets.samples import Sample, TrainingSet
from secondlook.demo.label_baselines import (
    best_threshold,
    confident_labels,
    ignore_as_background,
    proposer_labels,
    true_labels,
)
from secondlook.evaluation.matching import TrueBox
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Decision, Judgement, LabelResult, Outcome

Box = tuple[float, float, float, float]
CLASSES = ("person", "dog")
KEY = "0" * 64
A: Box = (0.0, 0.0, 10.0, 10.0)
B: Box = (20.0, 0.0, 30.0, 10.0)
C: Box = (40.0, 0.0, 50.0, 10.0)


def sample(sha256: str = KEY) -> Sample:
    boxes, one = np.array([A], np.float32), np.zeros(1, np.int64)
    return Sample(Path("x.png"), 64, 48, "x.png", sha256, boxes, one, boxes, one, boxes, one)


def data() -> TrainingSet:
    return TrainingSet("s", CLASSES, (sample(),), (sample(),), "val", "1" * 64)


def judged(name: str, box: Box, score: float, outcome: Outcome, p: float) -> Judgement:
    return Judgement(name, box, score, None, Decision(outcome, p, "because"))


def results(*judgements: Judgement) -> dict[str, LabelResult]:
    return {KEY: LabelResult("x.png", KEY, 64, 48, len(judgements), judgements, "p", "v")}


def pairs(boxes: np.ndarray, classes: np.ndarray) -> list[tuple[str, float]]:
    return [(CLASSES[c], float(box[0])) for box, c in zip(boxes, classes, strict=True)]


def parts(sample: Sample) -> tuple[object, object, object]:
    return (
        pairs(sample.boxes, sample.classes),
        pairs(sample.ignore, sample.ignore_classes),
        pairs(sample.negatives, sample.negative_classes),
    )


def test_nearly_certain_labels_are_ignored_by_a_stricter_bound() -> None:
    found = results(
        judged("person", A, 0.9, Outcome.ACCEPT, 0.95),
        judged("dog", A, 0.9, Outcome.ACCEPT, 0.94),
        judged("person", B, 0.5, Outcome.REJECT, 0.05),
        judged("dog", B, 0.5, Outcome.REJECT, 0.06),
        judged("person", C, 0.5, Outcome.UNSURE, 0.99),
        judged("dog", C, 0.5, Outcome.REJECT, 0.97),  # another side of its group was right
        judged("cat", C, 0.5, Outcome.ACCEPT, 1.0),  # of no class of this training
    )
    labelled = confident_labels(data(), found, 0.95, 0.05)
    ignored = [("dog", 0.0), ("dog", 20.0), ("person", 40.0), ("dog", 40.0)]
    for one in (*labelled.train, *labelled.held_out):
        assert parts(one) == ([("person", 0.0)], ignored, [("person", 20.0)])
    (background,) = ignore_as_background(labelled).train
    assert parts(background) == ([("person", 0.0)], [], [("person", 20.0)])


def test_unverified_labels_are_scores_from_one_threshold_on() -> None:
    found = results(
        judged("person", A, 0.40, Outcome.REJECT, 0.0),
        judged("dog", B, 0.39, Outcome.ACCEPT, 1.0),
    )
    (one,) = proposer_labels(data(), found, 0.4).train
    assert parts(one) == ([("person", 0.0)], [], [])


def test_the_truth_takes_the_place_of_every_label() -> None:
    (one,) = true_labels(data(), {KEY: [TrueBox("dog", B), TrueBox("cat", C)]}).train
    assert parts(one) == ([("dog", 20.0)], [], [])
    with pytest.raises(KeyError):
        true_labels(data(), {})


def test_the_best_threshold_is_that_of_the_best_f1() -> None:
    ontology = Ontology((ClassSpec("person"), ClassSpec("dog")))
    found = results(
        judged("person", A, 0.5, Outcome.REJECT, 0.0),
        judged("dog", B, 0.3, Outcome.REJECT, 0.0),
        judged("dog", C, 0.2, Outcome.ACCEPT, 1.0),
    )
    truth = {KEY: [TrueBox("person", A), TrueBox("dog", B)]}
    assert best_threshold(found, truth, ontology) == 0.25
