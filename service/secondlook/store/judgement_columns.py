"""Judgements of many results as columns: to filter, sort and count a run without reading it again.

The binary format is that of ``codec``; the evidence is read as ``bulk`` reads it.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, func, select

from secondlook.core.class_mapping import columns_for
from secondlook.core.types import Boxes, path_of
from secondlook.store.bulk import EvidenceBatch, unpack_many
from secondlook.store.codec import (
    CHECK,
    DECIDED,
    DECISIONS_HEAD,
    MASK_AND_BOX,
    NO_MASK,
    OUTCOMES,
    WHOLE_IMAGE_ROW,
    decided_reasons,
    decompress,
    questions_of,
)
from secondlook.store.ontologies import load_ontology, parse_proposer_text
from secondlook.store.results import Result
from secondlook.store.runs import Run
from secondlook.store.schema import decisions, evidence, images, items, reviews, texts
from secondlook.store.schema import uncertainties as uncertainties_table
from secondlook.store.uncertainties import unpack_uncertainties
from secondlook_client.errors import Damaged
from secondlook_client.ontology import Ontology
from secondlook_client.values import LabelPath, Outcome

T = TypeVar("T")

PATHS = tuple(LabelPath)
"""What ``JudgementColumns.paths`` counts by."""
_ROWS = np.dtype(
    [
        ("probability", "<f8"),
        ("row", "<u2"),
        ("class", "<u2"),
        ("outcome", "u1"),
        ("outline", "u1"),
    ]
)


@dataclass(frozen=True, eq=False)
class JudgementColumns:
    """P results of one run with J judgements in all, with reviews applied."""

    cursors: NDArray[np.int64]
    """(P,) ascending."""
    image_ids: NDArray[np.int64]
    """(P,)."""
    names: tuple[str, ...]
    sha256: tuple[bytes, ...]
    sizes: NDArray[np.int32]
    """(P, 2) width and height, pixels."""
    paths: NDArray[np.int8]
    """(P,) indices into ``PATHS``."""
    decided_at: NDArray[np.float64]
    """(P,) seconds since 1970."""
    reviewed: NDArray[np.bool_]
    """(P,) whether people decided or added one of the judgements."""
    starts: NDArray[np.intp]
    """(P + 1,): result p has the judgements from ``starts[p]`` up to ``starts[p + 1]``."""
    classes: NDArray[np.int16]
    """(J,) indices of classes in the run's ontology."""
    outcomes: NDArray[np.int8]
    """(J,) indices into ``codec.OUTCOMES``."""
    probabilities: NDArray[np.float32]
    """(J,) in [0, 1]."""
    uncertainties: NDArray[np.float32]
    """(J,) the highest that was measured, [0, 1]; NaN where nothing was."""
    accepted: NDArray[np.bool_]
    """(J,) whether the run accepted it, whatever people said since."""

    def __len__(self) -> int:
        return len(self.cursors)

    @property
    def nbytes(self) -> int:
        """Memory, about."""
        arrays = (value for value in vars(self).values() if isinstance(value, np.ndarray))
        return sum(array.nbytes for array in arrays) + sum(map(len, self.names)) + 160 * len(self)


@dataclass(frozen=True, eq=False)
class EvidenceColumns:
    """What the same J judgements were decided from: apart, as it takes twice as long to read."""

    scores: NDArray[np.float32]
    """(J,) in [0, 1]."""
    p_yes: NDArray[np.float32]
    """(J,) in [0, 1]; NaN without an answer."""
    boxes: Boxes
    """(J, 4) pixels, xyxy."""
    areas: NDArray[np.float32]
    """(J,) shares of the image that the boxes take, [0, 1]."""

    @property
    def nbytes(self) -> int:
        """Memory."""
        return sum(array.nbytes for array in vars(self).values())


