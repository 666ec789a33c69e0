"""Packed evidence of many pictures as a few large arrays, and many decisions back to bytes.

One by one, unpacking takes most of the time of deciding again. See ``packing`` for the form.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.errors import Damaged
from secondlook.labels import Answer, Boxes
from secondlook.ontology import Ontology
from secondlook.store.packing import (
    CHECK,
    DECIDED,
    DECISIONS_HEAD,
    EVIDENCE_HEAD,
    EXACT,
    VERDICTS,
    asks_of,
    closed,
    opened,
)


@dataclass(frozen=True, eq=False)
class Gathered:
    """What the models said of P pictures with T boxes in all, gathered for one ontology."""

    starts: NDArray[np.intp]
    """(P + 1,): picture p has the boxes from ``starts[p]`` up to ``starts[p + 1]``."""
    boxes: Boxes
    """(T, 4)."""
    scores: NDArray[np.float32]
    """(T, classes of the ontology)."""
    p_yes: NDArray[np.float64]
    """(T, asks of the ontology); NaN where there is no verdict."""
    silent: dict[tuple[int, int], Answer]
    """By (box, ask), the answers without a verdict; a NaN that is not here was not asked."""

    def __len__(self) -> int:
        return len(self.starts) - 1


def gather(contents: Sequence[bytes], ontology: Ontology) -> Gathered:
    """Unpack the evidence of many pictures, gathered for ``ontology``. Raises ``Damaged``."""
    parts = [_part(content, len(ontology.classes)) for content in contents]
    starts = np.zeros(len(parts) + 1, dtype=np.intp)
    np.cumsum([len(part.boxes) for part in parts], out=starts[1:])
    gathered = Gathered(
        starts,
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.full((starts[-1], len(asks_of(ontology))), np.nan),
        {},
    )
    try:
        _fill(gathered, parts)
    except (ValueError, IndexError) as cause:
        raise Damaged(f"kept evidence cannot be read ({cause}); {CHECK}") from cause
    return gathered


@dataclass(frozen=True, eq=False)
class _Part:
    boxes: Boxes
    scores: NDArray[np.float32]
    verdicts: NDArray[Any]
    texts: bytes


def _part(content: bytes, classes: int) -> _Part:
    packed = opened(content)
    try:
        wide, boxes, columns, verdicts = EVIDENCE_HEAD.unpack_from(packed)
        if columns != classes:
            raise ValueError(f"{columns} classes where the ontology has {classes}")
        at = EVIDENCE_HEAD.size
        numbers: NDArray[np.float32] = np.frombuffer(packed, "<f4", boxes * (4 + columns), at)
        at += numbers.nbytes
        rows = np.frombuffer(packed, VERDICTS[wide], verdicts, at)
    except (struct.error, ValueError, IndexError) as cause:
        raise Damaged(f"kept evidence cannot be read ({cause}); {CHECK}") from cause
    return _Part(
        numbers[: boxes * 4].reshape(boxes, 4),
        numbers[boxes * 4 :].reshape(boxes, columns),
        rows,
        packed[at + rows.nbytes :],
    )


def _fill(gathered: Gathered, parts: Sequence[_Part]) -> None:
    """Set ``p_yes`` and ``silent`` from the pictures' verdicts."""
    verdicts = _joined([part.verdicts for part in parts])
    amounts = [len(part.verdicts) for part in parts]
    boxes = verdicts["row"] + np.repeat(gathered.starts[:-1], amounts)
    asks = verdicts["ask"]
    gathered.p_yes[boxes, asks] = verdicts["p_yes"]
    unheard = np.flatnonzero(np.isnan(verdicts["p_yes"]))
    if not len(unheard):
        return
    ends = np.cumsum(amounts)
    for at in unheard.tolist():
        texts = ["", *json.loads(parts[int(np.searchsorted(ends, at, side="right"))].texts)]
        row = verdicts[at]
        answer = Answer(
            None, texts[row["raw"]], texts[row["error"]], bool(int(row["flags"]) & EXACT)
        )
        gathered.silent[int(boxes[at]), int(asks[at])] = answer


def _joined(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """One array; ``np.concatenate`` compares the fields of each pair of records, which is slow."""
    kinds = {part.dtype for part in rows}
    kind = kinds.pop() if len(kinds) == 1 else VERDICTS[True]
    return np.frombuffer(b"".join([part.astype(kind, copy=False).tobytes() for part in rows]), kind)


@dataclass(frozen=True, eq=False)
class Decided:
    """J judgements of P pictures, picture by picture in the order of ``judging.judge``."""

    starts: NDArray[np.intp]
    """(P + 1,): picture p has the judgements from ``starts[p]`` up to ``starts[p + 1]``."""
    rows: NDArray[np.intp]
    """(J,) of the picture's own proposals."""
    classes: NDArray[np.intp]
    """(J,) places in the ontology."""
    outcomes: NDArray[np.intp]
    """(J,) places in ``packing.OUTCOMES``."""
    probabilities: NDArray[np.float64]
    """(J,) in [0, 1]."""
    reasons: Sequence[str]
    """J of them."""

    def __len__(self) -> int:
        return len(self.starts) - 1


def pack_many(decided: Decided) -> list[bytes]:
    """What ``pack_decisions`` gives for each of the pictures."""
    rows = np.empty(len(decided.rows), dtype=DECIDED[True])
    rows["probability"] = decided.probabilities
    rows["row"], rows["class"] = decided.rows, decided.classes
    rows["outcome"] = decided.outcomes
    texts, places = _texts(decided)
    rows["reason"] = places
    narrow = rows.astype(DECIDED[False])
    exact = narrow["probability"] == rows["probability"]
    packed = []
    for text, (start, end) in zip(texts, pairwise(decided.starts.tolist()), strict=True):
        wide = not exact[start:end].all()
        kept = (rows if wide else narrow)[start:end]
        packed.append(closed(DECISIONS_HEAD.pack(wide, end - start), kept.tobytes(), text))
    return packed


def _texts(decided: Decided) -> tuple[list[bytes], list[int]]:
    """For each picture its distinct reasons as JSON, and for each judgement its reason's place."""
    texts, places = [], []
    for start, end in pairwise(decided.starts.tolist()):
        place = {"": 0}
        places += [place.setdefault(r, len(place)) for r in decided.reasons[start:end]]
        texts.append(json.dumps([*place][1:], separators=(",", ":")).encode("ascii"))
    return texts, places
