"""Evidence and decisions of one image as bytes, exact to the last bit.

One byte for the form, then a zlib stream: counts, arrays (little endian), and a JSON list of the
texts that the arrays name by place (0 is the empty text). Questions and class names are not in it:
the ontology of the row has them. ``python -m bench store`` has what other forms cost.

Probabilities are kept in 32 bits where that loses nothing, as with every model in process, else in
64; a verdict's milliseconds in 32.
"""

import json
import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.core.errors import Damaged
from secondlook.core.ontology import Ontology
from secondlook.core.types import (
    Answer,
    Decision,
    Evidence,
    Judgement,
    Outcome,
    Proposals,
    Verdict,
    View,
)

FORM = 1
LEVEL = 1
"""Of zlib: higher ones take longer and save a few bytes in a hundred."""
OUTCOMES = (Outcome.ACCEPT, Outcome.REJECT, Outcome.UNSURE)
EXACT, CACHED = 1, 2
EVIDENCE_HEAD = struct.Struct("<BHHI")  # probabilities in 64 bits?, boxes, classes, verdicts
DECISIONS_HEAD = struct.Struct("<BI")  # probabilities in 64 bits?, judgements


def _verdict_type(wide: bool) -> np.dtype[Any]:
    return np.dtype(
        [
            ("p_yes", "<f8" if wide else "<f4"),  # NaN: no verdict
            ("ms", "<f4"),
            ("row", "<u2"),
            ("ask", "<u2"),
            ("raw", "<u4"),
            ("error", "<u4"),
            ("model", "<u2"),
            ("flags", "u1"),
        ]
    )


def _decision_type(wide: bool) -> np.dtype[Any]:
    return np.dtype(
        [
            ("probability", "<f8" if wide else "<f4"),
            ("row", "<u2"),
            ("class", "u1"),
            ("outcome", "u1"),
            ("reason", "<u4"),
        ]
    )


VERDICTS = (_verdict_type(False), _verdict_type(True))
"""Rows of verdicts with P(yes) in 32 and in 64 bits."""
DECIDED = (_decision_type(False), _decision_type(True))
"""Rows of decisions with probabilities in 32 and in 64 bits."""


@lru_cache(maxsize=64)
def asks_of(ontology: Ontology) -> tuple[tuple[View, str], ...]:
    """Every distinct (view, question) of an ontology, in order of first use."""
    return tuple(dict.fromkeys((spec.view, spec.question) for spec in ontology.classes))


def pack_evidence(evidence: Evidence, ontology: Ontology) -> bytes:
    """``evidence`` as bytes; ``ontology`` is the one that its classes and questions come from.

    Raises ``ValueError`` or ``KeyError`` when they are not.
    """
    proposals, verdicts = evidence.proposals, evidence.verdicts
    if proposals.scores.shape[1] != len(ontology.classes):
        raise ValueError(
            f"{proposals.scores.shape[1]} scores a box for {len(ontology.classes)} classes"
        )
    place = {ask: number for number, ask in enumerate(asks_of(ontology))}
    texts = _Texts()
    rows = [
        (
            math.nan if verdict.answer.p_yes is None else verdict.answer.p_yes,
            verdict.ms,
            row,
            place[view, question],
            texts.place(verdict.answer.raw),
            texts.place(verdict.answer.error),
            0 if verdict.model == evidence.verifier else texts.place(verdict.model),
            verdict.answer.exact * EXACT | verdict.cached * CACHED,
        )
        for (row, view, question), verdict in verdicts.items()
    ]
    wide = _is_wide(row[0] for row in rows)
    return closed(
        EVIDENCE_HEAD.pack(wide, len(proposals), len(ontology.classes), len(rows)),
        proposals.boxes.astype("<f4").tobytes(),
        proposals.scores.astype("<f4").tobytes(),
        np.array(rows, dtype=VERDICTS[wide]).tobytes(),
        texts.packed(),
    )


def unpack_evidence(
    content: bytes, ontology: Ontology, proposer: str, verifier: str, student: str = ""
) -> Evidence:
    """What ``pack_evidence`` packed, with the names that it was kept with. Raises ``Damaged``."""
    packed = opened(content)
    try:
        wide, boxes, classes, verdicts = EVIDENCE_HEAD.unpack_from(packed)
        if classes != len(ontology.classes):
            raise ValueError(f"{classes} classes where the ontology has {len(ontology.classes)}")
        at = EVIDENCE_HEAD.size
        numbers: NDArray[np.float32] = np.frombuffer(packed, "<f4", boxes * (4 + classes), at)
        at += numbers.nbytes
        rows = np.frombuffer(packed, VERDICTS[wide], verdicts, at)
        texts = ["", *json.loads(packed[at + rows.nbytes :])]
        return Evidence(
            Proposals(
                numbers[: boxes * 4].reshape(boxes, 4),
                numbers[boxes * 4 :].reshape(boxes, classes),
            ),
            _verdicts(rows.tolist(), texts, asks_of(ontology), verifier),
            proposer,
            verifier,
            student,
        )
    except (struct.error, ValueError, IndexError, TypeError) as cause:
        raise Damaged(f"the kept evidence cannot be read ({cause}); {CHECK}") from cause


