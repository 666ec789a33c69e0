"""Both stages on real photos with published weights: what they find, and how far it can be trusted.

Faces: RFB-320 proposes them, an attribute network is asked about masks and glasses. Everyday
things: FastestDet proposes COCO's 80 classes, YOLOX-Nano is asked "Is this a dog?" of each crop; by
what is known of its weights it has seen these photos in training, and its P(yes) was fitted on
every second of them, so those figures flatter it. The photos are not part of the project;
SECONDLOOK_TEST_DATA names their folder.
"""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from real_photos import PhotoSet, everyday_things, faces

from bench.judged_runs import judged_run
from bench.paired_timing import Figure, against
from secondlook.core.boxes import iou
from secondlook.core.perceptual_hash import perceptual_hash
from secondlook.datasets.splits import group_images
from secondlook.evaluation.calibration import auroc, reliability_of, risk_coverage
from secondlook.evaluation.calibrator_fit import cross_fitted, fit_calibrator
from secondlook.evaluation.guarantee import Promise, Terms, certify, draw
from secondlook.evaluation.judged_boxes import JudgedRun
from secondlook_client.values import ReviewAnswer

SCORES = (0.3, 0.5, 0.7, 0.9)
"""Thresholds of the proposer."""
FACES = "Faces"
ALL, PLAIN, FEW = "all classes", "plain threshold", 10
"""Rows of tables; up to how many classes have rows of their own."""
LIMITS = (0.5, 0.6, 0.8, 0.9, 0.95)
"""Thresholds of P(yes)."""
TARGETS = (0.95, 0.99)
RESPLITS = int(os.environ.get("SECONDLOOK_RESPLITS", "200"))
ANSWERS = 200
"""At most, for a guarantee; the calibrator is fitted to as many others."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Measured:
    """A judged run with what its figures have in common."""

    title: str
    photos: PhotoSet
    judged: JudgedRun
    scenes: NDArray[np.intp]
    """(J,) a photo and its near duplicates are one scene."""


def run() -> list[Figure | str]:
    """Tables for faces and for everyday things."""
    data = Path(os.environ.get("SECONDLOOK_TEST_DATA", "../shared/data"))
    rows: list[Figure | str] = []
    for title, photos in ((FACES, faces), ("Everyday things", everyday_things)):
        try:
            known = photos(data)
        except FileNotFoundError as cause:
            rows.append(f"{title}: not measured, {cause.filename} is absent.")
            continue
        for row in tables(measured(title, known)):
            rows.append(row if title == FACES or isinstance(row, str) else _without_bar(row))
    return rows


def _without_bar(figure: Figure) -> str:
    """The bars are for the faces."""
    return (
        f"{figure.name}: {figure.ours:.3g} against {figure.baseline:.3g} ({figure.rounds} times)."
    )


def measured(title: str, photos: PhotoSet, labels: Path | None = None) -> Measured:
    """What was judged in the folder that ``PhotoSet.label`` wrote; without one, label now."""
    with tempfile.TemporaryDirectory() as folder:
        truth = photos.write_truth(Path(folder, "truth.json"))
        if labels is None:
            labels = Path(folder, "labels")
            photos.label(labels)
        judged = judged_run(labels, truth, photos.min_iou)
    hashes = [_hash(photos.images / name) for name in judged.names]
    groups = group_images(judged.names, hashes, {})
    of_image = np.unique(groups, return_inverse=True)[1]
    return Measured(title, photos, judged, of_image[judged.scenes])


def _hash(file: Path) -> int:
    with Image.open(file) as opened:
        return perceptual_hash(np.asarray(opened.convert("RGB")))


def tables(of: Measured) -> Iterator[Figure | str]:
    """What was measured, in the order of the stages."""
    yield _first_stage(of.title, of.judged)
    yield _second_stage(of.judged)
    yield _both_stages(of.judged)
    yield from _trust(of)
    yield from _guarantee(of)


def _first_stage(title: str, judged: JudgedRun) -> str:
    on_object, best = located(judged)
    scores = _best_scores(judged)
    kept = [(limit, scores >= limit) for limit in SCORES]
    rows = [
        f"| {limit} | {some.sum():,} | {_share(on_object[some])} | {_share(best >= limit)} |"
        for limit, some in kept
    ]
    head = (
        f"**{title}**: {len(judged.truth)} photos, {len(best):,} true boxes, right from IoU "
        f"{judged.min_iou}.\n\nStage one: boxes on an object of any class, and objects that have "
        "one.\n\n| score from | boxes | on an object | objects found |\n|---|---|---|---|"
    )
    return "\n".join([head, *rows])


def located(judged: JudgedRun) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """(T,) which boxes are on an object of any class, and (objects,) the best score on each."""
    found, scores = judged.found, _best_scores(judged)
    located, best = [], []
    for rows, known in zip(map(slice, found.starts, found.starts[1:]), judged.truth, strict=True):
        objects = np.array(sorted({t.box for t in known}), np.float32).reshape(-1, 4)
        near = iou(found.boxes[rows], objects) >= judged.min_iou
        located.append(near.any(axis=1))
        best.append(np.where(near, scores[rows, None], 0.0).max(axis=0, initial=0.0))
    return np.concatenate(located), np.concatenate(best)


def _best_scores(judged: JudgedRun) -> NDArray[np.float64]:
    """(T,) of each box its best score; 0 where it was not judged."""
    scores = np.zeros(len(judged.found.boxes))
    scores[judged.boxes] = judged.found.scores[judged.boxes].max(axis=1)
    return scores


def _second_stage(judged: JudgedRun) -> str:
    """What the answers are worth for boxes that are on something."""
    right = judged.right(judged.products)
    asked = judged.known() & located(judged)[0][judged.boxes] & np.isfinite(judged.p_yes)
    rows = []
    for name, some in _by_class(judged, asked):
        said = judged.p_yes[some]
        accuracy = ((said >= 0.5) == right[some]).mean()
        rows.append(
            f"| {name} | {some.sum():,} | {auroc(said, right[some]):.3f} | {accuracy:.3f} |"
        )
    head = (
        "Stage two: P(yes) for boxes on an object.\n\n"
        "| class | answers | AUROC | right at 0.5 |\n|---|---|---|---|"
    )
    return "\n".join([head, *rows])


def _both_stages(judged: JudgedRun) -> str:
    right, known, objects = judged.right(judged.products), judged.known(), judged.true_boxes()
    said = np.nan_to_num(judged.p_yes, nan=-1.0)
    rows = []
    for name, some in _by_class(judged, known):
        total = objects.sum() if name == ALL else objects[judged.ontology.names.index(name)]
        kept = [right[some & (said >= limit)] for limit in LIMITS]
        cells = [f"{_share(of_kept)} / {of_kept.sum() / total:.3f}" for of_kept in kept]
        rows.append(f"| {name} | {total:,} | {' | '.join(cells)} |")
    head = (
        "Both stages: precision / recall where P(yes) reaches a limit.\n\n"
        f"| class | true boxes | {' | '.join(map(str, LIMITS))} |\n|---|---{'|---' * len(LIMITS)}|"
    )
    return "\n".join([head, *rows])


def _trust(of: Measured) -> Iterator[Figure | str]:
    """The calibrated probability against what the models say, cross-fitted by scene."""
    judged, known = of.judged, of.judged.known()
    features = judged.features()
    calibrated = np.zeros(len(known))
    right = judged.right(judged.products)[known]
    names = judged.class_names[known]
    calibrated[known] = cross_fitted(
        features[known], names, right, of.scenes[known], ontology=judged.ontology
    )
    calibrated = np.nan_to_num(calibrated)
    orders = {
        "P(yes)": np.nan_to_num(judged.p_yes),
        "score × P(yes)": judged.products,
        "calibrated": calibrated,
    }
    rows = {order: _missed(judged, values) for order, values in orders.items()}
    classes = [name for name, _ in _by_class(judged, known)]
    lines = []
    for name in classes:
        cells = [f"{rows[order][name][place]:.3f}" for place in (0, 1) for order in orders]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    yield "\n".join([_TRUST_HEAD, *lines])
    yield from _trust_figures(of.title, rows, classes)
    right = judged.right(calibrated)[known]
    error = reliability_of(calibrated[known], right).error or 0.0
    yield against(f"{of.title}: calibration error", error, 0.03, "ECE")
    best = max(_either_way(values, right) for values in features[known].T)
    name = f"{of.title}: 1 − AUROC, calibrated ÷ the best single feature"
    yield _at_most(name, 1 - auroc(calibrated[known], right), 1 - best, 0.75, "1 − AUROC")


_TRUST_HEAD = (
    "Right labels that are missed at the best threshold with a precision of 0.95, and of 0.99; the "
    "calibrator is cross-fitted by scene.\n\n"
    "| class | 0.95: P(yes) | score × P(yes) | calibrated | 0.99: P(yes) | score × P(yes) "
    "| calibrated |\n|---|---|---|---|---|---|---|"
)


def _trust_figures(
    title: str, missed: dict[str, dict[str, tuple[float, ...]]], classes: list[str]
) -> Iterator[Figure]:
    """Means over the classes that have rows of their own, or of all together."""
    counted = classes[1:] or classes
    for place, target in enumerate(TARGETS):
        ours, raw = (
            float(np.mean([missed[order][name][place] for name in counted]))
            for order in ("calibrated", "P(yes)")
        )
        name = f"{title}: missed at {target}, calibrated ÷ P(yes), mean over classes"
        yield _at_most(name, ours, raw, 0.6, "missed")


def _missed(judged: JudgedRun, values: Floats) -> dict[str, tuple[float, ...]]:
    """By class the share of right pairs below the best threshold for each of ``TARGETS``."""
    right, missed = judged.right(values), {}
    for name, some in _by_class(judged, judged.known()):
        curve = risk_coverage(values[some], right[some])
        missed[name] = tuple(1 - curve.kept_at(target) for target in TARGETS)
    return missed


def _either_way(values: Floats, right: Flags) -> float:
    """AUROC of a feature that may be high or low for right ones, and may be unknown (NaN)."""
    found = auroc(np.nan_to_num(values, nan=float(np.nanmin(values))), right)
    return max(found, 1 - found)


def _at_most(name: str, ours: float, baseline: float, bar: float, unit: str) -> Figure:
    """A ratio that may not be above its bar."""
    ratio = ours / baseline
    return Figure(
        name, f"≤ {bar:g}", ours, baseline, unit, ratio, ratio, ratio, 1, met=ratio <= bar
    )


@dataclass(frozen=True)
class Trial:
    """A threshold made from one half of the scenes."""

    given: bool
    own: float = 1.0
    """Precision of what reaches it in that half; 1 where nothing does."""
    other: float = 1.0
    """In the other half."""
    coverage: float = 0.0
    """Share of the right labels of the other half."""
    answers: int = 0


def _guarantee(of: Measured) -> Iterator[Figure | str]:
    """Guarantees made from half of the scenes, realised there and on the other half."""
    features, known = of.judged.features(), of.judged.known()
    trials: dict[str, list[Trial]] = {}
    for seed in range(RESPLITS):
        for name, trial in resplit(of, features, known, seed):
            trials.setdefault(name, []).append(trial)
    yield "\n".join([_GUARANTEE_HEAD, *(_trial_row(name, some) for name, some in trials.items())])
    of_run, of_scenes = (
        [trial for trial in trials[f"{ALL}, {promise}"] if trial.given]
        for promise in (Promise.RUN, Promise.SCENES)
    )
    for name, precisions in (
        ("of its own labels holds", [trial.own for trial in of_run]),
        ("of its own labels holds on the other half too", [trial.other for trial in of_run]),
        ("of further scenes holds on the other half", [trial.other for trial in of_scenes]),
    ):
        yield _holds(f"{of.title}: a guarantee {name}", precisions)


def _holds(name: str, precisions: list[float]) -> Figure:
    """The share of the guarantees that were given and are true."""
    held = float(np.mean([one >= TARGETS[0] for one in precisions])) if precisions else 0.0
    return Figure(
        name,
        "≥ 0.95",
        held,
        1,
        "of those given",
        held,
        held,
        held,
        len(precisions),
        held >= 0.95,
        note=f", given in {len(precisions)} of {RESPLITS} resplits",
    )


_GUARANTEE_HEAD = (
    f"Precision {TARGETS[0]} with confidence 0.95 from half of the scenes, in {RESPLITS} "
    f"resplits: {ANSWERS} answers about a quarter of that half fit the calibrator, and at most "
    f"{ANSWERS} about the rest are for the guarantee. *run* promises it of the labels of that "
    "rest, *scenes* of further scenes like these, so only the latter speaks of the other half. "
    f"The plain threshold is the lowest at which {ANSWERS} random answers about the rest have the "
    "precision.\n\n| threshold | given | holds for its own labels | on the other half | lowest "
    "precision there | coverage there | answers |\n|---|---|---|---|---|---|---|"
)


def _trial_row(name: str, trials: list[Trial]) -> str:
    given = [trial for trial in trials if trial.given]
    answers = np.mean([trial.answers for trial in trials])
    cells = [f"{len(given) / len(trials):.3f}", "–", "–", "–", "–", f"{answers:.0f}"]
    if given:
        cells[1] = f"{np.mean([trial.own >= TARGETS[0] for trial in given]):.3f}"
        cells[2] = f"{np.mean([trial.other >= TARGETS[0] for trial in given]):.3f}"
        cells[3] = f"{min(trial.other for trial in given):.3f}"
        cells[4] = f"{np.mean([trial.coverage for trial in given]):.3f}"
    return f"| {name} | {' | '.join(cells)} |"


def resplit(of: Measured, features: Floats, known: Flags, seed: int) -> Iterator[tuple[str, Trial]]:
    """Guarantees made from a random half of the scenes, each with its name."""
    random = np.random.default_rng(seed)
    scenes = random.permutation(np.unique(of.scenes))
    half, first = len(scenes) // 2, len(scenes) // 8
    to_fit, own, other = (
        known & np.isin(of.scenes, some)
        for some in (scenes[:first], scenes[first:half], scenes[half:])
    )
    fitted = _some_of(np.flatnonzero(to_fit), random)
    probability = _calibrated_by(of, features, fitted)
    division = _Division(of, probability, of.judged.right(probability), own, other)
    for name, _ in _by_class(of.judged, known):
        for promise in Promise:
            class_name = "" if name == ALL else name
            yield f"{name}, {promise}", division.guaranteed(class_name, promise, seed)
    yield PLAIN, division.plain(_some_of(np.flatnonzero(own), random))


@dataclass(frozen=True, eq=False)
class _Division:
    """Two parts of the scenes, with probabilities that were fitted to neither."""

    of: Measured
    probability: Floats
    right: Flags
    own: Flags
    other: Flags

    def guaranteed(self, name: str, promise: Promise, seed: int) -> Trial:
        """By answers about the own part, of one class, or of all with an empty name."""
        rows, names = np.flatnonzero(self.own), self.of.judged.class_names
        terms = Terms(TARGETS[0], 0.95, ANSWERS, promise)
        plan = draw(
            self.probability[rows],
            names[rows],
            self.of.scenes[rows],
            terms,
            class_name=name,
            seed=seed,
        )
        said = {row: _answer(bool(self.right[rows[row]])) for row in plan.rows.tolist()}
        found = certify(plan, said)
        only = names == name if name else np.ones(len(names), dtype=bool)
        return self._trial(found.threshold, found.answers, only)

    def plain(self, asked: NDArray[np.intp]) -> Trial:
        """The lowest threshold at which the answers to ``asked`` have the precision."""
        order = asked[np.argsort(-self.probability[asked], kind="stable")]
        shares = np.cumsum(self.right[order]) / np.arange(1, len(order) + 1)
        enough = self.probability[order][shares >= TARGETS[0]].tolist()
        threshold = enough[-1] if enough else None
        return self._trial(threshold, len(asked), np.ones(len(self.right), dtype=bool))

    def _trial(self, threshold: float | None, answers: int, only: Flags) -> Trial:
        if threshold is None:
            return Trial(False, answers=answers)
        kept = only & (self.probability >= threshold)
        there = self.right & only & self.other
        return Trial(
            True,
            _precision(self.right[kept & self.own]),
            _precision(self.right[kept & self.other]),
            float((there & kept).sum() / max(there.sum(), 1)),
            answers,
        )


def _some_of(rows: NDArray[np.intp], random: np.random.Generator) -> NDArray[np.intp]:
    return random.choice(rows, min(ANSWERS, len(rows)), replace=False)


def _calibrated_by(of: Measured, features: Floats, rows: NDArray[np.intp]) -> Floats:
    """(J,) by a calibrator that is fitted to the truth of ``rows``; 0 without an answer."""
    judged = of.judged
    right = judged.right(judged.products)[rows]
    names = judged.class_names
    fitted = fit_calibrator(
        features[rows], names[rows], right, of.scenes[rows], ontology=judged.ontology
    )
    return np.nan_to_num(fitted.probabilities(features, names))


def _answer(right: bool) -> ReviewAnswer:
    return ReviewAnswer.RIGHT if right else ReviewAnswer.WRONG


def _precision(right: Flags) -> float:
    return float(right.mean()) if len(right) else 1.0


def _by_class(
    judged: JudgedRun, some: NDArray[np.bool_]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """The rows of all classes together, then of each; only together where there are many."""
    yield ALL, some
    if len(judged.ontology.names) <= FEW:
        for place, name in enumerate(judged.ontology.names):
            yield name, some & (judged.classes == place)


def _share(right: NDArray[np.bool_]) -> str:
    return f"{right.mean():.3f}" if len(right) else "–"
