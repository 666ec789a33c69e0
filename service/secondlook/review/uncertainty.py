"""The uncertainty of a stored run: measured image by image and kept, then read as an order.

``measure_run`` goes on where it was stopped: a result that was measured by the same models and
options is left as it is. What was measured stands beside the label in ``explain``, and a review
queue may ask by it (``review.queue_order``).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.core.types import Image
from secondlook.evaluation.calibration import RiskCoverage, auroc, risk_coverage
from secondlook.evaluation.uncertainty_sources import UncertaintySource
from secondlook.review.oracle import Oracle
from secondlook.review.visited_images import PAGE, Keeper, LookAtBatches, Progress, Visit, visit_run
from secondlook.store import Store
from secondlook.store.database import sanitize_text
from secondlook.store.results import Result
from secondlook.store.runs import Run
from secondlook.store.uncertainties import uncertainties_at
from secondlook_client.errors import InvalidInput
from secondlook_client.ontology import Ontology
from secondlook_client.uncertainties import LabelUncertainty, UncertaintyMethod
from secondlook_client.values import Outcome

PLAIN = "probability"
"""What the methods are compared with: the label's own probability."""
BEST_FIRST = (
    UncertaintyMethod.COMMITTEE,
    UncertaintyMethod.MONTE_CARLO,
    UncertaintyMethod.DISTRIBUTION,
)
"""In which order they find wrong labels, by ``bench uncertainty``."""


Measured = Mapping[int, Mapping[int, LabelUncertainty]]
"""By the result's cursor, then by place."""


