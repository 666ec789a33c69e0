"""Visiting the images of a stored run, to keep something about each.

A visit goes on where it was stopped: what was kept of an image is not computed again.
What models compute of some images is a call that knows nothing of the store, so it may be made here
(``looks_here``) or on other machines.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Generic, TypeVar

from secondlook.config.settings import ImageSettings
from secondlook.core.cancellation import check_cancelled
from secondlook.core.images import decode
from secondlook.core.types import Image
from secondlook.store import Store
from secondlook.store.blobs import Blobs
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
Found = TypeVar("Found")
Look = Callable[[Iterable[tuple[Result, Image]]], Found]
"""What is computed of some results, as they were decided, and their images; these are decoded as
they are taken."""


class Keeper(ABC, Generic[Found]):
    """Keeps what was computed of each image."""

    @abstractmethod
    def kept(self, results: Sequence[Result]) -> Collection[int]:
        """The cursors of those of which it is kept already."""

    @abstractmethod
    def keep(self, found: Found) -> None:
        """Keep what was computed of some results: all of it, or nothing when that fails."""


@dataclass(frozen=True)
class Looked(Generic[Found]):
    """What came of looking at some results."""

    found: Found | None
    """None where none of them could be looked at."""
    seen: int
    """Results in ``found``."""
    failed: tuple[str, ...]
    """Why others could not be."""


LookAtBatches = Callable[[Iterable[Sequence[Result]]], Iterator[Looked[Found]]]
"""Looks at batches of results, which it takes as it can; what comes of them in any order."""


@dataclass(frozen=True, eq=False)
class LookAt(Generic[Found]):
    """Reads and decodes the images of a batch of results and looks at them."""

    blobs: Blobs
    limits: ImageSettings
    look: Look[Found]

    def __call__(self, results: Sequence[Result]) -> Looked[Found]:
        """An image that is gone or broken is left out. Raises what a model raises."""
        failed: list[str] = []
        images = self._decoded(results, failed)
        first = next(images, None)
        found = None if first is None else self.look(chain([first], images))
        return Looked(found, len(results) - len(failed), tuple(failed))

    def _decoded(
        self, results: Sequence[Result], failed: list[str]
    ) -> Iterator[tuple[Result, Image]]:
        for result in results:
            check_cancelled()
            labelled = result.labelled
            try:
                image = decode(self.blobs.get(labelled.sha256), labelled.name, self.limits)
            except (NotFound, Damaged, InvalidInput) as failure:
                failed.append(str(failure))
                continue
            yield result, image


def looks_here(blobs: Blobs, limits: ImageSettings, look: Look[Found]) -> LookAtBatches[Found]:
    """Looks in this process, at one batch after the other."""
    return partial(map, LookAt(blobs, limits, look))


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
    keeper: Keeper[Found],
    looks: LookAtBatches[Found],
    *,
    again: bool = False,
    progress: Progress = lambda done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Visit:
    """Visit the results of a run, and with ``again`` also those visited before.

    An image that is gone or broken is left out. Ends early once ``stopped`` says so, which is asked
    before each ``AT_ONCE`` images. Raises what a model raises, and ``Cancelled``.
    """
    total, ended = store.results.count(run.id), False
    known = measured = failures = 0
    failed: list[str] = []

    def batches() -> Iterator[Sequence[Result]]:
        nonlocal known, ended
        after = 0
        while page := store.results.page(run.id, after, PAGE, reviewed=False):
            after = page[-1].cursor
            kept = frozenset() if again else frozenset(keeper.kept(page))
            waiting = [one for one in page if one.cursor not in kept]
            known += len(page) - len(waiting)
            for at in range(0, len(waiting), AT_ONCE):
                if ended := stopped():
                    return
                yield waiting[at : at + AT_ONCE]

    for looked in looks(batches()):
        if looked.found is not None:
            keeper.keep(looked.found)
        measured += looked.seen
        failures += len(looked.failed)
        failed = [*failed, *looked.failed][:MAX_FAILED]
        progress(known + measured + failures, total)
    return Visit(measured, known, tuple(failed), failures, ended)
