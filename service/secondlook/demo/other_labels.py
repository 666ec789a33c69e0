"""The same pictures under other labels: what a student would have learnt without the second look.

Each function takes the training set of a snapshot and gives one with the same pictures, classes and
split, so that nothing but the labels differs between two students.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from secondlook.distill.samples import Sample, TrainingSet
from secondlook.evaluate import Detection, TrueBox, evaluate
from secondlook.ontology import Ontology
from secondlook_client.results import LabelResult

THRESHOLDS = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)
"""Single thresholds that are tried."""
NO_BOXES, NO_CLASSES = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)

Named = tuple[str, tuple[float, float, float, float]]
"""A class and a box, pixel xyxy."""


def unverified(
    data: TrainingSet, results: Mapping[str, LabelResult], threshold: float
) -> TrainingSet:
    """Labels are what the proposer alone scored at ``threshold`` or above.

    ``results``: by hash of the picture. There is nothing to ignore and nothing was rejected.
    """
    return _relabelled(
        data,
        {
            sha256: [(j.class_name, j.box) for j in result.judgements if j.score >= threshold]
            for sha256, result in results.items()
        },
    )


def exact(data: TrainingSet, truth: Mapping[str, Sequence[TrueBox]]) -> TrainingSet:
    """Labels are the truth; by hash of the picture."""
    return _relabelled(
        data, {sha256: [(t.class_name, t.box) for t in of] for sha256, of in truth.items()}
    )


def doubts_as_background(data: TrainingSet) -> TrainingSet:
    """What nobody is sure of is learnt as background, as it is where there are only labels."""

    def without(samples: Iterable[Sample]) -> tuple[Sample, ...]:
        return tuple(replace(s, ignore=NO_BOXES, ignore_classes=NO_CLASSES) for s in samples)

    return replace(data, train=without(data.train), held_out=without(data.held_out))


def best_threshold(
    results: Mapping[str, LabelResult],
    truth: Mapping[str, Sequence[TrueBox]],
    ontology: Ontology,
) -> float:
    """The single threshold whose labels agree best with the truth, by F1 over all classes.

    Nobody who has no truth could choose it: the best that the proposer alone can be used at.
    """

    def f1(threshold: float) -> float:
        pairs = (
            (
                [
                    Detection(j.class_name, j.box, j.score)
                    for j in result.judgements
                    if j.score >= threshold
                ],
                truth[sha256],
            )
            for sha256, result in results.items()
        )
        return evaluate(pairs, ontology.names).total().f1 or 0.0

    return max(THRESHOLDS, key=f1)


def _relabelled(data: TrainingSet, labels: Mapping[str, Sequence[Named]]) -> TrainingSet:
    places = {name: place for place, name in enumerate(data.classes)}

    def of(sample: Sample) -> Sample:
        known = [(places[name], box) for name, box in labels[sample.sha256] if name in places]
        return replace(
            sample,
            boxes=np.array([box for _, box in known], np.float32).reshape(-1, 4),
            classes=np.array([place for place, _ in known], np.int64),
            ignore=NO_BOXES,
            ignore_classes=NO_CLASSES,
            negatives=NO_BOXES,
            negative_classes=NO_CLASSES,
        )

    return replace(data, train=tuple(map(of, data.train)), held_out=tuple(map(of, data.held_out)))
