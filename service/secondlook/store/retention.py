"""What to forget: a query, and the conditions in SQL that it means."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Subquery,
    and_,
    delete,
    exists,
    func,
    or_,
    select,
    true,
    update,
)

from secondlook.core.errors import InvalidInput
from secondlook.store import Store
from secondlook.store.images import image_ids
from secondlook.store.locks import forgetting
from secondlook.store.model_versions import held_by_models
from secondlook.store.queue import ACTIVE, ItemState
from secondlook.store.runs import load_run
from secondlook.store.schema import (
    corrections,
    decisions,
    evidence,
    images,
    items,
    jobs,
    runs,
    snapshot_images,
    snapshots,
)
from secondlook.store.snapshots import manifest_blobs

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
    images: int = 0
    """Those that nothing else needs."""
    size: int = 0
    """Bytes of those images."""
    runs: int = 0
    held: int = 0
    """Items that the query chose and that stay because a snapshot holds the image."""
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
        """(id, image_id, run_id, state) of every item that is chosen, kept or not."""
        query = (
            select(items.c.id, items.c.image_id, items.c.run_id, items.c.state)
            .join(runs, runs.c.id == items.c.run_id)
            .outerjoin(jobs, jobs.c.run_id == items.c.run_id)
            .outerjoin(images, images.c.id == items.c.image_id)
        )
        # An image that waits for its turn is never forgotten.
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
        """Of items: a snapshot holds the image."""
        return exists().where(snapshot_images.c.image_id == items.c.image_id)

    @property
    def kept(self) -> ColumnElement[bool]:
        """Of items that are chosen: stays all the same."""
        if self._retention.corrected:
            return self.held
        return or_(self.held, exists().where(corrections.c.image_id == items.c.image_id))

    @property
    def decided_again(self) -> ColumnElement[bool]:
        """Of decisions: of a run named that decided again, chosen and not kept."""
        conditions = [
            decisions.c.run_id.in_(self._again),
            ~exists().where(snapshot_images.c.image_id == decisions.c.image_id),
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
    """Neither the image nor what its own run decided is younger; deciding again counts not."""
    own = (_of_item, decisions.c.run_id == items.c.run_id, decisions.c.made_at >= before)
    return or_(
        and_(images.c.added_at < before, ~exists().where(*own)),
        and_(items.c.image_id.is_(None), runs.c.created_at < before, ~_active),
    )


# Retention: results, images and their bytes that are needed no longer, chosen by a query.
#
# What is forgotten is the item, one image of one run, with all that any run decided of it; then
# the evidence and the image, where nothing else needs them; then the bytes. An image that a
# snapshot holds stays as it is, with everything that explains it, and so does one that still waits
# to be labelled. Students are never forgotten.

AT_ONCE = 200
"""Items a transaction: a server at work beside us waits for no longer than that takes."""
SETTLED_S = 3600.0
"""Bytes without a row may be somebody's who is about to write it, until they are this old."""
ROUNDS = 5
"""Images that somebody was busy with are come back to that often."""


def count_forgotten(store: Store, retention: Retention) -> Forgotten:
    """What ``forget`` would do now, runs aside. Raises ``NotFound`` for a run that is not there."""
    with store.database.reading() as connection:
        query = Chosen(connection, retention)
        going = query.items().where(~query.kept).subquery()
        results = select(func.count()).select_from(decisions)
        elsewhere = exists().where(
            items.c.image_id == images.c.id, items.c.id.not_in(select(going.c.id))
        )
        alone = select(func.count(), func.coalesce(func.sum(images.c.size), 0)).where(
            images.c.id.in_(select(going.c.image_id)), ~elsewhere
        )
        count, size = connection.execute(alone).one()
        return Forgotten(
            results=_scalar(connection, results.where(decisions.c.item_id.in_(select(going.c.id))))
            + _scalar(connection, results.where(query.decided_again)),
            items=_count(connection, going),
            images=count,
            size=int(size),
            held=_count(connection, query.items().where(query.held).subquery()),
            corrected=_count(connection, query.items().where(~query.held, query.kept).subquery()),
        )


def forget(store: Store, retention: Retention) -> Forgotten:
    """Remove what the query chooses for good, beside servers at work.

    Goes a few hundred items at a time: what was removed stays removed when it is stopped, and the
    same call does the rest. Raises ``NotFound`` for a run that is not there, ``Busy`` while
    another such work or a backup is under way, and ``StoreUnavailable``.
    """
    expected = count_forgotten(store, retention)
    total = Forgotten(held=expected.held, corrected=expected.corrected)
    with forgetting(store.database):
        total += _forget_decided_again(store, retention)
        for _ in range(ROUNDS):
            gone = _forget_items(store, retention)
            total += gone
            if not gone.items:
                break
        with store.database.writing() as connection:
            return total + Forgotten(runs=_forget_runs(connection, retention))


def remove_orphans(store: Store, age_s: float = SETTLED_S) -> int:
    """Remove bytes that no row and no snapshot names and that nobody put for ``age_s`` seconds.

    They are left when a server dies between keeping bytes and writing the row, or when snapshots
    are deleted. Returns how many. Raises as ``forget``.
    """
    with forgetting(store.database):
        return sum(store.blobs.remove_unless_new(sha256, age_s) for sha256 in orphans(store))


def orphans(store: Store) -> Iterator[str]:
    """Bytes in the blob store that no row and no snapshot names."""
    with store.database.reading() as connection:
        roots = connection.execute(select(snapshots.c.manifest)).scalars().all()
    named = {sha256 for root in roots for sha256 in manifest_blobs(store.blobs, root)}
    names = (name for name in store.blobs.all() if name not in named)
    while some := list(islice(names, AT_ONCE)):
        with store.database.reading() as connection:
            known = image_ids(connection, some).keys() | held_by_models(connection, some)
        yield from (name for name in some if name not in known)


