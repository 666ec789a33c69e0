"""What each strategy of the learning loop gains for a person's time, beside random choice.

Scenes of the demo world, labelled by both embedded models; each seed has a pool of its own, drawn
from the same 1,800 scenes, in which dogs, trees, red cars and blue balls are rare, and night, dusk,
rain and crowds are as rare as in the world. In each round a person answers for 110 s (2.5 s an
answer, 7 s a missed box that is drawn) about images that a strategy chooses. A quick student learns
all of them: the class layer of the embedded student, from nothing, on its frozen features. The area
is the mean of mAP50 on unseen scenes over the seconds. A tenth of the pool's cost is spent in all.
"""

import itertools
import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.labelled_scenes import CACHE as SCENES
from bench.labelled_scenes import labelled_scenes, rendered_world, unseen
from bench.paired_timing import Figure
from secondlook.config.settings import ImageSettings, ModelSettings
from secondlook.core.boxes import iou
from secondlook.core.files import replacing
from secondlook.core.images import decode
from secondlook.core.ontology_yaml import ontology_from_yaml
from secondlook.datasets.samples import Sample, boxes_array
from secondlook.demo.world import ontology_yaml
from secondlook.detector.detections import Detections, select_detections
from secondlook.detector.runtime import stretch
from secondlook.evaluation.map_interval import MapInterval, map_interval
from secondlook.evaluation.matching import TrueBox
from secondlook.evaluation.student_committee import disagreement
from secondlook.evaluation.uncertainty import confirmations
from secondlook.models.embedded import EMBEDDED
from secondlook.review.learning_loop import COMMITTEE, strategy_of
from secondlook.review.loop_record import (
    SECONDS_PER_ANSWER,
    SECONDS_PER_BOX,
    LoopPlan,
    LoopRecord,
    ReviewCost,
    Round,
    StopRules,
)
from secondlook.review.oracle import Oracle
from secondlook.selection.choices import Measure, Strategy
from secondlook.selection.expected_change import gradient_length
from secondlook.selection.strategies import JudgedPool, choose_images
from secondlook_client.values import LabelResult, ReviewAnswer

CACHE = SCENES.parent / "loop"
WORLDS, SCENES_OF_WORLD = (71, 72, 73), 600
UNSEEN_SEED, UNSEEN = 88_001, 400
HELD_OUT, TEST = 100, 100
"""Of the unseen scenes: what the loop measures to decide on, and the test."""
SEEDS = tuple(range(int(os.environ.get("SECONDLOOK_SEEDS", "8"))))
POOL, BATCH = 200, 2
"""Images to choose from, and that are chosen at a time."""
ROUND_S, ROUNDS, LONG = 110.0, 6, 14
"""Seconds of a person in a round, rounds, and rounds where the stop is tried: all images of a pool
take about 6,700 s, so that the rounds are a tenth of it."""
RARE, KEPT = ("dog", "tree", "red car", "blue ball"), 0.02
"""Scenes with one of these classes stay in a pool with this probability."""
BAR, LEVEL, LEAST_SEEDS, STOP_BAR = 1.15, 0.05, 8, 0.1
PLATEAU, DRAWS = 3, 200
L2, NEWTON_STEPS = 1.0, 8
OBJECT_IOU, FLOOR = 0.5, 0.05
STRATEGIES = (
    Strategy.RANDOM,
    Strategy.BALANCE,
    Strategy.MIXED,
    Strategy.UNCERTAINTY,
    Strategy.COMMITTEE,
    Strategy.EXPECTED_CHANGE,
    Strategy.DIVERSITY,
    Strategy.DENSITY,
)
"""All but ``transfer``, which needs images of a target."""
STOPPED = Strategy.BALANCE
"""Whose stop is tried."""
ONTOLOGY = ontology_from_yaml(ontology_yaml(), "the demo world")
CLASSES = ONTOLOGY.names
Floats = NDArray[np.float64]


