"""The certificate of a guarantee: what is promised, of what, by what evidence, as one JSON file.

Whoever has the run, the answers and this file can draw the same sample again and test it again: the
seed and the digests are in it.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, TypeVar

from secondlook.evaluation.guarantee import Guaranteed, Promise, Terms
from secondlook_client.errors import InvalidInput
from secondlook_client.ontology import Ontology
from secondlook_client.values import ReviewAnswer

FORMAT = 1
MAX_BYTES = 8 * 2**20
"""Of a certificate's JSON; two thousand classes take 1 MB."""
MAX_TEXT, MAX_ENTRIES = 4000, 10_000
NOT_GUARANTEED = (
    "Missed objects: that nothing was overlooked.",
    "Other cameras, places, seasons or kinds of scenes than those of this run.",
    "Other models, questions, classes or thresholds than those of this run.",
    "Outlines closer than the person who answered took for right.",
)
"""What a guarantee does not say."""
_FILLED = " (filled)"

T = TypeVar("T")


@dataclass(frozen=True)
class Certificate:
    """What was guaranteed. Raises ``InvalidInput`` for content that cannot be."""

    name: str
    run: str
    """Name of the run."""
    population: str
    """A sentence: of which boxes it speaks."""
    images: int
    boxes: int
    """Pairs of box and class that the sample could be drawn from."""
    scenes: int
    """Near duplicates, and the frames of one stretch of a stream, are one scene."""
    terms: Terms
    results: tuple[Guaranteed, ...]
    """One a class, or one of all together with an empty class name."""
    calibrator: str
    """Digest; empty: the probability is what the models gave."""
    seed: int
    sample: str
    """SHA-256 of what was asked (``SamplePlan.digest``; of several joined by line ends)."""
    answers: str
    """SHA-256 of what was answered (``digest_of_answers``)."""
    created_at: float = 0.0
    """Seconds since 1970."""
    not_guaranteed: tuple[str, ...] = NOT_GUARANTEED
    history: tuple[Mapping[str, Any], ...] = ()
    """What became of it later, oldest first: a JSON object each."""

    def __post_init__(self) -> None:
        names = [result.class_name for result in self.results]
        found = [name for name in names if not is_filled_name(name)]
        if not names or len(set(names)) < len(names) or ("" in found and len(found) > 1):
            raise _bad("expected one result a class, or one of all classes together")
        shares = [result.threshold for result in self.results if result.threshold is not None]
        for result in self.results:
            shares += [result.coverage, result.bound, result.scenes_bound]
        if not all(0 <= share <= 1 for share in shares):
            raise _bad("a threshold, bound or coverage is not between 0 and 1")
        counts = [self.images, self.boxes, self.scenes]
        for result in self.results:
            counts += [result.accepted, result.answers, result.wrong, result.unsure]
        if not all(0 <= count < 2**53 for count in counts):
            raise _bad("a number of images, boxes or answers is out of range")

    @property
    def holds(self) -> bool:
        """Whether it guarantees anything."""
        return bool(self.thresholds)

    @property
    def thresholds(self) -> dict[str, float]:
        """Of what is guaranteed, by class name (empty: all classes together)."""
        return {r.class_name: r.threshold for r in self.results if r.threshold is not None}

    def limits(self, names: Sequence[str]) -> dict[str, float]:
        """The threshold of each guaranteed class among ``names``, in their order."""
        found = self.thresholds
        if "" in found:
            return dict.fromkeys(names, found[""])
        return {name: found[name] for name in names if name in found}

    def filled_limits(self, names: Sequence[str]) -> dict[str, float]:
        """The same for boxes that were filled in where nothing was found."""
        found = self.thresholds
        if filled_name("") in found:
            return dict.fromkeys(names, found[filled_name("")])
        return {name: found[filled_name(name)] for name in names if filled_name(name) in found}

    def to_json(self) -> str:
        """Canonical JSON: equal certificates have equal text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Certificate":
        """The inverse of ``to_json``. Raises ``InvalidInput`` for anything else."""
        if len(text) > MAX_BYTES:
            raise _bad(f"it has {len(text):,} characters; at most {MAX_BYTES:,} are read")
        try:
            told = json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError) as cause:
            raise _bad(f"it is not JSON ({cause!s:.100})") from None
        if not isinstance(told, dict) or told.get("format") != FORMAT:
            raise _bad(
                f"expected a JSON object with format {FORMAT}; another version may have made it"
            )
        del told["format"]
        return _parsed(
            cls,
            told,
            terms=_parsed(Terms, told.get("terms")),
            results=tuple(_parsed(Guaranteed, one) for one in _list(told, "results", dict)),
            not_guaranteed=tuple(_list(told, "not_guaranteed", str)),
            history=tuple(_list(told, "history", dict)),
        )


def filled_name(class_name: str) -> str:
    """What a certificate calls the filled boxes of a class; empty: those of all classes."""
    return f"{class_name or 'all classes'}{_FILLED}"


def is_filled_name(name: str) -> bool:
    """Whether it is one of ``filled_name``."""
    return name.endswith(_FILLED)


def lowest_limits(ontology: Ontology) -> Ontology:
    """``ontology`` with limits as low as can be: what would not be rejected is accepted.

    A box is accepted by it, and its probability reaches a threshold, exactly where that threshold
    as the limit would accept it.
    """
    return Ontology(tuple(replace(spec, accept=spec.reject) for spec in ontology.classes))


def limit_reason(class_name: str, probability: float, limit: float | None) -> str:
    """Why a box is accepted under a guarantee, or not; ``limit`` None: its class is not in it."""
    if limit is None:
        return f"'{class_name}' is not under the guarantee"
    sign = "≥" if probability >= limit else "<"
    return f"P(right) {probability:.3f} {sign} {limit:.3f}, guaranteed from there"


def digest_of_answers(rows: Sequence[int], answers: Mapping[int, ReviewAnswer]) -> str:
    """SHA-256 of the answers to these rows, in their order, 64 hex digits."""
    told = [[row, answers[row].value] for row in rows if row in answers]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _parsed(kind: type[T], told: object, **parts: Any) -> T:
    """A value of ``kind``; ``parts`` are the fields that are parsed already."""
    if not isinstance(told, dict):
        raise _bad(f"a JSON object ({kind.__name__}) is missing")
    values = dict(parts)
    wanted = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    unknown = [name for name in told if name not in wanted]
    missing = [name for name, one in wanted.items() if one.default is MISSING and name not in told]
    if unknown or missing:
        raise _bad(
            f"the field '{[*unknown, *missing][0]:.60}' is " + ("unknown" if unknown else "missing")
        )
    for name in told.keys() - parts.keys():
        values[name] = _simple(name, told[name], wanted[name].type)
    return kind(**values)


def _simple(name: str, value: object, kind: Any) -> object:
    """A text or number of the annotated ``kind``."""
    if kind is Promise and isinstance(value, str) and value in list(Promise):
        return Promise(value)
    if isinstance(value, int) and not isinstance(value, bool) and isinstance(0.0, kind):
        value = float(value) if abs(value) < 2**53 else math.inf
    if isinstance(value, bool) or not isinstance(value, kind):
        raise _bad(f"the value of '{name}' is of another kind")
    if isinstance(value, float) and not math.isfinite(value):
        raise _bad(f"the value of '{name}' is not finite")
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise _bad(f"'{name}' has more than {MAX_TEXT} characters")
    return value


def _list(told: dict[str, Any], key: str, kind: type) -> list[Any]:
    value = told.get(key, [])
    if not isinstance(value, list) or len(value) > MAX_ENTRIES:
        raise _bad(f"'{key}' is not a list of at most {MAX_ENTRIES:,} entries")
    if not all(isinstance(one, kind) for one in value):
        raise _bad(f"an entry of '{key}' is of another kind")
    return value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _bad(why: str) -> InvalidInput:
    return InvalidInput(f"this certificate cannot be used: {why}")
