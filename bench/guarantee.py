"""Guaranteed precision: whether it holds, what it covers, and how soon a broken one is noticed.

Drawn world, 600 scenes that the models have not seen: a guarantee of 0.95 at confidence 0.95 is
made from at most 200 answers about half of the scenes and looked at in both halves, 200 times. The
real faces are in the suite ``real_two_stage``. Then simulated populations whose precision is known,
and simulated streams.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.paired_timing import Figure, against
from bench.trust import DRAWN, JudgedSet, drawn_world
from secondlook.evaluation.calibrator_fit import cross_fitted
from secondlook.evaluation.guarantee import Promise, SamplePlan, Terms, certify, draw
from secondlook.evaluation.precision_monitor import PrecisionMonitor
from secondlook.evaluation.score_drift import ScoreDrift, ScoreReference, Values, reference_of
from secondlook_client.values import ReviewAnswer

RESPLITS, DRAWS, STREAMS, DRIFTING = 200, 1000, 200, 40
TERMS = {promise: Terms(promise=promise) for promise in Promise}
TARGET = 0.95
CALIBRATOR = "calibrator"
PLAIN = "plain threshold"
FRAMES, FIRST, BOXES, GOOD = 5000, 1000, 5, 0.97
"""A stream's frames, those that the guarantee was made from, accepted boxes a frame, and the
precision until the change."""
LEVELS = (0.90, 0.85, 0.80)
RATES = (0.01, 0.02, 0.05)
ALLOWED_FALL = 0.03
SPREAD = 40.0
"""Of the scores of a stream, which have a beta distribution: its two parameters' sum."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """What a threshold from one half of the scenes came to."""

    own: float
    """Precision of what reaches it in that half."""
    other: float
    """In the other half; 1 where nothing reaches it."""
    pooled: float
    """In both: the noise of the halves cancels."""
    coverage: float
    """Share of the right boxes of the other half that reach it."""
    answers: int


def run() -> list[Figure | str]:
    """Figures with their bars, and a table for each part."""
    return [*_resplits(drawn_world()), *_simulated(), *_streams(), *_drifting_streams()]


# --- half of the scenes against the other half ---------------------------------------------------


def _resplits(world: JudgedSet) -> Iterator[Figure | str]:
    judged = world.run
    calibrated = cross_fitted(
        world.features, judged.class_names, world.right, world.scenes, ontology=judged.ontology
    )
    values = {
        "P(yes)": np.nan_to_num(judged.p_yes),
        "score × P(yes)": judged.products,
        CALIBRATOR: np.nan_to_num(calibrated),
    }
    found: dict[tuple[str, str, str], list[Outcome]] = {}
    for name, probability in values.items():
        side = _Sides(world, probability, judged.right(probability))
        classes = ["", *(judged.ontology.names if name == CALIBRATOR else ())]
        for class_name in classes:
            for seed in range(RESPLITS):
                for kind, outcome in side.outcomes(class_name, seed):
                    found.setdefault((class_name, name, kind), []).append(outcome)
    yield from _bars(found)
    yield _table(found)


@dataclass(frozen=True, eq=False)
class _Sides:
    """A probability of all pairs, and which of them are right."""

    world: JudgedSet
    probability: Floats
    right: Flags

    def outcomes(self, class_name: str, seed: int) -> Iterator[tuple[str, Outcome]]:
        """What is given on the first half: by promise, and the plain threshold."""
        first = ~self.world.half(seed)
        of_class = self.world.known & (
            (self.world.run.class_names == class_name) | (class_name == "")
        )
        rows = np.flatnonzero(first & of_class)
        for promise, terms in TERMS.items():
            plan = draw(
                self.probability[rows],
                self.world.run.class_names[rows],
                self.world.scenes[rows],
                terms,
                class_name=class_name,
                seed=seed,
            )
            found = certify(plan, _answered(plan, self.right[rows]))
            if found.threshold is not None:
                kept = of_class & (self.probability >= found.threshold)
                yield promise, self._outcome(kept, first, of_class, found.answers)
            if promise is Promise.RUN:
                threshold = _plain_threshold(self.probability[rows], self.right[rows], plan)
                kept = of_class & (self.probability >= threshold)
                if kept.any():
                    yield PLAIN, self._outcome(kept, first, of_class, len(plan.rows))

    def _outcome(self, kept: Flags, first: Flags, of_class: Flags, answers: int) -> Outcome:
        other = kept & ~first
        return Outcome(
            float(self.right[kept & first].mean()) if (kept & first).any() else 1.0,
            float(self.right[other].mean()) if other.any() else 1.0,
            float(self.right[kept].mean()),
            float(self.right[other].sum() / max(1, self.right[of_class & ~first].sum())),
            answers,
        )


