"""Binary format of the evidence and decisions of one image, exact to the last bit.

A format byte, then a zlib stream: counts, arrays (little endian), and a JSON list of the texts that
the arrays refer to by index (0 is the empty text). Questions and class names are not in it: the
ontology of the row has them. ``python -m bench store`` compares the size of other formats.

Format 2 is format 1 with the verdicts about the whole image, and with 16 bits for the class of a
decision. It is written only where either is needed, so everything else can be read by the versions
of before.

Probabilities are stored in 32 bits where that loses nothing, as with every model in process, else
in 64; a verdict's milliseconds in 32.
"""

import json
import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.core.types import Boxes, Evidence, ImageVerdicts, Proposals
from secondlook_client.errors import Damaged
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import (
    WHOLE_IMAGE,
    Answer,
    Decision,
    Judgement,
    Outcome,
    Verdict,
    View,
)

FORMAT, WITH_IMAGE = 1, 2
WHOLE_IMAGE_ROW = 2**16 - 1
"""The row of a decision on the whole image; no image has so many proposals."""
LEVEL = 1
"""Of zlib: higher ones take longer and save a few percent."""
CHECK = "run `secondlook check`"
OUTCOMES = (Outcome.ACCEPT, Outcome.REJECT, Outcome.UNSURE)
EXACT, CACHED = 1, 2
EVIDENCE_HEAD = struct.Struct("<BHHI")  # probabilities in 64 bits?, boxes, classes, verdicts
IMAGE_HEAD = struct.Struct("<III")  # width, height, verdicts
DECISIONS_HEAD = struct.Struct("<BI")  # probabilities in 64 bits?, judgements


def _verdict_type(wide: bool) -> np.dtype[Any]:
    return np.dtype(
        [
            ("p_yes", "<f8" if wide else "<f4"),  # NaN: no verdict
            ("ms", "<f4"),
            ("row", "<u2"),
            ("question", "<u2"),
            ("raw", "<u4"),
            ("error", "<u4"),
            ("model", "<u2"),
            ("flags", "u1"),
        ]
    )


def _decision_type(wide: bool, class_type: str) -> np.dtype[Any]:
    return np.dtype(
        [
            ("probability", "<f8" if wide else "<f4"),
            ("row", "<u2"),
            ("class", class_type),
            ("outcome", "u1"),
            ("reason", "<u4"),
        ]
    )


VERDICTS = (_verdict_type(False), _verdict_type(True))
"""Rows of verdicts with P(yes) in 32 and in 64 bits."""
DECIDED = {
    kind: (_decision_type(False, class_type), _decision_type(True, class_type))
    for kind, class_type in ((FORMAT, "u1"), (WITH_IMAGE, "<u2"))
}
"""Rows of decisions, by format, with probabilities in 32 and in 64 bits."""
MAX_CLASS = 2**8 - 1
"""The last class that a decision of format 1 has a number for."""


@lru_cache(maxsize=64)
def questions_of(ontology: Ontology) -> tuple[tuple[View, str], ...]:
    """The distinct (view, question) pairs of an ontology, in order of first use."""
    return tuple(dict.fromkeys((spec.view, spec.question) for spec in ontology.classes))


@lru_cache(maxsize=64)
def presence_questions_of(ontology: Ontology) -> tuple[str, ...]:
    """The distinct presence questions of an ontology, in order of first use."""
    return tuple(dict.fromkeys(spec.presence_question for spec in ontology.classes))


def pack_evidence(evidence: Evidence, ontology: Ontology) -> bytes:
    """Pack evidence that was made with ``ontology``.

    Raises ``ValueError`` or ``KeyError`` for classes or questions of another ontology.
    """
    proposals, verdicts = evidence.proposals, evidence.verdicts
    if proposals.scores.shape[1] != len(ontology.classes):
        raise ValueError(
            f"{proposals.scores.shape[1]} scores a box for {len(ontology.classes)} classes"
        )
    index = {question: number for number, question in enumerate(questions_of(ontology))}
    texts = _TextIndex()
    rows = [
        _verdict_row(verdict, row, index[view, question], texts, evidence.verifier)
        for (row, view, question), verdict in verdicts.items()
    ]
    of_image = _image_rows(evidence, ontology, texts)
    wide = _is_wide(row[0] for row in (*rows, *of_image))
    image: tuple[bytes, ...] = ()
    if evidence.image:
        head = IMAGE_HEAD.pack(*evidence.image.size, len(of_image))
        image = (head, np.array(of_image, dtype=VERDICTS[wide]).tobytes())
    return compress(
        EVIDENCE_HEAD.pack(wide, len(proposals), len(ontology.classes), len(rows)),
        proposals.boxes.astype("<f4").tobytes(),
        proposals.scores.astype("<f4").tobytes(),
        np.array(rows, dtype=VERDICTS[wide]).tobytes(),
        *image,
        texts.packed(),
        kind=WITH_IMAGE if evidence.image else FORMAT,
    )


