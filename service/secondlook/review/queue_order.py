"""What of a run to ask people about, and in which order.

Every box that the run judged and that nobody has reviewed yet may be asked about, whatever was
decided; doubts about whole images and boxes that people added are not. The boxes of one class
whose probabilities lie in the same tenth are a *stratum*: an answer about one says something of
all of them.

``random``: equally many of every stratum, drawn at random; the strata take turns, so that whoever
stops early has asked about all of them. Each item has the probability with which it was drawn.

``value``: the box with the highest value first. The value of the k-th box of a stratum of n boxes
is ``nearness * n / k``. The nearness is 1 at the class's ``accept`` limit and falls to 0 at the
farther end of [0, 1]: an answer near the limit may move it. ``n / k``: many boxes share what is
learnt, and each further answer in one stratum says less. Those that people have reviewed already
count among the k.

``monte-carlo``, ``committee``, ``distribution``: the highest uncertainty by that method first
(``evaluation.uncertainty_sources``), as far as the run was measured; then the others as below.

``uncertainty``: by the best method that the run was measured by. Where it was not, the highest
``p * (1 - p)`` first, p being the probability of the label.

``mixed``, ``diversity``, ``density``, ``balance``: image by image, as that strategy chooses images
(``selection.strategies``); of an image the box whose probability is nearest to one half first. As
many images are chosen as hold ``count`` boxes on average. Their embeddings are in the store.

``keyframes``: frame by frame of a run with tracks, as that strategy chooses them; of each frame the
boxes that it was chosen for, and no others.

Equal boxes are in a random order. The same run, seed and reviews give the same order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.review.image_pool import (
    check_measured,
    embedding_model,
    measured_by,
    read_pool,
)
from secondlook.review.keyframes import with_moments
from secondlook.review.uncertainty import best_method
from secondlook.selection.choices import Measure, Strategy
from secondlook.selection.keyframes import choose_keyframes
from secondlook.selection.strategies import choose_images
from secondlook.store import Store
from secondlook.store.results import Result
from secondlook.store.reviews import QueueItem
from secondlook.store.runs import Run
from secondlook.store.uncertainties import OfResult
from secondlook_client.errors import InvalidInput
from secondlook_client.uncertainties import UncertaintyMethod
from secondlook_client.values import Outcome, ReviewOrder

__all__ = ["QueueItem", "queue_items", "used_order"]

PAGE = 200
"""Results read at a time."""
TENTHS = 10
BY_IMAGES = (
    ReviewOrder.MIXED,
    ReviewOrder.DIVERSITY,
    ReviewOrder.DENSITY,
    ReviewOrder.BALANCE,
)
"""Orders that choose images; each is a ``Strategy``."""
_OUTCOMES = tuple(Outcome)
_ASKED = np.dtype(
    [
        ("cursor", np.int64),
        ("place", np.int32),
        ("class", np.int32),
        ("outcome", np.int8),
        ("probability", np.float64),
        ("box", np.float32, 4),
        ("uncertainty", np.float32),
    ]
)
"""What is kept of a judgement."""
Rows = NDArray[np.intp]


def queue_items(
    store: Store,
    run: str,
    order: ReviewOrder,
    *,
    classes: Sequence[str] = (),
    count: int = 0,
    seed: int = 0,
) -> Iterator[QueueItem]:
    """Up to ``count`` boxes (0: all) of a run, of ``classes`` (default: all), in an order.

    The run is read page by page, and 45 bytes of each judgement are kept. Raises ``NotFound`` for
    the run, and ``InvalidInput`` for unknown classes, an order by what was not measured, and where
    there is nothing to ask about.
    """
    if count < 0 or not 0 <= seed < 2**64:
        raise InvalidInput(f"expected a count from 0 and a seed below 2^64, got {count} and {seed}")
    source = store.results.run(run)
    order = used_order(store, run, ReviewOrder(order))
    method = UncertaintyMethod(order) if order in list(UncertaintyMethod) else None
    boxes = _read(store, source, _places(source, classes), method)
    if not len(boxes.open):
        of = f" of {', '.join(classes)}"[:200] if classes else ""
        raise InvalidInput(
            f"run '{run}' has no judged box{of} that nobody has reviewed; there is nothing to ask"
        )
    if order is ReviewOrder.KEYFRAMES:
        drawn = _draw_by_keyframes(store, source, boxes.open, count)
    elif order in BY_IMAGES:
        drawn = _draw_by_images(store, source, boxes.open, Strategy(order.value), count, seed)
    else:
        drawn = _draw(boxes, order, count, np.random.default_rng(seed))
    return _items(source, boxes.open, *drawn)


def used_order(store: Store, run: str, order: ReviewOrder) -> ReviewOrder:
    """The order that a queue of a run gets: for ``uncertainty`` the best method that it was
    measured by, if there is one.

    Raises ``NotFound`` for the run, and ``InvalidInput`` for a method that it was not measured by.
    """
    source = store.results.run(run)
    if order is ReviewOrder.UNCERTAINTY:
        method = best_method(store, source)
        return ReviewOrder(method) if method else order
    if order in list(UncertaintyMethod):
        check_measured(store, source, Measure(order.value))
    return order


@dataclass(frozen=True, eq=False)
class _Boxes:
    """Judged boxes of a run."""

    open: NDArray[np.void]
    """(J,) ``_ASKED``, those that nobody has reviewed."""
    reviewed: NDArray[np.intp]
    """How many of each stratum people have reviewed."""
    limits: NDArray[np.float64]
    """(classes,) the ``accept`` limit of each."""

    @property
    def strata(self) -> Rows:
        """(J,) number of each one's stratum."""
        return _strata(self.open["class"], self.open["probability"])


