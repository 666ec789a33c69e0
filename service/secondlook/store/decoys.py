"""Decoys of the runs with their answers: see ``labeling.decoys``.

They are rows of their own, so that nothing which reads evidence or decisions can take one for a
label. A row lives as long as the evidence that it was asked with.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, case, exists, func, insert, select

from secondlook.core.types import YES, Decoy, DecoyCounts, DecoyKind, DecoyReply
from secondlook.store.database import Database, sanitize_text
from secondlook.store.runs import Run, load_run_by_id, source_run
from secondlook.store.schema import decisions, decoys, images, items
from secondlook_client.errors import Damaged
from secondlook_client.ontology import ClassSpec
from secondlook_client.values import Answer

PAGE = 1000
"""Rows read at a time."""


@dataclass(frozen=True)
class StoredDecoy:
    """A decoy of a run, and the image that it was asked about."""

    decoy: Decoy
    image: str
    """Its name in the run."""
    sha256: str
    width: int
    height: int


class Decoys:
    """The decoys of one store. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def source(self, run: Run) -> Run:
        """The run whose decoys are those of ``run``: itself, or the one that it re-decided."""
        with self._database.reading() as connection:
            return source_run(connection, run)

    def counts(self, run_id: int) -> DecoyCounts:
        """How many decoys of a run the verifier answered in which way.

        An image that is in the run several times counts once: its decoys are the same. Raises
        ``NotFound`` and ``Damaged``.
        """
        said = case(
            (decoys.c.p_yes > YES, DecoyReply.YES.value),
            (decoys.c.p_yes.is_not(None), DecoyReply.NO.value),
            (decoys.c.error != "", DecoyReply.FAILED.value),
            else_=DecoyReply.ABSTAINED.value,
        ).label("said")
        query = (
            select(decoys.c.kind, decoys.c.class_name, said, func.count().label("count"))
            .where(decoys.c.run_id == run_id, _first_of_image(run_id))
            .group_by(decoys.c.kind, decoys.c.class_name, "said")
        )
        with self._database.reading() as connection:
            load_run_by_id(connection, run_id)
            return Counter(
                {
                    (_kind(row.kind), row.class_name, DecoyReply(row.said)): int(row[3])
                    for row in connection.execute(query)
                }
            )

    def answered_yes(self, run_id: int, limit: int) -> list[StoredDecoy]:
        """At most ``limit`` decoys that were answered with yes, the surest first.

        Raises ``NotFound`` and ``Damaged``.
        """
        query = (
            select(
                decoys,
                items.c.name,
                images.c.sha256,
                images.c.width,
                images.c.height,
            )
            .join(images, images.c.id == decoys.c.image_id)
            .join(decisions, decisions.c.evidence_id == decoys.c.evidence_id)
            .join(items, items.c.id == decisions.c.item_id)
            .where(decoys.c.run_id == run_id, decisions.c.run_id == run_id)
            .where(decoys.c.p_yes > YES, _first_of_image(run_id))
            .order_by(decoys.c.p_yes.desc(), decoys.c.id)
            .limit(limit)
        )
        with self._database.reading() as connection:
            run = load_run_by_id(connection, run_id)
            specs = {spec.name: spec for spec in run.ontology.classes}
            return [_stored(row, specs) for row in connection.execute(query)]


def add_decoys(
    connection: Connection,
    run: Run,
    asked: Iterable[tuple[int, int, Sequence[Decoy]]],
) -> None:
    """Insert decoys as (image, evidence, decoys), in the caller's transaction."""
    rows = [
        {
            "run_id": run.id,
            "image_id": image_id,
            "evidence_id": evidence_id,
            "kind": decoy.kind.value,
            "class_name": decoy.class_name,
            **dict(zip(("x1", "y1", "x2", "y2"), map(float, decoy.box), strict=True)),
            "p_yes": decoy.answer.p_yes,
            "raw": sanitize_text(decoy.answer.raw),
            "error": sanitize_text(decoy.answer.error),
            "exact": decoy.answer.exact,
        }
        for image_id, evidence_id, of_image in asked
        for decoy in of_image
    ]
    if rows:
        connection.execute(insert(decoys), rows)


def _first_of_image(run_id: int) -> Any:
    """Whether a row belongs to the first evidence that the run has of its image."""
    other = decoys.alias("other")
    return ~exists().where(
        other.c.run_id == run_id,
        other.c.image_id == decoys.c.image_id,
        other.c.evidence_id < decoys.c.evidence_id,
    )


def _kind(text: str) -> DecoyKind:
    try:
        return DecoyKind(text)
    except ValueError as cause:
        raise Damaged(f"a decoy is of the unknown kind '{text}'; run `secondlook check`") from cause


def read_decoy(row: "Row[Any]", specs: Mapping[str, ClassSpec]) -> Decoy:
    """A row of ``decoys`` with the size of its image, by the classes of its run, by name.

    Raises ``Damaged``.
    """
    box, spec = (row.x1, row.y1, row.x2, row.y2), specs.get(row.class_name)
    if spec is None:
        raise Damaged(f"its run has no class '{row.class_name}'")
    if row.p_yes is not None and not 0 <= row.p_yes <= 1:
        raise Damaged(f"P(yes) is {row.p_yes}")
    if not (0 <= row.x1 < row.x2 <= row.width and 0 <= row.y1 < row.y2 <= row.height):
        raise Damaged(f"its box {box} is not inside the image of {row.width}×{row.height}")
    answer = Answer(row.p_yes, row.raw, row.error, row.exact)
    return Decoy(_kind(row.kind), spec.name, box, spec.view, spec.question, answer)


def _stored(row: "Row[Any]", specs: Mapping[str, ClassSpec]) -> StoredDecoy:
    return StoredDecoy(read_decoy(row, specs), row.name, row.sha256.hex(), row.width, row.height)
