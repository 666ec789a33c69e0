"""Two runs over the same images: which labels only one of them has or changed their class."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.core import boxes as box_ops
from secondlook.core.cancellation import check_cancelled
from secondlook.store import Store
from secondlook.store.results import Result, images_missing, result_pairs
from secondlook.store.runs import Run
from secondlook_client.values import Judgement, Outcome

SAME_BOX = 0.5
"""IoU from which two boxes of one class are the same label."""


SAME_PLACE = 0.9
"""IoU from which a label that both runs have lies where it lay."""
PART = 200
"""Results that are read together, ..."""
MAX_PARTS = 5
"""... and how often for one part of a comparison: about a second."""


@dataclass(frozen=True)
class LabelDifference:
    """A label that only one of the runs has."""

    label: Judgement
    """In the run that has it."""
    place: int
    """Of that judgement in its result."""
    other: Judgement | None
    """The other run's judgement of the same box and class; None when it did not judge it."""
    other_place: int = -1
    """Of that judgement in its result; -1 when there is none."""


@dataclass(frozen=True)
class ClassChange:
    """A label whose box has another class in the other run."""

    before: LabelDifference
    after: LabelDifference


@dataclass(frozen=True)
class ImageDifference:
    """What differs on one image."""

    before: Result
    after: Result
    gained: tuple[LabelDifference, ...]
    """Labels that only ``after`` has."""
    lost: tuple[LabelDifference, ...]
    """Labels that only ``before`` has."""
    changed: tuple[ClassChange, ...] = ()
    """Labels with another class in ``after``; they are neither gained nor lost."""
    kept: tuple[tuple[int, int], ...] = ()
    """Labels that both have: their places in the results."""

    @property
    def count(self) -> int:
        """Labels that differ."""
        return len(self.gained) + len(self.lost) + len(self.changed)


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
    changed: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Labels of the same box with another class: by the class before and the class after."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Of both runs, in order."""
        names = self.before.ontology.names + self.after.ontology.names
        return tuple(dict.fromkeys(names))

    def add(self, difference: ImageDifference) -> None:
        """Count one image that has a result in both runs."""
        self.images += 1
        before = difference.before.labelled.judgements
        self.gained.update(one.label.class_name for one in difference.gained)
        self.lost.update(one.label.class_name for one in difference.lost)
        self.changed.update(
            (one.before.label.class_name, one.after.label.class_name) for one in difference.changed
        )
        self.kept.update(before[place].class_name for place, _ in difference.kept)

    def changed_from(self, class_name: str) -> int:
        """Labels of this class that have another one in ``after``."""
        return sum(count for (before, _), count in self.changed.items() if before == class_name)


def compare_runs(
    store: Store, before: str, after: str
) -> tuple[RunComparison, Iterator[ImageDifference]]:
    """The counts, which grow while the differences are read, image by image.

    Reviews count in both runs, so they never make a difference. Raises ``NotFound``.
    """
    comparison = RunComparison(store.results.run(before), store.results.run(after))
    return comparison, _differences(store, comparison)


class LabelChange(StrEnum):
    """What became of a label from one run to the other."""

    NONE = "none"
    MOVED = "moved"
    CLASS = "class"
    LOST = "lost"
    GAINED = "gained"


ChangedLabel = tuple[LabelChange, Judgement | None, Judgement | None]
"""What became of a label, and the label in either run."""


@dataclass(frozen=True)
class ComparedPart:
    """What differs on the images of a part of the first run."""

    images: Sequence[tuple[ImageDifference, Sequence[ChangedLabel]]]
    """With all of their labels, those that stayed too."""
    compared: int
    """Images that both runs have."""
    only_before: int
    changes: Counter[tuple[str, LabelChange]]
    """Labels by class and by what became of them; a changed class counts by the one before."""
    next_cursor: int
    """0: this was the last part."""


def compare_part(store: Store, before: str, after: str, cursor: int, limit: int) -> ComparedPart:
    """The next images that differ behind a cursor of the run ``before``, at most ``limit``, of at
    most a thousand that are looked at. Raises ``NotFound`` and ``Damaged``."""
    old, new = store.results.run(before), store.results.run(after)
    images: list[tuple[ImageDifference, Sequence[ChangedLabel]]] = []
    changes: Counter[tuple[str, LabelChange]] = Counter()
    compared = only_before = 0
    for _ in range(MAX_PARTS):
        check_cancelled()
        with store.database.reading() as connection:
            pairs = result_pairs(connection, old, new, cursor, PART)
        for first, second in pairs:
            cursor = first.cursor
            if second is None:
                only_before += 1
                continue
            compared += 1
            difference = image_difference(first, second)
            found = label_changes(difference)
            changes.update((one.class_name, change) for change, a, b in found if (one := a or b))
            if any(change is not LabelChange.NONE for change, _, _ in found):
                images.append((difference, found))
            if len(images) == limit:
                return ComparedPart(images, compared, only_before, changes, cursor)
        if len(pairs) < PART:
            return ComparedPart(images, compared, only_before, changes, 0)
    return ComparedPart(images, compared, only_before, changes, cursor)


