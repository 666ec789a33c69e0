"""Binary format of the evidence and decisions of one image, exact to the last bit.

A format byte, then a zlib stream: counts, arrays (little endian), and a JSON list of the texts that
the arrays refer to by index (0 is the empty text). Questions and class names are not in it: the
ontology of the row has them. ``python -m bench store`` compares the size of other formats.

Format 2 is format 1 with the verdicts about the whole image, and with 16 bits for the class of a
decision. Format 3 is format 2, where evidence may be without verdicts about the whole image, with
the masks of boxes in COCO's run-length code. Format 4 is format 3, perhaps without a mask, with the
tracks of boxes. Each is written only where it is needed, so everything else can be read by the
versions of before.

Probabilities are stored in 32 bits where that loses nothing, as with every model in process, else
in 64; a verdict's milliseconds in 32.
"""

import json
import math
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.core.types import Boxes, Evidence, ImageVerdicts, Proposals
from secondlook_client.errors import Damaged, InvalidInput
from secondlook_client.masks import Mask, Segmentation
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import (
    WHOLE_IMAGE,
    Answer,
    BoxSource,
    Decision,
    Judgement,
    Outcome,
    Verdict,
    View,
)

FORMAT, WITH_IMAGE, WITH_MASKS, WITH_TRACKS = 1, 2, 3, 4
WHOLE_IMAGE_ROW = 2**16 - 1
"""The row of a decision on the whole image; no image has so many proposals."""
LEVEL = 1
"""Of zlib: higher ones take longer and save a few percent."""
CHECK = "run `secondlook check`"
OUTCOMES = (Outcome.ACCEPT, Outcome.REJECT, Outcome.UNSURE)
EXACT, CACHED, REUSED = 1, 2, 4
EVIDENCE_HEAD = struct.Struct("<BHHI")  # probabilities in 64 bits?, boxes, classes, verdicts
IMAGE_HEAD = struct.Struct("<III")  # width, height, verdicts
# Verdicts on the image?, qualities in 64 bits?, width, height, segmenter's name, masks, failures
MASKS_HEAD = struct.Struct("<BBIIIHH")
NO_MASK, MASK, MASK_AND_BOX = 0, 1, 2
"""What a decision takes of the mask of its row: nothing, the mask, its tight box too."""
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


def _decision_type(wide: bool, class_type: str, masks: bool = False) -> np.dtype[Any]:
    return np.dtype(
        [
            ("probability", "<f8" if wide else "<f4"),
            ("row", "<u2"),
            ("class", class_type),
            ("outcome", "u1"),
            ("reason", "<u4"),
            *([("outline", "u1")] if masks else []),
        ]
    )


def _mask_type(wide: bool) -> np.dtype[Any]:
    number = "<f8" if wide else "<f4"
    return np.dtype([("quality", number), ("stability", number), ("length", "<u4"), ("row", "<u2")])


MASKS = (_mask_type(False), _mask_type(True))
"""Rows of masks, with qualities in 32 and in 64 bits; the codes follow, one behind the other."""
FAILURES = np.dtype([("error", "<u4"), ("row", "<u2")])
"""Rows of boxes that have no mask although one was asked for."""
TRACKS_HEAD = struct.Struct("<H")  # boxes with a track
TRACKS = np.dtype([("track", "<u4"), ("row", "<u2")])
"""Rows of the boxes that belong to a track."""
NO_TRACKS = np.zeros(0, dtype=TRACKS)
VERDICTS = (_verdict_type(False), _verdict_type(True))
"""Rows of verdicts with P(yes) in 32 and in 64 bits."""
DECIDED = {
    kind: (_decision_type(False, class_type), _decision_type(True, class_type))
    for kind, class_type in ((FORMAT, "u1"), (WITH_IMAGE, "<u2"))
} | {WITH_MASKS: (_decision_type(False, "<u2", True), _decision_type(True, "<u2", True))}
"""Rows of decisions, by format, with probabilities in 32 and in 64 bits."""
SEGMENTED = (WITH_MASKS, WITH_TRACKS)
"""Formats of evidence that have a head of masks."""
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
    kind = _kind_of(evidence)
    head, masks = _packed_masks(evidence, texts) if kind in SEGMENTED else (b"", b"")
    return compress(
        EVIDENCE_HEAD.pack(wide, len(proposals), len(ontology.classes), len(rows)),
        proposals.boxes.astype("<f4").tobytes(),
        proposals.scores.astype("<f4").tobytes(),
        np.array(rows, dtype=VERDICTS[wide]).tobytes(),
        head,
        *image,
        masks,
        _packed_tracks(evidence.tracks) if kind == WITH_TRACKS else b"",
        texts.packed(),
        kind=kind,
    )