@dataclass(frozen=True, eq=False)
class ReasonColumns:
    """Why the same J judgements were decided so, for a search: apart, as few lists need it."""

    texts: tuple[str, ...]
    """Distinct, without regard to case."""
    index: NDArray[np.int32]
    """(J,) of each judgement's text."""

    @property
    def nbytes(self) -> int:
        """Memory, about."""
        return self.index.nbytes + sum(map(len, self.texts)) + 80 * len(self.texts)

    def having(self, text: str) -> NDArray[np.bool_]:
        """(J,) whether ``text`` is in it, regardless of case."""
        wanted = text.casefold()
        found = np.array([wanted in one for one in self.texts], dtype=bool)
        return found[self.index]


Columns = Mapping[str, NDArray[Any]]
"""Some columns of judgements by name, those of one result behind those of the one before."""


@dataclass(frozen=True, eq=False)
class StoredDecisions:
    """What a run decided on P results, before reviews: J judgements."""

    counts: NDArray[np.intp]
    """(P,) judgements of each result."""
    rows: NDArray[np.intp]
    """(J,) of the result's proposals, or ``WHOLE_IMAGE_ROW``."""
    classes: NDArray[np.intp]
    """(J,) indices of classes in the run's ontology."""
    outcomes: NDArray[np.intp]
    """(J,) indices into ``codec.OUTCOMES``."""


def stored_decisions(connection: Connection, run_id: int, first: int, last: int) -> StoredDecisions:
    """Of the run's results with cursors from ``first`` to ``last``. Raises ``Damaged``."""
    query = select(decisions.c.content).order_by(decisions.c.id)
    query = query.where(decisions.c.run_id == run_id, decisions.c.id.between(first, last))
    parts = _checked(lambda: [_decided(content) for content in connection.scalars(query)])
    joined = _in_one(parts)
    rows, classes, outcomes = (joined[n].astype(np.intp) for n in ("row", "class", "outcome"))
    counts = np.array([len(part) for part in parts], dtype=np.intp)
    return StoredDecisions(counts, rows, classes, outcomes)


def run_cursors(connection: Connection, run_id: int, after: int = 0) -> NDArray[np.int64]:
    """The cursors of a run's results behind ``after``, ascending; from an index alone."""
    query = select(decisions.c.id).where(decisions.c.run_id == run_id, decisions.c.id > after)
    return np.fromiter(connection.scalars(query.order_by(decisions.c.id)), dtype=np.int64)


def count_cursors(connection: Connection, run_id: int) -> int:
    """How many results a run has; from an index alone, and several times as fast as reading it."""
    query = select(func.count()).select_from(decisions).where(decisions.c.run_id == run_id)
    return int(connection.execute(query).scalar_one())


def reviewed_images(connection: Connection, after: int) -> dict[int, int]:
    """Images of the reviews behind the number ``after``, by that of the review."""
    query = select(reviews.c.id, reviews.c.image_id).where(reviews.c.id > after)
    return {row.id: row.image_id for row in connection.execute(query)}


def last_review(connection: Connection) -> int:
    """The number of the newest review; 0: there is none."""
    return connection.execute(select(func.max(reviews.c.id))).scalar() or 0


def newest_uncertainty(connection: Connection) -> tuple[int, float]:
    """What changes whenever uncertainties are measured."""
    table = uncertainties_table
    query = select(table.c.id, table.c.created_at).order_by(table.c.id.desc()).limit(1)
    row = connection.execute(query).first()
    return (row.id, row.created_at) if row else (0, 0.0)


def with_reviews(connection: Connection, run_id: int, first: int, last: int) -> list[int]:
    """Cursors from ``first`` to ``last`` of a run's results whose image has a review."""
    query = (
        select(decisions.c.id)
        .where(decisions.c.run_id == run_id, decisions.c.id.between(first, last))
        .where(select(reviews.c.id).where(reviews.c.image_id == decisions.c.image_id).exists())
    )
    return [*connection.scalars(query)]


