"""Trainings: students in the making, each worked on by one server at a time.

A server holds a lease on the training that it works on, as on jobs. One that dies lets go of it,
and the next server goes on from the last checkpoint; a training that kills its servers is given up.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, func, insert, or_, select, update

from secondlook.core.errors import Busy, NotFound
from secondlook.detector.manifest import USUAL_SIZE
from secondlook.store.database import Database, now
from secondlook.store.queue import storable
from secondlook.store.schema import trainings

MAX_QUEUED = 100
MAX_STARTS = 5
"""A training that was under way when that many servers died is not begun again."""


class TrainingState(StrEnum):
    """How a training stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    """Its student is a version."""
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE = (TrainingState.QUEUED, TrainingState.RUNNING)


@dataclass(frozen=True)
class TrainingOrder:
    """What shall be trained; checked by whoever makes it."""

    model: str
    """Name of the version to come."""
    snapshot: str
    """Its name."""
    split: str = ""
    """The part that is held out; empty: as the training chooses."""
    size: str = USUAL_SIZE
    steps: int = 0
    """0: as many as the size usually takes."""
    seed: int = 0


@dataclass(frozen=True)
class Training:
    """A training as it stood when it was read."""

    id: int
    order: TrainingOrder
    state: TrainingState
    message: str
    """What it waits for, or why it failed; or empty."""
    version: int
    """That it made; 0 before it is done."""
    created_at: float
    changed_at: float
    progress: Mapping[str, Any] = field(default_factory=dict)
    """The last that it said: ``step``, ``of``, ``loss``, ``map50``, ``phase``; or nothing."""

    @property
    def active(self) -> bool:
        """True while a server is, or will be, at work on it."""
        return self.state in ACTIVE


class Trainings:
    """The trainings of one store. Thread-safe; writes may be made twice, but for ``create``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, order: TrainingOrder) -> Training:
        """Queue a training. Raises ``Busy`` when ``MAX_QUEUED`` wait already."""
        settings = asdict(order)
        row = {
            "model": settings.pop("model"),
            "snapshot": settings.pop("snapshot"),
            "settings": json.dumps(settings, sort_keys=True),
            "state": TrainingState.QUEUED,
            "progress": "",
            "message": "",
            "version": 0,
            "starts": 0,
            "owner": "",
            "lease_until": 0.0,
            "created_at": now(),
            "changed_at": now(),
        }
        waiting = select(func.count()).where(trainings.c.state.in_(ACTIVE))
        with self._database.writing() as connection:
            if int(connection.execute(waiting).scalar_one()) >= MAX_QUEUED:
                raise Busy(f"{MAX_QUEUED} trainings wait already; cancel some, or wait", 60.0)
            number = connection.execute(
                insert(trainings).values(row).returning(trainings.c.id)
            ).scalar_one()
        return self.get(number)

    def get(self, number: int) -> Training:
        """The training as it stands. Raises ``NotFound``."""
        query = select(trainings).where(trainings.c.id == number)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise NotFound(f"there is no training {number}; see `secondlook models trainings`")
        return _training(row)

    def page(self, before: int | None = None, limit: int = 50) -> list[Training]:
        """Newest first; ``before`` (an id) is where the page before ended."""
        query = select(trainings).order_by(trainings.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(trainings.c.id < before)
        with self._database.reading() as connection:
            return [_training(row) for row in connection.execute(query)]

    def cancel(self, number: int) -> Training:
        """Stop a training for good; one that is over is left as it is. Raises ``NotFound``."""
        self.get(number)
        ours = update(trainings).where(trainings.c.id == number, trainings.c.state.in_(ACTIVE))
        ended = {"state": TrainingState.CANCELLED, "message": "", "owner": "", "lease_until": 0.0}
        with self._database.writing() as connection:
            connection.execute(ours.values(**ended, changed_at=now()))
        return self.get(number)

    def claim(self, owner: str, lease_s: float) -> Training | None:
        """Take the oldest training that no living server works on; None when there is none.

        One that was under way when ``MAX_STARTS`` servers died is failed instead.
        """
        free = (trainings.c.state.in_(ACTIVE), trainings.c.lease_until < now())
        query = select(trainings).where(*free).order_by(trainings.c.id).limit(1)
        with self._database.reading() as connection:
            if connection.execute(query).first() is None:
                return None  # the usual answer, without keeping other writers waiting
        with self._database.writing() as connection:
            row = connection.execute(query.with_for_update(skip_locked=True)).first()
            if row is None:
                return None
            one = update(trainings).where(trainings.c.id == row.id)
            if row.starts >= MAX_STARTS:
                connection.execute(one.values(_ended(TrainingState.FAILED, _GIVEN_UP)))
                return None
            values = {"state": TrainingState.RUNNING, "message": "", "starts": row.starts + 1}
            held = {"owner": owner, "lease_until": now() + lease_s, "changed_at": now()}
            connection.execute(one.values(**values, **held))
            return _training(
                connection.execute(select(trainings).where(trainings.c.id == row.id)).one()
            )

    def renew(
        self, number: int, owner: str, lease_s: float, progress: Mapping[str, Any] | None = None
    ) -> bool:
        """Prolong a lease; False when it is another's, or the training was cancelled.

        ``progress`` (None leaves it as it is) is kept with it.
        """
        values: dict[str, Any] = {"lease_until": now() + lease_s}
        if progress is not None:
            values |= {"progress": json.dumps(dict(progress)), "changed_at": now()}
        return self._owned(number, owner, values)

    def release(self, number: int, owner: str) -> bool:
        """Give a training back in order: it waits for the next server, and no start is counted."""
        values = {
            "state": TrainingState.QUEUED,
            "starts": trainings.c.starts - 1,
            "owner": "",
            "lease_until": 0.0,
            "changed_at": now(),
        }
        return self._owned(number, owner, values)

    def finish(self, number: int, owner: str, version: int) -> bool:
        """End a training whose student is that version; False when the lease is another's."""
        return self._owned(number, owner, _ended(TrainingState.DONE, "") | {"version": version})

    def fail(self, number: int, owner: str, message: str) -> bool:
        """End a training that cannot go on; False when the lease is another's."""
        return self._owned(number, owner, _ended(TrainingState.FAILED, message))

    def clear_leases(self) -> None:
        """End every lease: for the one server of a data folder, when it starts."""
        with self._database.writing() as connection:
            held = update(trainings).where(
                or_(trainings.c.owner != "", trainings.c.lease_until > 0)
            )
            connection.execute(held.values(owner="", lease_until=0.0))

    def _owned(self, number: int, owner: str, values: Mapping[str, Any]) -> bool:
        ours = update(trainings).where(trainings.c.id == number, trainings.c.owner == owner)
        with self._database.writing() as connection:
            return connection.execute(ours.values(values)).rowcount == 1


_GIVEN_UP = (
    f"the server ended without a word {MAX_STARTS} times while this training was under way; see "
    "its log (memory?), then train again, smaller"
)


def _ended(state: TrainingState, message: str) -> dict[str, Any]:
    ended = {"state": state, "message": storable(message), "owner": "", "lease_until": 0.0}
    return {**ended, "changed_at": now()}


def _training(row: "Row[Any]") -> Training:
    return Training(
        id=row.id,
        order=TrainingOrder(row.model, row.snapshot, **json.loads(row.settings)),
        state=TrainingState(row.state),
        message=row.message,
        version=row.version,
        created_at=row.created_at,
        changed_at=row.changed_at,
        progress=json.loads(row.progress) if row.progress else {},
    )