def _answered(plan: SamplePlan, right: Flags) -> dict[int, ReviewAnswer]:
    answers = ReviewAnswer.WRONG, ReviewAnswer.RIGHT
    return {row: answers[int(right[row])] for row in plan.rows.tolist()}


def _plain_threshold(probability: Floats, right: Flags, plan: SamplePlan) -> float:
    """The lowest at which the answers have the precision; above 1 where there is none."""
    asked = probability[plan.rows]
    precision = np.cumsum(right[plan.rows]) / np.arange(1, len(asked) + 1)
    good = np.flatnonzero(precision >= TARGET)
    return float(asked[good[-1]]) if len(good) else 2.0


def _bars(found: Mapping[tuple[str, str, str], Sequence[Outcome]]) -> Iterator[Figure]:
    def broken(key: tuple[str, str, str], half: str) -> float:
        return sum(getattr(one, half) < TARGET for one in found.get(key, ())) / RESPLITS

    yield against(
        "all classes together, promise for scenes: broken on the other half",
        broken(("", CALIBRATOR, Promise.SCENES), "other"),
        0.05,
        "of the resplits",
    )
    yield against(
        "all classes together, promise for the run: broken in the run",
        broken(("", CALIBRATOR, Promise.RUN), "own"),
        0.05,
        "of the resplits",
    )
    names = {name for name, _, _ in found if name}
    for promise, half in ((Promise.SCENES, "other"), (Promise.RUN, "own")):
        worst = max(names, key=lambda name: broken((name, CALIBRATOR, promise), half))
        yield against(
            f"worst class ({worst}), promise for {promise}: broken in the {half} half",
            broken((worst, CALIBRATOR, promise), half),
            0.05,
            "of the resplits",
        )