def run() -> list[Figure | str]:
    """A row a strategy, and the stop."""
    curves = {(seed, one): _curve(seed, one) for seed in SEEDS for one in STRATEGIES}
    rows = [_row(one, curves) for one in STRATEGIES if one is not Strategy.RANDOM]
    best = max(rows, key=lambda row: row.ratio)
    note = (
        f"{len(SEEDS)} seeds; pools of {POOL}; {ROUNDS} rounds of {ROUND_S:g} s of a person, each "
        f"filled {BATCH} images at a time. p is of a sign-flip test on the differences of the "
        f"areas, two-sided. What `balance` knows of earlier rounds was added when seeds 0 and 1 "
        f"had been seen. The best is {best.name.split(':')[0]}. mAP50 after each round and "
        "seconds at the end, means over the seeds:"
    )
    return [*rows, *_stops(), note, _table(curves)]


# The scenes, the embedded student's features and the embedder's vectors


@dataclass(frozen=True, eq=False)
class Features:
    """N scenes as the embedded student sees them."""

    names: Sequence[str]
    hidden: NDArray[np.float32]
    """(N, Q, D) what its class layer is given."""
    boxes: NDArray[np.float32]
    """(N, Q, 4) pixel xyxy."""
    sizes: NDArray[np.int64]
    """(N, 2) width and height."""
    vectors: NDArray[np.float32]
    """(N, E) by the embedder; empty where nobody asks."""


@cache
def _features(name: str) -> Features:
    """Of a world's scenes, or of the unseen ones; computed once."""
    kept = CACHE / f"{name}.npz"
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        _compute_features(kept, _images_of(name), vectors=name != "unseen")
    found = np.load(kept)
    return Features(
        found["names"].tolist(),
        found["hidden"].astype(np.float32),
        found["boxes"],
        found["sizes"],
        found["vectors"],
    )


def _images_of(name: str) -> Path:
    if name == "unseen":
        place = SCENES / f"unseen-{UNSEEN_SEED}-{UNSEEN}"
        return rendered_world(place, UNSEEN_SEED, UNSEEN) / "images"
    seed = int(name.removeprefix("seed-"))
    labelled_scenes(seed, SCENES_OF_WORLD)
    return SCENES / f"{name}-{SCENES_OF_WORLD}" / "world" / "images"


def _compute_features(kept: Path, folder: Path, *, vectors: bool) -> None:
    import torch

    from secondlook.models.registry import load_embedder
    from secondlook.training.model import input_size_of, load_student
    from secondlook.training.predict import to_pixel_values

    student: Any = load_student(EMBEDDED / "student-pico")
    size, seen = input_size_of(student), list[torch.Tensor]()
    student.model.decoder.class_embed[-1].register_forward_hook(
        lambda _, given, out: seen.append(given[0])
    )
    embedder = load_embedder("demo", ModelSettings()) if vectors else None
    parts: dict[str, list[Any]] = {"hidden": [], "boxes": [], "sizes": [], "vectors": []}
    names = sorted(path.name for path in folder.iterdir())
    for at in range(0, len(names), 8):
        images = [
            decode((folder / name).read_bytes(), name, ImageSettings())
            for name in names[at : at + 8]
        ]
        inputs = torch.from_numpy(np.stack([stretch(one.pixels, size) for one in images]))
        with torch.inference_mode():
            output = student(pixel_values=to_pixel_values(inputs.permute(0, 3, 1, 2)))
        sides = np.array([[one.width, one.height] for one in images])
        centre = output.pred_boxes.float().numpy()
        corners = np.concatenate(
            [centre[..., :2] - centre[..., 2:] / 2, centre[..., :2] + centre[..., 2:] / 2], -1
        )
        parts["hidden"].append(seen.pop().float().numpy().astype(np.float16))
        parts["boxes"].append((corners * np.tile(sides, 2)[:, None]).astype(np.float32))
        parts["sizes"].append(sides)
        parts["vectors"].append(embedder.embed(images) if embedder else np.zeros((len(images), 0)))
    arrays = {name: np.concatenate(found) for name, found in parts.items()}
    with replacing(kept) as part, part.open("wb") as file:
        np.savez(file, allow_pickle=False, names=np.array(names), **arrays)


@dataclass(frozen=True, eq=False)
class Pool:
    """The images of a seed, with everything that is known or could be asked of them."""

    features: Features
    results: Sequence[LabelResult]
    truth: Sequence[Sequence[TrueBox]]
    costs: Sequence[ReviewCost]


