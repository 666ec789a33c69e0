"""What to forget: a query, and the conditions in SQL that it means."""

from dataclasses import dataclass, fields

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, or_, select, true

from secondlook.errors import InvalidInput
from secondlook.store.job import ACTIVE, ItemState
from secondlook.store.runs import load_run
from secondlook.store.tables import (
    corrections,
    decisions,
    items,
    jobs,
    pictures,
    runs,
    snapshot_pictures,
)

REDECIDE = "redecide"


@dataclass(frozen=True)
class Retention:
    """Which items to forget: those that every condition given is true of."""

    runs: tuple[str, ...] = ()
    """Of these runs; empty: of all. Of a run that decided again only its decisions go."""
    before: float | None = None
    """Stored and decided before, seconds since 1970."""
    without_labels: bool = False
    """Looked at, and nothing was accepted and nothing is unsure, in any run."""
    corrected: bool = False
    """Also those of which a person has said something."""

    def __post_init__(self) -> None:
        if not self.runs and self.before is None and not self.without_labels:
            raise InvalidInput(
                "say what to forget: runs, what is older than a time, or what has no labels"
            )


@dataclass(frozen=True)
class Forgotten:
    """What went, or would go."""

    results: int = 0
    """Decisions, of all runs."""
    items: int = 0
    pictures: int = 0
    """Those that nothing else needs."""
    size: int = 0
    """Bytes of those pictures."""
    runs: int = 0
    held: int = 0
    """Items that the query chose and that stay because a snapshot holds the picture."""
    corrected: int = 0
    """Items that the query chose and that stay because a person has said something."""

    def __add__(self, other: "Forgotten") -> "Forgotten":
        names = [field.name for field in fields(self)]
        return Forgotten(*(getattr(self, name) + getattr(other, name) for name in names))


class Chosen:
    """A query in the terms of one database."""

    def __init__(self, connection: Connection, retention: Retention) -> None:
        """Raises ``NotFound`` for a run that is not there."""
        named = [load_run(connection, name) for name in retention.runs]
        self._retention = retention
        self._owners = [run.id for run in named if run.kind != REDECIDE]
        self._again = [run.id for run in named if run.kind == REDECIDE]

    def items(self) -> Select[tuple[int, int | None, int, int]]:
        """(id, picture_id, run_id, state) of every item that is chosen, kept or not."""
        query = (
            select(items.c.id, items.c.picture_id, items.c.run_id, items.c.state)
            .join(runs, runs.c.id == items.c.run_id)
            .outerjoin(jobs, jobs.c.run_id == items.c.run_id)
            .outerjoin(pictures, pictures.c.id == items.c.picture_id)
        )
        # A picture that waits for its turn is never forgotten.
        query = query.where(or_(items.c.state != ItemState.QUEUED, ~_active))
        if self._retention.runs:
            query = query.where(items.c.run_id.in_(self._owners))
        if self._retention.before is not None:
            query = query.where(_older(self._retention.before))
        if self._retention.without_labels:
            query = query.where(_without_labels)
        return query

    @property
    def held(self) -> ColumnElement[bool]:
        """Of items: a snapshot holds the picture."""
        return exists().where(snapshot_pictures.c.picture_id == items.c.picture_id)

    @property
    def kept(self) -> ColumnElement[bool]:
        """Of items that are chosen: stays all the same."""
        if self._retention.corrected:
            return self.held
        return or_(self.held, exists().where(corrections.c.picture_id == items.c.picture_id))

    @property
    def decided_again(self) -> ColumnElement[bool]:
        """Of decisions: of a run named that decided again, chosen and not kept."""
        conditions = [
            decisions.c.run_id.in_(self._again),
            ~exists().where(snapshot_pictures.c.picture_id == decisions.c.picture_id),
        ]
        if self._retention.before is not None:
            conditions.append(decisions.c.made_at < self._retention.before)
        if self._retention.without_labels:
            conditions.append(decisions.c.accepted + decisions.c.unsure == 0)
        return and_(true(), *conditions)


_active = func.coalesce(jobs.c.state, "").in_(ACTIVE)  # runs that decide again have no job
_of_item = decisions.c.item_id == items.c.id
_labelled = decisions.c.accepted + decisions.c.unsure > 0
_without_labels = and_(exists().where(_of_item), ~exists().where(_of_item, _labelled))


def _older(before: float) -> ColumnElement[bool]:
    """Neither the picture nor what its own run decided is younger; deciding again counts not."""
    own = (_of_item, decisions.c.run_id == items.c.run_id, decisions.c.made_at >= before)
    return or_(
        and_(pictures.c.added_at < before, ~exists().where(*own)),
        and_(items.c.picture_id.is_(None), runs.c.created_at < before, ~_active),
    )
