"""A run to be looked at: its images by what was decided, in any order, from any place on.

Results are read in blocks of some hundred and kept as columns in memory, within a budget. A list
that is neither filtered nor sorted reads the blocks that it shows; any other reads all of them
once, some 35 µs an image (70 where scores, answers or boxes count), and is then answered by array
work. Results are never changed, so a block stays true until somebody reviews one of its images or
its uncertainties are measured.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from secondlook.core.cancellation import check_cancelled
from secondlook.store import Store
from secondlook.store.codec import OUTCOMES
from secondlook.store.judgement_columns import (
    PATHS,
    EvidenceColumns,
    JudgementColumns,
    ReasonColumns,
    count_cursors,
    last_review,
    newest_uncertainty,
    read_columns,
    read_evidence,
    read_reasons,
    reviewed_images,
    run_cursors,
    with_reviews,
)
from secondlook.store.results import Result
from secondlook.store.runs import Run
from secondlook_client.errors import Busy
from secondlook_client.values import LabelPath, Outcome

Answer = TypeVar("Answer")
AnyColumns = JudgementColumns | EvidenceColumns | ReasonColumns
Columns = TypeVar("Columns", JudgementColumns, EvidenceColumns, ReasonColumns)
BlockKey = tuple[int, int, type[AnyColumns]]
"""Run, number of the block, and what of it."""

BLOCK = 512
"""Results that are read together, in some 30 ms of CPU."""
MAX_BYTES = 256 * 2**20
"""Of all blocks in memory: runs of half a million images."""
MAX_ORDERS = 16
"""Filtered and sorted lists that are kept; a person scrolls through one of them."""
MAX_RUNS = 32
"""Of which the cursors are kept."""
RECOUNT_S = 5.0
"""How soon removed results are noticed; new ones are at once."""
LOOK_BACK = 200
"""Reviews that are looked at again: PostgreSQL may commit one of a lower number later."""
BINS = 40
"""Of a histogram."""
TRIES, RETRY_S = 5, 0.2
"""How often a list is begun again while people review its images, and the hint after that."""
ROUNDING = 1e-6
"""Values are kept in 32 bits, and limits are given in 64."""


class ImageOrder(StrEnum):
    """In which order images are listed."""

    DECIDED = "decided"
    NAME = "name"
    UNCERTAINTY = "uncertainty"
    """The image with the most uncertain judgement first."""
    PROBABILITY = "probability"
    """The image with the least probable judgement first."""
    COUNT = "count"
    """The image with the most judgements first."""


Interval = tuple[float | None, float | None]
"""From and up to, both included; None: without an end."""
ANY: Interval = (None, None)


@dataclass(frozen=True)
class ImageFilter:
    """Which images are wanted: those with a judgement that meets all conditions on judgements, and
    that meet the others. What is empty or None lets all through."""

    classes: frozenset[str] = frozenset()
    outcomes: frozenset[Outcome] = frozenset()
    probability: Interval = ANY
    uncertainty: Interval = ANY
    score: Interval = ANY
    p_yes: Interval = ANY
    area: Interval = ANY
    """Share of the image that the box takes."""
    decided_at: Interval = ANY
    """Seconds since 1970."""
    text: str = ""
    """In the name, regardless of case."""
    paths: frozenset[LabelPath] = frozenset()
    reviewed: bool | None = None
    empty: bool = False
    """Only images without a judgement that was accepted or is unsure."""
    reason: str = ""
    """In the reason of a judgement, regardless of case."""
    guaranteed: frozenset[str] | None = None
    """Only what the run accepted of these classes, whatever people said since: what its guarantee
    covers."""
    unguaranteed: bool = False
    """All but those instead."""

    @property
    def of_judgements(self) -> bool:
        """Whether a judgement has to meet anything."""
        intervals = (self.probability, self.uncertainty, self.score, self.p_yes, self.area)
        others = self.classes or self.outcomes or self.reason or self.guaranteed is not None
        return bool(others) or any(one != ANY for one in intervals)


EVERYTHING = ImageFilter()


@dataclass(frozen=True, eq=False)
class RunBlock:
    """Results that are read together."""

    columns: JudgementColumns
    read_evidence: Callable[[], EvidenceColumns]
    """Reads the evidence, or gives it from memory."""
    read_reasons: Callable[[], ReasonColumns]
    """The same for the reasons."""

    @cached_property
    def evidence(self) -> EvidenceColumns:
        """Of the same judgements."""
        return self.read_evidence()

    @cached_property
    def reasons(self) -> ReasonColumns:
        """Of the same judgements."""
        return self.read_reasons()


@dataclass(frozen=True, eq=False)
class BrowsedImage:
    """An image of a list."""

    block: RunBlock
    """What it is in, ..."""
    place: int
    """... and where."""
    matching: NDArray[np.intp]
    """The judgements of the block that are its own and that the filter lets through."""

    @property
    def columns(self) -> JudgementColumns:
        """Of its block."""
        return self.block.columns

    @property
    def judgements(self) -> slice:
        """Its own in the columns of judgements."""
        start, end = self.columns.starts[self.place : self.place + 2].tolist()
        return slice(start, end)

    @property
    def uncertainties(self) -> NDArray[np.float32]:
        """Of the matching judgements, see ``uncertainty``."""
        return uncertainty(self.block, self.matching)


@dataclass(frozen=True)
class ImagePage:
    """Some images of a list."""

    images: Sequence[BrowsedImage]
    total: int
    """Images in the list."""
    of_run: int
    """Images of the run."""


@dataclass(frozen=True)
class Histogram:
    """Judgements by a value, in ``BINS`` intervals of equal width."""

    name: str
    low: float
    high: float
    counts: NDArray[np.int64]
    """Of all judgements."""
    matching: NDArray[np.int64]
    """Of those that the filter lets through."""


@dataclass(frozen=True)
class RunSummary:
    """How a run's judgements are distributed."""

    images: int
    matching_images: int
    classes: NDArray[np.int64]
    """(classes, outcomes) judgements that the filter lets through; outcomes as ``OUTCOMES``."""
    histograms: tuple[Histogram, ...]