def _verdict_row(
    verdict: Verdict, row: int, question: int, texts: "_TextIndex", verifier: str
) -> tuple[Any, ...]:
    """A row of ``VERDICTS``."""
    return (
        math.nan if verdict.answer.p_yes is None else verdict.answer.p_yes,
        verdict.ms,
        row,
        question,
        texts.index(verdict.answer.raw),
        texts.index(verdict.answer.error),
        0 if verdict.model == verifier else texts.index(verdict.model),
        verdict.answer.exact * EXACT | verdict.cached * CACHED,
    )


def _image_rows(
    evidence: Evidence, ontology: Ontology, texts: "_TextIndex"
) -> list[tuple[Any, ...]]:
    """The verdicts about the whole image, whose row is that of the tile."""
    if evidence.image is None:
        return []
    index = {question: number for number, question in enumerate(presence_questions_of(ontology))}
    return [
        _verdict_row(verdict, tile, index[question], texts, evidence.verifier)
        for question, of_tiles in evidence.image.by_question.items()
        for tile, verdict in enumerate(of_tiles)
    ]


def unpack_evidence(
    content: bytes, ontology: Ontology, proposer: str, verifier: str, student: str = ""
) -> Evidence:
    """The inverse of ``pack_evidence``; the names come from the row. Raises ``Damaged``."""
    arrays = evidence_arrays(content, len(ontology.classes))
    try:
        texts = ["", *json.loads(arrays.texts)]
        verdicts = _verdicts(arrays.verdicts.tolist(), texts, questions_of(ontology), verifier)
        proposals = Proposals(arrays.boxes, arrays.scores)
        image = image_verdicts(arrays, ontology, verifier)
        return Evidence(proposals, verdicts, proposer, verifier, student, image)
    except (ValueError, IndexError, TypeError) as cause:
        raise Damaged(f"the stored evidence cannot be read ({cause}); {CHECK}") from cause


@dataclass(frozen=True, eq=False)
class EvidenceArrays:
    """Evidence of an image with N boxes as it is stored."""

    boxes: Boxes
    """(N, 4)."""
    scores: NDArray[np.float32]
    """(N, classes of the ontology)."""
    verdicts: NDArray[Any]
    """Rows of ``VERDICTS``."""
    texts: bytes
    """JSON list, without the empty text of index 0."""
    image_size: tuple[int, int] = (0, 0)
    """Of the image, where it was asked about as a whole."""
    image_verdicts: NDArray[Any] | None = None
    """Rows of ``VERDICTS``, each of a tile of the image; None where it was not asked about."""


def evidence_arrays(content: bytes, classes: int) -> EvidenceArrays:
    """The arrays of packed evidence, made with that many classes. Raises ``Damaged``."""
    packed = decompress(content)
    try:
        wide, boxes, columns, verdicts = EVIDENCE_HEAD.unpack_from(packed)
        if columns != classes:
            raise ValueError(f"{columns} classes where the ontology has {classes}")
        at = EVIDENCE_HEAD.size
        numbers: NDArray[np.float32] = np.frombuffer(packed, "<f4", boxes * (4 + columns), at)
        at += numbers.nbytes
        rows = np.frombuffer(packed, VERDICTS[wide], verdicts, at)
        at += rows.nbytes
        width, height, of_image = 0, 0, None
        if content[0] == WITH_IMAGE:
            width, height, verdicts = IMAGE_HEAD.unpack_from(packed, at)
            of_image = np.frombuffer(packed, VERDICTS[wide], verdicts, at + IMAGE_HEAD.size)
            at += IMAGE_HEAD.size + of_image.nbytes
    except (struct.error, ValueError, IndexError) as cause:
        raise Damaged(f"the stored evidence cannot be read ({cause}); {CHECK}") from cause
    return EvidenceArrays(
        numbers[: boxes * 4].reshape(boxes, 4),
        numbers[boxes * 4 :].reshape(boxes, columns),
        rows,
        packed[at:],
        (width, height),
        of_image,
    )


def image_verdicts(
    arrays: EvidenceArrays, ontology: Ontology, verifier: str
) -> ImageVerdicts | None:
    """What was said of the whole image, if it was asked about.

    Raises ``ValueError``, ``IndexError`` or ``TypeError`` for damaged arrays.
    """
    if arrays.image_verdicts is None:
        return None
    rows, texts = arrays.image_verdicts.tolist(), ["", *json.loads(arrays.texts)]
    # Of several tiles each is a crop.
    view = View.CROP if any(row[2] for row in rows) else View.IMAGE
    questions = [(view, question) for question in presence_questions_of(ontology)]
    found: dict[str, tuple[Verdict, ...]] = {}
    for (_, _, question), verdict in _verdicts(rows, texts, questions, verifier).items():
        found[question] = (*found.get(question, ()), verdict)
    return ImageVerdicts(arrays.image_size, found)