def read_columns(
    connection: Connection, run: Run, first: int, last: int, reviewed: Mapping[int, Result]
) -> JudgementColumns:
    """The results of ``run`` with cursors from ``first`` to ``last``.

    ``reviewed`` are those that people said something of, by cursor, with reviews applied. Raises
    ``Damaged``.
    """
    rows = connection.execute(_select(run.id, first, last, with_evidence=False)).all()
    decided = _checked(lambda: [_decided(row.content) for row in rows])
    joined = _in_one(decided)
    found = {name: joined[name] for name in ("class", "outcome", "probability")}
    lengths = [len(part) for part in decided]
    counts, judged = _spliced(found, lengths, rows, reviewed, _DecidedOf(run.ontology))
    starts = np.concatenate([[0], np.cumsum(counts, dtype=np.intp)]).astype(np.intp)
    return JudgementColumns(
        cursors=np.array([row.id for row in rows], dtype=np.int64),
        image_ids=np.array([row.image_id for row in rows], dtype=np.int64),
        names=tuple(row.name for row in rows),
        sha256=tuple(bytes(row.sha256) for row in rows),
        sizes=np.array([(row.width, row.height) for row in rows], dtype=np.int32).reshape(-1, 2),
        paths=np.array([PATHS.index(_path(row)) for row in rows], dtype=np.int8),
        decided_at=np.array([row.created_at for row in rows], dtype=np.float64),
        reviewed=np.array(
            [row.id in reviewed and bool(reviewed[row.id].reviewed) for row in rows], dtype=bool
        ),
        starts=starts,
        classes=judged["class"].astype(np.int16),
        outcomes=judged["outcome"].astype(np.int8),
        probabilities=judged["probability"].astype(np.float32),
        uncertainties=_measured(connection, rows, starts, (first, last)),
        accepted=_accepted(joined["outcome"], lengths, starts),
    )


def read_reasons(
    connection: Connection, run: Run, first: int, last: int, reviewed: Mapping[int, Result]
) -> ReasonColumns:
    """The reasons of what ``read_columns`` gives. Raises ``Damaged``."""
    query = select(decisions.c.id, decisions.c.content).order_by(decisions.c.id)
    of_run = (decisions.c.run_id == run.id, decisions.c.id.between(first, last))
    texts = dict[str, int]()
    index: list[int] = []
    for row in connection.execute(query.where(*of_run)):
        if row.id in reviewed:
            told = [one.decision.reason for one in reviewed[row.id].labelled.judgements]
        else:
            told = _checked(partial(decided_reasons, row.content))
        index += [texts.setdefault(one.casefold(), len(texts)) for one in told]
    return ReasonColumns((*texts,), np.array(index, dtype=np.int32))


def read_evidence(
    connection: Connection, run: Run, first: int, last: int, reviewed: Mapping[int, Result]
) -> EvidenceColumns:
    """The evidence of what ``read_columns`` gives. Raises ``BadOntology`` and ``NotFound`` too."""
    rows = connection.execute(_select(run.id, first, last, with_evidence=True)).all()
    parts = [_judged(connection, run, some, kind) for kind, some in _by_kind(rows)]
    counts = [count for part_counts, _ in parts for count in part_counts]
    joined = {
        name: np.concatenate([empty, *(columns[name] for _, columns in parts)])
        for name, empty in _NO_EVIDENCE.items()
    }
    lengths, judged = _spliced(joined, counts, rows, reviewed, _evidence_of)
    sizes = np.array([max(row.width * row.height, 1) for row in rows], dtype=np.float64)
    boxes = judged["boxes"].astype(np.float32)
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    return EvidenceColumns(
        scores=judged["scores"].astype(np.float32),
        p_yes=judged["p_yes"].astype(np.float32),
        boxes=boxes,
        areas=np.clip(width * height / np.repeat(sizes, lengths), 0, 1).astype(np.float32),
    )


def _checked(read: Callable[[], T]) -> T:
    """What ``read`` gives. Raises ``Damaged`` where it finds something else than decisions."""
    try:
        return read()
    except (ValueError, IndexError, KeyError, struct.error) as cause:
        raise Damaged(f"stored decisions cannot be read ({cause}); {CHECK}") from cause


