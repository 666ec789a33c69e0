"""Visiting the images of a stored run, to keep something about each.

A visit goes on where it was stopped: what a visitor has kept of an image is not computed again.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from secondlook.config.settings import ImageSettings
from secondlook.core.cancellation import check_cancelled
from secondlook.core.images import decode
from secondlook.core.types import Image
from secondlook.store import Store
from secondlook.store.results import Result
from secondlook.store.runs import Run
from secondlook_client.errors import Damaged, InvalidInput, NotFound

PAGE = 50
"""Results read at a time."""
AT_ONCE = 10
"""Results kept in a transaction: no more is lost when the visit is killed."""
MAX_FAILED = 20

Progress = Callable[[int, int], None]
"""Called with (results that are done, all)."""


class ImageVisitor(Protocol):
    """What is computed of each image and kept."""

    def kept(self, results: Sequence[Result]) -> Collection[int]:
        """The cursors of those of which it is kept already."""
        ...

    def visit(self, images: Iterable[tuple[Result, Image]]) -> int:
        """Compute and keep it of some results, as they were decided; how many these were.

        ``images`` are decoded as they are taken.
        """
        ...


@dataclass(frozen=True)
class Visit:
    """What a visit did."""

    measured: int
    """Results."""
    before: int
    """Results that had been visited before."""
    failed: tuple[str, ...]
    """Why images could not be visited; at most ``MAX_FAILED`` of them."""
    failures: int
    stopped: bool = False
    """Whether it was ended before all was visited."""


def visit_run(
    store: Store,
    run: Run,
    visitor: ImageVisitor,
    limits: ImageSettings,
    *,
    again: bool = False,
    progress: Progress = lambda done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Visit:
    """Visit the results of a run, and with ``again`` also those visited before.

    An image that is gone or broken is left out. Ends early once ``stopped`` says so, which is
    asked every ``AT_ONCE`` images. Raises what a model raises, and ``Cancelled``.
    """
    total, after, known, measured = store.results.count(run.id), 0, 0, 0
    failed: list[str] = []
    while page := store.results.page(run.id, after, PAGE, reviewed=False):
        after = page[-1].cursor
        kept = frozenset() if again else frozenset(visitor.kept(page))
        waiting = [one for one in page if one.cursor not in kept]
        known += len(page) - len(waiting)
        for at in range(0, len(waiting), AT_ONCE):
            if stopped():
                return Visit(measured, known, tuple(failed[:MAX_FAILED]), len(failed), True)
            some = waiting[at : at + AT_ONCE]
            measured += visitor.visit(_decoded(store, limits, some, failed))
            progress(known + measured + len(failed), total)
    return Visit(measured, known, tuple(failed[:MAX_FAILED]), len(failed))


def _decoded(
    store: Store, limits: ImageSettings, results: Sequence[Result], failed: list[str]
) -> Iterator[tuple[Result, Image]]:
    """Why others could not be decoded is added to ``failed``."""
    for result in results:
        check_cancelled()
        labelled = result.labelled
        try:
            image = decode(store.blobs.get(labelled.sha256), labelled.name, limits)
        except (NotFound, Damaged, InvalidInput) as failure:
            failed.append(str(failure))
            continue
        yield result, image
