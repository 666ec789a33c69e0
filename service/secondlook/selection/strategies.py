"""Which images of a pool to ask people about next, and why each.

All strategies give the same for the same seed, choose no image twice, and put the most wanted
first. ``mixed``, the default, is PPAL (arXiv 2211.11612): uncertainty summed over the boxes
of an image, more for difficult classes; of the ``EXPANSION`` × count most uncertain images, a
representative part. There the difficulty of a class comes from its training; here from the boxes
of the pool. What an image would change (``selection.expected_change``) the caller measures with a
student.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from secondlook.selection.choices import Measure, Strategy
from secondlook.selection.clusters import Rows, Vectors, k_centre, k_medoids
from secondlook.selection.keyframes import Moment, choose_keyframes
from secondlook.selection.neighbours import NeighbourIndex
from secondlook.selection.uncertainty import Floats, readings_uncertainty
from secondlook_client.errors import InvalidInput

EXPANSION = 4
"""``mixed``: uncertain images for each image that is chosen, as in PPAL."""
DIFFICULTY_BOUND, DIFFICULTY_SCALE = 0.2, 0.3
"""PPAL's: the most that difficulty adds to a weight, and how quickly."""
PRIOR_BOXES = 5.0
"""Boxes of the whole pool that a class's difficulty is mixed with, so that a few mean little."""
WORTHWHILE = 3
"""A pool of fewer images for each that is chosen leaves little to choose."""
MODES, IMAGES_OF_MODE = 20, 10
"""``balance``: most modes that are looked for, and images that a mode has on average at least."""
TOLD_MOMENTS = 12
"""``keyframes``: what is told of one frame at most."""
LIKELY = 0.5
"""``balance``: expected objects from which an image is said to have a class."""


@dataclass(frozen=True, eq=False)
class JudgedPool:
    """The N images that may be chosen, and the J judgements on their boxes.

    ``images`` and ``boxes`` ascend: judgements of one image, and of one box, stand together.
    """

    names: Sequence[str]
    """(N,)."""
    classes: Sequence[str]
    images: Rows
    """(J,) place of the image of each judgement."""
    boxes: Rows
    """(J,) number of the box, from 0 without gaps. The classes of one number exclude each other:
    a box of several contrast groups, or classes of none, has a number for each."""
    labels: Rows
    """(J,) place of its class."""
    probabilities: Floats
    """(J,) that the label is right, [0, 1]."""
    scores: Floats
    """(J,) the proposer's, [0, 1]."""
    answers: Floats
    """(J,) P(yes), NaN where the verifier gave none."""
    measured: Floats
    """(J,) what `secondlook uncertainty` found by the method asked for, NaN where nothing."""
    vectors: Vectors | None = None
    """(N, D) embeddings of length 1."""
    known: Vectors | None = None
    """(K, D) those of images that people have reviewed."""
    known_objects: Floats | None = None
    """(C,) objects of each class on the images that people have reviewed; None: nothing known."""
    target: Vectors | None = None
    """(T, D) those of the target's images."""
    target_names: Sequence[str] = ()
    changes: Floats | None = None
    """(N,) how much each image would change a student, ≥ 0; NaN where it could not be measured."""
    moments: Sequence[Moment] = ()
    """What the images show of tracks, by their places."""

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class ChosenImage:
    """An image to ask about."""

    place: int
    """In the pool."""
    value: float
    """By which it was chosen; only comparable within one selection."""
    reason: str
    """In words."""


@dataclass(frozen=True)
class PoolSelection:
    """What was chosen of a pool."""

    strategy: Strategy
    chosen: tuple[ChosenImage, ...]
    """The most wanted first."""
    pool: int
    """Images that could be chosen."""

    @property
    def advice(self) -> str:
        """What to expect where there is little to choose; else empty."""
        count = len(self.chosen)
        if self.strategy in (Strategy.RANDOM, Strategy.KEYFRAMES) or not count:
            return ""
        if self.pool >= WORTHWHILE * count:
            return ""
        return (
            f"{count:,} of {self.pool:,} images leave little to choose: at random "
            f"{count / self.pool:.0%} of the same images would be chosen. Selection pays from "
            f"about {WORTHWHILE} images for each that is chosen; label all, or ask for fewer"
        )


