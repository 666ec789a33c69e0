"""Calibrators: stored once by digest, never changed. The settings of a run name one by its digest.

What a calibrator says is JSON; ``labeling.calibrator`` reads it and checks it.
"""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from secondlook.store.database import Database, insert_new, now
from secondlook.store.schema import calibrators
from secondlook_client.errors import Damaged, NotFound

if TYPE_CHECKING:
    from secondlook.labeling.calibrator import Calibrator


@dataclass(frozen=True)
class CalibratorRow:
    """What a list of calibrators shows."""

    digest: str
    """sha256 of its content, 64 hex digits."""
    name: str
    """Empty for one that nobody named."""
    created_at: float
    """Seconds since 1970."""


class Calibrators:
    """The calibrators of one store. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, calibrator: "Calibrator", name: str = "") -> str:
        """Store a calibrator, once however often it is put; its digest.

        The first name that it was given stays.
        """
        with self._database.writing() as connection:
            return put_calibrator(connection, calibrator, name)

    def get(self, name: str) -> "Calibrator":
        """The calibrator of that digest, or the newest one of that name.

        Raises ``NotFound`` when there is none, ``Damaged`` when it has changed since.
        """
        with self._database.reading() as connection:
            return load_calibrator(connection, name)

    def page(self, limit: int = 200) -> list[CalibratorRow]:
        """The newest first."""
        columns = select(calibrators.c.digest, calibrators.c.name, calibrators.c.created_at)
        with self._database.reading() as connection:
            rows = connection.execute(columns.order_by(calibrators.c.id.desc()).limit(limit))
            return [CalibratorRow(row.digest, row.name, row.created_at) for row in rows]


def put_calibrator(connection: Connection, calibrator: "Calibrator", name: str = "") -> str:
    """``Calibrators.put`` in the caller's transaction."""
    row = {"digest": calibrator.digest, "content": calibrator.to_json()}
    insert_new(connection, calibrators, [{**row, "name": name, "created_at": now()}])
    return calibrator.digest


def load_calibrator(connection: Connection, name: str) -> "Calibrator":
    """``Calibrators.get`` in the caller's transaction."""
    digest = select(calibrators).where(calibrators.c.digest == name)
    named = select(calibrators).where(calibrators.c.name == name, calibrators.c.name != "")
    row = connection.execute(digest).first()
    row = row or connection.execute(named.order_by(calibrators.c.id.desc()).limit(1)).first()
    if row is None:
        raise NotFound(f"there is no calibrator '{name:.80}' in the store")
    return read_calibrator(row.digest, row.content)


def read_calibrator(digest: str, content: str) -> "Calibrator":
    """A calibrator as it was stored. Raises ``Damaged`` when it is not what was stored."""
    from secondlook.labeling.calibrator import Calibrator
    from secondlook_client.errors import SecondlookError

    if hashlib.sha256(content.encode()).hexdigest() != digest:
        raise Damaged(f"calibrator {digest[:12]} has changed since it was stored")
    try:
        return Calibrator.from_json(content)
    except SecondlookError as failure:
        raise Damaged(f"calibrator {digest[:12]} cannot be read: {failure}") from failure
