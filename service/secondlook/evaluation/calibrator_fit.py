"""Fits a calibrator to answers. Few answers want few parameters.

All classes together have one logistic model, and each class has its own, which is pulled towards
that one (partial pooling, a ridge penalty on the difference): a class with three answers is nearly
the pooled model, one with three thousand nearly its own. The pooled model is in turn pulled towards
``PRIOR``, or each class towards an earlier calibrator. Features that say much from few answers are
held loosely, the others so firmly that they count only where thousands of answers speak for them.
A higher score or P(yes) never makes a label less probable.

Penalties and prior were chosen on the drawn world (seeds 501 and 502, 50 to 9,500 answers);
``python -m bench trust`` measures them elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.labeling.box_features import FEATURES
from secondlook.labeling.calibrator import Calibrator, ClassFit
from secondlook_client.errors import InvalidInput
from secondlook_client.ontology import Ontology

USED = tuple(name for name in FEATURES if name != "product")
"""What is weighed unless told otherwise: the factors of the product are there already."""
PRIOR = {"score": 1.0, "p_yes": 0.7}
"""Weights before the first answer. Answers of verifiers are rather too sure."""
NEVER_NEGATIVE = ("score", "p_yes", "product")
EARLY = ("score", "p_yes", "score_margin", "overlap_better")
"""The features that are held loosely."""
POOLED_PENALTIES = (5.0, 100.0)
"""Of the square of a pooled weight's distance from the prior, in spreads of its feature: of
``EARLY`` features, and of the others."""
CLASS_PENALTIES = (10.0, 100.0)
"""The same of a class's distance from the pooled model."""
BASE_PENALTY = 1.0
"""The same of a class's base."""
FREE = 1e-3
"""Penalty of the pooled base: nearly none, but all answers may be alike."""
FOLDS = 5
_SMALLEST_SPREAD = 0.05
"""A feature that hardly varies among the answers is not blown up."""
_MAX_STEPS, _CLOSE, _SMALLEST_STEP = 100, 1e-6, 1e-3
_AT_ONCE = 65_536
"""Answers in one step of the sums, which bounds the memory."""


def fit_calibrator(
    features: NDArray[np.float64],
    class_names: Sequence[str] | NDArray[np.str_],
    right: NDArray[np.bool_],
    scenes: NDArray[np.intp],
    *,
    weights: NDArray[np.float64] | None = None,
    use: Sequence[str] = USED,
    prior: Calibrator | None = None,
    ontology: Ontology | None = None,
    proposer: str = "",
    verifier: str = "",
    source: str = "",
) -> Calibrator:
    """The calibrator that J answers speak for.

    ``features`` (J, F) are ``box_features`` of the boxes, ``right`` (J,) whether a label there
    would be right, ``scenes`` (J,) the scene of each box, ``weights`` (J,) how much each counts:
    where boxes were drawn with unequal chances, 1 ÷ chance, scaled to a mean of 1. ``use`` names
    the features to weigh; without ``box_features.VERIFIER_FEATURES`` the calibrator is for boxes
    that were not verified. A ``prior`` decides what is weighed itself. The classes are those of
    ``ontology``, with their questions, or else those of the answers. Answers about boxes without a
    verdict, where a feature is NaN, are left out.

    Raises ``InvalidInput`` where no answer is left or one is of no class of ``ontology``.
    """
    names = np.asarray(class_names, dtype=str)
    _check(features, names, right, scenes, weights)
    use = prior.features if prior else tuple(use)
    questions = {spec.name: spec.question for spec in ontology.classes} if ontology else {}
    classes = tuple(questions) or tuple(np.unique(names).tolist())
    values = features[:, [FEATURES.index(name) for name in use]]
    places = _places(names, classes)
    order = np.argsort(places, kind="stable")
    order = order[np.isfinite(values[order]).all(axis=1)]
    if not len(order):
        raise InvalidInput(
            "there is no answer to fit a calibrator to; review some boxes that have a verdict"
        )
    values, places = values[order], places[order]
    given = np.ones(len(order)) if weights is None else weights[order]
    centres = np.average(values, axis=0, weights=given)
    start = _start(classes, use, prior, centres)
    spreads = np.maximum(values.std(axis=0), _SMALLEST_SPREAD)
    answers = _Answers((values - centres) / spreads, places, right[order], given)
    fitted = _fit_classes(answers, _Start(start.bases, start.weights * spreads), use)
    fits = [
        ClassFit(float(base), tuple((weight / spreads).tolist()), questions.get(name, ""))
        for name, base, weight in zip(classes, fitted.bases, fitted.weights, strict=True)
    ]
    found = len(order), len(np.unique(scenes[order]))
    models = proposer, verifier
    return Calibrator(
        classes, use, tuple(centres.tolist()), tuple(fits), {}, *models, *found, source
    )