@dataclass(frozen=True)
class _Wanted:
    """What a strategy is asked for."""

    count: int
    """At most as many as the pool has."""
    measure: Measure
    rng: np.random.Generator


def choose_images(
    pool: JudgedPool,
    strategy: Strategy,
    count: int,
    *,
    measure: Measure = Measure.ENTROPY,
    seed: int = 0,
) -> PoolSelection:
    """Up to ``count`` images of a pool.

    ``measure`` is what ``uncertainty`` and ``mixed`` call uncertain. Raises ``InvalidInput`` for
    an empty pool, a count below 1, and where what a strategy needs is missing.
    """
    if count < 1:
        raise InvalidInput(f"expected a count from 1, got {count}")
    if not len(pool):
        raise InvalidInput(
            "there is no image to choose from: people have reviewed them all, or none could be "
            "embedded"
        )
    _check(pool, strategy, measure)
    chosen = _STRATEGIES[strategy](
        pool, _Wanted(min(count, len(pool)), measure, np.random.default_rng(seed))
    )
    return PoolSelection(strategy, tuple(chosen), len(pool))


def _check(pool: JudgedPool, strategy: Strategy, measure: Measure) -> None:
    for vectors in (pool.vectors, pool.known, pool.target):
        if vectors is not None and not np.isfinite(vectors).all():
            raise InvalidInput("an embedding is not finite; embed the images again")
    if strategy.needs_vectors and pool.vectors is None:
        raise InvalidInput(f"the strategy {strategy} compares embeddings, and there are none")
    if strategy is Strategy.TRANSFER and (pool.target is None or not len(pool.target)):
        raise InvalidInput("the strategy transfer needs images of the target")
    if strategy is Strategy.EXPECTED_CHANGE and pool.changes is None:
        raise InvalidInput("the strategy expected-change needs a student that was measured")
    if strategy is Strategy.KEYFRAMES and not pool.moments:
        raise InvalidInput(
            "there is no keyframe to choose: people have seen everything about the tracks, or the "
            "run has none (label a video with --track)"
        )
    by_measure = strategy in (Strategy.UNCERTAINTY, Strategy.MIXED)
    if by_measure and measure.kept and not np.isfinite(pool.measured).any():
        raise InvalidInput(f"no box was measured by {measure}")


@dataclass(frozen=True, eq=False)
class _BoxDoubts:
    """The B boxes of a pool, each with one uncertainty."""

    images: Rows
    """(B,)."""
    tops: Rows
    """(B,) the judgement that the uncertainty is told by."""
    values: Floats
    """(B,) uncertainty in [0, 1]."""

    def totals(self, images: int) -> Floats:
        """(images,) the sum over the boxes of each: how many are wrong, were they chances."""
        return np.asarray(np.bincount(self.images, self.values, minlength=images), np.float64)

    def highest_of(self, images: int) -> Rows:
        """(images,) the box of highest value of each image, -1 where there is none."""
        found = np.full(images, -1, np.intp)
        order = np.argsort(self.values, kind="stable")
        found[self.images[order]] = order
        return found


def _boxes(pool: JudgedPool, measure: Measure) -> _BoxDoubts:
    """Each box by ``measure``; what was not measured has no uncertainty."""
    if measure.kept:
        return _tops(pool, np.nan_to_num(pool.measured, nan=0.0))
    of_readings = readings_uncertainty(pool.probabilities, pool.boxes, measure)
    tops = _tops(pool, pool.probabilities)
    return _BoxDoubts(tops.images, tops.tops, of_readings)


def _tops(pool: JudgedPool, values: Floats) -> _BoxDoubts:
    """Each box by the judgement with the highest of (J,) values."""
    order = np.lexsort((-values, pool.boxes))
    _, firsts = np.unique(pool.boxes[order], return_index=True)
    tops = order[firsts]
    return _BoxDoubts(pool.images[tops], tops, values[tops])


