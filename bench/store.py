"""Storage formats of evidence: bytes per image, and the time to decide again.

Each format is a table in an SQLite file of its own with the evidence of 100,000 images, repeated
from the embedded models' outputs on 48 scenes. Reading is the time to load all of it into the
arrays that decisions are made from; deciding and writing come on top, the same for all.
"""

import json
import sqlite3
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from bench import fixtures, stored_runs
from bench.paired_timing import Figure
from secondlook.core.class_mapping import columns_for
from secondlook.core.types import Evidence
from secondlook.review.redecide import BatchDecider
from secondlook.store.bulk import EvidenceBatch, unpack_many
from secondlook.store.codec import decompress, pack_evidence, questions_of
from secondlook_client.ontology import Ontology

IMAGES = 100_000
AT_ONCE = 1000


@dataclass(frozen=True)
class StorageFormat:
    """One way of storing evidence."""

    name: str
    schema: str
    write: Callable[[sqlite3.Connection, int, Evidence, Ontology], None]
    read: Callable[[sqlite3.Connection, Ontology], Iterator[EvidenceBatch]]


def run() -> list[Figure | str]:
    """A table of the formats."""
    lines = [
        "| format | bytes per image | reading 100,000 images, s | with deciding, s | images/s |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        lines += [_measured(format_, Path(folder) / str(n)) for n, format_ in enumerate(FORMATS)]
    return ["\n".join(lines), _about()]


def _about() -> str:
    found = stored_runs.labelled()
    boxes = np.mean([one.proposals for one in found])
    verdicts = np.mean([len(one.evidence.verdicts) for one in found])
    classes = len(fixtures.ontology().classes)
    return f"An image has {boxes:.0f} boxes with {classes} scores and {verdicts:.0f} verdicts."


def _measured(format_: StorageFormat, path: Path) -> str:
    ontology, found = fixtures.ontology(), stored_runs.labelled()
    with sqlite3.connect(path) as database:
        database.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {format_.schema}")
        for number in range(IMAGES):
            format_.write(database, number, found[number % len(found)].evidence, ontology)
    size = path.stat().st_size / IMAGES
    decider = BatchDecider(ontology, ontology, columns_for(ontology, ontology), 0.6, verified=True)
    reading = _seconds(lambda: sum(len(part) for part in format_.read(database, ontology)))
    both = _seconds(lambda: sum(len(decider.decide(p)) for p in format_.read(database, ontology)))
    database.close()
    row = f"| {format_.name} | {size:,.0f} | {reading:.1f} | {both:.1f} | {IMAGES / both:,.0f} |"
    print(row, flush=True)
    return row


def _seconds(work: Callable[[], int]) -> float:
    started = time.perf_counter()
    assert work() == IMAGES
    return time.perf_counter() - started


def _write_packed(
    pack: Callable[[bytes], bytes],
) -> Callable[[sqlite3.Connection, int, Evidence, Ontology], None]:
    known: dict[int, bytes] = {}

    def write(
        database: sqlite3.Connection, number: int, evidence: Evidence, ontology: Ontology
    ) -> None:
        if id(evidence) not in known:
            known[id(evidence)] = pack(pack_evidence(evidence, ontology))
        database.execute("INSERT INTO evidence VALUES (?, ?)", (number, known[id(evidence)]))

    return write


def _read(database: sqlite3.Connection, ontology: Ontology) -> Iterator[EvidenceBatch]:
    rows = database.execute("SELECT content FROM evidence ORDER BY id")
    while page := rows.fetchmany(AT_ONCE):
        yield unpack_many([content for (content,) in page], ontology)


def _to_json(evidence: Evidence) -> dict[str, Any]:
    return {
        "boxes": evidence.proposals.boxes.tolist(),
        "scores": [[round(s, 9) for s in row] for row in evidence.proposals.scores.tolist()],
        "verdicts": [
            [row, view.value, question, v.answer.p_yes, v.answer.raw, v.answer.error, v.ms]
            for (row, view, question), v in evidence.verdicts.items()
        ],
    }


def _write_json(
    database: sqlite3.Connection, number: int, evidence: Evidence, ontology: Ontology
) -> None:
    content = zlib.compress(json.dumps(_to_json(evidence), separators=(",", ":")).encode())
    database.execute("INSERT INTO evidence VALUES (?, ?)", (number, content))


def _read_json(database: sqlite3.Connection, ontology: Ontology) -> Iterator[EvidenceBatch]:
    place = {(view.value, q): at for at, (view, q) in enumerate(questions_of(ontology))}
    rows = database.execute("SELECT content FROM evidence ORDER BY id")
    while page := rows.fetchmany(AT_ONCE):
        found = [json.loads(zlib.decompress(content)) for (content,) in page]
        boxes = [one["boxes"] for one in found]
        verdicts = [
            [(row, place[view, q], p) for row, view, q, p, *_ in one["verdicts"]] for one in found
        ]
        yield _batch_of(ontology, boxes, [one["scores"] for one in found], verdicts)


ROWS = """
CREATE TABLE proposals (image INTEGER, row INTEGER, x1 REAL, y1 REAL, x2 REAL, y2 REAL,
    scores BLOB, PRIMARY KEY (image, row)) WITHOUT ROWID;
CREATE TABLE verdicts (image INTEGER, row INTEGER, ask INTEGER, p_yes REAL, ms REAL, raw TEXT,
    error TEXT, PRIMARY KEY (image, row, ask)) WITHOUT ROWID;
"""


def _write_rows(
    database: sqlite3.Connection, number: int, evidence: Evidence, ontology: Ontology
) -> None:
    place = {ask: at for at, ask in enumerate(questions_of(ontology))}
    scores = [row.tobytes() for row in evidence.proposals.scores]
    database.executemany(
        "INSERT INTO proposals VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (number, row, *box, scores[row])
            for row, box in enumerate(evidence.proposals.boxes.tolist())
        ],
    )
    database.executemany(
        "INSERT INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (number, row, place[view, q], v.answer.p_yes, v.ms, v.answer.raw, v.answer.error)
            for (row, view, q), v in evidence.verdicts.items()
        ],
    )