@cache
def _world(seed: int) -> tuple[Features, Mapping[str, LabelResult], Mapping[str, Any]]:
    """Features, and by name the labels and the truth."""
    scenes = labelled_scenes(seed, SCENES_OF_WORLD)
    by_name = {one.name: one for one in scenes.results.values()}
    truth = {one.name: scenes.truth[key] for key, one in scenes.results.items()}
    return _features(f"seed-{seed}"), by_name, truth


@lru_cache(maxsize=1)
def _pool(seed: int) -> Pool:
    """The pool of a seed: ``POOL`` of all scenes, of those with a rare class only some."""
    rng = np.random.default_rng([seed, 4_711])
    places = []
    for world in WORLDS:
        features, results, truth = _world(world)
        for place, name in enumerate(features.names):
            rare = any(one.class_name in RARE for one in truth.get(name, ()))
            if name in results and (rng.random() < KEPT or not rare):
                places.append((world, place))
    chosen = [places[at] for at in rng.permutation(len(places))[:POOL]]
    worlds = [_world(world) for world, _ in chosen]
    named = [one[0].names[place] for one, (_, place) in zip(worlds, chosen, strict=True)]
    hidden, boxes, sizes, vectors = (
        np.stack(
            [getattr(one[0], key)[place] for one, (_, place) in zip(worlds, chosen, strict=True)]
        )
        for key in ("hidden", "boxes", "sizes", "vectors")
    )
    of_pool = [one[1][name] for one, name in zip(worlds, named, strict=True)]
    true = [one[2][name] for one, name in zip(worlds, named, strict=True)]
    costs = [_cost(*pair) for pair in zip(of_pool, true, strict=True)]
    return Pool(Features(named, hidden, boxes, sizes, vectors), of_pool, true, costs)


def _cost(result: LabelResult, truth: Sequence[TrueBox]) -> ReviewCost:
    """What the loop would ask of a person about an image."""
    oracle = Oracle({result.name: truth}, frozenset(CLASSES), "the truth")
    said = [*oracle.review(result, CLASSES)]
    drawn = sum(one.answer is ReviewAnswer.MISSING for one in said)
    answers = len(said) - drawn + 1  # that nothing else is missing
    seconds = answers * SECONDS_PER_ANSWER + drawn * SECONDS_PER_BOX
    return ReviewCost(answers, drawn, seconds)


def _judged(pool: Pool) -> JudgedPool:
    """What selection knows of the pool, as ``review.image_pool`` reads it of a store."""
    groups = {spec.name: spec.group or spec.name for spec in ONTOLOGY.classes}
    rows: list[tuple[float, ...]] = []
    boxes = 0
    for image, result in enumerate(pool.results):
        judged = [one for one in result.judgements if not one.whole_image]
        keys = [(one.box, groups[one.class_name]) for one in judged]
        numbers = {key: at for at, key in enumerate(dict.fromkeys(keys), start=boxes)}
        boxes += len(numbers)
        found = [
            (
                image,
                numbers[key],
                CLASSES.index(one.class_name),
                one.probability,
                one.score,
                np.nan if one.p_yes is None else one.p_yes,
            )
            for one, key in zip(judged, keys, strict=True)
        ]
        rows += sorted(found, key=lambda row: row[1])
    columns = np.array(rows, np.float64).T
    images, numbers_of, labels = (one.astype(np.intp) for one in columns[:3])
    probabilities, scores, answers = columns[3:]
    nothing = np.full(len(rows), np.nan)
    judged_as = (probabilities, scores, answers, nothing)
    return JudgedPool(pool.features.names, CLASSES, images, numbers_of, labels, *judged_as)


# The quick student


@dataclass(frozen=True, eq=False)
class Heads:
    """A class layer on the frozen features."""

    weights: Floats
    """(D + 1, C), the last row is the bias."""

    def scores(self, hidden: NDArray[np.float32]) -> Floats:
        """(…, C) of (…, D), [0, 1]."""
        logits = hidden.astype(np.float64) @ self.weights[:-1] + self.weights[-1]
        return np.asarray(1 / (1 + np.exp(-logits)))