def _kind_of(evidence: Evidence) -> int:
    """The first format that can hold it."""
    if evidence.tracks:
        return WITH_TRACKS
    if evidence.segmenter:
        return WITH_MASKS
    return WITH_IMAGE if evidence.image else FORMAT


def _packed_tracks(tracks: Mapping[int, int]) -> bytes:
    rows = np.array([(track, row) for row, track in tracks.items()], dtype=TRACKS)
    return TRACKS_HEAD.pack(len(rows)) + rows.tobytes()


def _packed_masks(evidence: Evidence, texts: "_TextIndex") -> tuple[bytes, bytes]:
    """The head of format 3, which stands before the verdicts about the image, and the masks."""
    found = evidence.segmentations
    sizes = {(one.mask.width, one.mask.height) for one in found.values()}
    if len(sizes) > 1:
        raise ValueError(f"masks of {len(sizes)} sizes on one image")
    width, height = sizes.pop() if sizes else (0, 0)
    rows = [(one.quality, one.stability, len(one.mask.counts), row) for row, one in found.items()]
    wide = _is_wide(value for row in rows for value in row[:2])
    failures = [(texts.index(error), row) for row, error in evidence.unsegmented.items()]
    name = texts.index(evidence.segmenter)
    head = (bool(evidence.image), wide, width, height, name, len(rows), len(failures))
    parts = (
        np.array(rows, dtype=MASKS[wide]).tobytes(),
        np.array(failures, dtype=FAILURES).tobytes(),
        *(one.mask.counts.encode("ascii") for one in found.values()),
    )
    return MASKS_HEAD.pack(*head), b"".join(parts)


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
        texts.index(verdict.reused_from or verdict.answer.error),  # what is reused has no error
        0 if verdict.model == verifier else texts.index(verdict.model),
        verdict.answer.exact * EXACT | verdict.cached * CACHED | bool(verdict.reused_from) * REUSED,
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
        found = Evidence(proposals, verdicts, proposer, verifier, student, image)
        if arrays.masks:
            found = replace(found, **vars(read_masks(arrays.masks, texts)))
        return replace(found, tracks=read_tracks(arrays.tracks)) if len(arrays.tracks) else found
    except (ValueError, IndexError, TypeError, InvalidInput) as cause:
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
    masks: "PackedMasks | None" = None
    """None where no segmenter was in use."""
    tracks: NDArray[Any] = field(default_factory=lambda: NO_TRACKS)
    """Rows of ``TRACKS``."""


@dataclass(frozen=True, eq=False)
class PackedMasks:
    """The masks of an image as they are stored."""

    size: tuple[int, int]
    """Width and height of the image, pixels."""
    segmenter: int
    """Index of its name in the texts."""
    rows: NDArray[Any]
    """Of ``MASKS``."""
    failures: NDArray[Any]
    """Of ``FAILURES``."""
    codes: str
    """The run-length codes, one behind the other."""


@dataclass(frozen=True)
class StoredMasks:
    """The masks of an image, as ``Evidence`` has them."""

    segmentations: Mapping[int, Segmentation]
    segmenter: str
    unsegmented: Mapping[int, str]


