"""How much each image of a pool would change a student, measured image by image."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from secondlook.config.settings import ImageSettings
from secondlook.core.types import Image, Pixels
from secondlook.review.image_pool import RunPool
from secondlook.review.visited_images import Keeper, Progress, Visit, looks_here, visit_run
from secondlook.store import Store
from secondlook.store.results import Result
from secondlook.store.runs import Run


def measure_changes(
    store: Store,
    run: Run,
    found: RunPool,
    change: Callable[[Pixels], float],
    limits: ImageSettings,
    progress: Progress = lambda done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[RunPool, Visit]:
    """The pool with its images' ``changes``; an image that cannot be read has NaN.

    ``change`` is what an image would change a student. Nothing is kept in the store: another round
    has another student.
    """
    keeper = _Changes(frozenset(one.cursor for one in found.images))
    looks = looks_here(store.blobs, limits, partial(_changes_of, change))
    visit = visit_run(store, run, keeper, looks, progress=progress, stopped=stopped)
    changes = [keeper.found.get(one.cursor, np.nan) for one in found.images]
    pool = replace(found.pool, changes=np.array(changes, np.float64))
    return replace(found, pool=pool), visit


def _changes_of(
    change: Callable[[Pixels], float], images: Iterable[tuple[Result, Image]]
) -> Mapping[int, float]:
    return {result.cursor: change(image.pixels) for result, image in images}


@dataclass(frozen=True, eq=False)
class _Changes(Keeper[Mapping[int, float]]):
    """Keeps in memory what is found of the images of a pool."""

    wanted: frozenset[int]
    found: dict[int, float] = field(default_factory=dict)
    """By cursor."""

    def kept(self, results: Sequence[Result]) -> Collection[int]:
        return [one.cursor for one in results if one.cursor not in self.wanted]

    def keep(self, found: Mapping[int, float]) -> None:
        self.found.update(found)