def _taught(pool: Pool, images: Sequence[int]) -> Heads:
    """Logistic regression by Newton's method, a class at a time."""
    hidden = np.concatenate([pool.features.hidden[at] for at in images]).astype(np.float64)
    hidden = np.concatenate([hidden, np.ones((len(hidden), 1))], axis=1)
    targets, known = (
        np.concatenate(parts)
        for parts in zip(
            *(_targets(pool.features.boxes[at], pool.truth[at]) for at in images), strict=True
        )
    )
    weights = np.zeros((hidden.shape[1], len(CLASSES)))
    ridge = L2 * np.eye(hidden.shape[1])
    for label in range(len(CLASSES)):
        rows = known[:, label]
        x, y = hidden[rows], targets[rows, label]
        w = np.zeros(hidden.shape[1])
        for _ in range(NEWTON_STEPS):
            p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
            curvature = (x * (p * (1 - p))[:, None]).T @ x + ridge
            w -= np.linalg.solve(curvature, x.T @ (p - y) + L2 * w)
        weights[:, label] = w
    return Heads(weights)


def _targets(
    boxes: NDArray[np.float32], truth: Sequence[TrueBox]
) -> tuple[Floats, NDArray[np.bool_]]:
    """(Q, C) which places show which class, and which of these are learnt: of several at one
    object the nearest is, the others are left out."""
    targets = np.zeros((len(boxes), len(CLASSES)))
    known = np.ones(targets.shape, bool)
    overlaps = iou(boxes, boxes_array(one.box for one in truth))
    for column, one in enumerate(truth):
        label, near = CLASSES.index(one.class_name), overlaps[:, column] >= OBJECT_IOU
        known[near & (targets[:, label] == 0), label] = False
        if near.any():
            best = int(overlaps[:, column].argmax())
            targets[best, label], known[best, label] = 1, True
    return targets, known


def _detections(heads: Heads, features: Features, rows: Sequence[int]) -> list[Detections]:
    """What a student finds on some scenes."""
    found = []
    for row in rows:
        width, height = features.sizes[row].tolist()
        scores = heads.scores(features.hidden[row]).astype(np.float32)
        relative = features.boxes[row] / np.array([width, height] * 2, np.float32)
        found.append(select_detections(scores, relative, width, height, FLOOR))
    return found


@cache
def _unseen_samples() -> list[Sample]:
    samples = unseen(UNSEEN_SEED, UNSEEN, CLASSES)
    assert [Path(one.name).name for one in samples] == [*_features("unseen").names]
    return samples


def _measured(heads: Heads, *, interval: bool) -> tuple[float, MapInterval]:
    """mAP50 on the test, and what the loop would measure on its held-out images."""
    samples, places = _unseen_samples(), len(CLASSES)
    rows = range(0 if interval else HELD_OUT, HELD_OUT + TEST)
    found = _detections(heads, _features("unseen"), rows)
    test = map_interval(samples[HELD_OUT : rows.stop], found[-TEST:], places, draws=0)
    if not interval:
        return test.map50, test
    return test.map50, map_interval(samples[:HELD_OUT], found[:HELD_OUT], places, draws=DRAWS)


# The loop


@dataclass(frozen=True)
class Point:
    """A round."""

    seconds: float
    """Of a person, up to its end."""
    map50: float
    """On the test."""
    held_out: MapInterval
    """As the loop measures it; of the long runs alone."""


def _curve(seed: int, strategy: Strategy, rounds: int = ROUNDS) -> list[Point]:
    """The rounds of a strategy on the pool of a seed; computed once."""
    kept = CACHE / f"{seed}-{strategy}-{rounds}.json"
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        found = [asdict(point) for point in _rounds(seed, strategy, rounds)]
        with replacing(kept) as part:
            part.write_text(json.dumps(found))
        told = " ".join(f"{one['map50']:.3f}" for one in found)
        print(f"  {seed} {strategy}: {told}", flush=True)
    plain = json.loads(kept.read_text())
    return [Point(one["seconds"], one["map50"], MapInterval(**one["held_out"])) for one in plain]