def class_difficulty(pool: JudgedPool) -> Floats:
    """(C,) how difficult each class is, [0, 1]: the mean least confidence of its boxes.

    Mixed with ``PRIOR_BOXES`` of the pool's mean.
    """
    boxes = _boxes(pool, Measure.LEAST_CONFIDENCE)
    labels = pool.labels[boxes.tops]
    sums = np.bincount(labels, boxes.values, minlength=len(pool.classes))
    counts = np.bincount(labels, minlength=len(pool.classes))
    mean = float(boxes.values.mean()) if len(labels) else 0.0
    return (sums + PRIOR_BOXES * mean) / (counts + PRIOR_BOXES)


def difficulty_weights(difficulty: Floats) -> Floats:
    """(C,) weights from 1 to 1 + ``DIFFICULTY_BOUND``, as in PPAL."""
    growth = np.exp(1 / DIFFICULTY_SCALE) - 1
    grown = DIFFICULTY_SCALE * np.log1p(growth * difficulty)
    return np.asarray(1 + DIFFICULTY_BOUND * grown)


def _by_uncertainty(pool: JudgedPool, wanted: _Wanted) -> list[ChosenImage]:
    boxes = _boxes(pool, wanted.measure)
    return _best(pool, boxes, boxes.totals(len(pool)), wanted.count, wanted.measure.value)


def _by_committee(pool: JudgedPool, wanted: _Wanted) -> list[ChosenImage]:
    """By what was measured with a student; else by ranks, for score and P(yes) are no equals."""
    if np.isfinite(pool.measured).any():
        return _by_uncertainty(pool, replace(wanted, measure=Measure.COMMITTEE))
    answered = np.isfinite(pool.answers)
    apart = np.zeros(len(pool.labels))
    for label in range(len(pool.classes)):
        rows = np.flatnonzero(answered & (pool.labels == label))
        if len(rows) > 1:
            apart[rows] = np.abs(_ranks(pool.scores[rows]) - _ranks(pool.answers[rows]))
    boxes = _tops(pool, apart)
    highest = np.zeros(len(pool))
    np.maximum.at(highest, boxes.images, boxes.values)
    return _best(pool, boxes, highest, wanted.count, "disagreement")


def _by_change(pool: JudgedPool, wanted: _Wanted) -> list[ChosenImage]:
    assert pool.changes is not None
    changes = np.nan_to_num(pool.changes, nan=-1.0)
    rows = np.argsort(-changes, kind="stable")[: wanted.count]
    return [
        ChosenImage(row, float(changes[row]), _change_told(float(changes[row])))
        for row in rows.tolist()
    ]


def _keyframes(pool: JudgedPool, wanted: _Wanted) -> list[ChosenImage]:
    return [
        ChosenImage(one.place, one.value, _moments_told(pool, one.moments))
        for one in choose_keyframes(pool.moments, wanted.count)
    ]


def _moments_told(pool: JudgedPool, numbers: Sequence[int]) -> str:
    tracks: dict[str, list[str]] = {}
    for number in numbers[:TOLD_MOMENTS]:
        tracks.setdefault(pool.moments[number].why, []).append(str(pool.moments[number].track))
    told = [
        f"{'tracks' if len(of) > 1 else 'track'} {', '.join(of)}: {why}"
        for why, of in tracks.items()
    ]
    more = len(numbers) - TOLD_MOMENTS
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")


def _change_told(change: float) -> str:
    if change < 0:
        return "could not be shown to the student"
    return f"its own labels would change the student by {change:.2f} (length of the gradient)"


def _ranks(values: Floats) -> Floats:
    """(R,) the share of values that are smaller, [0, 1]; equal ones share theirs."""
    _, places = np.unique(values, return_inverse=True)
    return np.asarray(places / max(places.max(), 1), np.float64)