@dataclass(eq=False)
class _Table:
    """What is known of one run. Used under its lock."""

    run: Run
    lock: threading.Lock = field(default_factory=threading.Lock)
    cursors: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    counted_at: float = -RECOUNT_S
    version: int = 0
    """Grows with each change."""
    uncertainty: tuple[int, float] = (0, 0.0)
    reviews: frozenset[int] | None = None
    """Numbers of the newest ones that were looked at."""

    @property
    def blocks(self) -> range:
        """Numbers of the blocks."""
        return range(-(-len(self.cursors) // BLOCK))


class RunBrowser:
    """Answers questions about the runs of one store. Thread-safe."""

    def __init__(self, store: Store, max_bytes: int = MAX_BYTES) -> None:
        """``max_bytes``: of blocks in memory."""
        self._store = store
        self._blocks = _Blocks(max_bytes)
        self._lock = threading.Lock()
        """Of what follows; held for moments only."""
        self._tables: OrderedDict[int, _Table] = OrderedDict()
        self._orders: OrderedDict[tuple[object, ...], NDArray[np.intp]] = OrderedDict()

    def images(
        self,
        run: Run,
        wanted: ImageFilter = EVERYTHING,
        order: ImageOrder = ImageOrder.DECIDED,
        reverse: bool = False,
        offset: int = 0,
        limit: int = 100,
        *,
        with_evidence: bool = False,
    ) -> ImagePage:
        """The images of a list from ``offset`` on; the ``evidence`` of their blocks is there only
        if it is asked for. Raises ``NotFound``, ``Damaged`` and ``Busy``."""

        def listed(table: _Table) -> ImagePage:
            places = self._ordered(table, wanted, order)
            if reverse:
                places = places[::-1]
            shown = places[offset : offset + limit].tolist()
            images = [self._image(table, wanted, place) for place in shown]
            for image in images if with_evidence else ():
                _ = image.block.evidence
            return ImagePage(images, len(places), len(table.cursors))

        return self._answered(run, listed)

    def summary(
        self, run: Run, wanted: ImageFilter = EVERYTHING, measures: Collection[str] = ()
    ) -> RunSummary:
        """How the judgements of a run are distributed, with the histograms of ``measures``, names
        of ``MEASURES``; of all, if there are none. Raises as ``images``."""
        shown = [name for name in MEASURES if not measures or name in measures]
        return self._answered(run, lambda table: self._summary(table, wanted, shown))

    def _summary(self, table: _Table, wanted: ImageFilter, measures: Sequence[str]) -> RunSummary:
        run = table.run
        counts = np.zeros((len(run.ontology.classes), len(OUTCOMES)), dtype=np.int64)
        binned = {name: np.zeros((2, BINS), dtype=np.int64) for name in measures}
        matching_images = 0
        for number in table.blocks:
            block = self._block(table, number)
            images, judgements = matching(block, wanted, run)
            matching_images += int(images.sum())
            columns = block.columns
            np.add.at(counts, (columns.classes[judgements], columns.outcomes[judgements]), 1)
            for name, bins in binned.items():
                values = MEASURES[name](block)
                bins += _binned(values), _binned(values[judgements])
        histograms = (Histogram(name, 0.0, 1.0, *bins) for name, bins in binned.items())
        shown = tuple(one for one in histograms if one.counts.any())
        return RunSummary(len(table.cursors), matching_images, counts, shown)

    def _answered(self, run: Run, work: Callable[[_Table], Answer]) -> Answer:
        """What ``work`` gives for a table that is up to date; begun again where somebody reviews
        an image meanwhile."""
        table = self._table(run)
        with table.lock:
            for _ in range(TRIES):
                self._refresh(table)
                try:
                    return work(table)
                except _ChangedMeanwhile as changed:
                    self._blocks.forget(run.id, changed.number)
        raise Busy("the run is being reviewed; try again in a moment", retry_after_s=RETRY_S)

    def _table(self, run: Run) -> _Table:
        with self._lock:
            table = self._tables.setdefault(run.id, _Table(run))
            self._tables.move_to_end(run.id)
            while len(self._tables) > MAX_RUNS:
                self._tables.popitem(last=False)
            return table

    def _refresh(self, table: _Table) -> None:
        """Notice new and removed results, reviews and uncertainties."""
        known, run_id, moment = table.cursors, table.run.id, time.monotonic()
        recount = moment - table.counted_at > RECOUNT_S
        last = int(known[-1]) if len(known) else 0
        with self._store.database.reading() as connection:
            uncertainty = newest_uncertainty(connection)
            cursors = np.concatenate([known, run_cursors(connection, run_id, last)])
            if recount and count_cursors(connection, run_id) != len(cursors):  # some were removed
                cursors = run_cursors(connection, run_id)
            newest = reviewed_images(connection, last_review(connection) - LOOK_BACK)
        changed = len(cursors) != len(known)
        if uncertainty != table.uncertainty or not np.array_equal(cursors[: len(known)], known):
            self._blocks.forget(run_id)
            changed = True
        elif changed:  # the last block has grown
            self._blocks.forget(run_id, len(known) // BLOCK)
        if table.reviews is not None and (new := newest.keys() - table.reviews):
            changed |= self._blocks.forget_images(run_id, [newest[number] for number in new])
        table.version += changed
        table.counted_at = moment if recount else table.counted_at
        table.cursors, table.uncertainty = cursors, uncertainty
        table.reviews = frozenset(newest)

    def _block(self, table: _Table, number: int) -> RunBlock:
        cursors = table.cursors[number * BLOCK : (number + 1) * BLOCK]
        columns = self._columns(table, number, JudgementColumns, cursors, read_columns)

        def evidence() -> EvidenceColumns:
            found = self._columns(table, number, EvidenceColumns, cursors, read_evidence)
            if len(found.scores) != len(columns.classes):
                raise _ChangedMeanwhile(number)
            return found

        def reasons() -> ReasonColumns:
            found = self._columns(table, number, ReasonColumns, cursors, read_reasons)
            if len(found.index) != len(columns.classes):
                raise _ChangedMeanwhile(number)
            return found

        return RunBlock(columns, evidence, reasons)

    def _columns(
        self,
        table: _Table,
        number: int,
        kind: type[Columns],
        cursors: NDArray[np.int64],
        read: Callable[[Any, Run, int, int, Mapping[int, Result]], Columns],
    ) -> Columns:
        """One kind of columns of a block, from memory or the store."""
        known = self._blocks.get((table.run.id, number, kind))
        if isinstance(known, kind):
            return known
        check_cancelled()
        first, last = int(cursors[0]), int(cursors[-1])
        with self._store.database.reading() as connection:
            about = with_reviews(connection, table.run.id, first, last)
        reviewed = self._store.results.some(table.run, about) if about else {}
        with self._store.database.reading() as connection:
            columns = read(connection, table.run, first, last, reviewed)
        self._blocks.put((table.run.id, number, kind), columns)
        return columns

    def _ordered(self, table: _Table, wanted: ImageFilter, order: ImageOrder) -> NDArray[np.intp]:
        """Places among the run's results, of what is wanted and in order."""
        if wanted == EVERYTHING and order is ImageOrder.DECIDED:
            return np.arange(len(table.cursors))
        key = (table.run.id, table.version, wanted, order)
        with self._lock:
            if (known := self._orders.get(key)) is not None:
                self._orders.move_to_end(key)
                return known
        found = self._sorted(table, wanted, order)
        with self._lock:
            self._orders[key] = found
            while len(self._orders) > MAX_ORDERS:
                self._orders.popitem(last=False)
        return found

    def _sorted(self, table: _Table, wanted: ImageFilter, order: ImageOrder) -> NDArray[np.intp]:
        places: list[NDArray[np.intp]] = [np.zeros(0, dtype=np.intp)]
        ranks: list[NDArray[np.float64]] = [np.zeros(0)]
        names: list[str] = []
        for number in table.blocks:
            block = self._block(table, number)
            images, judgements = matching(block, wanted, table.run)
            found = np.flatnonzero(images)
            places.append(found + number * BLOCK)
            ranks.append(_ranks(block, judgements, order)[found])
            if order is ImageOrder.NAME:
                names += [block.columns.names[place].casefold() for place in found.tolist()]
        if order is ImageOrder.NAME:
            by = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.intp)
        else:
            by = np.argsort(np.concatenate(ranks), kind="stable")
        ordered: NDArray[np.intp] = np.concatenate(places)[by]
        return ordered

    def _image(self, table: _Table, wanted: ImageFilter, place: int) -> BrowsedImage:
        block = self._block(table, place // BLOCK)
        inside = min(place % BLOCK, len(block.columns) - 1)  # fewer where some were just removed
        own = BrowsedImage(block, inside, np.zeros(0, dtype=np.intp)).judgements
        passed = _judgements_matching(block, wanted, table.run, own)
        return BrowsedImage(block, inside, np.flatnonzero(passed) + own.start)


class _ChangedMeanwhile(Exception):
    """Somebody reviewed an image of a block between the readings of its two halves."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Blocks:
    """Blocks of all runs within a budget of memory, those used lately. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._known: OrderedDict[BlockKey, AnyColumns] = OrderedDict()
        self._bytes = 0

    def get(self, key: BlockKey) -> AnyColumns | None:
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
            return found

    def put(self, key: BlockKey, block: AnyColumns) -> None:
        with self._lock:
            self._remove(key)
            self._known[key] = block
            self._bytes += block.nbytes
            while self._bytes > self._max_bytes and len(self._known) > 1:
                self._remove(next(iter(self._known)))

    def forget(self, run_id: int, number: int | None = None) -> None:
        """Forget one block, or all of a run."""
        with self._lock:
            for key in [k for k in self._known if k[0] == run_id and number in (None, k[1])]:
                self._remove(key)

    def forget_images(self, run_id: int, image_ids: Sequence[int]) -> bool:
        """Forget the blocks of a run that have one of the images, or may have one; whether there
        is any block of the run."""
        with self._lock:
            of_run = [key for key in self._known if key[0] == run_id]
            for key in of_run:
                columns = self._known.get((run_id, key[1], JudgementColumns))
                if not isinstance(columns, JudgementColumns) or (
                    np.isin(columns.image_ids, image_ids).any()
                ):
                    self._remove(key)
        return bool(of_run)

    def _remove(self, key: BlockKey) -> None:
        if (block := self._known.pop(key, None)) is not None:
            self._bytes -= block.nbytes


def matching(
    block: RunBlock, wanted: ImageFilter, run: Run
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(P,) images and (J,) judgements of a block that a filter lets through; of images that it
    does not let through no judgement is."""
    columns = block.columns
    judgements = _judgements_matching(block, wanted, run, slice(None))
    counts = np.diff(columns.starts)
    images = _images_matching(columns, wanted)
    if wanted.of_judgements:
        images &= _per_image(columns, judgements).astype(bool)
    if wanted.empty:
        rejected = OUTCOMES.index(Outcome.REJECT)
        images &= _per_image(columns, columns.outcomes != rejected) == 0
    return images, judgements & np.repeat(images, counts)


def _images_matching(columns: JudgementColumns, wanted: ImageFilter) -> NDArray[np.bool_]:
    """(P,) by the conditions on images alone."""
    found = _within(columns.decided_at, wanted.decided_at)
    if wanted.paths:
        found &= np.isin(columns.paths, [PATHS.index(path) for path in wanted.paths])
    if wanted.reviewed is not None:
        found &= columns.reviewed == wanted.reviewed
    if wanted.text:
        text = wanted.text.casefold()
        found &= np.array([text in name.casefold() for name in columns.names], dtype=bool)
    return found


def _judgements_matching(
    block: RunBlock, wanted: ImageFilter, run: Run, part: slice
) -> NDArray[np.bool_]:
    """Of the judgements in ``part``, by the conditions on judgements alone."""
    columns = block.columns
    found = np.ones(len(columns.classes[part]), dtype=bool)
    if wanted.classes:
        places = [place for place, name in enumerate(run.ontology.names) if name in wanted.classes]
        found &= np.isin(columns.classes[part], places)
    if wanted.outcomes:
        outcomes = [OUTCOMES.index(outcome) for outcome in wanted.outcomes]
        found &= np.isin(columns.outcomes[part], outcomes)
    for name, measure in MEASURES.items():
        interval: Interval = getattr(wanted, name)
        if interval != ANY:
            found &= _within(measure(block)[part], interval)
    if wanted.reason:
        found &= block.reasons.having(wanted.reason)[part]
    if wanted.guaranteed is not None:
        places = [at for at, name in enumerate(run.ontology.names) if name in wanted.guaranteed]
        covered = np.isin(columns.classes[part], places) & columns.accepted[part]
        found &= covered != wanted.unguaranteed
    return found


def _within(values: NDArray[np.floating], interval: Interval) -> NDArray[np.bool_]:
    """NaN is within no interval that has an end."""
    low, high = interval
    found = np.ones(len(values), dtype=bool)
    if low is not None:
        found &= values >= low - ROUNDING
    if high is not None:
        found &= values <= high + ROUNDING
    return found


def uncertainty(
    block: RunBlock, part: "slice | NDArray[np.intp]" = slice(None)
) -> NDArray[np.float32]:
    """As it was measured; else how near the probability is to one half, [0, 1]. Of the judgements
    in ``part``."""
    columns = block.columns
    guessed = 1 - 2 * np.abs(columns.probabilities[part] - 0.5)
    measured = columns.uncertainties[part]
    found: NDArray[np.float32] = np.where(np.isnan(measured), guessed, measured)
    return found


MEASURES: Mapping[str, Callable[[RunBlock], NDArray[np.float32]]] = {
    "probability": lambda block: block.columns.probabilities,
    "score": lambda block: block.evidence.scores,
    "p_yes": lambda block: block.evidence.p_yes,
    "uncertainty": uncertainty,
    "area": lambda block: block.evidence.areas,
}
"""Values of judgements in [0, 1], by the name that filters and histograms have for them."""


def _per_image(columns: JudgementColumns, judgements: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(P,) how many of its judgements are marked."""
    sums = np.concatenate([[0], np.cumsum(judgements, dtype=np.int64)])
    counts: NDArray[np.int64] = sums[columns.starts[1:]] - sums[columns.starts[:-1]]
    return counts


def _ranks(
    block: RunBlock, judgements: NDArray[np.bool_], order: ImageOrder
) -> NDArray[np.float64]:
    """(P,) lower comes first; images without a judgement come last."""
    columns = block.columns
    if order is ImageOrder.COUNT:
        return -_per_image(columns, judgements).astype(np.float64)
    ranks = np.full(len(columns), np.inf)
    if order in (ImageOrder.UNCERTAINTY, ImageOrder.PROBABILITY):
        least = order is ImageOrder.PROBABILITY
        values = columns.probabilities if least else -uncertainty(block)
        image = np.repeat(np.arange(len(columns)), np.diff(columns.starts))
        np.minimum.at(ranks, image[judgements], values[judgements])
    return ranks


def _binned(values: NDArray[np.float32]) -> NDArray[np.int64]:
    known = values[~np.isnan(values)]
    places = np.clip((known * BINS).astype(np.intp), 0, BINS - 1)
    return np.bincount(places, minlength=BINS)
