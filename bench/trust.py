"""The calibrated probability against plain confidences: what it keeps, and how honest it is.

Twenty times half of the scenes give answers and the other half judges. *Missed* is the share of the
right labels that is not accepted while 95 or 99 % of what is accepted is right, for each ranking at
its own best threshold in hindsight. Four sets: the drawn world; the same made hard (smaller,
darker, noisy, partly covered); the drawn world with a verifier that is made worse on purpose (noise
on its answers); real faces. The shipped calibrator is judged on 200 scenes that neither it nor the
models have seen.
"""

import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from real_photos import faces

from bench import fixtures, real_two_stage
from bench.judged_runs import JudgedRun, of_labelled
from bench.paired_timing import Figure, against
from secondlook.config.settings import PipelineSettings
from secondlook.core.files import replacing
from secondlook.core.images import decode
from secondlook.core.types import Image, Labelled, Pixels
from secondlook.demo.world import Thing, classes_of, scene
from secondlook.evaluation.calibration import auroc, reliability_of, risk_coverage
from secondlook.evaluation.calibrator_fit import USED, cross_fitted, fit_calibrator
from secondlook.evaluation.matching import (
    Counts,
    Quality,
    ScoredBox,
    ScoredImage,
    TrueBox,
    evaluate,
)
from secondlook.labeling.box_features import FEATURES, VERIFIER_FEATURES, box_features
from secondlook.labeling.calibrator import Calibrator
from secondlook.labeling.decisions import judge
from secondlook.labeling.pipeline import Task
from secondlook.models.embedded_calibrator import embedded_calibrator
from secondlook_client.values import Outcome

CACHE = Path(__file__).parents[1] / ".cache" / "bench" / "trust"
SHIPPED_SEED, SHIPPED_SCENES = 90_210, 200
DRAWN = {SHIPPED_SEED: SHIPPED_SCENES, 501: 400}
"""Scenes by seed. Those of 501 were seen by the shipped calibrator, and by nothing that is measured
on them here."""
HARD_SEED, HARD_SCENES = 90_211, 200
RESPLITS, RESPLITS_OF_TREES = 20, 5
ANSWERS = (50, 100, 200, 500)
TARGETS = (0.95, 0.99)
NOISE = 2.0
"""Standard deviation of what is added to the logit of P(yes) to make a worse verifier."""
BOXES = 1_000_000
TREES = "boosted trees"
UNASKED = tuple(name for name in USED if name not in VERIFIER_FEATURES)
LOSS, CLEAR = 0.0025, 0.1
"""F1 that may be lost where the limit is chosen; how near to no or yes an answer is clear."""
AT_ONCE = 8
OURS, P_YES, PRODUCT, SCORE = "calibrator", "P(yes)", "score × P(yes)", "score"

T = TypeVar("T")
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scenes:
    """Scenes of the drawn world as the embedded models labelled them."""

    labelled: Sequence[Labelled]
    truth: Sequence[Sequence[TrueBox]]

    def judged(self) -> JudgedRun:
        """What was judged on them."""
        return of_labelled(self.labelled, fixtures.ontology(), self.truth)


@dataclass(frozen=True, eq=False)
class JudgedSet:
    """A run with what all its figures have in common."""

    title: str
    run: JudgedRun
    scenes: NDArray[np.intp]

    @cached_property
    def features(self) -> Floats:
        """(J, F)."""
        return self.run.features()

    @cached_property
    def known(self) -> Flags:
        """(J,) answered by the verifier, and right or wrong."""
        return self.run.known() & np.isfinite(self.run.p_yes)

    @cached_property
    def right(self) -> Flags:
        """(J,) the answers that a calibrator is fitted to."""
        return self.run.right(self.run.products)

    def half(self, seed: int) -> Flags:
        """(J,) whether a box's scene is in the half that judges."""
        distinct, which = np.unique(self.scenes, return_inverse=True)
        return (np.random.default_rng(seed).permutation(len(distinct)) % 2 == 1)[which]

    def fitted(self, rows: NDArray[np.intp] | Flags, use: Sequence[str] = USED) -> Calibrator:
        """A calibrator from some answers."""
        return fit_calibrator(
            self.features[rows],
            self.run.class_names[rows],
            self.right[rows],
            self.scenes[rows],
            use=use,
            ontology=self.run.ontology,
        )


