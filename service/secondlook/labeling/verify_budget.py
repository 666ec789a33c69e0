"""Which questions the verifier is asked where not all may be, and what decides the others.

A calibrator may carry another one that needs no answers (``Calibrator.before``), with limits for
each class: a box that it finds certain is not asked about. Of a contrast of two classes the more
probable side is asked, and its answer tells the other. What a box's neighbours would have been
answered is taken from the same probabilities, so that those that are asked are judged as ever.

Nothing is recorded of this but the missing answers: the same evidence, calibrator and budget say
again which of them are missing on purpose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secondlook.labeling.box_features import ScoredBoxes, box_features
from secondlook.labeling.calibrator import Calibrator, VerifyBudget
from secondlook_client.errors import BadSetting
from secondlook_client.ontology import Ontology

ALL, AUTO = "all", "auto"
ASKED, CERTAIN, IMPLIED = 0, 1, 2
"""How a pair was decided: by an answer (or as ever without one), by its probability before the
verifier, by the answer on the other side of its contrast."""
AUTO_LOSS = 0.002
"""F1 that ``auto`` may lose on the scenes that the calibrator was fitted to."""

Floats = NDArray[np.float64]
Places = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class KnownPairs:
    """What J judged pairs of a box and a class are decided by."""

    probabilities: Floats
    """(J,) NaN where an answer is needed and missing."""
    how: NDArray[np.int8]
    """(J,) ``ASKED``, ``CERTAIN`` or ``IMPLIED``."""


def check_budget(setting: str) -> None:
    """Raises ``BadSetting`` unless it is a share of the questions, ``auto`` or ``all``."""
    if setting in (ALL, AUTO):
        return
    try:
        fits = 0 < float(setting) <= 1
    except ValueError:
        fits = False
    if not fits:
        raise BadSetting(
            f"--verify-budget is '{setting:.40}'; expected a share of the questions above 0 and up "
            f"to 1, {AUTO} or {ALL}"
        )


def find_budget(calibrator: Calibrator | None, setting: str) -> VerifyBudget | None:
    """The limits of ``calibrator`` for a setting; None: all is asked.

    Raises ``BadSetting`` where it has none, and for a setting that is none.
    """
    check_budget(setting)
    if setting == ALL:
        return None
    if calibrator is None or not calibrator.budgets:
        raise BadSetting(
            f"--verify-budget {setting:.40} needs a calibrator that can judge these classes without"
            " the verifier's answers, and "
            + ("none is in use here" if calibrator is None else "this one cannot")
            + f"; give one that can (--calibrator), or ask everything (--verify-budget {ALL})"
        )
    budgets = calibrator.budgets
    if setting == AUTO:
        return next((one for one in budgets if one.loss <= AUTO_LOSS), None)
    fitting = [one for one in budgets if one.share <= float(setting)]
    if not fitting:
        raise BadSetting(
            f"the calibrator can do with {budgets[0].share:.2f} of the questions at least, and "
            f"--verify-budget is {setting:.40}"
        )
    return fitting[-1] if float(setting) < 1 else None


def budget_in_force(calibrator: Calibrator | None, setting: str) -> VerifyBudget | None:
    """``find_budget`` of a run that is decided again: None where the calibrator has no limits."""
    try:
        return find_budget(calibrator, setting)
    except BadSetting:
        return None


def pairs_to_ask(
    calibrator: Calibrator,
    budget: VerifyBudget,
    ontology: Ontology,
    found: ScoredBoxes,
    pairs: tuple[Places, Places],
) -> NDArray[np.bool_]:
    """(J,) which pairs (their boxes, their classes) the verifier must be asked about.

    ``ontology`` has the limits that are in force: what is certain and still between them is asked.
    """
    boxes, classes = pairs
    guesses = _guesses(calibrator, ontology, found, pairs)
    accept, reject = np.array([(spec.accept, spec.reject) for spec in ontology.classes]).T
    settled = (guesses >= accept[classes]) | (guesses <= reject[classes])
    open_ = ~(_certain(calibrator, budget, ontology, guesses, classes) & settled)
    other = _other_sides(ontology)[classes]
    of_pair = np.full(found.scores.shape, -np.inf)
    of_pair[boxes, classes] = np.where(open_, guesses, -np.inf)
    theirs = np.where(other >= 0, of_pair[boxes, other], -np.inf)
    told_by_other = (theirs > guesses) | ((theirs == guesses) & (other < classes))
    return open_ & ~told_by_other


def budgeted(
    calibrator: Calibrator,
    budget: VerifyBudget,
    ontology: Ontology,
    found: ScoredBoxes,
    pairs: tuple[Places, Places],
    asked: NDArray[np.bool_],
) -> KnownPairs:
    """The probabilities of J pairs of which those in ``asked`` (J,) have a verdict.

    A verdict may be without an answer; its pair then stays without a probability.
    """
    boxes, classes = pairs
    guesses = _guesses(calibrator, ontology, found, pairs)
    certain = ~asked & _certain(calibrator, budget, ontology, guesses, classes)
    other = _other_sides(ontology)[classes]
    theirs = np.where(other >= 0, found.p_yes[boxes, other], np.nan)
    implied = ~asked & ~certain & np.isfinite(theirs)
    answers = np.select([certain, implied], [guesses, 1 - theirs], found.p_yes[boxes, classes])
    p_yes = found.p_yes.copy()
    p_yes[boxes, classes] = answers
    features = box_features(replace(found, p_yes=p_yes), ontology, boxes, classes)
    told = calibrator.probabilities(features, np.array(ontology.names)[classes])
    how = np.select([certain, implied], [CERTAIN, IMPLIED], ASKED).astype(np.int8)
    return KnownPairs(np.where(certain, guesses, told), how)


def _guesses(
    calibrator: Calibrator, ontology: Ontology, found: ScoredBoxes, pairs: tuple[Places, Places]
) -> Floats:
    """(J,) the probabilities before the verifier."""
    if calibrator.before is None:
        raise ValueError("the calibrator has none for boxes without an answer")
    features = box_features(found, ontology, *pairs)
    return calibrator.before.probabilities(features, np.array(ontology.names)[pairs[1]])


def _certain(
    calibrator: Calibrator,
    budget: VerifyBudget,
    ontology: Ontology,
    guesses: Floats,
    classes: Places,
) -> NDArray[np.bool_]:
    below, above = (
        _by_class(calibrator.classes, limits, ontology) for limits in (budget.below, budget.above)
    )
    return (guesses <= below[classes]) | (guesses >= above[classes])


def _by_class(names: Sequence[str], limits: Sequence[float], ontology: Ontology) -> Floats:
    known: Mapping[str, float] = dict(zip(names, limits, strict=True))
    return np.array([known[name] for name in ontology.names])


def _other_sides(ontology: Ontology) -> Places:
    """(C,) of a class in a contrast of two the other one; else -1."""
    other = np.full(len(ontology.classes), -1, dtype=np.intp)
    for members in ontology.groups.values():
        if len(members) == 2:
            other[list(members)] = members[::-1]
    return other
