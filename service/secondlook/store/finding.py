"""What a check of the store finds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select

AT_ONCE = 200
"""Rows read at a time."""
RESTORE = "restore a backup with `secondlook restore`"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    subject: str
    """What, e.g. ``picture 81 (0c1f…)``."""
    problem: str
    way_out: str
    """What a person can do about it; empty when ``problem`` says it."""

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}" + (f"; {self.way_out}" if self.way_out else "")


@dataclass
class Checked:
    """How much was looked at."""

    rows: int = 0
    blobs: int = 0
    orphans: int = 0
    """Blobs that nothing names: no harm, ``secondlook forget --orphans`` removes them."""


def pages(
    connection: Connection, query: Select[Any], number: ColumnElement[int]
) -> Iterator[Sequence[Row[Any]]]:
    """Every row of a query in the order of ``number``, which is its first column, bit by bit."""
    after = 0
    while page := connection.execute(
        query.where(number > after).order_by(number).limit(AT_ONCE)
    ).all():
        yield page
        after = page[-1][0]