def read_masks(packed: PackedMasks, texts: Sequence[str]) -> StoredMasks:
    """The masks; ``texts`` are those of the evidence, with the empty one.

    Raises ``InvalidInput``, ``ValueError`` or ``IndexError`` for damaged ones.
    """
    model, at = texts[packed.segmenter], 0
    found = {}
    for quality, stability, length, row in packed.rows.tolist():
        mask = Mask(*packed.size, packed.codes[at : at + length])
        found[row] = Segmentation(mask, quality, stability, model)
        at += length
    unsegmented = {row: texts[error] for error, row in packed.failures.tolist()}
    return StoredMasks(found, model, unsegmented)


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
        masks_at = at
        segmented = content[0] in SEGMENTED
        at += MASKS_HEAD.size if segmented else 0
        width, height, of_image = 0, 0, None
        if content[0] == WITH_IMAGE or (segmented and packed[masks_at]):
            width, height, verdicts = IMAGE_HEAD.unpack_from(packed, at)
            of_image = np.frombuffer(packed, VERDICTS[wide], verdicts, at + IMAGE_HEAD.size)
            at += IMAGE_HEAD.size + of_image.nbytes
        masks, tracks = None, NO_TRACKS
        if segmented:
            masks, at = _unpacked_masks(packed, masks_at, at)
            masks = masks if masks.segmenter else None
        if content[0] == WITH_TRACKS:
            (count,) = TRACKS_HEAD.unpack_from(packed, at)
            tracks = np.frombuffer(packed, TRACKS, count, at + TRACKS_HEAD.size)
            at += TRACKS_HEAD.size + tracks.nbytes
    except (struct.error, ValueError, IndexError) as cause:
        raise Damaged(f"the stored evidence cannot be read ({cause}); {CHECK}") from cause
    return EvidenceArrays(
        numbers[: boxes * 4].reshape(boxes, 4),
        numbers[boxes * 4 :].reshape(boxes, columns),
        rows,
        packed[at:],
        (width, height),
        of_image,
        masks,
        tracks,
    )


def read_tracks(rows: NDArray[Any]) -> dict[int, int]:
    """By row of the proposals the number of its track."""
    return {row: track for track, row in rows.tolist()}


def _unpacked_masks(packed: bytes, head_at: int, at: int) -> tuple[PackedMasks, int]:
    """The masks, whose rows begin at ``at``, and where they end. Raises as ``np.frombuffer``."""
    head = MASKS_HEAD.unpack_from(packed, head_at)
    _, wide, width, height, segmenter, masks, failures = head
    rows = np.frombuffer(packed, MASKS[wide], masks, at)
    at += rows.nbytes
    failed = np.frombuffer(packed, FAILURES, failures, at)
    at += failed.nbytes
    end = at + int(rows["length"].sum(dtype=np.int64))
    if end > len(packed):
        raise ValueError("the codes of its masks are cut short")
    codes = packed[at:end].decode("ascii")
    return PackedMasks((width, height), segmenter, rows, failed, codes), end


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
        error, reused = ("", texts[error]) if flags & REUSED else (texts[error], "")
        answer = Answer(None if p_yes != p_yes else p_yes, texts[raw], error, bool(flags & EXACT))
        model_name = texts[model] if model else verifier
        found[row, view, question] = Verdict(
            question, view, answer, model_name, ms, bool(flags & CACHED), reused
        )
    return found