def _best(
    pool: JudgedPool, boxes: _BoxDoubts, totals: Floats, count: int, word: str
) -> list[ChosenImage]:
    """The images with the highest totals; the box of highest value is the reason."""
    rows = np.argsort(-totals, kind="stable")[:count]
    reasons = _box_reasons(pool, boxes, rows, word)
    return [
        ChosenImage(row, float(totals[row]), reason)
        for row, reason in zip(rows.tolist(), reasons, strict=True)
    ]


def _box_reasons(pool: JudgedPool, boxes: _BoxDoubts, rows: Rows, word: str) -> list[str]:
    """What the most uncertain box of each of these images says."""
    most = boxes.highest_of(len(pool))[rows]
    numbers = np.bincount(boxes.images, minlength=len(pool))[rows]
    return [
        _box_reason(pool, boxes, box, number, word)
        for box, number in zip(most.tolist(), numbers.tolist(), strict=True)
    ]


def _box_reason(pool: JudgedPool, boxes: _BoxDoubts, box: int, number: int, word: str) -> str:
    if box < 0:
        return "has no box"
    top = boxes.tops[box]
    told = f"{pool.classes[pool.labels[top]]} {pool.probabilities[top]:.2f}"
    answer = pool.answers[top]
    said = "" if np.isnan(answer) else f", verifier {answer:.2f}"
    told += f" (proposer {pool.scores[top]:.2f}{said})"
    whole = f", the most of {number}" if number > 1 else ""
    return f"{told}: {word} {boxes.values[box]:.2f}{whole}"


def _mixed(pool: JudgedPool, wanted: _Wanted) -> list[ChosenImage]:
    """PPAL's two steps. Of each group of uncertain images it takes the medoid; here it is the most
    uncertain one: 10 of 60 demo scenes then had 27 of 79 wrong or unsure decisions, not 16."""
    assert pool.vectors is not None
    boxes = _boxes(pool, wanted.measure)
    weights = difficulty_weights(class_difficulty(pool))
    weighted = replace(boxes, values=boxes.values * weights[pool.labels[boxes.tops]])
    totals = weighted.totals(len(pool))
    candidates = np.argsort(-totals, kind="stable")[: EXPANSION * wanted.count]
    _, groups = k_medoids(pool.vectors[candidates], wanted.count, wanted.rng)
    _, firsts, sizes = np.unique(groups, return_index=True, return_counts=True)
    order = np.argsort(firsts)  # the candidates stand in order: the first of a group is its best
    rows, alike = candidates[firsts[order]], sizes[order] - 1
    reasons = _box_reasons(pool, boxes, rows, wanted.measure.value)
    return [
        ChosenImage(
            row,
            float(totals[row]),
            reason + (f"; stands for {others} more uncertain ones like it" if others else ""),
        )
        for row, reason, others in zip(rows.tolist(), reasons, alike.tolist(), strict=True)
    ]


def _diverse(pool: JudgedPool, wanted: _Wanted) -> list[ChosenImage]:
    assert pool.vectors is not None
    rows, alike = k_centre(pool.vectors, wanted.count, pool.known)
    chosen = []
    for row, similarity in zip(rows.tolist(), alike.tolist(), strict=True):
        reason = f"unlike all before: similarity {similarity:.2f} at most"
        if np.isnan(similarity):
            similarity, reason = 0.0, "the most usual of all"
        chosen.append(ChosenImage(row, 1 - similarity, reason))
    return chosen


def _dense(pool: JudgedPool, wanted: _Wanted) -> list[ChosenImage]:
    """As TypiClust (arXiv 2202.02794): clusters that people know come behind those they do not."""
    assert pool.vectors is not None
    known = pool.known if pool.known is not None else pool.vectors[:0]
    medoids, groups = k_medoids(pool.vectors, wanted.count, wanted.rng)
    sizes = np.bincount(groups, minlength=len(medoids))
    covered = np.bincount((known @ pool.vectors[medoids].T).argmax(axis=1), minlength=len(medoids))
    order = np.lexsort((-sizes, covered > 0))
    return [
        ChosenImage(
            int(medoids[at]),
            float(sizes[at]),
            f"the most typical of {sizes[at]:,} images like it"
            + (f", {covered[at]:,} more of which are reviewed" if covered[at] else ""),
        )
        for at in order.tolist()
    ]


