"""How uncertain the judgements of a run are, by several methods.

One row for a result and a method, with the uncertainty of each of its judgements by place. A row
says by which models and options it was measured: measured again by others, it is replaced.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select

from secondlook.store.codec import compress, decompress
from secondlook.store.database import Database, now, sanitize_text
from secondlook.store.schema import decisions, uncertainties
from secondlook_client.errors import Damaged
from secondlook_client.uncertainties import LabelUncertainty, UncertaintyMethod

BATCH = 500
"""Results a statement: below every database's limit of parameters."""
DIGITS = 4
"""Of what is kept."""
OfResult = Mapping[int, LabelUncertainty]
"""The uncertainty of judgements, by place; others have none by that method."""


@dataclass(frozen=True)
class MethodCount:
    """A method by which results of a run were measured."""

    method: UncertaintyMethod
    source: str
    """Models and options, in words."""
    results: int


class Uncertainties:
    """The uncertainties of one store. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, method: UncertaintyMethod, source: str, found: Mapping[int, OfResult]) -> None:
        """Keep what ``method`` found of results, by cursor, instead of what it found before.

        A result that was deleted meanwhile is left out.
        """
        with self._database.writing() as connection:
            of_results = decisions.c.id.in_(found)
            there = set(connection.scalars(select(decisions.c.id).where(of_results)))
            before = uncertainties.c.decision_id.in_(there) & (uncertainties.c.method == method)
            connection.execute(delete(uncertainties).where(before))
            rows = [
                {
                    "decision_id": cursor,
                    "method": method.value,
                    "source": sanitize_text(source),
                    "content": pack_uncertainties(found[cursor]),
                    "created_at": now(),
                }
                for cursor in sorted(there)
            ]
            if rows:
                connection.execute(insert(uncertainties), rows)

    def sources(self, method: UncertaintyMethod, cursors: Iterable[int]) -> dict[int, str]:
        """By which models and options results were measured, by cursor; others were not."""
        query = select(uncertainties.c.decision_id, uncertainties.c.source)
        of_results = uncertainties.c.decision_id.in_([*cursors])
        with self._database.reading() as connection:
            rows = connection.execute(query.where(of_results, uncertainties.c.method == method))
            return {row.decision_id: row.source for row in rows}

    def of_results(
        self, cursors: Sequence[int], method: UncertaintyMethod | None = None
    ) -> dict[int, dict[UncertaintyMethod, OfResult]]:
        """What is known of results, by cursor and method; of ``method`` only, if it is given.

        Methods are in the order of the enum. Raises ``Damaged``.
        """
        known: dict[int, dict[UncertaintyMethod, OfResult]] = {cursor: {} for cursor in cursors}
        query = select(uncertainties)
        if method is not None:
            query = query.where(uncertainties.c.method == method)
        with self._database.reading() as connection:
            for at in range(0, len(cursors), BATCH):
                some = uncertainties.c.decision_id.in_(cursors[at : at + BATCH])
                for row in connection.execute(query.where(some)):
                    found = unpack_uncertainties(row.method, row.content)
                    known[row.decision_id][UncertaintyMethod(row.method)] = found
        return {
            cursor: {method: found[method] for method in UncertaintyMethod if method in found}
            for cursor, found in known.items()
        }

    def methods(self, run_id: int) -> list[MethodCount]:
        """By what the results of a run were measured, and how many of them."""
        query = (
            select(uncertainties.c.method, uncertainties.c.source, func.count())
            .join(decisions, decisions.c.id == uncertainties.c.decision_id)
            .where(decisions.c.run_id == run_id)
            .group_by(uncertainties.c.method, uncertainties.c.source)
        )
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        known = [MethodCount(_method(row[0]), row[1], int(row[2])) for row in rows]
        order = [*UncertaintyMethod]
        return sorted(known, key=lambda one: (order.index(one.method), one.source))


def uncertainties_at(
    known: Mapping[UncertaintyMethod, OfResult], place: int
) -> tuple[LabelUncertainty, ...]:
    """What is known of one judgement of a result, by each method."""
    return tuple(found[place] for found in known.values() if place in found)


def forget_uncertainties(connection: Connection, of_decisions: ColumnElement[bool]) -> None:
    """Delete what is about decisions that meet the condition."""
    about = select(decisions.c.id).where(of_decisions).scalar_subquery()
    connection.execute(delete(uncertainties).where(uncertainties.c.decision_id.in_(about)))


def pack_uncertainties(found: OfResult) -> bytes:
    """The inverse of ``unpack_uncertainties``."""
    rows = [
        {
            "place": place,
            "value": round(one.value, DIGITS),
            "confidence": round(one.confidence, DIGITS),
            "reason": one.reason,
            "figures": {
                name: [round(value, DIGITS) for value in values]
                for name, values in one.figures.items()
            },
        }
        for place, one in sorted(found.items())
    ]
    return compress(json.dumps(rows, allow_nan=False, separators=(",", ":")).encode())


def unpack_uncertainties(method: str, content: bytes) -> dict[int, LabelUncertainty]:
    """The uncertainty of judgements by place. Raises ``Damaged``."""
    named = _method(method)
    try:
        return {int(row["place"]): _read(named, row) for row in json.loads(decompress(content))}
    except (ValueError, LookupError, TypeError, AttributeError) as cause:
        raise Damaged(f"an uncertainty cannot be read ({cause!s:.200})") from cause


def _read(method: UncertaintyMethod, row: Mapping[str, Any]) -> LabelUncertainty:
    value, confidence = float(row["value"]), float(row["confidence"])
    if not (0 <= value <= 1 and 0 <= confidence <= 1):
        raise ValueError(f"expected an uncertainty and a confidence in [0, 1], got {row!s:.100}")
    figures = {
        str(name): tuple(float(one) for one in values) for name, values in row["figures"].items()
    }
    return LabelUncertainty(method, value, confidence, str(row["reason"]), figures)


def _method(name: str) -> UncertaintyMethod:
    try:
        return UncertaintyMethod(name)
    except ValueError as cause:
        raise Damaged(f"an uncertainty is of the unknown method '{name:.60}'") from cause