def run() -> list[Figure | str]:
    """Figures with their bars, and a table for each set."""
    worlds = _worlds()
    drawn = _set("Drawn world", _joined(worlds).judged())
    hard = _set("Hard drawn world", _scenes(HARD_SEED, HARD_SCENES, _harder).judged())
    sets = [drawn, hard, _worse(drawn)]
    data = Path(os.environ.get("SECONDLOOK_TEST_DATA", "../shared/data"))
    notes: list[Figure | str] = []
    try:
        known = faces(data)
        photos = _kept("faces", lambda: real_two_stage.measured("Real faces", known))
        sets.append(JudgedSet("Real faces", photos.judged, photos.scenes))
    except FileNotFoundError as cause:
        notes.append(f"Real faces: not measured, {cause.filename} is absent.")
    for one in sets:
        notes += _compared(one)
        notes.append(_learning_curve(one))
    return [*_shipped(worlds[0]), *notes, *_asked(drawn), *_speed(drawn)]


# --- the sets ------------------------------------------------------------------------------------


def drawn_world() -> JudgedSet:
    """All scenes of ``DRAWN``; each image is a scene of its own."""
    return _set("Drawn world", _joined(_worlds()).judged())


def _worlds() -> list[Scenes]:
    return [_scenes(seed, count, _plain) for seed, count in DRAWN.items()]


def _set(title: str, found: JudgedRun) -> JudgedSet:
    """Each image is a scene of its own."""
    return JudgedSet(title, found, found.scenes)


def _joined(parts: Sequence[Scenes]) -> Scenes:
    return Scenes(
        [one for part in parts for one in part.labelled],
        [one for part in parts for one in part.truth],
    )


def _worse(drawn: JudgedSet) -> JudgedSet:
    """The drawn world with noise on the answers."""
    found = drawn.run.found
    p_yes = np.clip(found.p_yes, 1e-6, 1 - 1e-6)
    logits = np.log(p_yes) - np.log1p(-p_yes)
    logits += np.random.default_rng(0).normal(0, NOISE, logits.shape)
    noisy = replace(drawn.run, found=replace(found, p_yes=1 / (1 + np.exp(-logits))))
    return _set("Drawn world, worse verifier", noisy)


Drawn = tuple[Pixels, Sequence[Thing]]


def _plain(pixels: Pixels, things: Sequence[Thing], rng: np.random.Generator) -> Drawn:
    return pixels, things


def _harder(pixels: Pixels, things: Sequence[Thing], rng: np.random.Generator) -> Drawn:
    """A scene at half to four fifths of its size, dark, noisy, some things half covered."""
    covered = np.array(pixels)
    for thing in things:
        if rng.random() < 0.25:
            _cover(covered, thing, rng)
    height, width = covered.shape[:2]
    size = round(width * (share := rng.uniform(0.5, 0.8))), round(height * share)
    small = np.asarray(PILImage.fromarray(covered).resize(size, PILImage.Resampling.LANCZOS))
    dark = small * rng.uniform(0.25, 0.6) + rng.normal(0, rng.uniform(4, 12), small.shape)
    scale = np.array([size[0] / width, size[1] / height] * 2)
    moved = [replace(t, box=tuple((np.array(t.box) * scale).tolist())) for t in things]
    return np.clip(dark, 0, 255).astype(np.uint8), moved


def _cover(pixels: Pixels, thing: Thing, rng: np.random.Generator) -> None:
    """Hide a third to a half of a thing behind one plain board at one of its sides."""
    x1, y1, x2, y2 = (round(side) for side in thing.box)
    across, down = (
        round((x2 - x1) * rng.uniform(0.33, 0.5)),
        round((y2 - y1) * rng.uniform(0.33, 0.5)),
    )
    x, y = (
        (slice(x1, x1 + across), slice(y1, y2)),
        (slice(x2 - across, x2), slice(y1, y2)),
        (slice(x1, x2), slice(y2 - down, y2)),
    )[rng.integers(3)]
    pixels[y, x] = rng.integers(40, 200, 3)