def cross_fitted(
    features: NDArray[np.float64],
    class_names: Sequence[str] | NDArray[np.str_],
    right: NDArray[np.bool_],
    scenes: NDArray[np.intp],
    *,
    folds: int = FOLDS,
    seed: int = 0,
    weights: NDArray[np.float64] | None = None,
    **more: Any,
) -> NDArray[np.float64]:
    """(J,) the probability of each box by a calibrator that never saw its scene.

    The scenes are divided into ``folds`` parts at random; each is judged by the others. NaN where
    a box has no verdict. ``more`` goes to ``fit_calibrator``. Raises ``InvalidInput`` as that does,
    and where all answers are of one scene.
    """
    distinct, which = np.unique(scenes, return_inverse=True)
    if len(distinct) < 2:
        raise InvalidInput("all answers are of one scene, and two are needed to judge by others")
    fold = np.random.default_rng(seed).permutation(len(distinct))[which] % folds
    names = np.asarray(class_names, dtype=str)
    probabilities = np.full(len(names), np.nan)
    for part in np.unique(fold):
        own, rest = fold == part, fold != part
        of_rest = None if weights is None else weights[rest]
        fitted = fit_calibrator(
            features[rest], names[rest], right[rest], scenes[rest], weights=of_rest, **more
        )
        known = own & np.isin(names, fitted.classes)
        probabilities[known] = fitted.probabilities(features[known], names[known])
    return probabilities


def accept_limits(
    probabilities: NDArray[np.float64],
    class_names: Sequence[str] | NDArray[np.str_],
    right: NDArray[np.bool_],
    precision: float,
) -> dict[str, float]:
    """For each class the lowest probability from which a share ``precision`` of the boxes is right.

    Rounded up to hundredths; 1 where no limit does. The probabilities (J,) must be of a calibrator
    that did not see these boxes (``cross_fitted``). No guarantee: for that see
    ``evaluation.guarantee``.
    """
    names = np.asarray(class_names, dtype=str)
    limits = {}
    for name in np.unique(names).tolist():
        own = (names == name) & np.isfinite(probabilities)
        order = np.argsort(-probabilities[own], kind="stable")
        shares = np.cumsum(right[own][order]) / np.arange(1, own.sum() + 1)
        enough = probabilities[own][order][shares >= precision]
        limits[name] = float(np.ceil(enough[-1] * 100) / 100) if len(enough) else 1.0
    return limits


@dataclass(frozen=True, eq=False)
class _Answers:
    """J answers, class by class."""

    rows: NDArray[np.float64]
    """(J, features) from their centres, in spreads."""
    places: NDArray[np.intp]
    """(J,) of the classes; they ascend."""
    right: NDArray[np.bool_]
    weights: NDArray[np.float64]

    def of(self, place: int) -> "_Answers":
        """Those of one class."""
        start, end = np.searchsorted(self.places, [place, place + 1])
        rows = slice(int(start), int(end))
        return _Answers(self.rows[rows], self.places[rows], self.right[rows], self.weights[rows])


@dataclass(frozen=True, eq=False)
class _Start:
    """A logistic model for each of C classes."""

    bases: NDArray[np.float64]
    """(C,) log odds at the centre of all features."""
    weights: NDArray[np.float64]
    """(C, features)."""


def _start(
    classes: Sequence[str],
    use: Sequence[str],
    prior: Calibrator | None,
    centres: NDArray[np.float64],
) -> _Start:
    """What is believed before the answers; of a class that a prior lacks, its mean."""
    if prior is None:
        weights = np.array([PRIOR.get(name, 0.0) for name in use])
        return _Start(np.zeros(len(classes)), np.tile(weights, (len(classes), 1)))
    known = np.array([fit.weights for fit in prior.fits])
    bases = np.array([fit.base for fit in prior.fits]) + known @ (centres - prior.centres)
    places = {name: place for place, name in enumerate(prior.classes)}
    own = [[places[name]] if name in places else list(places.values()) for name in classes]
    return _Start(
        np.array([bases[some].mean() for some in own]),
        np.array([known[some].mean(axis=0) for some in own]),
    )