def pack_decisions(judgements: Sequence[Judgement], ontology: Ontology) -> bytes:
    """Pack decisions that were made with ``ontology``."""
    index = {name: number for number, name in enumerate(ontology.names)}
    texts = _TextIndex()
    rows: list[tuple[Any, ...]] = [
        (
            judgement.decision.probability,
            WHOLE_IMAGE_ROW if judgement.whole_image else judgement.row,
            index[judgement.class_name],
            OUTCOMES.index(judgement.decision.outcome),
            texts.index(judgement.decision.reason),
        )
        for judgement in judgements
    ]
    masks = any(judgement.segmentation for judgement in judgements)
    if masks:
        specs = [ontology.classes[row[2]] for row in rows]
        rows = [
            (*row, taken_of_mask(one.segmentation, one.box, spec))
            for row, one, spec in zip(rows, judgements, specs, strict=True)
        ]
    wide = _is_wide(row[0] for row in rows)
    new = any(row[1] == WHOLE_IMAGE_ROW or row[2] > MAX_CLASS for row in rows)
    kind = WITH_MASKS if masks else WITH_IMAGE if new else FORMAT
    return compress(
        DECISIONS_HEAD.pack(wide, len(rows)),
        np.array(rows, dtype=DECIDED[kind][wide]).tobytes(),
        texts.packed(),
        kind=kind,
    )


def taken_of_mask(
    segmentation: Segmentation | None, box: tuple[float, float, float, float], spec: ClassSpec
) -> int:
    """What a judgement with this mask and box takes of the mask: ``NO_MASK`` and others."""
    if segmentation is None:
        return NO_MASK
    own_box = spec.box is BoxSource.MASK and box == segmentation.mask.box
    return MASK_AND_BOX if own_box else MASK


def decided_reasons(content: bytes) -> list[str]:
    """Why each judgement of packed decisions was decided so.

    Raises ``Damaged``, and ``ValueError``, ``KeyError``, ``IndexError`` or ``struct.error``.
    """
    packed = decompress(content)
    wide, judgements = DECISIONS_HEAD.unpack_from(packed)
    rows = np.frombuffer(packed, DECIDED[content[0]][wide], judgements, DECISIONS_HEAD.size)
    texts = ["", *json.loads(packed[DECISIONS_HEAD.size + rows.nbytes :])]
    return [texts[place] for place in rows["reason"].tolist()]


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
    except (struct.error, ValueError, IndexError, TypeError, KeyError, InvalidInput) as cause:
        raise Damaged(f"the stored decisions cannot be read ({cause}); {CHECK}") from cause


def _judgements(
    rows: list[Any], texts: list[str], evidence: Evidence, ontology: Ontology
) -> tuple[Judgement, ...]:
    boxes = evidence.proposals.boxes.tolist()
    scores = evidence.proposals.scores.tolist()
    found = []
    for probability, row, class_, outcome, reason, *outline in rows:
        spec = ontology.classes[class_]
        decision = Decision(OUTCOMES[outcome], probability, texts[reason])
        if row == WHOLE_IMAGE_ROW:
            found.append(_of_image(spec, evidence, decision))
            continue
        x1, y1, x2, y2 = boxes[row]
        judgement = Judgement(
            spec.name,
            (x1, y1, x2, y2),
            scores[row][class_],
            evidence.verdict(row, spec.view, spec.question),
            decision,
            row,
            track=evidence.tracks.get(row, 0),
        )
        found.append(_with_outline(judgement, evidence, *outline) if outline else judgement)
    return tuple(found)


def _with_outline(judgement: Judgement, evidence: Evidence, taken: int) -> Judgement:
    if taken == NO_MASK:
        return judgement
    segmentation = evidence.segmentations[judgement.row]
    box = segmentation.mask.box if taken == MASK_AND_BOX else judgement.box
    if box is None:
        raise ValueError("the box of a mask without a pixel")
    return replace(judgement, segmentation=segmentation, box=box)


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
    if not content or content[0] not in (FORMAT, WITH_IMAGE, WITH_MASKS, WITH_TRACKS):
        raise Damaged(
            f"a row has the format {content[0] if content else 'none'}, which this version cannot "
            "read; use the version that wrote it, or a newer one"
        )
    try:
        return zlib.decompress(memoryview(content)[1:])
    except zlib.error as cause:
        raise Damaged(f"packed bytes are damaged ({cause}); {CHECK}") from cause