def _scenes(seed: int, count: int, change: Callable[..., Drawn]) -> Scenes:
    """Labelled once and kept, so that a benchmark that was killed goes on."""
    return _kept(f"{seed}-{count}", lambda: _labelled(seed, count, change))


def _kept(name: str, make: Callable[[], T]) -> T:
    path = CACHE / f"{name}.pickle"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        made = make()
        with replacing(path) as part:
            part.write_bytes(pickle.dumps(made))
    kept: T = pickle.loads(path.read_bytes())
    return kept


def _labelled(seed: int, count: int, change: Callable[..., Drawn]) -> Scenes:
    pipeline, ontology = fixtures.pipeline(), fixtures.ontology()
    labelled: list[Labelled] = []
    truth = []
    for start in range(0, count, AT_ONCE):
        tasks = []
        for number in range(start, min(start + AT_ONCE, count)):
            rendered = scene(seed, number)
            jpeg = decode(fixtures.jpeg(rendered.image)).pixels
            pixels, things = change(jpeg, rendered.things, np.random.default_rng([seed, number]))
            tasks.append(Task(Image(pixels, f"{number:064x}", str(number)), ontology))
            truth.append([TrueBox(name, t.box) for t in things for name in classes_of(t)])
        labelled += pipeline.label(tasks)
    return Scenes(labelled, truth)


# --- rankings ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ranked:
    """What a ranking came to, mean over the resplits."""

    missed: NDArray[np.float64]
    """(targets, classes)."""
    not_auroc: float
    """1 - AUROC, all classes together."""
    error: float
    """Expected calibration error; NaN of what is no probability."""


def _compared(of: JudgedSet) -> Iterator[Figure | str]:
    plain = _plain_rankings(of)
    rankings: dict[str, list[Ranked]] = {}
    for seed in range(RESPLITS):
        judged = of.half(seed)
        own = np.flatnonzero(~judged & of.known)
        values = {**plain, OURS: _values(of, of.fitted(own))}
        if seed < RESPLITS_OF_TREES:
            values[TREES] = _trees(of, own)
        for name, (ranked, right) in ((name, _with_right(of, v)) for name, v in values.items()):
            rows = judged & of.known
            rankings.setdefault(name, []).append(_ranked(of, ranked, right, rows, name))
    means = {name: _mean(found) for name, found in rankings.items()}
    yield from _bars(of, means)
    yield _table(of, means)


def _plain_rankings(of: JudgedSet) -> dict[str, Floats | tuple[Floats, Flags]]:
    """Values with what is right by them; of a feature alone, the better of its two directions."""
    found = {P_YES: np.nan_to_num(of.run.p_yes), PRODUCT: of.run.products, SCORE: of.run.scores}
    for column, name in enumerate(FEATURES):
        values = np.nan_to_num(of.features[:, column], nan=-99.0)
        if name not in ("score", "p_yes", "product"):
            rising = auroc(values[of.known], of.right[of.known]) >= 0.5
            found[name] = values if rising else -values
    return {name: (values, of.run.right(values)) for name, values in found.items()}


def _with_right(of: JudgedSet, values: Floats | tuple[Floats, Flags]) -> tuple[Floats, Flags]:
    return values if isinstance(values, tuple) else (values, of.run.right(values))


def _values(of: JudgedSet, fitted: Calibrator) -> Floats:
    return np.nan_to_num(fitted.probabilities(of.features, of.run.class_names))