def _like_target(pool: JudgedPool, wanted: _Wanted) -> list[ChosenImage]:
    """The nearest image of every target first, then the second nearest of every one, and so on."""
    assert pool.vectors is not None and pool.target is not None
    index = NeighbourIndex(pool.target.shape[1])
    index.add(range(len(pool.target)), pool.target)
    found = index.search(pool.vectors, 1)
    targets, similarities = found.keys[:, 0], found.similarities[:, 0]
    order = np.lexsort((-similarities, targets))
    turns = np.empty(len(pool), np.intp)
    sorted_targets = targets[order]
    turns[order] = np.arange(len(pool)) - np.searchsorted(sorted_targets, sorted_targets)
    rows = np.lexsort((-similarities, turns))[: wanted.count]
    return [
        ChosenImage(
            row,
            float(similarities[row]),
            f"like {pool.target_names[targets[row]]} of the target: similarity "
            f"{similarities[row]:.2f}",
        )
        for row in rows.tolist()
    ]


def _balanced(pool: JudgedPool, wanted: _Wanted) -> list[ChosenImage]:
    """Each time the image that adds most where least was chosen: a class counts by its expected
    objects, and one more of many adds little."""
    assert pool.vectors is not None
    expected = np.zeros((len(pool), len(pool.classes)))
    np.add.at(expected, (pool.images, pool.labels), pool.probabilities)
    shown = np.minimum(expected, 1)
    most = max(1, min(MODES, len(pool) // IMAGES_OF_MODE))
    medoids, modes = k_medoids(pool.vectors, most, wanted.rng)
    sizes = np.bincount(modes, minlength=len(medoids))
    objects, images = _known_already(pool, medoids)
    free = np.ones(len(pool), bool)
    chosen = []
    for _ in range(wanted.count):
        worth = 1 / (1 + objects) / len(pool.classes)
        gains = np.where(free, shown @ worth + 1 / (1 + images[modes]), -np.inf)
        row = int(gains.argmax())
        rarest, mode = int((shown[row] * worth).argmax()), int(modes[row])
        reason = (
            f"mode {mode + 1} of {len(medoids)}: {sizes[mode]:,} images, {images[mode]:.0f} chosen"
        )
        if shown[row, rarest] >= LIKELY:
            reason = f"has {pool.classes[rarest]}, {objects[rarest]:.1f} chosen; {reason}"
        chosen.append(ChosenImage(row, float(gains[row]), reason))
        free[row] = False
        objects += expected[row]
        images[mode] += 1
    return chosen


def _known_already(pool: JudgedPool, medoids: Rows) -> tuple[Floats, Floats]:
    """Objects by class and images by mode that people have reviewed, so that the next round goes on
    where the last one ended."""
    assert pool.vectors is not None
    known = pool.known_objects
    objects = np.zeros(len(pool.classes)) if known is None else known.astype(np.float64)
    images = np.zeros(len(medoids))
    if pool.known is not None and len(medoids):
        nearest = (pool.known @ pool.vectors[medoids].T).argmax(axis=1)
        images += np.bincount(nearest, minlength=len(medoids))
    return objects, images


def _at_random(pool: JudgedPool, wanted: _Wanted) -> list[ChosenImage]:
    rows = wanted.rng.permutation(len(pool))[: wanted.count].tolist()
    return [ChosenImage(row, 0.0, "at random") for row in rows]


_STRATEGIES: Mapping[Strategy, Callable[[JudgedPool, _Wanted], list[ChosenImage]]] = {
    Strategy.MIXED: _mixed,
    Strategy.UNCERTAINTY: _by_uncertainty,
    Strategy.COMMITTEE: _by_committee,
    Strategy.EXPECTED_CHANGE: _by_change,
    Strategy.DIVERSITY: _diverse,
    Strategy.DENSITY: _dense,
    Strategy.TRANSFER: _like_target,
    Strategy.BALANCE: _balanced,
    Strategy.KEYFRAMES: _keyframes,
    Strategy.RANDOM: _at_random,
}