def _read_rows(database: sqlite3.Connection, ontology: Ontology) -> Iterator[EvidenceBatch]:
    for start in range(0, IMAGES, AT_ONCE):
        span = (start, min(start + AT_ONCE, IMAGES))
        boxes = _by_image(database, span, "image, x1, y1, x2, y2 FROM proposals")
        scores = _by_image(database, span, "image, scores FROM proposals")
        verdicts = _by_image(database, span, "image, row, ask, p_yes FROM verdicts")
        arrays = [[np.frombuffer(s, np.float32) for (s,) in of_one] for of_one in scores]
        yield _batch_of(ontology, boxes, arrays, verdicts)


def _by_image(database: sqlite3.Connection, span: tuple[int, int], what: str) -> list[list[Any]]:
    rows = database.execute(f"SELECT {what} WHERE image >= ? AND image < ?", span)
    found: list[list[Any]] = [[] for _ in range(*span)]
    for number, members in groupby(rows, key=lambda row: row[0]):
        found[number - span[0]] = [row[1:] for row in members]
    return found


def _batch_of(
    ontology: Ontology, boxes: Sequence[Any], scores: Sequence[Any], verdicts: Sequence[Any]
) -> EvidenceBatch:
    starts = np.concatenate([[0], np.cumsum([len(of_one) for of_one in boxes])])
    p_yes = np.full((starts[-1], len(questions_of(ontology))), np.nan)
    known = [(starts[at] + row, ask, p) for at, of in enumerate(verdicts) for row, ask, p in of]
    rows, asks, values = zip(*known, strict=True)
    p_yes[list(rows), list(asks)] = values
    return EvidenceBatch(
        starts,
        np.array([b for of_one in boxes for b in of_one], dtype=np.float32).reshape(-1, 4),
        np.array([s for of_one in scores for s in of_one], dtype=np.float32),
        p_yes,
        {},
    )


def _zlib(level: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:1] + zlib.compress(decompress(content), level)


BLOB = "CREATE TABLE evidence (id INTEGER PRIMARY KEY, content BLOB)"
FORMATS = (
    StorageFormat("one row per box, one row per verdict", ROWS, _write_rows, _read_rows),
    StorageFormat("JSON, zlib", BLOB, _write_json, _read_json),
    StorageFormat("packed arrays", BLOB, _write_packed(_zlib(0)), _read),
    StorageFormat("packed arrays, zlib 1 (in use)", BLOB, _write_packed(_zlib(1)), _read),
    StorageFormat("packed arrays, zlib 6", BLOB, _write_packed(_zlib(6)), _read),
)