def measure_run(
    store: Store,
    run: Run,
    by: tuple[UncertaintyMethod, str],
    looks: LookAtBatches[Measured],
    *,
    again: bool = False,
    progress: Progress = lambda done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Visit:
    """Measure the results of a run, and keep what was found.

    ``looks`` is ``MeasureImages`` with a source of which ``by`` are method and name. ``again``
    measures also what was measured by the same source. Otherwise as ``visit_run``.
    """
    keeper = _KeepUncertainties(store, *by)
    return visit_run(store, run, keeper, looks, again=again, progress=progress, stopped=stopped)


@dataclass(frozen=True, eq=False)
class MeasureImages:
    """Looks at the images of a run by one way to measure."""

    source: UncertaintySource
    ontology: Ontology

    def __call__(self, images: Iterable[tuple[Result, Image]]) -> Measured:
        """The uncertainty of each result's judgements."""
        return {
            result.cursor: self.source.measure(image, result.labelled, self.ontology)
            for result, image in images
        }


@dataclass(frozen=True, eq=False)
class _KeepUncertainties(Keeper[Measured]):
    """Keeps uncertainties."""

    store: Store
    method: UncertaintyMethod
    source: str

    def kept(self, results: Sequence[Result]) -> Collection[int]:
        own = sanitize_text(self.source)
        sources = self.store.uncertainties.sources(self.method, [one.cursor for one in results])
        return [cursor for cursor, source in sources.items() if source == own]

    def keep(self, found: Measured) -> None:
        self.store.uncertainties.put(self.method, self.source, found)


@dataclass(frozen=True)
class ImageUncertainty:
    """How uncertain an image is, by its boxes."""

    expected: float
    """Sum over the boxes: how many decisions are wrong, were the values probabilities."""
    mean: float
    """[0, 1]."""
    highest: float
    """[0, 1]."""

    @classmethod
    def of(cls, boxes: Mapping[int, LabelUncertainty]) -> "ImageUncertainty":
        """0 where there is no box."""
        values = [one.value for one in boxes.values()] or [0.0]
        return cls(sum(values), sum(values) / len(values), max(values))


@dataclass(frozen=True, eq=False)
class MeasuredImage:
    """A result of a run with what was measured of it."""

    result: Result
    """As the run decided it."""
    known: Mapping[UncertaintyMethod, Mapping[int, LabelUncertainty]]
    """By method and place."""

    def of_image(self) -> dict[UncertaintyMethod, ImageUncertainty]:
        """By method."""
        return {method: ImageUncertainty.of(boxes) for method, boxes in self.known.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the image's figures, and its boxes with theirs."""
        judgements = self.result.labelled.judgements
        places = sorted({place for boxes in self.known.values() for place in boxes})
        return {
            "image": self.result.labelled.name,
            "sha256": self.result.labelled.sha256,
            "uncertainty": {method.value: asdict(one) for method, one in self.of_image().items()},
            "boxes": [
                {
                    "label": self.result.label_id(place),
                    "class_name": judgements[place].class_name,
                    "box": list(judgements[place].box),
                    "outcome": judgements[place].outcome.value,
                    "probability": judgements[place].probability,
                    "uncertainties": [one.to_dict() for one in uncertainties_at(self.known, place)],
                }
                for place in places
                if place < len(judgements)
            ],
        }


def measured_images(store: Store, run: Run) -> Iterator[MeasuredImage]:
    """The results of a run that were measured by any method, in their order."""
    after = 0
    while page := store.results.page(run.id, after, PAGE, reviewed=False):
        after = page[-1].cursor
        known = store.uncertainties.of_results([one.cursor for one in page])
        for result in page:
            if known[result.cursor]:
                yield MeasuredImage(result, known[result.cursor])


def best_method(store: Store, run: Run) -> UncertaintyMethod | None:
    """The method that a run was measured by and that finds most; None where there is none."""
    known = {one.method for one in store.uncertainties.methods(run.id)}
    return next((method for method in BEST_FIRST if method in known), None)


@dataclass(frozen=True, eq=False)
class ErrorDetection:
    """How well a confidence tells wrong labels from right ones."""

    name: str
    """A method, or ``PLAIN``."""
    auroc: float
    """The chance that a right label has more confidence than a wrong one."""
    area: float
    """Under the risk-coverage curve; lower is better."""
    curve: RiskCoverage
    image_auroc: float
    """The chance that an image with a wrong label is more uncertain than one without."""


@dataclass(frozen=True, eq=False)
class UncertaintyReport:
    """The methods on the labels that all of them measured."""

    labels: int
    right: int
    images: int
    """With a label."""
    rows: tuple[ErrorDetection, ...]
    """That of the probability first."""

    @property
    def sentence(self) -> str:
        """What the figures are about."""
        return (
            f"On {self.labels:,} labels of {self.images:,} images, {self.right / self.labels:.1%} "
            "of them right. AUROC: the chance that a right label has more confidence than a wrong "
            "one, and that an image with a wrong label is more uncertain than one without. Area: "
            "mean share of wrong labels, if only the surest are kept, over all shares that may be "
            "kept."
        )


def report_on(store: Store, run: Run, oracle: Oracle) -> UncertaintyReport:
    """Compare the methods that a run was measured by with its probabilities, by a truth.

    Counted are accepted labels as the run decided them. Raises ``InvalidInput`` for the truth of
    other images, and where nothing was measured or there is no label.
    """
    known = {one.method for one in store.uncertainties.methods(run.id)}
    methods = [method for method in UncertaintyMethod if method in known]
    rows: list[list[float]] = []
    right: list[bool] = []
    images: list[int] = []
    for image in measured_images(store, run):
        labelled = image.result.labelled
        said = oracle.right(labelled.result) if len(image.known) == len(methods) else {}
        for place, judged in enumerate(labelled.judgements):
            by_all = uncertainties_at(image.known, place)
            if judged.outcome is Outcome.ACCEPT and place in said and len(by_all) == len(methods):
                rows.append([judged.probability, *(one.confidence for one in by_all)])
                right.append(said[place])
                images.append(image.result.cursor)
    if not methods or not right:
        raise InvalidInput(
            f"run '{run.name}' has no label whose uncertainty was measured; measure it first: "
            f"secondlook uncertainty {run.name} --method {UncertaintyMethod.MONTE_CARLO}"
        )
    names = [PLAIN, *(method.value for method in methods)]
    return _report(names, np.array(rows), np.array(right), np.array(images))


def _report(
    names: Sequence[str],
    confidences: NDArray[np.float64],
    right: NDArray[np.bool_],
    images: NDArray[np.int64],
) -> UncertaintyReport:
    """``confidences`` (L, names), ``right`` and ``images`` (L,) of L labels."""
    _, of = np.unique(images, return_inverse=True)
    has_wrong = np.bincount(of, ~right) > 0
    rows = []
    for name, confidence in zip(names, confidences.T, strict=True):
        curve = risk_coverage(confidence, right)
        expected = np.bincount(of, 1 - confidence).astype(np.float64)
        found = auroc(expected, has_wrong)
        rows.append(ErrorDetection(name, auroc(confidence, right), curve.area, curve, found))
    return UncertaintyReport(len(right), int(right.sum()), len(has_wrong), tuple(rows))
