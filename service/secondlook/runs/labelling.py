"""The loop of a run: walk, send, keep. Everything it needs is passed in."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from secondlook.errors import SecondlookError
from secondlook.runs.folder import Selection, Source, read
from secondlook.runs.journal import Journal
from secondlook_client.errors import (
    BadOntology,
    Busy,
    Cancelled,
    ClientError,
    DeadlineExceeded,
    NotReady,
    NotSupported,
    ServerFailure,
    Unavailable,
)
from secondlook_client.results import LabelResult

SYNC_EVERY_S = 2.0
TRANSIENT = (Busy, DeadlineExceeded, ServerFailure)
"""May have gone at the next start; the client has tried again already."""
OF_ALL = (BadOntology, Unavailable, NotReady, NotSupported, Cancelled)
"""Would be the same for every picture, so they end the run."""

Labeller = Callable[
    [Iterable[tuple[Source, bytes]]], Iterator[tuple[Source, LabelResult | ClientError]]
]
"""Labels pictures as they come, a bounded number at a time, and gives each back once."""


@dataclass(frozen=True)
class Amount:
    """How much a run has before it."""

    pictures: int
    """In the selection."""
    done: int
    """Settled by an earlier start: labelled, or not to be tried again."""


def measure(journal: Journal, selection: Selection, retry_failed: bool) -> Amount:
    """Walk the selection once, noting its pictures in the journal."""
    pictures = done = 0
    for source in selection.walk():
        journal.see(source)
        pictures += 1
        done += _is_settled(journal, source, retry_failed)
    return Amount(pictures, done)


def label(
    journal: Journal,
    selection: Selection,
    labeller: Labeller,
    *,
    max_bytes: int,
    retry_failed: bool = False,
    settled: Callable[[int], None] = lambda count: None,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Label every picture that is not settled yet; ``settled`` hears how many are, each time.

    Once ``stopped`` says so, nothing more is sent and what is under way is finished.
    A picture that cannot be labelled is recorded as failed and the rest goes on. What concerns
    every picture (a server that does not answer, an ontology that it refuses, a full disk) ends
    the run with that error; what was recorded stays.
    """
    loop = _Loop(journal, max_bytes, settled)
    todo = itertools.takewhile(
        lambda _: not stopped(),
        (s for s in selection.walk() if not _is_settled(journal, s, retry_failed)),
    )
    try:
        for source, answer in labeller(loop.readable(todo)):
            loop.take(source, answer)
    finally:
        journal.sync()


def _is_settled(journal: Journal, source: Source, retry_failed: bool) -> bool:
    return journal.is_done(source) or (not retry_failed and journal.gave_up(source))


class _Loop:
    """Both ends of the labeller: what goes in, and what comes out."""

    def __init__(self, journal: Journal, max_bytes: int, settled: Callable[[int], None]) -> None:
        self._journal = journal
        self._max_bytes = max_bytes
        self._settled = settled
        self._count = 0
        self._synced_at = time.monotonic()

    def readable(self, sources: Iterable[Source]) -> Iterator[tuple[Source, bytes]]:
        """The pictures whose bytes can be read; the others are recorded as failed."""
        for source in sources:
            try:
                content = read(source, self._max_bytes)
            except SecondlookError as failure:
                self._journal.record_failure(source, failure.reason, str(failure))
                self._tell()
            else:
                yield source, content

    def take(self, source: Source, answer: LabelResult | ClientError) -> None:
        """Record what became of one picture; raises when it concerns them all."""
        if isinstance(answer, OF_ALL):
            raise answer
        if isinstance(answer, ClientError):
            transient = isinstance(answer, TRANSIENT)
            self._journal.record_failure(source, answer.reason, str(answer), transient=transient)
        else:
            self._journal.record(source, answer)
        self._tell()

    def _tell(self) -> None:
        self._count += 1
        self._settled(self._count)
        if time.monotonic() - self._synced_at > SYNC_EVERY_S:
            self._journal.sync()
            self._synced_at = time.monotonic()