def _fit_classes(answers: _Answers, start: _Start, use: Sequence[str]) -> _Start:
    """The models of all classes; weights are for features in spreads."""
    early = np.array([name in EARLY for name in use])
    least = np.where([name in NEVER_NEGATIVE for name in use], 0.0, -np.inf)
    pooled = _difference(
        answers,
        start,
        np.zeros(1 + len(use)),
        np.append(FREE, np.where(early, *POOLED_PENALTIES)),
        least - start.weights.min(axis=0),
    )
    penalty = np.append(BASE_PENALTY, np.where(early, *CLASS_PENALTIES))
    moved = np.array(
        [
            _difference(answers.of(place), start, pooled, penalty, least - start.weights[place])
            for place in range(len(start.bases))
        ]
    )
    weights = np.maximum(start.weights + moved[:, 1:], least)
    return _Start(start.bases + moved[:, 0], weights)


def _difference(
    answers: _Answers,
    start: _Start,
    target: NDArray[np.float64],
    penalty: NDArray[np.float64],
    least: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(1 + features) by how much the answers move base and weights away from ``start``.

    Newton's method; ``penalty`` pulls towards ``target``, and no weight moves below ``least``.
    """
    floor = np.append(-np.inf, least)
    at = np.maximum(target, floor)
    if not len(answers.rows):
        return at
    value, slope, curve = _sums(answers, start, at, target, penalty)
    for _ in range(_MAX_STEPS):
        free = (at > floor) | (slope < 0)
        step = np.zeros(len(at))
        step[free] = np.linalg.solve(curve[np.ix_(free, free)], slope[free])
        if slope @ step < _CLOSE:  # what a step can gain
            return at
        size = 1.0
        while size > _SMALLEST_STEP:
            new = np.maximum(at - size * step, floor)
            after = _sums(answers, start, new, target, penalty)
            if after[0] < value:
                break
            size /= 2
        else:
            return at
        at, (value, slope, curve) = new, after
    return at


def _sums(
    answers: _Answers,
    start: _Start,
    at: NDArray[np.float64],
    target: NDArray[np.float64],
    penalty: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Loss, gradient and curvature of a logistic model that differs from ``start`` by ``at``."""
    off = at - target
    value, slope, curve = float(penalty @ off**2) / 2, penalty * off, np.diag(penalty)
    for begin in range(0, len(answers.rows), _AT_ONCE):
        some = slice(begin, begin + _AT_ONCE)
        x, places, weights = answers.rows[some], answers.places[some], answers.weights[some]
        odds = start.bases[places] + (start.weights[places] * x).sum(axis=1)
        odds += at[0] + x @ at[1:]
        right = answers.right[some].astype(np.float64)
        value += float(weights @ (np.logaddexp(0, odds) - right * odds))
        p = np.exp(-np.logaddexp(0, -odds))
        x = np.concatenate([np.ones((len(x), 1)), x], axis=1)
        slope = slope + x.T @ (weights * (p - right))
        curve = curve + (x.T * (weights * p * (1 - p))) @ x
    return value, slope, curve


def _places(names: NDArray[np.str_], classes: Sequence[str]) -> NDArray[np.intp]:
    known = {name: place for place, name in enumerate(classes)}
    try:
        return np.array([known[name] for name in names.tolist()], dtype=np.intp)
    except KeyError as missing:
        raise InvalidInput(
            f"an answer is about the class '{missing.args[0]:.60}', which the run has not"
        ) from None


def _check(
    features: NDArray[np.float64],
    names: NDArray[np.str_],
    right: NDArray[np.bool_],
    scenes: NDArray[np.intp],
    weights: NDArray[np.float64] | None,
) -> None:
    if features.ndim != 2 or features.shape[1] != len(FEATURES):
        raise InvalidInput(
            f"expected {len(FEATURES)} features a box, got an array of shape {features.shape}"
        )
    lengths = {len(one) for one in (features, names, right, scenes)}
    if len(lengths | ({len(weights)} if weights is not None else set())) > 1:
        raise InvalidInput("features, classes, answers, scenes and weights differ in length")