def _verdicts(
    rows: list[Any], texts: list[str], asks: Sequence[tuple[View, str]], verifier: str
) -> dict[tuple[int, View, str], Verdict]:
    found = {}
    for p_yes, ms, row, ask, raw, error, model, flags in rows:
        view, question = asks[ask]
        answer = Answer(
            None if p_yes != p_yes else p_yes, texts[raw], texts[error], bool(flags & EXACT)
        )
        said_by = texts[model] if model else verifier
        found[row, view, question] = Verdict(
            question, view, answer, said_by, ms, bool(flags & CACHED)
        )
    return found


def pack_decisions(judgements: Sequence[Judgement], ontology: Ontology) -> bytes:
    """What was decided, as bytes; ``ontology`` is the one that it was decided by."""
    place = {name: number for number, name in enumerate(ontology.names)}
    texts = _Texts()
    rows = [
        (
            judgement.decision.probability,
            judgement.row,
            place[judgement.class_name],
            OUTCOMES.index(judgement.decision.outcome),
            texts.place(judgement.decision.reason),
        )
        for judgement in judgements
    ]
    wide = _is_wide(row[0] for row in rows)
    return closed(
        DECISIONS_HEAD.pack(wide, len(rows)),
        np.array(rows, dtype=DECIDED[wide]).tobytes(),
        texts.packed(),
    )


def unpack_decisions(
    content: bytes, evidence: Evidence, ontology: Ontology
) -> tuple[Judgement, ...]:
    """The judgements that ``pack_decisions`` packed; scores and verdicts are the evidence's.

    ``evidence.proposals`` has one column a class of ``ontology``. Raises ``Damaged``.
    """
    packed = opened(content)
    try:
        wide, judgements = DECISIONS_HEAD.unpack_from(packed)
        rows = np.frombuffer(packed, DECIDED[wide], judgements, DECISIONS_HEAD.size)
        texts = ["", *json.loads(packed[DECISIONS_HEAD.size + rows.nbytes :])]
        return _judgements(rows.tolist(), texts, evidence, ontology)
    except (struct.error, ValueError, IndexError, TypeError) as cause:
        raise Damaged(f"the kept decisions cannot be read ({cause}); {CHECK}") from cause


def _judgements(
    rows: list[Any], texts: list[str], evidence: Evidence, ontology: Ontology
) -> tuple[Judgement, ...]:
    boxes = evidence.proposals.boxes.tolist()
    scores = evidence.proposals.scores.tolist()
    found = []
    for probability, row, class_, outcome, reason in rows:
        spec = ontology.classes[class_]
        x1, y1, x2, y2 = boxes[row]
        found.append(
            Judgement(
                spec.name,
                (x1, y1, x2, y2),
                scores[row][class_],
                evidence.heard(row, spec.view, spec.question),
                Decision(OUTCOMES[outcome], probability, texts[reason]),
                row,
            )
        )
    return tuple(found)


class _Texts:
    """Distinct texts in order of first use; place 0 is the empty one."""

    def __init__(self) -> None:
        self._places = {"": 0}

    def place(self, text: str) -> int:
        return self._places.setdefault(text, len(self._places))

    def packed(self) -> bytes:
        return json.dumps([*self._places][1:], separators=(",", ":")).encode("ascii")


CHECK = "run `secondlook check`"


def _is_wide(probabilities: Iterable[float]) -> bool:
    values = np.fromiter(probabilities, dtype=np.float64)
    return not np.array_equal(values, values.astype(np.float32), equal_nan=True)


def closed(*parts: bytes) -> bytes:
    """Parts as they are stored: the form, then a zlib stream."""
    return bytes((FORM,)) + zlib.compress(b"".join(parts), LEVEL)


def opened(content: bytes) -> bytes:
    """What ``closed`` was given, in one piece. Raises ``Damaged``."""
    if content[:1] != bytes((FORM,)):
        raise Damaged(
            f"a row is packed in form {content[0] if content else 'none'}, which this version does "
            "not know; use the version that wrote it, or a newer one"
        )
    try:
        return zlib.decompress(memoryview(content)[1:])
    except zlib.error as cause:
        raise Damaged(f"packed bytes are damaged ({cause}); {CHECK}") from cause
