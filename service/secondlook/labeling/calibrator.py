"""The probability that a label is right, from what is known of its box.

A calibrator is a logistic model for each class over ``labeling.box_features``: numbers, fitted by
``evaluation.calibrator_fit`` to answers of a person (or an exact truth), and written as JSON. What
it says of scores and answers holds for the models that gave them, so it names these.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.labeling.box_features import FEATURES, VERIFIER_FEATURES
from secondlook_client.errors import BadSetting, InvalidInput
from secondlook_client.ontology import MAX_CLASSES, MAX_NAME, Ontology

FORMAT = 1
MAX_BYTES = 16 * 2**20
"""Of a calibrator's JSON; two thousand classes take 2 MB."""
MAX_TEXT = 1000
MAX_BUDGETS = 100
_AT_ONCE = 65_536
"""Rows whose probabilities are computed in one step."""
_WAY_OUT = "fit one to answers about these labels, or go without (--calibrator none)"
BASE = "base"
"""What ``contributions`` calls the class's own log odds, of a box that is average in everything."""


@dataclass(frozen=True)
class ClassFit:
    """The logistic model of one class: base + sum of weight × (feature - centre), log odds."""

    base: float
    weights: tuple[float, ...]
    """One a feature of the calibrator."""
    question: str = ""
    """What the verifier was asked about the class; empty: any."""


@dataclass(frozen=True)
class VerifyBudget:
    """Which boxes need no answer of the verifier; see ``labeling.verify_budget``."""

    share: float
    """Of the questions that are still asked, on the scenes of the fit."""
    loss: float
    """F1 that it costs there."""
    below: tuple[float, ...]
    """One a class: up to this probability before the verifier it is certain that a box is none."""
    above: tuple[float, ...]
    """One a class: from this on it is certain that a box is one; 1 or more: never."""


