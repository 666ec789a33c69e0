"""Two runs over the same images: which labels one has and the other has not."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from secondlook.core import boxes as box_ops
from secondlook.core.types import Judgement, Outcome
from secondlook.store import Store
from secondlook.store.bulk import images_missing, pairs
from secondlook.store.results import Result
from secondlook.store.runs import Run

SAME_BOX = 0.5
"""IoU from which two boxes of one class are the same label."""


@dataclass(frozen=True)
class Moved:
    """A label that one of the runs has alone."""

    there: Judgement
    """As the run has it that has the label."""
    place: int
    """Of that judgement in its result."""
    other: Judgement | None
    """What the other run made of the same box and class; None when it did not judge it."""


@dataclass(frozen=True)
class Change:
    """What differs on one image."""

    before: Result
    after: Result
    gained: tuple[Moved, ...]
    """Labels of ``after`` alone."""
    lost: tuple[Moved, ...]
    """Labels of ``before`` alone."""


@dataclass
class Comparison:
    """The figures; complete once ``changes`` was read to its end."""

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


def compare(store: Store, before: str, after: str) -> tuple[Comparison, Iterator[Change]]:
    """The figures, which grow while the changes are read, image by image.

    What a person said stands in both runs, so it never counts. Raises ``NotFound``.
    """
    found = Comparison(store.records.run(before), store.records.run(after))
    return found, _changes(store, found)


def _changes(store: Store, found: Comparison) -> Iterator[Change]:
    cursor = 0
    while True:
        with store.database.reading() as connection:
            page = pairs(connection, found.before, found.after, cursor)
        if not page:
            break
        for before, after in page:
            if after is None:
                found.only_before += 1
                continue
            found.images += 1
            change = changed(before, after)
            _count(found, change)
            if change.gained or change.lost:
                yield change
        cursor = page[-1][0].cursor
    with store.database.reading() as connection:
        found.only_after = images_missing(connection, found.before, found.after)


def changed(before: Result, after: Result) -> Change:
    """What differs on one image; labels of one class are matched by overlap, the best first."""
    theirs, ours = before.labelled.judgements, after.labelled.judgements
    old, new = _accepted(theirs), _accepted(ours)
    matched = _matched([theirs[i] for i in old], [ours[i] for i in new])
    lost = [place for at, place in enumerate(old) if at not in matched]
    gained = [place for at, place in enumerate(new) if at not in matched.values()]
    return Change(
        before,
        after,
        tuple(Moved(ours[place], place, _nearest(ours[place], theirs)) for place in gained),
        tuple(Moved(theirs[place], place, _nearest(theirs[place], ours)) for place in lost),
    )


def _count(found: Comparison, change: Change) -> None:
    found.gained.update(moved.there.class_name for moved in change.gained)
    found.lost.update(moved.there.class_name for moved in change.lost)
    found.kept.update(j.class_name for j in change.before.labelled.of(Outcome.ACCEPT))
    found.kept.subtract(moved.there.class_name for moved in change.lost)


def _accepted(judgements: Sequence[Judgement]) -> list[int]:
    return [i for i, j in enumerate(judgements) if j.decision.outcome is Outcome.ACCEPT]


def _matched(old: Sequence[Judgement], new: Sequence[Judgement]) -> dict[int, int]:
    """For places in ``old`` those in ``new``, one to one."""
    overlaps = _overlaps(old, new)
    found: dict[int, int] = {}
    for at in np.argsort(-overlaps, axis=None, kind="stable").tolist():
        row, column = divmod(at, max(len(new), 1))
        if overlaps[row, column] < SAME_BOX:
            break
        if row not in found and column not in found.values():
            found[row] = column
    return found


def _nearest(judgement: Judgement, others: Sequence[Judgement]) -> Judgement | None:
    overlaps = _overlaps([judgement], others)[0]
    if not len(overlaps) or overlaps.max() < SAME_BOX:
        return None
    return others[int(overlaps.argmax())]


def _overlaps(a: Sequence[Judgement], b: Sequence[Judgement]) -> np.ndarray:
    """(len(a), len(b)) IoU; 0 between classes."""
    boxes = [np.array([j.box for j in side], dtype=np.float32).reshape(-1, 4) for side in (a, b)]
    same = np.array([[x.class_name == y.class_name for y in b] for x in a], dtype=bool)
    return box_ops.iou(*boxes) * same.reshape(len(a), len(b))