def _select(run_id: int, first: int, last: int, *, with_evidence: bool) -> Any:
    proposers = texts.alias("proposers")
    more = [evidence.c.content.label("evidence")] if with_evidence else []
    return (
        select(
            decisions.c.id,
            decisions.c.image_id,
            decisions.c.content,
            decisions.c.created_at,
            items.c.name,
            images.c.sha256,
            images.c.width,
            images.c.height,
            evidence.c.ontology_id,
            proposers.c.text.label("proposer"),
            *more,
        )
        .join(items, items.c.id == decisions.c.item_id)
        .join(images, images.c.id == decisions.c.image_id)
        .join(evidence, evidence.c.id == decisions.c.evidence_id)
        .join(proposers, proposers.c.id == evidence.c.proposer_id)
        .where(decisions.c.run_id == run_id, decisions.c.id.between(first, last))
        .order_by(decisions.c.id)
    )


def _path(row: "Row[Any]") -> LabelPath:
    return path_of(*parse_proposer_text(row.proposer))


def _by_kind(
    rows: Sequence["Row[Any]"],
) -> Iterator[tuple[tuple[int, bool], list["Row[Any]"]]]:
    """Consecutive rows whose evidence has the same columns: ontology, and whether a student's."""

    def kind(row: "Row[Any]") -> tuple[int, bool]:
        return row.ontology_id, _path(row) is LabelPath.STUDENT

    for known, some in groupby(rows, key=kind):
        yield known, list(some)


def _judged(
    connection: Connection, run: Run, rows: Sequence["Row[Any]"], kind: tuple[int, bool]
) -> tuple[list[int], Columns]:
    """How many judgements each result of one kind has, and their evidence."""
    ontology_id, by_student = kind
    kept = load_ontology(connection, ontology_id)
    path = LabelPath.STUDENT if by_student else LabelPath.TEACHERS
    sizes = np.array([(row.width, row.height) for row in rows], dtype=np.float32)
    found = unpack_many([row.evidence for row in rows], kept, sizes)
    scores = columns_for(run.ontology, kept, path).scores(found.scores)
    decided = _checked(lambda: [_decided(row.content) for row in rows])
    counts = [len(part) for part in decided]
    joined, result = _in_one(decided), np.repeat(np.arange(len(rows)), counts)
    return counts, _checked(
        lambda: _looked_up(joined, result, found, scores, run.ontology, _question_places(run, kept))
    )


def _question_places(run: Run, kept: Ontology) -> NDArray[np.intp]:
    """By class of the run, the place of its question among those of the evidence; -1: not asked."""
    known = {question: place for place, question in enumerate(questions_of(kept))}
    asked = [known.get((spec.view, spec.question), -1) for spec in run.ontology.classes]
    return np.array(asked, dtype=np.intp)


def _looked_up(
    decided: NDArray[Any],
    result: NDArray[np.intp],
    found: EvidenceBatch,
    scores: NDArray[np.float32],
    ontology: Ontology,
    questions: NDArray[np.intp],
) -> Columns:
    """The evidence of ``decided``; ``result`` has the result of each judgement."""
    classes = decided["class"].astype(np.intp)
    whole = decided["row"] == WHOLE_IMAGE_ROW
    at = found.starts[result] + np.where(whole, 0, decided["row"])
    boxes = np.zeros((len(decided), 4), dtype=np.float32)
    score = np.zeros(len(decided), dtype=np.float32)
    p_yes = np.full(len(decided), np.nan)
    of_box = np.flatnonzero(~whole)
    boxes[of_box] = found.boxes[at[of_box]]
    score[of_box] = scores[at[of_box], classes[of_box]]
    asked = of_box[questions[classes[of_box]] >= 0]
    p_yes[asked] = found.p_yes[at[asked], questions[classes[asked]]]
    if found.sizes is not None:
        boxes[whole, 2:] = found.sizes[result[whole]]
    for place in np.flatnonzero(whole).tolist():
        question = ontology.classes[int(classes[place])].presence_question
        verdict = found.images[int(result[place])].verdict(question)
        if verdict and verdict.answer.p_yes is not None:
            p_yes[place] = verdict.answer.p_yes
    for place in np.flatnonzero(decided["outline"] == MASK_AND_BOX).tolist():
        masks = found.masks[int(result[place])]
        box = masks.segmentations[int(decided["row"][place])].mask.box
        boxes[place] = box or boxes[place]
    return {"scores": score, "p_yes": p_yes, "boxes": boxes}