def _rounds(seed: int, strategy: Strategy, rounds: int) -> list[Point]:
    pool = _pool(seed)
    judged = _judged(pool)
    asked: list[int] = []
    votes: list[Floats] = []
    points: list[Point] = []
    while len(points) < rounds:
        asked += _chosen(pool, judged, strategy, asked, seed * 1_000 + len(asked))
        seconds = sum(pool.costs[at].seconds for at in asked)
        if seconds >= ROUND_S * (len(points) + 1) or len(asked) == POOL:
            heads = _taught(pool, asked)
            points.append(Point(seconds, *_measured(heads, interval=rounds == LONG)))
            if strategy is Strategy.COMMITTEE:
                votes = [*votes, _votes(pool, judged, heads)][-COMMITTEE:]
                apart = disagreement(np.stack(votes)) if len(votes) > 1 else judged.measured
                judged = replace(judged, measured=apart)
            if strategy is Strategy.EXPECTED_CHANGE:
                judged = replace(judged, changes=_changes(pool, heads))
    return points


def _chosen(
    pool: Pool,
    judged: JudgedPool,
    strategy: Strategy,
    asked: Sequence[int],
    seed: int,
) -> list[int]:
    """The places of the images that are asked about next."""
    used = strategy_of(strategy, [] if judged.changes is None else ["the last one"])
    free = np.setdiff1d(np.arange(len(pool.results)), asked)
    vectors = pool.features.vectors
    some = _restricted(judged, free)
    known = vectors[asked] if asked else None
    objects = _objects(pool, asked)
    some = replace(some, vectors=vectors[free], known=known, known_objects=objects)
    chosen = choose_images(some, used, BATCH, measure=Measure.ENTROPY, seed=seed).chosen
    return [int(free[one.place]) for one in chosen]


def _objects(pool: Pool, asked: Sequence[int]) -> Floats:
    """(C,) true objects on the images that were asked about."""
    labels = [CLASSES.index(one.class_name) for at in asked for one in pool.truth[at]]
    return np.bincount(np.array(labels, np.intp), minlength=len(CLASSES)).astype(np.float64)


def _restricted(judged: JudgedPool, free: NDArray[np.intp]) -> JudgedPool:
    """The pool of some of its images."""
    rows = np.isin(judged.images, free)
    _, boxes = np.unique(judged.boxes[rows], return_inverse=True)
    return replace(
        judged,
        names=[judged.names[at] for at in free.tolist()],
        images=np.searchsorted(free, judged.images[rows]),
        boxes=boxes,
        labels=judged.labels[rows],
        probabilities=judged.probabilities[rows],
        scores=judged.scores[rows],
        answers=judged.answers[rows],
        measured=judged.measured[rows],
        changes=None if judged.changes is None else judged.changes[free],
    )


def _votes(pool: Pool, judged: JudgedPool, heads: Heads) -> Floats:
    """(J,) how a student votes about each judgement."""
    votes = np.zeros(len(judged.labels))
    found = _detections(heads, pool.features, range(len(pool.results)))
    bounds = np.searchsorted(judged.images, np.arange(len(pool.results) + 1))
    for image, result in enumerate(pool.results):
        rows = slice(*bounds[image : image + 2])
        boxes = [j for j in result.judgements if not j.whole_image]
        # In the order of the pool's rows: by box, then as they were judged.
        order = np.argsort(_box_numbers(boxes), kind="stable")
        first = Detections(
            boxes_array([boxes[at].box for at in order]),
            np.ones(len(order), np.float32),
            judged.labels[rows].astype(np.int64),
        )
        votes[rows] = confirmations(first, found[image]).scores
    return votes


def _box_numbers(judged: Sequence[Any]) -> list[int]:
    groups = {spec.name: spec.group or spec.name for spec in ONTOLOGY.classes}
    keys = [(one.box, groups[one.class_name]) for one in judged]
    numbers = {key: at for at, key in enumerate(dict.fromkeys(keys))}
    return [numbers[key] for key in keys]


def _changes(pool: Pool, heads: Heads) -> Floats:
    """(N,) how much each image would change the newest student."""
    hidden = pool.features.hidden
    return np.array([gradient_length(one, heads.scores(one)) for one in hidden])


# The figures


def _area(points: Sequence[Point], until: float) -> float:
    """The mean mAP50 from 0 to ``until`` seconds; before the first round it rises from 0."""
    x = [0.0, *(one.seconds for one in points)]
    y = [0.0, *(one.map50 for one in points)]
    at = np.linspace(0, until, 1_000)
    return float(np.interp(at, x, y).mean())