def label_changes(difference: ImageDifference) -> list[ChangedLabel]:
    """All labels of an image in either run, and what became of them."""
    before, after = difference.before.labelled.judgements, difference.after.labelled.judgements
    found: list[ChangedLabel] = []
    for a, b in difference.kept:
        same = _overlaps([before[a]], [after[b]])[0, 0] >= SAME_PLACE
        found.append((LabelChange.NONE if same else LabelChange.MOVED, before[a], after[b]))
    found += [(LabelChange.CLASS, one.before.label, one.after.label) for one in difference.changed]
    found += [(LabelChange.LOST, one.label, None) for one in difference.lost]
    found += [(LabelChange.GAINED, None, one.label) for one in difference.gained]
    return found


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
            if difference.count:
                yield difference
        cursor = page[-1][0].cursor
    with store.database.reading() as connection:
        comparison.only_after = images_missing(connection, comparison.before, comparison.after)


def image_difference(before: Result, after: Result) -> ImageDifference:
    """What differs on one image; labels of one class are matched by IoU, the highest first.

    Of what is left then, a label before and one after over the same box are one label that changed
    its class.
    """
    old, new = before.labelled.judgements, after.labelled.judgements
    old_labels, new_labels = _accepted(old), _accepted(new)
    kept = _matched(old, old_labels, new, new_labels)
    lost = [place for place in old_labels if place not in kept]
    gained = [place for place in new_labels if place not in kept.values()]
    changed = _matched(old, lost, new, gained, same_class=False)
    of_old = {place: _difference(old, place, new) for place in lost}
    of_new = {place: _difference(new, place, old) for place in gained}
    return ImageDifference(
        before,
        after,
        gained=tuple(of_new[place] for place in gained if place not in changed.values()),
        lost=tuple(of_old[place] for place in lost if place not in changed),
        changed=tuple(ClassChange(of_old[a], of_new[b]) for a, b in sorted(changed.items())),
        kept=tuple(sorted(kept.items())),
    )


def _accepted(judgements: Sequence[Judgement]) -> list[int]:
    return [i for i, j in enumerate(judgements) if j.decision.outcome is Outcome.ACCEPT]


def _matched(
    old: Sequence[Judgement],
    old_places: Sequence[int],
    new: Sequence[Judgement],
    new_places: Sequence[int],
    same_class: bool = True,
) -> dict[int, int]:
    """Places in ``old`` to places in ``new``, one to one."""
    overlaps = _overlaps(
        [old[place] for place in old_places], [new[place] for place in new_places], same_class
    )
    found: dict[int, int] = {}
    for at in np.argsort(-overlaps, axis=None, kind="stable").tolist():
        row, column = divmod(at, max(len(new_places), 1))
        if overlaps[row, column] < SAME_BOX:
            break
        if old_places[row] not in found and new_places[column] not in found.values():
            found[old_places[row]] = new_places[column]
    return found


def _difference(
    judgements: Sequence[Judgement], place: int, others: Sequence[Judgement]
) -> LabelDifference:
    """With the other run's judgement of the same class whose box overlaps most, if one does."""
    overlaps = _overlaps([judgements[place]], others)[0]
    if not len(overlaps) or overlaps.max() < SAME_BOX:
        return LabelDifference(judgements[place], place, None)
    other = int(overlaps.argmax())
    return LabelDifference(judgements[place], place, others[other], other)


def _overlaps(
    a: Sequence[Judgement], b: Sequence[Judgement], same_class: bool = True
) -> NDArray[np.floating[Any]]:
    """(len(a), len(b)) IoU; with ``same_class`` 0 between classes."""
    boxes = [np.array([j.box for j in side], dtype=np.float32).reshape(-1, 4) for side in (a, b)]
    overlaps = box_ops.iou(*boxes)
    if not same_class:
        return overlaps
    same = np.array([[x.class_name == y.class_name for y in b] for x in a], dtype=bool)
    return overlaps * same.reshape(len(a), len(b))