def _trees(of: JudgedSet, rows: NDArray[np.intp]) -> Floats:
    """Boosted trees of all features and the class, monotone in score and P(yes)."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    table = np.column_stack([of.features, of.run.classes])
    rises = [int(name in ("score", "p_yes", "product")) for name in FEATURES]
    model = HistGradientBoostingClassifier(
        max_leaf_nodes=15,
        monotonic_cst=[*rises, 0],
        categorical_features=[len(FEATURES)] if len(of.run.ontology.classes) <= 255 else None,
        random_state=0,
    )
    model.fit(table[rows], of.right[rows])
    probabilities: Floats = model.predict_proba(table)[:, 1]
    return probabilities


def _ranked(of: JudgedSet, values: Floats, right: Flags, rows: Flags, name: str) -> Ranked:
    missed = np.full((len(TARGETS), len(of.run.ontology.classes)), np.nan)
    for place in range(missed.shape[1]):
        own = rows & (of.run.classes == place)
        if right[own].any():
            curve = risk_coverage(values[own], right[own])
            missed[:, place] = [1 - curve.kept_at(target) for target in TARGETS]
    is_probability = name in (OURS, TREES, P_YES, PRODUCT, SCORE)
    error = reliability_of(values[rows], right[rows]).error if is_probability else None
    return Ranked(missed, 1 - auroc(values[rows], right[rows]), np.nan if error is None else error)


def _mean(found: Sequence[Ranked]) -> Ranked:
    missed = np.nanmean([one.missed for one in found], axis=0)
    return Ranked(
        missed,
        float(np.mean([one.not_auroc for one in found])),
        float(np.mean([one.error for one in found])),
    )


def _bars(of: JudgedSet, means: Mapping[str, Ranked]) -> Iterator[Figure]:
    ours, plain = means[OURS], means[P_YES]
    for place, target in enumerate(TARGETS):
        kept, before = np.nanmean(ours.missed[place]), np.nanmean(plain.missed[place])
        yield _ratio(f"{of.title}: missed at {target} ÷ P(yes)'s", float(kept), float(before), 0.6)
        worse = float(np.nanmax(ours.missed[place] - plain.missed[place]))
        yield against(
            f"{of.title}: worst class against P(yes) at {target}", worse, 0.02, "more missed"
        )
    yield against(f"{of.title}: calibration error", ours.error, 0.03, "ECE")
    best = min(one.not_auroc for name, one in means.items() if name not in (OURS, TREES))
    yield _ratio(f"{of.title}: 1 - AUROC ÷ the best single feature's", ours.not_auroc, best, 0.75)


def _ratio(name: str, ours: float, baseline: float, bar: float) -> Figure:
    ratio = ours / baseline if baseline else float(ours > 0)
    return Figure(
        name, f"≤ {bar:g}", ours, baseline, "", ratio, ratio, ratio, RESPLITS, ratio <= bar
    )


def _table(of: JudgedSet, means: Mapping[str, Ranked]) -> str:
    """All rankings, the best first; each class where classes are few, single features in a line."""
    names = of.run.ontology.names
    shown = names if len(names) <= 12 else ()
    lines = [
        f"**{of.title}**: {len(of.run.truth)} scenes, {of.known.sum():,} judged boxes, "
        f"{of.right[of.known].sum():,} right. Missed at 0.95 / 0.99 in percent, mean over classes "
        f"and by class; fitted to half of the scenes.\n",
        "| by | missed | 1 - AUROC | ECE | " + " | ".join(shown) + " |",
        "|---|---|---|---|" + "---|" * len(shown),
    ]
    features = []
    for name, one in sorted(means.items(), key=lambda item: np.nanmean(item[1].missed[0])):
        mean = _pair(np.nanmean(one.missed, axis=1))
        if np.isnan(one.error):
            features.append(f"{name} {mean}, {one.not_auroc:.3f}")
            continue
        cells = [_pair(one.missed[:, names.index(shown_name)]) for shown_name in shown]
        lines.append(
            f"| {name} | {mean} | {one.not_auroc:.4f} | {one.error:.3f} | {' | '.join(cells)} |"
        )
    return "\n".join(
        [*lines, "", f"Other features alone (missed, 1 - AUROC): {'; '.join(features)}."]
    )


def _pair(missed: Floats) -> str:
    return " / ".join(f"{100 * value:.1f}" for value in missed)


def _learning_curve(of: JudgedSet) -> str:
    """The same of few answers, drawn at random from the scenes of one half."""
    lines = [
        f"**{of.title}**, by number of answers (all classes together).\n",
        "| answers | missed at 0.95 / 0.99 | 1 - AUROC | ECE |\n|---|---|---|---|",
    ]
    for count in ANSWERS:
        found = []
        for seed in range(RESPLITS):
            judged = of.half(seed)
            own = np.flatnonzero(~judged & of.known)
            rows = np.random.default_rng(seed).permutation(own)[:count]
            values, right = _with_right(of, _values(of, of.fitted(rows)))
            found.append(_ranked(of, values, right, judged & of.known, OURS))
        one = _mean(found)
        mean = _pair(np.nanmean(one.missed, axis=1))
        lines.append(f"| {count} | {mean} | {one.not_auroc:.4f} | {one.error:.3f} |")
    return "\n".join(lines)


# --- the shipped calibrator ----------------------------------------------------------------------


def _shipped(scenes: Scenes) -> Iterator[Figure | str]:
    """Labels of unseen scenes, decided with and without the calibrator of the package."""
    quality = {
        "shipped calibrator": _quality(scenes, embedded_calibrator()),
        "without, duplicates removed": _quality(scenes, None),
    }
    ours = quality["shipped calibrator"]
    least = min(one.precision or 0.0 for one in ours.by_class.values())
    total = ours.total()
    yield _share("shipped calibrator: precision, all classes", total.precision or 0.0, 0.95)
    yield _share("shipped calibrator: precision, worst class", least, 0.93)
    yield _share("shipped calibrator: recall, all classes", total.recall or 0.0, 0.90)
    names = fixtures.ontology().names
    lines = [
        f"{SHIPPED_SCENES} scenes of seed {SHIPPED_SEED}: precision / recall in percent.\n",
        "| | all | " + " | ".join(names) + " |\n|---|---|" + "---|" * len(names),
    ]
    for title, one in quality.items():
        cells = [_percent(one.total()), *(_percent(one.by_class[name]) for name in names)]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    yield "\n".join(lines)


def _quality(scenes: Scenes, calibrator: Calibrator | None) -> Quality:
    ontology = fixtures.ontology()
    nms_iou = PipelineSettings().nms_iou

    def images() -> Iterator[ScoredImage]:
        for one, truth in zip(scenes.labelled, scenes.truth, strict=True):
            size = one.width, one.height
            decided = judge(one.evidence, ontology, nms_iou, calibrator, size)
            labels = [j for j in decided if j.outcome is Outcome.ACCEPT]
            yield [ScoredBox(j.class_name, j.box, j.probability) for j in labels], truth

    return evaluate(images(), ontology.names)


def _percent(counts: Counts) -> str:
    return f"{100 * (counts.precision or 0):.1f} / {100 * (counts.recall or 0):.1f}"


def _share(name: str, value: float, bar: float) -> Figure:
    ratio = value / bar
    return Figure(name, f"≥ {bar:g}", value, bar, "", ratio, ratio, ratio, 1, value >= bar)


# --- questions that need not be asked ------------------------------------------------------------


def _asked(of: JudgedSet) -> Iterator[Figure | str]:
    """Questions that a calibrator without answers leaves, at (nearly) the F1 of asking all."""
    shares, losses, by_class = zip(*(_saved(of, seed) for seed in range(RESPLITS)), strict=True)
    yield against("questions ÷ pairs above threshold", float(np.mean(shares)), 0.45, "asked")
    yield against("F1 that the others would have added", float(np.mean(losses)), 0.005, "F1")
    asked = dict(zip(of.run.ontology.names, np.mean(by_class, axis=0), strict=True))
    told = ", ".join(f"{name} {share:.2f}" for name, share in asked.items())
    yield f"Asked of the pairs of each class: {told}."


def _saved(of: JudgedSet, seed: int) -> tuple[float, float, list[float]]:
    """The share that is asked, the F1 that it costs, and the share that is asked by class.

    How certain is certain enough is chosen on one half of the scenes, and measured on the other.
    """
    judged = of.half(seed)
    own, rows = ~judged & of.known, judged & of.known
    answers = of.features[own], of.run.class_names[own], of.right[own], of.scenes[own]
    guess, told = (_values(of, of.fitted(np.flatnonzero(own), use)) for use in (UNASKED, USED))
    for values, use in ((guess, UNASKED), (told, USED)):  # nothing judges its own scene
        values[own] = cross_fitted(*answers, use=use, ontology=of.run.ontology)
    decided, asked = _decided(of, guess, told, _limits(of, guess, told, own))
    loss = _f1(of, told, rows) - _f1(of, decided, rows)
    places = range(len(of.run.ontology.classes))
    by_class = [float(asked[rows & (of.run.classes == place)].mean()) for place in places]
    return float(asked[rows].mean()), loss, by_class


def _limits(of: JudgedSet, guess: Floats, told: Floats, own: Flags) -> Floats:
    """(classes,) how near to no or yes a guess of the class must be to go unasked.

    Of each class the limit with the fewest questions and errors, at the lowest price of an error
    that keeps the F1 of all together.
    """
    doubt, right = np.minimum(guess, 1 - guess), of.right
    grid = np.append(np.unique(np.quantile(doubt[own], np.linspace(0, 1, 41))), 0.5)
    asked, errors = np.zeros((2, len(of.run.ontology.classes), len(grid)))
    for place, column in np.ndindex(asked.shape):
        some = own & (of.run.classes == place)
        ask = doubt[some] > grid[column]
        asked[place, column] = ask.sum()
        taken = np.where(ask, told[some], guess[some]) >= 0.5
        errors[place, column] = (taken != right[some]).sum()
    full = _f1(of, told, own)
    for price in np.geomspace(1, 1000, 31):
        limits = grid[np.argmin(asked + price * errors, axis=1)]
        if full - _f1(of, _decided(of, guess, told, limits)[0], own) <= LOSS:
            break
    return limits


def _decided(of: JudgedSet, guess: Floats, told: Floats, limits: Floats) -> tuple[Floats, Flags]:
    """(J,) probabilities if only what is uncertain is asked, and what is asked.

    Of a contrast of two the second side is not asked where the first one's answer is clear.
    """
    asked = np.minimum(guess, 1 - guess) > limits[of.run.classes]
    decided = np.where(asked, told, guess)
    for members in of.run.ontology.groups.values():
        if len(members) == 2:
            first, second = (np.flatnonzero(of.run.classes == place) for place in members)
            clear = asked[first] & (np.minimum(told[first], 1 - told[first]) <= CLEAR)
            decided[second[clear]] = 1 - told[first[clear]]
            asked[second[clear]] = False
    return decided, asked


def _f1(of: JudgedSet, probabilities: Floats, rows: Flags) -> float:
    """Of what is more probable than not, among the objects that have a judged box."""
    right = of.run.right(probabilities)
    accepted = rows & (probabilities >= 0.5)
    return float(2 * right[accepted].sum() / (accepted.sum() + right[rows].sum()))


# --- speed ---------------------------------------------------------------------------------------


def _speed(of: JudgedSet) -> Iterator[Figure]:
    """A million judged boxes: the scenes many times."""
    found, times = of.run.found, -(-BOXES // len(of.run.boxes))
    shift = np.repeat(np.arange(times), len(of.run.boxes))
    many = replace(
        found,
        starts=np.append(
            0, (found.starts[1:] + len(found.boxes) * np.arange(times)[:, None]).ravel()
        ),
        **{
            name: np.concatenate([getattr(found, name)] * times)
            for name in ("sizes", "boxes", "scores", "p_yes")
        },
    )
    boxes = np.tile(of.run.boxes, times) + shift * len(found.boxes)
    classes, names = np.tile(of.run.classes, times), np.tile(of.run.class_names, times)
    fitted = of.fitted(np.flatnonzero(of.known))
    started = time.process_time()
    features = box_features(many, of.run.ontology, boxes, classes)
    fitted.probabilities(features, names)
    applied = len(boxes) / (time.process_time() - started)
    started = time.process_time()
    fit_calibrator(features, names, np.tile(of.right, times), np.tile(of.scenes, times))
    seconds = time.process_time() - started
    name = f"features and probabilities of {len(boxes):,} boxes, a second of one core"
    yield _share(name, applied, 50_000)
    yield against(f"fitting to {len(boxes):,} boxes, on one core", seconds, 60, "s")
