"""What the second look changes: labels before and after it, against the same truth.

*Before* takes every candidate that the proposer scored at or above its class's threshold as a
label, as a user of the proposer alone would. *After* takes the accepted ones. Unsure boxes are no
labels, so they cost recall and never precision.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from secondlook.evaluate import Detection, Picture, Quality, TrueBox, evaluate
from secondlook.ontology import Ontology
from secondlook_client.results import LabelResult

Results = Callable[[], Iterator[tuple[str, LabelResult]]]
Truth = Mapping[str, Sequence[TrueBox]]
"""True boxes by picture name."""


@dataclass(frozen=True)
class Change:
    """Quality before and after the second look."""

    before: Quality
    after: Quality


def compare(results: Results, truth: Truth, ontology: Ontology, min_iou: float = 0.5) -> Change:
    """Judge both stages on every picture of ``results``; its name must be in ``truth``."""
    thresholds = {spec.name: spec.threshold for spec in ontology.classes}

    def pictures(labels: Callable[[LabelResult], list[Detection]]) -> Iterator[Picture]:
        return ((labels(result), truth[name]) for name, result in results())

    return Change(
        evaluate(pictures(lambda r: proposed(r, thresholds)), ontology.names, min_iou),
        evaluate(pictures(accepted), ontology.names, min_iou),
    )


def proposed(result: LabelResult, thresholds: Mapping[str, float]) -> list[Detection]:
    """What the proposer alone would have labelled."""
    return [
        Detection(j.class_name, j.box, j.score)
        for j in result.judgements
        if j.score >= thresholds[j.class_name]
    ]


def accepted(result: LabelResult) -> list[Detection]:
    """What became a label."""
    return [Detection(j.class_name, j.box, j.probability) for j in result.labels]