@dataclass(frozen=True)
class Calibrator:
    """P(label right) by class. Raises ``InvalidInput`` for numbers that cannot be used."""

    classes: tuple[str, ...]
    features: tuple[str, ...]
    """Names of ``box_features.FEATURES`` that it weighs."""
    centres: tuple[float, ...]
    """What each feature is counted from: its mean over the answers."""
    fits: tuple[ClassFit, ...]
    """One a class."""
    accept: Mapping[str, float] = field(default_factory=dict)
    """Lowest probability from which a box of the class is a label, [0, 1]; empty: the ontology's
    limits are enough."""
    proposer: str = ""
    """Name and digest of the proposer whose boxes it was fitted to; empty: any."""
    verifier: str = ""
    """Name and digest of the verifier; empty: any, or none."""
    answers: int = 0
    """Judged boxes that it was fitted to."""
    scenes: int = 0
    """Scenes that these come from."""
    source: str = ""
    """Where the answers come from, a sentence for people."""
    before: "Calibrator | None" = None
    """The same without the verifier's answers, of the same classes; None: it has none."""
    budgets: tuple[VerifyBudget, ...] = ()
    """What may go unasked by the probabilities of ``before``; the fewest questions first."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "accept", dict(self.accept))
        _check(self)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the JSON, 64 hex digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def without_limits(self) -> "Calibrator":
        """The same without limits of its own, for those of a guarantee."""
        return replace(self, accept={})

    def to_json(self) -> str:
        """Canonical JSON: equal calibrators have equal text."""
        told = {
            "format": FORMAT,
            "features": self.features,
            "centres": self.centres,
            "classes": {
                name: {"base": fit.base, "weights": fit.weights, "question": fit.question}
                for name, fit in zip(self.classes, self.fits, strict=True)
            },
            "accept": dict(sorted(self.accept.items())),
            "proposer": self.proposer,
            "verifier": self.verifier,
            "answers": self.answers,
            "scenes": self.scenes,
            "source": self.source,
        }
        if self.before:  # calibrators of before have the digest that they had
            told["before"] = json.loads(self.before.to_json())
            told["budgets"] = [asdict(budget) for budget in self.budgets]
        return json.dumps(told, ensure_ascii=True, allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Calibrator":
        """The inverse of ``to_json``. Raises ``InvalidInput`` for anything else."""
        return _parsed(cls, text)

    def check(self, ontology: Ontology, proposer: str, verifier: str) -> None:
        """Whether it may judge the classes of ``ontology`` by these models (name@digest).

        Raises ``InvalidInput`` for a class or question that it does not know and ``BadSetting``
        for models that it was not fitted to.
        """
        known = dict(zip(self.classes, self.fits, strict=True))
        for spec in ontology.classes:
            if spec.name not in known:
                raise _unknown(self, spec.name)
            asked = known[spec.name].question
            if verifier and asked and asked != spec.question:
                raise InvalidInput(
                    f"the calibrator was fitted to the question '{asked:.120}' of the class "
                    f"'{spec.name}', and here it is '{spec.question:.120}'; {_WAY_OUT}"
                )
        for kind, own, given in (
            ("proposer", self.proposer, proposer),
            ("verifier", self.verifier, verifier),
        ):
            if own and own != given:
                raise BadSetting(
                    f"the calibrator was fitted to the {kind} {own:.80}, and this is "
                    f"{given or 'none':.80}; {_WAY_OUT}"
                )

    def probabilities(
        self, features: NDArray[np.float64], class_names: Sequence[str] | NDArray[np.str_]
    ) -> NDArray[np.float64]:
        """(J,) P(right) of J rows of ``box_features``, each for the class in ``class_names``.

        NaN where a feature that counts is NaN: the verifier gave no answer. A row's probability is
        the same to the last bit whatever rows stand beside it. Raises ``InvalidInput`` for a class
        that the calibrator does not know, and for rows without its features.
        """
        rows = self._rows(features)
        places = self._places(class_names)
        if len(places) != len(rows):
            raise InvalidInput(f"{len(rows)} rows of features for {len(places)} class names")
        parts = [
            self._log_odds(rows[start : start + _AT_ONCE], places[start : start + _AT_ONCE])
            for start in range(0, len(rows), _AT_ONCE)
        ]
        odds = np.concatenate([np.zeros(0), *parts])
        with np.errstate(invalid="ignore"):  # NaN is an answer here
            return np.exp(-np.logaddexp(0, -odds))

    def contributions(
        self, features: NDArray[np.float64], class_name: str
    ) -> list[tuple[str, float, float]]:
        """Why one row (F,) has its probability: feature, value and log odds that it adds.

        The first is ``BASE`` with the log odds of an average box of the class; the others follow,
        the strongest first. They add up to the log odds of the probability.
        """
        place = self._places([class_name])
        values = self._rows(features[None])[0]
        added = self._added(values[None], place)[0]
        order = np.argsort(-np.abs(np.nan_to_num(added, nan=np.inf)), kind="stable")
        return [
            (BASE, 1.0, self.fits[place[0]].base),
            *((self.features[at], float(values[at]), float(added[at])) for at in order),
        ]

    def _rows(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """The columns that this calibrator weighs."""
        if features.ndim != 2 or features.shape[1] != len(FEATURES):
            raise InvalidInput(
                f"expected {len(FEATURES)} features a box, got an array of shape {features.shape}"
            )
        return features[:, [FEATURES.index(name) for name in self.features]]

    def _places(self, class_names: Sequence[str] | NDArray[np.str_]) -> NDArray[np.intp]:
        """(J,) indices of the classes."""
        known = {name: place for place, name in enumerate(self.classes)}
        try:
            return np.array([known[name] for name in class_names], dtype=np.intp)
        except KeyError as missing:
            raise _unknown(self, str(missing.args[0])) from None

    def _log_odds(self, rows: NDArray[np.float64], places: NDArray[np.intp]) -> NDArray[np.float64]:
        """(J,) of J rows of this calibrator's own features."""
        odds = np.array([fit.base for fit in self.fits])[places]
        # Not a matrix product: its last bits would depend on how many rows it is given.
        for added in self._added(rows, places).T:
            odds = odds + added
        return odds

    def _added(self, rows: NDArray[np.float64], places: NDArray[np.intp]) -> NDArray[np.float64]:
        """(J, features) log odds that each feature adds; what has no weight adds nothing."""
        weights = self._weights[places]
        return np.where(weights == 0, 0.0, weights * (rows - np.array(self.centres)))

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        """(classes, features)."""
        weights = [fit.weights for fit in self.fits]
        return np.array(weights, dtype=np.float64).reshape(len(self.fits), -1)


def _unknown(calibrator: Calibrator, name: str) -> InvalidInput:
    listed = ", ".join(f"'{known}'" for known in calibrator.classes[:10])
    more = ", …" if len(calibrator.classes) > 10 else ""
    return InvalidInput(
        f"the calibrator has no class '{name:.60}'; it knows {listed}{more}. {_WAY_OUT}"
    )