def _forget_decided_again(store: Store, retention: Retention) -> Forgotten:
    """The decisions of the runs named that decided again; their items belong to others."""
    with store.database.writing() as connection:
        query = Chosen(connection, retention)
        removed = connection.execute(delete(decisions).where(query.decided_again)).rowcount
    return Forgotten(results=removed)


def _forget_items(store: Store, retention: Retention) -> Forgotten:
    total, after = Forgotten(), 0
    while True:
        with store.database.writing() as connection:
            query = Chosen(connection, retention)
            some = query.items().where(items.c.id > after, ~query.kept)
            rows = connection.execute(some.order_by(items.c.id).limit(AT_ONCE)).all()
            if not rows:
                return total
            after = rows[-1].id
            step, gone = _remove(connection, query, [row.id for row in rows])
            kept = held_by_models(connection, gone)  # a student of these very bytes
        total += step
        for sha256 in gone:  # rows first: a row without bytes would be a lie
            if sha256 not in kept:
                store.blobs.remove_unless_new(sha256, SETTLED_S)


def _remove(
    connection: Connection, query: Chosen, ids: Sequence[int]
) -> tuple[Forgotten, list[str]]:
    """Remove those of the items that are chosen still, once nobody else can change that."""
    rows = _lock(connection, query, ids)
    going = [row.id for row in rows]
    of_items = decisions.c.item_id.in_(going)
    grounds = connection.execute(select(decisions.c.evidence_id).where(of_items)).scalars().all()
    results = connection.execute(delete(decisions).where(of_items)).rowcount
    used = exists().where(decisions.c.evidence_id == evidence.c.id)
    connection.execute(delete(evidence).where(evidence.c.id.in_(grounds), ~used))
    connection.execute(delete(items).where(items.c.id.in_(going)))
    for run_id, state, count in _counted(rows):
        counter = {ItemState.DONE: jobs.c.done, ItemState.FAILED: jobs.c.failed}.get(state)
        change = {"total": jobs.c.total - count}
        if counter is not None:
            change[counter.name] = counter - count
        connection.execute(update(jobs).where(jobs.c.run_id == run_id).values(change))
    sizes = _remove_images(connection, {row.image_id for row in rows} - {None})
    gone = Forgotten(results, len(going), len(sizes), sum(sizes.values()))
    return gone, list(sizes)


def _lock(connection: Connection, query: Chosen, ids: Sequence[int]) -> Sequence[Row[Any]]:
    """Lock jobs and images of the items; those that are chosen, with both locked.

    An image that another transaction is about to refer to is passed over, never waited for: that
    transaction may wait for one of our jobs.
    """
    mine = select(items.c.run_id).where(items.c.id.in_(ids))
    locked_jobs = select(jobs.c.run_id).where(jobs.c.run_id.in_(mine)).order_by(jobs.c.run_id)
    connection.execute(locked_jobs.with_for_update()).all()
    of_ids = select(items.c.image_id).where(items.c.id.in_(ids))
    free = select(images.c.id).where(images.c.id.in_(of_ids)).order_by(images.c.id)
    locked = connection.execute(free.with_for_update(skip_locked=True)).scalars().all()
    alone = items.c.image_id.in_(locked) | items.c.image_id.is_(None)
    again = query.items().where(items.c.id.in_(ids), ~query.kept, alone)
    return connection.execute(again.order_by(items.c.id)).all()


def _counted(rows: Sequence[Row[Any]]) -> list[tuple[int, ItemState, int]]:
    counts = Counter((row.run_id, ItemState(row.state)) for row in rows)
    return [(run_id, state, count) for (run_id, state), count in sorted(counts.items())]


def _remove_images(connection: Connection, ids: Collection[int]) -> dict[str, int]:
    """Remove those of the images that nothing refers to; their sizes by sha256."""
    needed = or_(
        exists().where(items.c.image_id == images.c.id),
        exists().where(decisions.c.image_id == images.c.id),
        exists().where(snapshot_images.c.image_id == images.c.id),
    )
    query = select(images.c.id, images.c.sha256, images.c.size)
    rows = connection.execute(query.where(images.c.id.in_(ids), ~needed)).all()
    going = [row.id for row in rows]
    for table in (corrections, evidence):
        connection.execute(delete(table).where(table.c.image_id.in_(going)))
    connection.execute(delete(images).where(images.c.id.in_(going)))
    return {row.sha256.hex(): row.size for row in rows}


def _forget_runs(connection: Connection, retention: Retention) -> int:
    """Remove runs that the query means whole and that have nothing left."""
    if retention.without_labels:
        return 0
    child = runs.alias()
    used = or_(
        exists().where(items.c.run_id == runs.c.id),
        exists().where(decisions.c.run_id == runs.c.id),
        exists().where(child.c.parent_id == runs.c.id),
        exists().where(jobs.c.run_id == runs.c.id, jobs.c.state.in_(ACTIVE)),
    )
    meant: ColumnElement[bool] = runs.c.name.in_(retention.runs) if retention.runs else true()
    if retention.before is not None:
        meant &= runs.c.created_at < retention.before
    # Children first, so that their parents are free in the next round.
    removed = 0
    while ids := connection.execute(select(runs.c.id).where(meant, ~used)).scalars().all():
        connection.execute(delete(jobs).where(jobs.c.run_id.in_(ids)))
        removed += connection.execute(delete(runs).where(runs.c.id.in_(ids))).rowcount
    return removed


def _count(connection: Connection, of: Subquery) -> int:
    return _scalar(connection, select(func.count()).select_from(of))


def _scalar(connection: Connection, query: Select[Any]) -> int:
    return int(connection.execute(query).scalar_one())