def _strata(classes: NDArray[np.int32], probabilities: NDArray[np.float64]) -> Rows:
    tenths = np.minimum((probabilities * TENTHS).astype(np.intp), TENTHS - 1)
    return classes.astype(np.intp) * TENTHS + tenths


def _stratum_name(run: Run, stratum: int) -> str:
    place, tenth = divmod(stratum, TENTHS)
    return f"{run.ontology.names[place]} {tenth / TENTHS:.1f}–{(tenth + 1) / TENTHS:.1f}"


def _places(run: Run, classes: Sequence[str]) -> frozenset[str]:
    names = run.ontology.names
    for name in classes:
        if name not in names:
            raise InvalidInput(
                f"run '{run.name}' has no class '{name:.60}'; there are {', '.join(names)[:500]}"
            )
    return frozenset(classes or names)


def _read(
    store: Store, run: Run, classes: frozenset[str], method: UncertaintyMethod | None
) -> _Boxes:
    places = {name: place for place, name in enumerate(run.ontology.names)}
    parts = [np.zeros(0, _ASKED)]
    reviewed = np.zeros(len(places) * TENTHS, dtype=np.intp)
    after = 0
    while page := store.results.page(run.id, after, PAGE):
        after = page[-1].cursor
        rows: list[tuple[object, ...]] = []
        known: list[int] = []
        measured = measured_by(store, page, method)
        for result in page:
            rows += _rows(result, places, classes, measured.get(result.cursor, {}))
            known += _reviewed(store, result, places, classes)
        parts.append(np.array(rows, dtype=_ASKED))
        np.add.at(reviewed, np.array(known, dtype=np.intp), 1)
    limits = np.array([spec.accept for spec in run.ontology.classes])
    return _Boxes(np.concatenate(parts), reviewed, limits)


def _rows(
    result: Result, places: dict[str, int], classes: frozenset[str], measured: OfResult
) -> Iterator[tuple[object, ...]]:
    for place, judged in enumerate(result.labelled.judgements):
        if judged.class_name in classes and not judged.whole_image and place not in result.reviewed:
            yield (
                result.cursor,
                place,
                places[judged.class_name],
                _OUTCOMES.index(judged.outcome),
                judged.probability,
                judged.box,
                measured[place].value if place in measured else np.nan,
            )


def _reviewed(
    store: Store, result: Result, places: dict[str, int], classes: frozenset[str]
) -> list[int]:
    """The stratum of each box that people reviewed, by what the run had decided."""
    if not result.reviewed:
        return []
    decided = store.results.decided(result.cursor).labelled.judgements
    judged = [
        one
        for place, one in enumerate(decided)
        if place in result.reviewed and one.class_name in classes and not one.whole_image
    ]
    numbers = np.array([places[one.class_name] for one in judged], dtype=np.int32)
    probabilities = np.array([one.probability for one in judged], dtype=np.float64)
    return [int(stratum) for stratum in _strata(numbers, probabilities)]


def _draw(
    boxes: _Boxes, order: ReviewOrder, count: int, rng: np.random.Generator
) -> tuple[Rows, NDArray[np.float64]]:
    """Rows of ``boxes.open`` in the order asked for, and the probability of drawing each."""
    shuffled = rng.permutation(len(boxes.open))
    count = min(count or len(shuffled), len(shuffled))
    if order is ReviewOrder.RANDOM:
        return _draw_randomly(boxes.strata, shuffled, count, rng)
    p = boxes.open["probability"][shuffled]
    if order is not ReviewOrder.VALUE:
        value = p * (1 - p) - 1  # behind all that was measured
        measured = boxes.open["uncertainty"][shuffled].astype(np.float64)
        value = np.where(np.isfinite(measured), measured, value)
    else:
        limits = boxes.limits[boxes.open["class"][shuffled]]
        nearness = 1 - np.abs(p - limits) / np.maximum(limits, 1 - limits)
        strata = boxes.strata[shuffled]
        sizes = np.bincount(strata, minlength=len(boxes.reviewed))
        asked = _rank_within(strata, -nearness) + 1 + boxes.reviewed[strata]
        value = nearness * sizes[strata] / asked
    best_first = np.argsort(-value, kind="stable")[:count]
    return shuffled[best_first], np.ones(count)