def _verdicts(
    rows: list[Any], texts: list[str], questions: Sequence[tuple[View, str]], verifier: str
) -> dict[tuple[int, View, str], Verdict]:
    found = {}
    for p_yes, ms, row, number, raw, error, model, flags in rows:
        view, question = questions[number]
        answer = Answer(
            None if p_yes != p_yes else p_yes, texts[raw], texts[error], bool(flags & EXACT)
        )
        model_name = texts[model] if model else verifier
        found[row, view, question] = Verdict(
            question, view, answer, model_name, ms, bool(flags & CACHED)
        )
    return found


def pack_decisions(judgements: Sequence[Judgement], ontology: Ontology) -> bytes:
    """Pack decisions that were made with ``ontology``."""
    index = {name: number for number, name in enumerate(ontology.names)}
    texts = _TextIndex()
    rows = [
        (
            judgement.decision.probability,
            WHOLE_IMAGE_ROW if judgement.whole_image else judgement.row,
            index[judgement.class_name],
            OUTCOMES.index(judgement.decision.outcome),
            texts.index(judgement.decision.reason),
        )
        for judgement in judgements
    ]
    wide = _is_wide(row[0] for row in rows)
    new = any(row[1] == WHOLE_IMAGE_ROW or row[2] > MAX_CLASS for row in rows)
    kind = WITH_IMAGE if new else FORMAT
    return compress(
        DECISIONS_HEAD.pack(wide, len(rows)),
        np.array(rows, dtype=DECIDED[kind][wide]).tobytes(),
        texts.packed(),
        kind=kind,
    )


def unpack_decisions(
    content: bytes, evidence: Evidence, ontology: Ontology
) -> tuple[Judgement, ...]:
    """The inverse of ``pack_decisions``; scores and verdicts come from the evidence.

    ``evidence.proposals`` has one column a class of ``ontology``. Raises ``Damaged``.
    """
    packed = decompress(content)
    try:
        wide, judgements = DECISIONS_HEAD.unpack_from(packed)
        kind = DECIDED[content[0]][wide]
        rows = np.frombuffer(packed, kind, judgements, DECISIONS_HEAD.size)
        texts = ["", *json.loads(packed[DECISIONS_HEAD.size + rows.nbytes :])]
        return _judgements(rows.tolist(), texts, evidence, ontology)
    except (struct.error, ValueError, IndexError, TypeError) as cause:
        raise Damaged(f"the stored decisions cannot be read ({cause}); {CHECK}") from cause


def _judgements(
    rows: list[Any], texts: list[str], evidence: Evidence, ontology: Ontology
) -> tuple[Judgement, ...]:
    boxes = evidence.proposals.boxes.tolist()
    scores = evidence.proposals.scores.tolist()
    found = []
    for probability, row, class_, outcome, reason in rows:
        spec = ontology.classes[class_]
        decision = Decision(OUTCOMES[outcome], probability, texts[reason])
        if row == WHOLE_IMAGE_ROW:
            found.append(_of_image(spec, evidence, decision))
            continue
        x1, y1, x2, y2 = boxes[row]
        found.append(
            Judgement(
                spec.name,
                (x1, y1, x2, y2),
                scores[row][class_],
                evidence.verdict(row, spec.view, spec.question),
                decision,
                row,
            )
        )
    return tuple(found)


def _of_image(spec: ClassSpec, evidence: Evidence, decision: Decision) -> Judgement:
    if evidence.image is None:
        raise ValueError("a decision on the whole image, which was not asked about")
    verdict = evidence.image.verdict(spec.presence_question)
    return Judgement(spec.name, evidence.image.box, 0.0, verdict, decision, WHOLE_IMAGE)


class _TextIndex:
    """Distinct texts in order of first use; index 0 is the empty one."""

    def __init__(self) -> None:
        self._indices = {"": 0}

    def index(self, text: str) -> int:
        return self._indices.setdefault(text, len(self._indices))

    def packed(self) -> bytes:
        return json.dumps([*self._indices][1:], separators=(",", ":")).encode("ascii")


def _is_wide(probabilities: Iterable[float]) -> bool:
    values = np.fromiter(probabilities, dtype=np.float64)
    return not np.array_equal(values, values.astype(np.float32), equal_nan=True)


def compress(*parts: bytes, kind: int = FORMAT) -> bytes:
    """Join and compress: the format byte, then a zlib stream."""
    return bytes((kind,)) + zlib.compress(b"".join(parts), LEVEL)


def decompress(content: bytes) -> bytes:
    """The inverse of ``compress``, in one piece. Raises ``Damaged``."""
    if not content or content[0] not in (FORMAT, WITH_IMAGE):
        raise Damaged(
            f"a row has the format {content[0] if content else 'none'}, which this version cannot "
            "read; use the version that wrote it, or a newer one"
        )
    try:
        return zlib.decompress(memoryview(content)[1:])
    except zlib.error as cause:
        raise Damaged(f"packed bytes are damaged ({cause}); {CHECK}") from cause
