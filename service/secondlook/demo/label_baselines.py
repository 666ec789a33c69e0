"""The same images with other labels: what a student would learn without verification.

Each function takes the training set of a snapshot and gives one with the same images, classes and
split, so that nothing but the labels differs between two students.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from secondlook.core.types import Boxes
from secondlook.datasets.samples import Sample, TrainingSet
from secondlook.evaluation.matching import ScoredBox, TrueBox, evaluate
from secondlook.labeling.duplicates import hard_negatives
from secondlook_client.ontology import Ontology
from secondlook_client.values import Judgement, LabelResult, Outcome

THRESHOLDS = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)
"""Single thresholds that are tried."""
NO_BOXES, NO_CLASSES = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)

Named = tuple[str, tuple[float, float, float, float]]
"""A class name and a box, pixel xyxy."""


def proposer_labels(
    data: TrainingSet, results: Mapping[str, LabelResult], threshold: float
) -> TrainingSet:
    """The labels are what the proposer alone scored at ``threshold`` or above.

    ``results``: by hash of the image. There are no ignore regions and no hard negatives.
    """
    return _relabelled(
        data,
        {
            sha256: [(j.class_name, j.box) for j in result.judgements if j.score >= threshold]
            for sha256, result in results.items()
        },
    )


def true_labels(data: TrainingSet, truth: Mapping[str, Sequence[TrueBox]]) -> TrainingSet:
    """The labels are the truth, by hash of the image."""
    return _relabelled(
        data, {sha256: [(t.class_name, t.box) for t in of] for sha256, of in truth.items()}
    )


def confident_labels(
    data: TrainingSet, results: Mapping[str, LabelResult], accept: float, reject: float
) -> TrainingSet:
    """The labels are what was accepted with a probability of ``accept`` or more; what was rejected
    with one of ``reject`` or less is a hard negative, and all between is ignored.

    ``results``: by hash of the image.
    """

    def outcome(judgement: Judgement) -> Outcome:
        confident = {
            Outcome.ACCEPT: judgement.probability >= accept,
            Outcome.REJECT: judgement.probability <= reject,
            Outcome.UNSURE: True,
        }
        return judgement.outcome if confident[judgement.outcome] else Outcome.UNSURE

    negatives = {sha256: hard_negatives(of.judgements) for sha256, of in results.items()}

    def named(wanted: Outcome) -> Mapping[str, list[Named]]:
        return {
            sha256: [
                (j.class_name, j.box)
                for place, j in enumerate(of.judgements)
                if outcome(j) is wanted
                and (wanted is not Outcome.REJECT or place in negatives[sha256])
            ]
            for sha256, of in results.items()
        }

    return _relabelled(data, *map(named, (Outcome.ACCEPT, Outcome.UNSURE, Outcome.REJECT)))


def ignore_as_background(data: TrainingSet) -> TrainingSet:
    """Ignore regions are learnt as background, as by a trainer that knows labels only."""

    def without(samples: Iterable[Sample]) -> tuple[Sample, ...]:
        return tuple(replace(s, ignore=NO_BOXES, ignore_classes=NO_CLASSES) for s in samples)

    return replace(data, train=without(data.train), held_out=without(data.held_out))


def best_threshold(
    results: Mapping[str, LabelResult],
    truth: Mapping[str, Sequence[TrueBox]],
    ontology: Ontology,
) -> float:
    """The single threshold whose labels agree best with the truth, by F1 over all classes.

    It needs the truth, so it is an upper bound for the proposer alone.
    """

    def f1(threshold: float) -> float:
        pairs = (
            (
                [
                    ScoredBox(j.class_name, j.box, j.score)
                    for j in result.judgements
                    if j.score >= threshold
                ],
                truth[sha256],
            )
            for sha256, result in results.items()
        )
        return evaluate(pairs, ontology.names).total().f1 or 0.0

    return max(THRESHOLDS, key=f1)


def _relabelled(
    data: TrainingSet,
    labels: Mapping[str, Sequence[Named]],
    ignored: Mapping[str, Sequence[Named]] = MappingProxyType({}),
    rejected: Mapping[str, Sequence[Named]] = MappingProxyType({}),
) -> TrainingSet:
    indices = {name: index for index, name in enumerate(data.classes)}

    def known(some: Sequence[Named]) -> tuple[Boxes, NDArray[np.int64]]:
        ours = [(indices[name], box) for name, box in some if name in indices]
        boxes = np.array([box for _, box in ours], np.float32).reshape(-1, 4)
        return boxes, np.array([index for index, _ in ours], np.int64)

    def of(sample: Sample) -> Sample:
        boxes, classes = known(labels[sample.sha256])
        ignore, ignore_classes = known(ignored.get(sample.sha256, ()))
        negatives, negative_classes = known(rejected.get(sample.sha256, ()))
        return replace(
            sample,
            boxes=boxes,
            classes=classes,
            ignore=ignore,
            ignore_classes=ignore_classes,
            negatives=negatives,
            negative_classes=negative_classes,
        )

    return replace(data, train=tuple(map(of, data.train)), held_out=tuple(map(of, data.held_out)))
