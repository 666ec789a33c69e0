"""What other thresholds or rules would decide, without writing it: for sliders on the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secondlook.core.cancellation import check_cancelled
from secondlook.core.types import Judgement
from secondlook.labeling.applied_reviews import apply_reviews
from secondlook.labeling.decisions import judge
from secondlook.review.redecide import adjusted_ontology, decisions_on, run_calibrator
from secondlook.store import Store
from secondlook.store.bulk import DecisionBatch
from secondlook.store.codec import OUTCOMES
from secondlook.store.judgement_columns import StoredDecisions, stored_decisions
from secondlook.store.reviews import reviews_of
from secondlook.store.runs import Run
from secondlook_client.errors import BadOntology, InvalidInput
from secondlook_client.values import Outcome

ACCEPTED = OUTCOMES.index(Outcome.ACCEPT)
MAX_CLASSES = 2**16
PLACES = MAX_CLASSES * 2**16
"""More than an image has boxes times classes."""


@dataclass(frozen=True)
class Rules:
    """What to change of how a run decides; what is None or empty stays."""

    changes: Mapping[str, Mapping[str, float]]
    """As ``adjusted_ontology`` takes them."""
    nms_iou: float | None = None
    duplicate_iou: float | None = None
    without_calibrator: bool = False


@dataclass(frozen=True)
class PreviewCounts:
    """Judgements of a whole run, now and by other rules; reviews are not counted in."""

    before: NDArray[np.int64]
    """(classes, outcomes), outcomes as ``OUTCOMES``."""
    after: NDArray[np.int64]
    """The same by the other rules."""
    images: int
    changed_images: int
    """Whose labels would be others."""


class Preview:
    """Decides results of one run by other rules."""

    def __init__(self, store: Store, run: Run, rules: Rules) -> None:
        """Raises ``BadOntology`` for an unknown class or contradicting thresholds, and
        ``InvalidInput`` for an IoU outside of [0, 1]."""
        self._store = store
        self._given = run
        self._calibrator = None if rules.without_calibrator else run_calibrator(store, run)
        floor = float(run.settings.get("score_floor", 0.0))
        ontology = adjusted_ontology(run.ontology, rules.changes)
        for spec, known in zip(ontology.classes, run.ontology.classes, strict=True):
            if spec.threshold < min(floor, known.threshold):
                raise BadOntology(
                    f"class '{spec.name}': the threshold {spec.threshold:g} is below {floor:g}, "
                    "and lower scores were not kept; raise it"
                )
        overlaps = {"nms_iou": rules.nms_iou, "duplicate_iou": rules.duplicate_iou}
        changed = {name: iou for name, iou in overlaps.items() if iou is not None}
        for name, iou in changed.items():
            if not 0 <= iou <= 1:
                raise InvalidInput(f"expected {name} between 0 and 1, got {iou:g}")
        own = {"nms_iou": run.nms_iou, "duplicate_iou": run.duplicate_iou}
        self._run = replace(run, ontology=ontology, settings={**run.settings, **own, **changed})

    def images(self, cursors: Sequence[int]) -> dict[int, tuple[Judgement, ...]]:
        """The judgements of some results, at most about a hundred, with reviews applied; those that
        the run has not are left out."""
        found = self._store.results.some(self._given, cursors)
        with self._store.database.reading() as connection:
            reviews = reviews_of(connection, [result.image_id for result in found.values()])
        decided = {}
        for cursor, result in found.items():
            check_cancelled()
            labelled = result.labelled
            judgements = judge(
                labelled.evidence,
                self._run.ontology,
                self._run.nms_iou,
                self._calibrator,
                (labelled.width, labelled.height),
                self._run.duplicate_iou,
                self._run.verify_budget,
            )
            said = reviews.get(result.image_id, [])
            decided[cursor] = apply_reviews(judgements, said, self._run.ontology.names)
        return decided

    def counts(self) -> PreviewCounts:
        """Of the whole run."""
        shape = len(self._run.ontology.classes), len(OUTCOMES)
        before, after = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        images = changed = 0
        then = decisions_on(
            self._store, self._given, self._run, self._calibrator, with_reasons=False
        )
        for packed, new in then:
            check_cancelled()
            between = packed[0].cursor, packed[-1].cursor
            with self._store.database.reading() as connection:
                old = stored_decisions(connection, self._given.id, *between)
            np.add.at(before, (old.classes, old.outcomes), 1)
            np.add.at(after, (new.classes, new.outcomes), 1)
            images += len(packed)
            labels = _labels(old.counts, old), _labels(np.diff(new.starts), new)
            changed += len(np.unique(np.setxor1d(*labels) // PLACES))
        return PreviewCounts(before, after, images, changed)


def _labels(
    counts: NDArray[np.intp], decided: "DecisionBatch | StoredDecisions"
) -> NDArray[np.int64]:
    """A number for each label: of its image, ``PLACES`` times, and of its place there. ``counts``
    are the judgements of each image."""
    image = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    numbers = image * PLACES + decided.rows.astype(np.int64) * MAX_CLASSES + decided.classes
    labels: NDArray[np.int64] = numbers[decided.outcomes == ACCEPTED]
    return labels