def _table(found: Mapping[tuple[str, str, str], Sequence[Outcome]]) -> str:
    scenes = " and ".join(f"{count} of seed {seed}" for seed, count in DRAWN.items())
    lines = [
        f"Drawn world, scenes: {scenes}, half of them on each side, {RESPLITS} resplits. The floor "
        f"without a single error is {Terms().fewest_answers} answers. *Held* is the share of the "
        "given guarantees with a precision of 0.95 in reality: in the half that the answers are "
        "from, in the other half, in both together (the halves of one class have few boxes, so "
        "that their precision is noisy). The plain threshold is the lowest at which the answers "
        "about the run have the precision. Coverage is that of the right boxes of the other half; "
        "where nothing was given it is 0.\n",
        "| of | probability | threshold | given | held: own half | other half | both | coverage | "
        "coverage where given | answers |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (class_name, name, kind), some in found.items():
        given = len(some) / RESPLITS
        halves = ("own", "other", "pooled")
        held = [np.mean([getattr(one, half) >= TARGET for one in some]) for half in halves]
        coverage = float(np.mean([one.coverage for one in some]))
        numbers = [given, *held, coverage * given, coverage]
        cells = " | ".join(f"{number:.3f}" for number in numbers)
        answers = np.mean([one.answers for one in some])
        what = class_name or "all classes"
        lines.append(f"| {what} | {name} | {kind} | {cells} | {answers:.0f} |")
    return "\n".join(lines)


# --- populations whose precision is known --------------------------------------------------------


def _simulated() -> Iterator[Figure | str]:
    rows = []
    for promise in Promise:
        for precision in (0.949, 0.96, 0.97, 0.98, 0.99):
            given = np.mean([_given(promise, precision, seed) for seed in range(DRAWS)])
            rows.append(f"| {promise} | {precision} | {given:.3f} |")
            if precision < TARGET:
                yield against(
                    f"whole scenes wrong, precision {precision}: a guarantee for {promise} given",
                    float(given),
                    0.05 + 2 * (0.05 * 0.95 / DRAWS) ** 0.5,
                    "of the draws",
                )
    yield "\n".join(
        [
            f"400 scenes with 1 to 12 boxes, each scene all right or all wrong, {DRAWS} draws of "
            "200 answers. For *run* the population has that precision, for *scenes* each draw has "
            "new scenes.\n",
            "| promise | true precision | given |",
            "|---|---|---|",
            *rows,
        ]
    )


def _given(promise: Promise, precision: float, seed: int) -> bool:
    """One threshold, so that every guarantee below the target is wrong."""
    draws = np.random.default_rng(0 if promise is Promise.RUN else seed)
    scenes = np.repeat(np.arange(400), draws.integers(1, 13, 400))
    right = (draws.random(400) < precision)[scenes]
    if promise is Promise.RUN:  # exact to the last box; wrong ones are neighbours
        right = np.arange(len(scenes)) >= np.ceil((1 - precision) * len(scenes))
    probability = np.full(len(scenes), 0.98)
    plan = draw(probability, ["box"] * len(scenes), scenes, TERMS[promise], seed=seed)
    return certify(plan, _answered(plan, right)).holds


# --- streams -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watched:
    """A stream under a guarantee."""

    false_alarm: bool
    delay: float
    """Frames from the change to the alarm; infinite without one."""
    lost: float
    """How far the precision of everything accepted under the guarantee had fallen by then."""
    checks: float
    """Share of the boxes that was checked."""


def _streams() -> Iterator[Figure | str]:
    rows = []
    for rate in RATES:
        for level in (TARGET, GOOD, *LEVELS):
            some = [_watched(rate, level, seed) for seed in range(STREAMS)]
            alarms = float(np.mean([one.false_alarm for one in some]))
            checks = float(np.mean([one.checks for one in some]))
            row = f"| {rate} | {level} | {alarms:.3f} "
            if level >= TARGET:
                row += f"| – | – | – | {checks:.4f} |"
                if rate == 0.02:
                    yield against(
                        f"streams of {FRAMES:,} frames at {level}: false alarms",
                        alarms,
                        0.1,
                        "of the streams",
                    )
            else:
                told = [one for one in some if not one.false_alarm]
                late = float(np.mean([one.lost >= ALLOWED_FALL for one in told]))
                delay = float(np.median([one.delay for one in told]))
                lost = float(np.mean([one.lost for one in told]))
                row += f"| {1 - late:.3f} | {delay:.0f} | {lost:.4f} | {checks:.4f} |"
                if rate == 0.02:
                    yield against(
                        f"a fall from {GOOD} to {level} told after 3 points were lost",
                        late,
                        0.05,
                        "of the streams",
                    )
            rows.append(row)
    yield "\n".join(
        [
            f"{STREAMS} streams of {FRAMES:,} frames with {BOXES} accepted boxes each; the "
            f"guarantee was made from the first {FIRST:,}. The precision is {GOOD} and falls at a "
            "random later frame; at 0.95 and 0.97 it stays there all the time. *In time*: the "
            "precision of everything that was accepted under the guarantee had not yet fallen by "
            "three points.\n",
            "| trickle | precision after the change | false alarms | in time | frames to the "
            "alarm, median | precision lost, mean | boxes checked |",
            "|---|---|---|---|---|---|---|",
            *rows,
        ]
    )


def _watched(rate: float, level: float, seed: int, drift: "_Drift | None" = None) -> Watched:
    """One stream; its precision falls to ``level``, unless that is the target or above."""
    chance = random.Random(f"{rate} {level} {seed}")
    monitor = PrecisionMonitor(TARGET, rate=rate, seed=str(chance.random()))
    falls = level < TARGET
    change = chance.randrange(FIRST, FRAMES - 200) if falls or drift else FRAMES
    before = GOOD if falls else level
    scores = drift.scores(change, seed) if drift else ()
    follower = ScoreDrift(drift.reference) if drift and drift.raises else None
    end = FRAMES
    for frame in range(FIRST, FRAMES):
        precision = before if frame < change else level
        check = monitor.draw(frame, BOXES)
        if check and not monitor.observe(check, chance.random() < precision):
            end = frame + 1
            break
        if follower:
            follower.follow(scores[frame], monitor)
    lost = (before - level) * max(0, end - change) / end
    checks = monitor.checked / max(1, monitor.accepted)
    false_alarm = not monitor.holds and (end <= change or not falls)
    return Watched(false_alarm, end - change if not monitor.holds else float("inf"), lost, checks)


# --- streams whose scores change ------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Drift:
    """Scores of streams: their mean is ``GOOD`` and becomes ``after`` with the precision."""

    reference: ScoreReference
    after: float
    raises: bool
    """Whether they raise the share of checks."""

    def scores(self, change: int, seed: int) -> Sequence[Values]:
        draws = np.random.default_rng([seed, 1])
        return [*_scores(GOOD, change, draws), *_scores(self.after, FRAMES - change, draws)]


def _scores(mean: float, frames: int, draws: np.random.Generator) -> list[Values]:
    shape = SPREAD * mean, SPREAD * (1 - mean)
    rows = draws.beta(*shape, (frames, BOXES)).tolist()
    return [(tuple(row), (), (), ()) for row in rows]


def _drifting_streams() -> Iterator[Figure | str]:
    """How much earlier a fall is told where the scores change with it."""
    population = _scores(GOOD, 2000, np.random.default_rng(0))
    reference = reference_of([population[n : n + 250] for n in range(0, 2000, 250)])
    assert reference
    rows = []
    for level, after in _changes():
        found = {
            raises: [
                _watched(0.02, level, seed, _Drift(reference, after, raises))
                for seed in range(DRIFTING)
            ]
            for raises in (False, True)
        }
        yield from _drift_bars(level, after, found[True])
        cells = " | ".join(_drift_cells(level, found[raises]) for raises in (False, True))
        rows.append(f"| {level} | {after:.3f} | {cells} |")
    yield "\n".join(
        [
            f"{DRIFTING} streams as above, trickle 0.02; the mean P(right) of the boxes is {GOOD} "
            "and changes with the precision, by all of the fall or by half of it. At "
            "0.95 the precision stays, and the scores change all the same, at a random frame. Each "
            "cell: false alarms; told in time; frames to the alarm, median; boxes checked.\n",
            "| precision after the change | mean P(right) then | without drift | with drift |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _changes() -> Iterator[tuple[float, float]]:
    """Precision and mean score after a change."""
    yield from ((TARGET, after) for after in (GOOD, 0.9))
    for level in LEVELS:
        yield from ((level, GOOD - share * (GOOD - level)) for share in (1.0, 0.5))


def _drift_bars(level: float, after: float, some: Sequence[Watched]) -> Iterator[Figure]:
    what = f"drift raises the checks, scores about {after:.3f}"
    if level >= TARGET:
        alarms = float(np.mean([one.false_alarm for one in some]))
        yield against(f"{what}: false alarms at {level}", alarms, 0.1, "of the streams")
    else:
        late = float(np.mean([one.lost >= ALLOWED_FALL for one in some if not one.false_alarm]))
        told = f"{what}: a fall to {level} told after 3 points were lost"
        yield against(told, late, 0.05, "of the streams")


def _drift_cells(level: float, some: Sequence[Watched]) -> str:
    alarms, checks = (
        float(np.mean([getattr(s, n) for s in some])) for n in ("false_alarm", "checks")
    )
    told = [one for one in some if not one.false_alarm]
    if level >= TARGET:
        return f"{alarms:.2f}; –; –; {checks:.4f}"
    soon = float(np.mean([one.lost < ALLOWED_FALL for one in told]))
    delay = float(np.median([one.delay for one in told]))
    return f"{alarms:.2f}; {soon:.2f}; {delay:.0f}; {checks:.4f}"