def _decided(content: bytes) -> NDArray[Any]:
    packed = decompress(content)
    wide, count = DECISIONS_HEAD.unpack_from(packed)
    rows = np.frombuffer(packed, DECIDED[content[0]][wide], count, DECISIONS_HEAD.size)
    found = np.empty(count, dtype=_ROWS)
    for name in ("probability", "row", "class", "outcome"):
        found[name] = rows[name]
    found["outline"] = rows["outline"] if "outline" in (rows.dtype.names or ()) else NO_MASK
    return found


def _in_one(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """``np.concatenate`` compares the fields of each pair of records, which is slow."""
    return np.frombuffer(b"".join([part.tobytes() for part in parts]), dtype=_ROWS)


_NO_EVIDENCE: Columns = {"scores": np.zeros(0), "p_yes": np.zeros(0), "boxes": np.zeros((0, 4))}


def _spliced(
    columns: Columns,
    counts: Sequence[int],
    rows: Sequence["Row[Any]"],
    reviewed: Mapping[int, Result],
    of_result: Callable[[Result], Columns],
) -> tuple[Sequence[int], Columns]:
    """``columns`` and how many judgements each result has, with what people said: ``of_result`` of
    their results in the place of what the run decided."""
    if not any(row.id in reviewed for row in rows):
        return counts, columns
    ends = pairwise([0, *np.cumsum(counts).tolist()])
    parts = [
        of_result(reviewed[row.id])
        if row.id in reviewed
        else {name: column[start:end] for name, column in columns.items()}
        for row, (start, end) in zip(rows, ends, strict=True)
    ]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in columns}
    return [len(next(iter(part.values()))) for part in parts], joined


def _accepted(
    outcomes: NDArray[np.intp], lengths: Sequence[int], starts: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """What the run accepted; ``lengths`` without, and ``starts`` with what people added, which
    stands behind the others of its result."""
    before = np.concatenate([[0], np.cumsum(lengths, dtype=np.intp)])
    places = np.arange(len(outcomes)) + np.repeat((starts - before)[:-1], lengths)
    found = np.zeros(starts[-1], dtype=bool)
    found[places] = outcomes == OUTCOMES.index(Outcome.ACCEPT)
    return found


class _DecidedOf:
    """What is decided in a result, as columns."""

    def __init__(self, ontology: Ontology) -> None:
        self._index = {name: place for place, name in enumerate(ontology.names)}

    def __call__(self, result: Result) -> Columns:
        judged = result.labelled.judgements
        outcomes = [OUTCOMES.index(one.decision.outcome) for one in judged]
        return {
            "class": np.array([self._index[one.class_name] for one in judged], dtype=np.intp),
            "outcome": np.array(outcomes, dtype=np.intp),
            "probability": np.array([one.decision.probability for one in judged], dtype=np.float64),
        }


def _evidence_of(result: Result) -> Columns:
    judged = result.labelled.judgements
    p_yes = [np.nan if one.p_yes is None else one.p_yes for one in judged]
    return {
        "scores": np.array([one.score for one in judged], dtype=np.float64),
        "p_yes": np.array(p_yes, dtype=np.float64),
        "boxes": np.array([one.box for one in judged], dtype=np.float64).reshape(-1, 4),
    }


def _measured(
    connection: Connection,
    rows: Sequence["Row[Any]"],
    starts: NDArray[np.intp],
    between: tuple[int, int],
) -> NDArray[np.float32]:
    """The highest uncertainty of each judgement, by any method."""
    found = np.full(starts[-1], np.nan, dtype=np.float32)
    places = {row.id: place for place, row in enumerate(rows)}
    table = uncertainties_table
    query = select(table.c.decision_id, table.c.method, table.c.content)
    for row in connection.execute(query.where(table.c.decision_id.between(*between))):
        if row.decision_id not in places:
            continue
        start, end = starts[places[row.decision_id] : places[row.decision_id] + 2]
        for index, one in unpack_uncertainties(row.method, row.content).items():
            if start + index < end:
                found[start + index] = np.fmax(found[start + index], one.value)
    return found
