"""How much each image of a pool would change a student, measured image by image."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from secondlook.config.settings import ImageSettings
from secondlook.core.types import Image, Pixels
from secondlook.review.image_pool import RunPool
from secondlook.review.visited_images import Progress, Visit, visit_run
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
    visitor = _Changes(change, frozenset(one.cursor for one in found.images))
    visit = visit_run(store, run, visitor, limits, progress=progress, stopped=stopped)
    changes = [visitor.found.get(one.cursor, np.nan) for one in found.images]
    pool = replace(found.pool, changes=np.array(changes, np.float64))
    return replace(found, pool=pool), visit


@dataclass(frozen=True, eq=False)
class _Changes:
    """The visitor that measures the images of a pool; see ``ImageVisitor``."""

    change: Callable[[Pixels], float]
    wanted: frozenset[int]
    found: dict[int, float] = field(default_factory=dict)
    """By cursor."""

    def kept(self, results: Sequence[Result]) -> Collection[int]:
        return [one.cursor for one in results if one.cursor not in self.wanted]

    def visit(self, images: Iterable[tuple[Result, Image]]) -> int:
        before = len(self.found)
        for result, image in images:
            self.found[result.cursor] = self.change(image.pixels)
        return len(self.found) - before
