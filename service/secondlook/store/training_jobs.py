"""Trainings of students: queued, and each run by one server at a time.

A server holds a lease on its training, as on jobs. When it dies the lease ends, and the next server
resumes from the last checkpoint; a training that crashes its servers again and again fails.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Row, func, insert, or_, select, update

from secondlook.detector.manifest import DEFAULT_SIZE
from secondlook.store.database import (
    Database,
    DatabaseClock,
    lease_ended,
    now,
    sanitize_text,
)
from secondlook.store.schema import training_jobs
from secondlook_client.errors import Busy, NotFound
from secondlook_client.values import TrainingState

MAX_QUEUED = 100
MAX_ATTEMPTS = 5
"""A training during which that many servers died is not started again."""


ACTIVE = (TrainingState.QUEUED, TrainingState.RUNNING)


@dataclass(frozen=True)
class TrainingSpec:
    """What to train; validated by whoever creates it."""

    model: str
    """Name of the version to be made."""
    snapshot: str
    """Name of the snapshot."""
    split: str = ""
    """The split that is held out; empty: chosen by the training."""
    size: str = DEFAULT_SIZE
    steps: int = 0
    """0: the default of the size."""
    seed: int = 0


@dataclass(frozen=True)
class TrainingRow:
    """A training as it was when it was read."""

    id: int
    spec: TrainingSpec
    state: TrainingState
    message: str
    """What it waits for, or why it failed; or empty."""
    version: int
    """The version it made; 0 before it is done."""
    created_at: float
    updated_at: float
    progress: Mapping[str, Any] = field(default_factory=dict)
    """Its latest report: ``step``, ``of``, ``loss``, ``map50``, ``phase``; or empty."""
    created_by: str = ""
    """Name of the token that asked for it; empty: without tokens, or before them."""

    @property
    def active(self) -> bool:
        """Whether a server is, or will be, working on it."""
        return self.state in ACTIVE


class TrainingJobs:
    """The trainings of one store. Thread-safe; writes are idempotent, except ``create``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, spec: TrainingSpec, created_by: str = "") -> TrainingRow:
        """Queue a training. Raises ``Busy`` when ``MAX_QUEUED`` wait already."""
        settings = asdict(spec)
        row = {
            "model": settings.pop("model"),
            "snapshot": settings.pop("snapshot"),
            "settings": json.dumps(settings, sort_keys=True),
            "state": TrainingState.QUEUED,
            "progress": "",
            "message": "",
            "version": 0,
            "attempts": 0,
            "owner": "",
            "lease_until": 0.0,
            "created_at": now(),
            "created_by": created_by,
            "updated_at": now(),
        }
        waiting = select(func.count()).where(training_jobs.c.state.in_(ACTIVE))
        with self._database.writing() as connection:
            if int(connection.execute(waiting).scalar_one()) >= MAX_QUEUED:
                raise Busy(
                    f"{MAX_QUEUED} trainings wait already; cancel some, or wait", retry_after_s=60.0
                )
            number = connection.execute(
                insert(training_jobs).values(row).returning(training_jobs.c.id)
            ).scalar_one()
        return self.get(number)

    def get(self, number: int) -> TrainingRow:
        """The training of that id. Raises ``NotFound``."""
        query = select(training_jobs).where(training_jobs.c.id == number)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise NotFound(f"there is no training {number}; see `secondlook models trainings`")
        return _training(row)

    def page(self, before: int | None = None, limit: int = 50) -> list[TrainingRow]:
        """Newest first; ``before`` is the last id of the previous page."""
        query = select(training_jobs).order_by(training_jobs.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(training_jobs.c.id < before)
        with self._database.reading() as connection:
            return [_training(row) for row in connection.execute(query)]

    def cancel(self, number: int) -> TrainingRow:
        """Cancel a training; one that is over is left as it is. Raises ``NotFound``."""
        self.get(number)
        leased = update(training_jobs).where(
            training_jobs.c.id == number, training_jobs.c.state.in_(ACTIVE)
        )
        ended = {"state": TrainingState.CANCELLED, "message": "", "owner": "", "lease_until": 0.0}
        with self._database.writing() as connection:
            connection.execute(leased.values(**ended, updated_at=now()))
        return self.get(number)

    def claim(self, owner: str, lease_s: float) -> TrainingRow | None:
        """Lease the oldest training without a lease; None when there is none.

        One during which ``MAX_ATTEMPTS`` servers died fails instead.
        """
        free = (training_jobs.c.state.in_(ACTIVE), lease_ended(training_jobs.c.lease_until))
        query = select(training_jobs).where(*free).order_by(training_jobs.c.id).limit(1)
        with self._database.reading() as connection:
            if connection.execute(query).first() is None:
                return None  # the usual answer, without blocking other writers
        with self._database.writing() as connection:
            row = connection.execute(query.with_for_update(skip_locked=True)).first()
            if row is None:
                return None
            one = update(training_jobs).where(training_jobs.c.id == row.id)
            if row.attempts >= MAX_ATTEMPTS:
                connection.execute(one.values(_ended(TrainingState.FAILED, _CRASHED)))
                return None
            values = {"state": TrainingState.RUNNING, "message": "", "attempts": row.attempts + 1}
            until = DatabaseClock() + lease_s
            lease = {"owner": owner, "lease_until": until, "updated_at": now()}
            connection.execute(one.values(**values, **lease))
            return _training(
                connection.execute(select(training_jobs).where(training_jobs.c.id == row.id)).one()
            )

    def renew(
        self, number: int, owner: str, lease_s: float, progress: Mapping[str, Any] | None = None
    ) -> bool:
        """Renew a lease; False when it is another's, or the training was cancelled.

        ``progress`` (None leaves it as it is) is stored with it.
        """
        values: dict[str, Any] = {"lease_until": DatabaseClock() + lease_s}
        if progress is not None:
            values |= {"progress": json.dumps(dict(progress)), "updated_at": now()}
        return self._change_leased(number, owner, values)

    def release(self, number: int, owner: str) -> bool:
        """Return a training to the queue in order; the attempt is not counted."""
        values = {
            "state": TrainingState.QUEUED,
            "attempts": training_jobs.c.attempts - 1,
            "owner": "",
            "lease_until": 0.0,
            "updated_at": now(),
        }
        return self._change_leased(number, owner, values)

    def finish(self, number: int, owner: str, version: int) -> bool:
        """End a training whose student is that version; False when the lease is another's."""
        return self._change_leased(
            number, owner, _ended(TrainingState.DONE, "") | {"version": version}
        )

    def fail(self, number: int, owner: str, message: str) -> bool:
        """End a training that cannot go on; False when the lease is another's."""
        return self._change_leased(number, owner, _ended(TrainingState.FAILED, message))

    def clear_leases(self) -> None:
        """End every lease: for the one server of a data folder, when it starts."""
        with self._database.writing() as connection:
            leased = update(training_jobs).where(
                or_(training_jobs.c.owner != "", training_jobs.c.lease_until > 0)
            )
            connection.execute(leased.values(owner="", lease_until=0.0))

    def _change_leased(self, number: int, owner: str, values: Mapping[str, Any]) -> bool:
        leased = update(training_jobs).where(
            training_jobs.c.id == number, training_jobs.c.owner == owner
        )
        with self._database.writing() as connection:
            return connection.execute(leased.values(values)).rowcount == 1


_CRASHED = (
    f"the server crashed {MAX_ATTEMPTS} times during this training; see its log (memory?), then "
    "train again, with a smaller size"
)


def _ended(state: TrainingState, message: str) -> dict[str, Any]:
    ended = {"state": state, "message": sanitize_text(message), "owner": "", "lease_until": 0.0}
    return {**ended, "updated_at": now()}


def _training(row: "Row[Any]") -> TrainingRow:
    return TrainingRow(
        id=row.id,
        spec=TrainingSpec(row.model, row.snapshot, **json.loads(row.settings)),
        state=TrainingState(row.state),
        message=row.message,
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
        progress=json.loads(row.progress) if row.progress else {},
        created_by=row.created_by,
    )