Curves = Mapping[tuple[int, Strategy], Sequence[Point]]


def _row(strategy: Strategy, curves: Curves) -> Figure:
    ours, randoms = [], []
    for seed in SEEDS:
        of_seed = [points for (one, _), points in curves.items() if one == seed]
        until = min(points[-1].seconds for points in of_seed)
        ours.append(_area(curves[seed, strategy], until))
        randoms.append(_area(curves[seed, Strategy.RANDOM], until))
    ratios = [a / b for a, b in zip(ours, randoms, strict=True)]
    p = sign_flip([a - b for a, b in zip(ours, randoms, strict=True)])
    ratio = statistics.median(ratios)
    return Figure(
        f"{strategy}: area under mAP50 against seconds, over random",
        f"≥ {BAR:g} at p < {LEVEL:g} on ≥ {LEAST_SEEDS} pools",
        statistics.median(ours),
        statistics.median(randoms),
        "mAP50",
        ratio,
        min(ratios),
        max(ratios),
        len(SEEDS),
        ratio >= BAR and p < LEVEL and len(SEEDS) >= LEAST_SEEDS,
        f": p = {p:.3f} on {len(SEEDS)}",
    )


def sign_flip(differences: Sequence[float]) -> float:
    """The two-sided p-value of their mean, were each as likely to have the other sign."""
    found = abs(sum(differences))
    flips = itertools.product((1, -1), repeat=len(differences))
    sums = [
        abs(math.fsum(s * d for s, d in zip(signs, differences, strict=True))) for signs in flips
    ]
    return sum(one >= found - 1e-12 for one in sums) / len(sums)


def _stops() -> list[Figure]:
    """Where the plateau ends a loop, against the least time that reaches 99 % of what there is."""
    ratios, shares, ends, best = [], [], [], []
    for seed in SEEDS:
        points = _curve(seed, STOPPED, LONG)
        most = max(one.map50 for one in points)
        hindsight = next(one for one in points if one.map50 >= 0.99 * most)
        stop = points[_stop_of(points)]
        ends.append(stop.seconds)
        best.append(hindsight.seconds)
        ratios.append(stop.seconds / hindsight.seconds)
        shares.append(stop.map50 / most)
    ratio = statistics.median(ratios)
    near = sum(abs(one - 1) <= STOP_BAR for one in ratios)
    return [
        Figure(
            f"stop at a plateau of {PLATEAU} rounds ({STOPPED}, at most {LONG}): seconds over the "
            "least that reach 99 % of the highest mAP50",
            f"within {STOP_BAR:.0%} on most pools",
            statistics.median(ends),
            statistics.median(best),
            "s",
            ratio,
            min(ratios),
            max(ratios),
            len(SEEDS),
            2 * near > len(SEEDS),
            f" on {near} of {len(SEEDS)}; mAP50 at the stop is {statistics.median(shares):.3f} "
            f"({min(shares):.3f}–{max(shares):.3f}) of the highest",
        )
    ]


def _stop_of(points: Sequence[Point]) -> int:
    """The round after which the loop ends; the last one where it does not."""
    rules = StopRules(plateau=PLATEAU)
    rounds: tuple[Round, ...] = ()
    for number, one in enumerate(points):
        cost = ReviewCost(seconds=one.seconds)
        rounds += (Round(number + 1, cost=cost, measured=one.held_out),)
        if rules.reason(LoopRecord(LoopPlan("bench", "run"), rounds=rounds)):
            return number
    return len(points) - 1


def _table(curves: Curves) -> str:
    head = "| strategy | " + " | ".join(str(n + 1) for n in range(ROUNDS)) + " | seconds |"
    lines = [head, "|---" * (ROUNDS + 2) + "|"]
    for one in STRATEGIES:
        means = [
            statistics.mean(curves[seed, one][n].map50 for seed in SEEDS) for n in range(ROUNDS)
        ]
        seconds = statistics.mean(curves[seed, one][-1].seconds for seed in SEEDS)
        told = " | ".join(f"{mean:.3f}" for mean in means)
        lines.append(f"| {one} | {told} | {seconds:,.0f} |")
    return "\n".join(lines)
