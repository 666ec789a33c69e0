"""Which questions a calibrator can do without, found on labelled scenes with their truth.

For each class the limits of certainty are those with the fewest questions and wrong decisions,
where a wrong decision counts as so many questions. At each of ``PRICES`` the rules are then tried
as they are (``labeling.verify_budget``) on the same scenes: what is asked, and the F1 that is lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secondlook.evaluation.calibrator_fit import cross_fitted, fit_calibrator
from secondlook.evaluation.judged_boxes import JudgedRun
from secondlook.labeling.box_features import VERIFIER_FEATURES
from secondlook.labeling.calibrator import Calibrator, VerifyBudget
from secondlook.labeling.decisions import in_force
from secondlook.labeling.verify_budget import ASKED, budgeted, pairs_to_ask
from secondlook_client.ontology import Ontology

PRICES = tuple(2.0 ** (step / 8) for step in range(8, 49))
"""Questions that a wrong decision is worth, 2 to 64."""
DOUBTS = (0.0, *np.geomspace(0.001, 0.5, 40).round(4).tolist())
"""Distances from no and yes that are tried as limits."""
NEVER = 2.0
"""A limit that no probability reaches."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Pairs:
    """J judged pairs of all runs."""

    classes: NDArray[np.intp]
    right: Flags
    guesses: Floats
    """(J,) before the verifier, by a calibrator that never saw the scene."""
    accepted: Flags
    """(J,) where all is asked."""


def with_budgets(calibrator: Calibrator, runs: Sequence[JudgedRun]) -> Calibrator:
    """``calibrator`` with ``before`` and ``budgets``; ``runs`` are what it was fitted to.

    Raises ``InvalidInput`` as ``fit_calibrator`` does.
    """
    ontology = in_force(runs[0].ontology, calibrator)
    features = np.concatenate([run.features() for run in runs])
    names = np.concatenate([run.class_names for run in runs])
    right = np.concatenate([run.right(run.products) for run in runs])
    first = np.cumsum([0, *(len(run.truth) for run in runs)])
    scenes = np.concatenate([run.scenes + at for run, at in zip(runs, first[:-1], strict=True)])
    use = tuple(name for name in calibrator.features if name not in VERIFIER_FEATURES)
    before = fit_calibrator(
        features, names, right, scenes, use=use, ontology=ontology, proposer=calibrator.proposer
    )
    guesses = cross_fitted(features, names, right, scenes, use=use, ontology=ontology)
    accept = np.array([spec.accept for spec in ontology.classes])
    classes = np.concatenate([run.classes for run in runs])
    accepted = calibrator.probabilities(features, names) >= accept[classes]
    pairs = _Pairs(classes, right, guesses, accepted)
    found = [_limits(pairs, ontology, price) for price in PRICES]
    able = replace(calibrator, before=before)
    _, full = _tried(able, None, runs)
    tried = [_tried(able, one, runs) for one in found]
    measured = [
        replace(one, share=share, loss=full - f1)
        for one, (share, f1) in zip(found, tried, strict=True)
    ]
    return replace(able, budgets=_best(measured))


def _limits(pairs: _Pairs, ontology: Ontology, price: float) -> VerifyBudget:
    """The limits of all classes; share and loss are not known yet."""
    below, above = [], []
    for place, spec in enumerate(ontology.classes):
        own = pairs.classes == place
        right, accepted, guesses = pairs.right[own], pairs.accepted[own], pairs.guesses[own]
        wrong = accepted != right  # if they are asked
        # Of a contrast of two one side is asked for both.
        worth = price * (2 if len(ontology.groups.get(spec.group, ())) == 2 else 1)
        doubt = _cheapest(np.where(guesses < 0.5, guesses, np.inf), right, wrong, worth)
        below.append(min(doubt, spec.reject))
        doubt = _cheapest(np.where(guesses > 0.5, 1 - guesses, np.inf), ~right, wrong, worth)
        above.append(max(round(1 - doubt, 4), spec.accept) if doubt else NEVER)
    return VerifyBudget(0.0, 0.0, tuple(below), tuple(above))


def _cheapest(distances: Floats, wrong: Flags, wrong_if_asked: Flags, price: float) -> float:
    """The one of ``DOUBTS`` up to which pairs at these (J,) distances best go unasked."""
    costs = []
    for doubt in DOUBTS:
        unasked = distances <= doubt
        costs.append((~unasked).sum() + price * np.where(unasked, wrong, wrong_if_asked).sum())
    return DOUBTS[int(np.argmin(costs))]


def _tried(
    calibrator: Calibrator, budget: VerifyBudget | None, runs: Sequence[JudgedRun]
) -> tuple[float, float]:
    """The share of the pairs that are asked, and the F1 of the labels."""
    asked, objects, labels, right = 0, 0, 0, 0
    for run in runs:
        wanted, probabilities, accepted = _decided(calibrator, budget, run)
        best_first = np.where(accepted, probabilities, probabilities - 1)
        asked += int(wanted.sum())
        objects += int(run.true_boxes().sum())
        labels += int(accepted.sum())
        right += int((run.right(best_first) & accepted).sum())
    return asked / sum(len(run.boxes) for run in runs), 2 * right / max(objects + labels, 1)


def _decided(
    calibrator: Calibrator, budget: VerifyBudget | None, run: JudgedRun
) -> tuple[Flags, Floats, Flags]:
    """(J,) what is asked, the probabilities, and what is accepted."""
    ontology, pairs = in_force(run.ontology, calibrator), (run.boxes, run.classes)
    wanted = np.ones(len(run.boxes), dtype=bool)
    probabilities = calibrator.probabilities(run.features(), run.class_names)
    if budget:
        wanted = pairs_to_ask(calibrator, budget, ontology, run.found, pairs)
        p_yes = np.full(run.found.p_yes.shape, np.nan)
        p_yes[run.boxes[wanted], run.classes[wanted]] = run.p_yes[wanted]
        found = replace(run.found, p_yes=p_yes)
        known = budgeted(calibrator, budget, ontology, found, pairs, wanted)
        probabilities = np.where(wanted | (known.how != ASKED), known.probabilities, 0.5)
    accept, reject = np.array([(spec.accept, spec.reject) for spec in ontology.classes]).T
    open_ = np.zeros(run.found.scores.shape, dtype=np.intp)
    open_[pairs] = probabilities > reject[run.classes]
    sides = np.zeros((len(ontology.classes),) * 2, dtype=np.intp)
    for members in ontology.groups.values():
        sides[np.ix_(members, members)] = 1
    not_ruled_out = (open_ @ sides)[pairs]
    accepted = (probabilities >= accept[run.classes]) & (not_ruled_out == 1)
    return wanted, probabilities, accepted


def _best(measured: Sequence[VerifyBudget]) -> tuple[VerifyBudget, ...]:
    """The fewest questions first; what asks more and loses more is left out."""
    kept: list[VerifyBudget] = []
    for one in sorted(measured, key=lambda one: (one.share, one.loss)):
        if not kept or one.loss < kept[-1].loss:
            kept.append(one)
    return tuple(kept)