def _check(made: Calibrator) -> None:
    numbers = [*made.centres, *made.accept.values()]
    for fit in made.fits:
        numbers += [fit.base, *fit.weights]
    unknown = [name for name in made.features if name not in FEATURES]
    if unknown:
        raise _bad(f"it weighs '{unknown[0]:.60}', and this version knows {', '.join(FEATURES)}")
    if len(set(made.features)) < len(made.features) or len(set(made.classes)) < len(made.classes):
        raise _bad("a feature or class is in it twice")
    if not made.classes or len(made.classes) != len(made.fits):
        raise _bad(f"it has {len(made.fits)} fits for {len(made.classes)} classes")
    widths = {len(made.centres), *(len(fit.weights) for fit in made.fits)}
    if widths != {len(made.features)}:
        raise _bad(f"expected {len(made.features)} numbers a class, one a feature")
    if not all(np.isfinite(numbers)) or max(map(abs, numbers), default=0) > 1e6:
        raise _bad("a number in it is not finite, or beyond a million")
    if not all(0 <= limit <= 1 for limit in made.accept.values()):
        raise _bad("a limit of 'accept' is not between 0 and 1")
    if any(name not in made.classes for name in made.accept):
        raise _bad("'accept' names a class that it has not")
    _check_before(made)


def _check_before(made: Calibrator) -> None:
    before = made.before
    if made.budgets and before is None:
        raise _bad("it has 'budgets' and no 'before'")
    if before and (before.before or before.classes != made.classes):
        raise _bad("'before' is of other classes, or has a 'before' itself")
    if before and (needs := [name for name in before.features if name in VERIFIER_FEATURES]):
        raise _bad(f"'before' weighs '{needs[0]}', which the verifier's answers give")
    if [one.share for one in made.budgets] != sorted(one.share for one in made.budgets):
        raise _bad("'budgets' do not ascend by their share")
    for one in made.budgets:
        if {len(one.below), len(one.above)} != {len(made.classes)}:
            raise _bad(f"a budget has not {len(made.classes)} limits, one a class")
        if not all(np.isfinite([one.share, one.loss, *one.below, *one.above])):
            raise _bad("a number of 'budgets' is not finite")


def _parsed(cls: type[Calibrator], text: str, nested: bool = True) -> Calibrator:
    """``nested`` says whether it may have a ``before``, which may not have one."""
    if len(text) > MAX_BYTES:
        raise _bad(f"it has {len(text):,} characters; at most {MAX_BYTES:,}")
    try:
        told = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as cause:
        raise _bad(f"it is not JSON ({cause!s:.100})") from None
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise _bad(f"expected a JSON object with format {FORMAT}; another version may have made it")
    classes = _object(told, "classes")
    if len(classes) > MAX_CLASSES or any(len(name) > MAX_NAME for name in classes):
        raise _bad(f"at most {MAX_CLASSES} classes, with names of {MAX_NAME} characters")
    fits = []
    for name, one in classes.items():
        if not isinstance(one, dict):
            raise _bad(f"class '{name:.60}' is not an object")
        base, weights = _number(one.get("base")), _numbers(one.get("weights"))
        fits.append(ClassFit(base, weights, _text(one, "question")))
    features = told.get("features")
    if not isinstance(features, list) or not all(isinstance(name, str) for name in features):
        raise _bad("'features' is not a list of names")
    before = json.dumps(told["before"]) if "before" in told and nested else ""
    return cls(
        before=_parsed(cls, before, nested=False) if before else None,
        budgets=tuple(map(_budget, _list(told, "budgets"))),
        classes=tuple(classes),
        features=tuple(features),
        centres=_numbers(told.get("centres")),
        fits=tuple(fits),
        accept={name: _number(limit) for name, limit in _object(told, "accept").items()},
        proposer=_text(told, "proposer"),
        verifier=_text(told, "verifier"),
        answers=_count(told, "answers"),
        scenes=_count(told, "scenes"),
        source=_text(told, "source"),
    )


def _budget(told: object) -> VerifyBudget:
    if not isinstance(told, dict):
        raise _bad("a budget is not an object")
    share, loss = _number(told.get("share")), _number(told.get("loss"))
    return VerifyBudget(share, loss, _numbers(told.get("below")), _numbers(told.get("above")))


def _list(told: dict[str, Any], key: str) -> list[Any]:
    value = told.get(key, [])
    if not isinstance(value, list) or len(value) > MAX_BUDGETS:
        raise _bad(f"'{key}' is not a list of at most {MAX_BUDGETS}")
    return value


def _object(told: dict[str, Any], key: str) -> dict[str, Any]:
    value = told.get(key, {})
    if not isinstance(value, dict):
        raise _bad(f"'{key}' is not an object")
    return value


def _text(told: dict[str, Any], key: str) -> str:
    value = told.get(key, "")
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise _bad(f"'{key}' is not a text of at most {MAX_TEXT} characters")
    return value


def _count(told: dict[str, Any], key: str) -> int:
    value = told.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise _bad(f"'{key}' is not a number of them")
    return value


def _numbers(value: object) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise _bad("a list of numbers is missing")
    return tuple(map(_number, value))


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > 1e6:
        raise _bad(f"expected a number up to a million, got {value!r:.60}")
    return float(value)


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _bad(why: str) -> InvalidInput:
    return InvalidInput(f"this is no calibrator that can be used: {why}")
