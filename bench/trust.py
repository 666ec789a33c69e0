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
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from real_photos import faces

from bench import fixtures, real_two_stage
from bench.judged_runs import JudgedRun, of_labelled
from bench.paired_timing import Figure, against, of_pairs
from secondlook.config.settings import PipelineSettings
from secondlook.core.files import replacing
from secondlook.core.images import decode
from secondlook.core.types import Image, Labelled, Pixels
from secondlook.demo.world import Thing, classes_of, scene
from secondlook.evaluation.calibration import auroc, reliability_of, risk_coverage
from secondlook.evaluation.calibrator_fit import fit_calibrator
from secondlook.evaluation.matching import (
    Counts,
    Quality,
    ScoredBox,
    ScoredImage,
    TrueBox,
    evaluate,
)
from secondlook.labeling.box_features import FEATURES, box_features
from secondlook.labeling.calibrator import Calibrator
from secondlook.labeling.decisions import judge
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook.models.embedded_calibrator import embedded_calibrator
from secondlook_client.values import Answer, Outcome

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

    def fitted(self, rows: NDArray[np.intp] | Flags) -> Calibrator:
        """A calibrator from some answers."""
        return fit_calibrator(
            self.features[rows],
            self.run.class_names[rows],
            self.right[rows],
            self.scenes[rows],
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
    return [*_shipped(worlds[0]), *notes, *_budgeted(), *_speed(drawn)]


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
    pipeline = fixtures.pipeline()
    labelled: list[Labelled] = []
    truth = []
    for start in range(0, count, AT_ONCE):
        tasks, known = _tasks(seed, range(start, min(start + AT_ONCE, count)), change)
        truth += known
        labelled += pipeline.label(tasks)
    return Scenes(labelled, truth)


def _tasks(
    seed: int, numbers: Sequence[int], change: Callable[..., Drawn] = _plain
) -> tuple[list[Task], list[list[TrueBox]]]:
    """Some scenes of a drawn world, and their objects."""
    tasks, truth = [], []
    for number in numbers:
        rendered = scene(seed, number)
        jpeg = decode(fixtures.jpeg(rendered.image)).pixels
        pixels, things = change(jpeg, rendered.things, np.random.default_rng([seed, number]))
        image = Image(pixels, f"{number:064x}", str(number))
        tasks.append(Task(image, fixtures.ontology()))
        truth.append([TrueBox(name, t.box) for t in things for name in classes_of(t)])
    return tasks, truth


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


def _budgeted() -> Iterator[Figure | str]:
    """Both ways through the whole pipeline, a few scenes at a time in turn."""
    ontology, calibrator = fixtures.ontology(), embedded_calibrator()
    ours, full = (_Way(fixtures.pipeline(verify_budget=budget)) for budget in ("auto", "all"))
    for way in (ours, full):
        way.pipeline.use_calibrator(calibrator)
        way.pipeline.check_ontology(ontology)
        way.pipeline.observe_answers = way.count
    rates: list[tuple[float, float]] = []
    truth: list[list[TrueBox]] = []
    for start in range(0, SHIPPED_SCENES, AT_ONCE):
        tasks, of_tasks = _tasks(SHIPPED_SEED, range(start, min(start + AT_ONCE, SHIPPED_SCENES)))
        truth += of_tasks
        if start // AT_ONCE % 2:
            fast, slow = ours.label(tasks), full.label(tasks)
        else:
            slow, fast = full.label(tasks), ours.label(tasks)
        rates.append((len(tasks) / fast, len(tasks) / slow))
    pairs = sum(len(one.judgements) for one in full.labelled)
    yield against("questions ÷ pairs above threshold", ours.questions / pairs, 0.45, "asked")
    f1s = [_f1(way.labelled, truth) for way in (full, ours)]
    yield against("F1 that the others would have added", f1s[0] - f1s[1], 0.005, "F1")
    yield of_pairs("--verify-budget auto against all", rates, at_least=1.0, unit="images/s")
    told = f"F1 {f1s[1]:.4f} with {ours.questions:,} answers, {f1s[0]:.4f} with {full.questions:,}"
    yield f"{SHIPPED_SCENES} scenes of seed {SHIPPED_SEED}: {told}, of {pairs:,} pairs."


@dataclass(eq=False)
class _Way:
    """One of two ways to label the same scenes."""

    pipeline: Pipeline
    labelled: list[Labelled] = field(default_factory=list)
    questions: int = 0

    def count(self, answers: Sequence[Answer]) -> None:
        self.questions += len(answers)

    def label(self, tasks: Sequence[Task]) -> float:
        """The seconds that it took."""
        started = time.perf_counter()
        self.labelled += self.pipeline.label(tasks)
        return time.perf_counter() - started


def _f1(labelled: Sequence[Labelled], truth: Sequence[Sequence[TrueBox]]) -> float:
    images = (
        ([ScoredBox(j.class_name, j.box, j.probability) for j in one.of(Outcome.ACCEPT)], of_image)
        for one, of_image in zip(labelled, truth, strict=True)
    )
    counts = evaluate(images, fixtures.ontology().names).total()
    return 2 * counts.right / (2 * counts.right + counts.wrong + counts.missed)


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
