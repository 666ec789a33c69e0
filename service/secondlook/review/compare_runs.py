"""Two runs over the same images: which labels only one of them has."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from secondlook.core import boxes as box_ops
from secondlook.store import Store
from secondlook.store.results import Result, images_missing, result_pairs
from secondlook.store.runs import Run
from secondlook_client.values import Judgement, Outcome

SAME_BOX = 0.5
"""IoU from which two boxes of one class are the same label."""


@dataclass(frozen=True)
class LabelDifference:
    """A label that only one of the runs has."""

    label: Judgement
    """In the run that has it."""
    place: int
    """Of that judgement in its result."""
    other: Judgement | None
    """The other run's judgement of the same box and class; None when it did not judge it."""


@dataclass(frozen=True)
class ImageDifference:
    """What differs on one image."""

    before: Result
    after: Result
    gained: tuple[LabelDifference, ...]
    """Labels that only ``after`` has."""
    lost: tuple[LabelDifference, ...]
    """Labels that only ``before`` has."""


@dataclass
class RunComparison:
    """The counts; complete once all differences have been read."""

    before: Run
    after: Run
    images: int = 0
    """With a result in both."""
    only_before: int = 0
    only_after: int = 0
    """Images with a result in one of them."""
    kept: Counter[str] = field(default_factory=Counter)
    """Labels that both have, by class."""
    gained: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)

    @property
    def classes(self) -> tuple[str, ...]:
        """Of both runs, in order."""
        names = self.before.ontology.names + self.after.ontology.names
        return tuple(dict.fromkeys(names))

    def add(self, difference: ImageDifference) -> None:
        """Count one image that has a result in both runs."""
        self.images += 1
        lost = [lost.label.class_name for lost in difference.lost]
        self.gained.update(gained.label.class_name for gained in difference.gained)
        self.lost.update(lost)
        self.kept.update(j.class_name for j in difference.before.labelled.of(Outcome.ACCEPT))
        self.kept.subtract(lost)


def compare_runs(
    store: Store, before: str, after: str
) -> tuple[RunComparison, Iterator[ImageDifference]]:
    """The counts, which grow while the differences are read, image by image.

    Reviews count in both runs, so they never make a difference. Raises ``NotFound``.
    """
    comparison = RunComparison(store.results.run(before), store.results.run(after))
    return comparison, _differences(store, comparison)


def _differences(store: Store, comparison: RunComparison) -> Iterator[ImageDifference]:
    cursor = 0
    while True:
        with store.database.reading() as connection:
            page = result_pairs(connection, comparison.before, comparison.after, cursor)
        if not page:
            break
        for before, after in page:
            if after is None:
                comparison.only_before += 1
                continue
            difference = image_difference(before, after)
            comparison.add(difference)
            if difference.gained or difference.lost:
                yield difference
        cursor = page[-1][0].cursor
    with store.database.reading() as connection:
        comparison.only_after = images_missing(connection, comparison.before, comparison.after)


def image_difference(before: Result, after: Result) -> ImageDifference:
    """What differs on one image; labels of one class are matched by IoU, the highest first."""
    old, new = before.labelled.judgements, after.labelled.judgements
    old_labels, new_labels = _accepted(old), _accepted(new)
    matched = _matched([old[i] for i in old_labels], [new[i] for i in new_labels])
    lost = [place for at, place in enumerate(old_labels) if at not in matched]
    gained = [place for at, place in enumerate(new_labels) if at not in matched.values()]
    return ImageDifference(
        before,
        after,
        tuple(LabelDifference(new[i], i, _same_box(new[i], old)) for i in gained),
        tuple(LabelDifference(old[i], i, _same_box(old[i], new)) for i in lost),
    )


def _accepted(judgements: Sequence[Judgement]) -> list[int]:
    return [i for i, j in enumerate(judgements) if j.decision.outcome is Outcome.ACCEPT]


def _matched(old: Sequence[Judgement], new: Sequence[Judgement]) -> dict[int, int]:
    """Places in ``old`` to places in ``new``, one to one."""
    overlaps = _overlaps(old, new)
    found: dict[int, int] = {}
    for at in np.argsort(-overlaps, axis=None, kind="stable").tolist():
        row, column = divmod(at, max(len(new), 1))
        if overlaps[row, column] < SAME_BOX:
            break
        if row not in found and column not in found.values():
            found[row] = column
    return found


def _same_box(judgement: Judgement, others: Sequence[Judgement]) -> Judgement | None:
    """The judgement of the same class whose box overlaps most; None where none does enough."""
    overlaps = _overlaps([judgement], others)[0]
    if not len(overlaps) or overlaps.max() < SAME_BOX:
        return None
    return others[int(overlaps.argmax())]


def _overlaps(a: Sequence[Judgement], b: Sequence[Judgement]) -> np.ndarray:
    """(len(a), len(b)) IoU; 0 between classes."""
    boxes = [np.array([j.box for j in side], dtype=np.float32).reshape(-1, 4) for side in (a, b)]
    same = np.array([[x.class_name == y.class_name for y in b] for x in a], dtype=bool)
    return box_ops.iou(*boxes) * same.reshape(len(a), len(b))