def _draw_by_images(
    store: Store,
    run: Run,
    boxes: NDArray[np.void],
    strategy: Strategy,
    count: int,
    seed: int,
) -> tuple[Rows, NDArray[np.float64]]:
    """Rows of ``boxes`` image by image, and 1 for each. Raises ``InvalidInput``."""
    if not count:
        raise InvalidInput(f"the order {strategy} chooses some images: give a count of boxes")
    cursors, amounts = np.unique(boxes["cursor"], return_counts=True)
    images = -(-count * len(cursors) // int(amounts.sum()))
    found = read_pool(store, run, model=embedding_model(store, run))
    chosen = choose_images(found.pool, strategy, images, seed=seed).chosen
    turns = {found.images[one.place].cursor: turn for turn, one in enumerate(chosen)}
    turn = np.array([turns.get(cursor, len(turns)) for cursor in boxes["cursor"].tolist()])
    doubt = boxes["probability"] * (1 - boxes["probability"])
    order = np.lexsort((np.random.default_rng(seed).permutation(len(boxes)), -doubt, turn))
    rows = order[turn[order] < len(turns)][:count]
    return rows, np.ones(len(rows))


def _draw_by_keyframes(
    store: Store, run: Run, boxes: NDArray[np.void], count: int
) -> tuple[Rows, NDArray[np.float64]]:
    """Rows of ``boxes`` frame by frame, and 1 for each. Raises ``InvalidInput``."""
    found = with_moments(store, run, read_pool(store, run))
    moments, turns = found.pool.moments, dict[tuple[int, int], int]()
    for turn, frame in enumerate(choose_keyframes(moments, len(found.images))):
        cursor = found.images[frame.place].cursor
        tracks = {moments[number].track for number in frame.moments}
        judged = store.results.decided(cursor).labelled.judgements
        turns |= {(cursor, at): turn for at, one in enumerate(judged) if one.track in tracks}
    keys = zip(boxes["cursor"].tolist(), boxes["place"].tolist(), strict=True)
    turn_of = np.array([turns.get(key, -1) for key in keys], np.intp)
    wanted = (turn_of >= 0) & (boxes["outcome"] != _OUTCOMES.index(Outcome.REJECT))
    rows = np.flatnonzero(wanted)
    rows = rows[np.argsort(turn_of[rows], kind="stable")]
    rows = rows[: count or len(rows)]
    return rows, np.ones(len(rows))


def _draw_randomly(
    strata: Rows, shuffled: Rows, count: int, rng: np.random.Generator
) -> tuple[Rows, NDArray[np.float64]]:
    """Equally many of every stratum, as far as it goes; what is left goes to strata by chance."""
    numbers, of = np.unique(strata[shuffled], return_inverse=True)
    sizes = np.bincount(of, minlength=len(numbers))
    low, high = 0, int(sizes.max())
    while low < high:  # the most that every stratum with as many can give
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if np.minimum(sizes, middle).sum() <= count else (low, middle - 1)
        )
    with_more = np.flatnonzero(sizes > low)
    left = count - int(np.minimum(sizes, low).sum())
    quotas = np.minimum(sizes, low)
    expected = quotas.astype(np.float64)
    if len(with_more):
        quotas[rng.choice(with_more, left, replace=False)] += 1
        expected[with_more] += left / len(with_more)
    rank = _rank_within(of, np.arange(len(of)))
    turn = np.lexsort((rng.permutation(len(numbers))[of], rank))
    rows = turn[(rank < quotas[of])[turn]]
    return shuffled[rows], (expected / sizes)[of[rows]]


def _rank_within(groups: Rows, key: NDArray[np.floating] | Rows) -> Rows:
    """(J,) how many of one's group have a smaller key; equal keys count in their order."""
    sorted_rows = np.lexsort((key, groups))
    ordered = groups[sorted_rows]
    first = np.searchsorted(ordered, ordered)
    rank = np.empty(len(groups), dtype=np.intp)
    rank[sorted_rows] = np.arange(len(groups)) - first
    return rank


def _items(
    run: Run, boxes: NDArray[np.void], rows: Rows, inclusion: NDArray[np.float64]
) -> Iterator[QueueItem]:
    for row, drawn in zip(rows.tolist(), inclusion.tolist(), strict=True):
        one = boxes[row]
        x1, y1, x2, y2 = one["box"].tolist()
        stratum = int(_strata(one["class"], one["probability"]))
        yield QueueItem(
            cursor=int(one["cursor"]),
            place=int(one["place"]),
            class_name=run.ontology.names[one["class"]],
            box=(x1, y1, x2, y2),
            probability=float(one["probability"]),
            outcome=_OUTCOMES[one["outcome"]],
            stratum=_stratum_name(run, stratum),
            inclusion=drawn,
        )
