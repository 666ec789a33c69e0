"""Retention: deleting results, images and their bytes that are no longer needed.

What is deleted is the item, one image of one run, with everything that any run decided on it; then
the evidence and the image, where nothing else needs them; then the bytes. An image of a snapshot
stays, with everything that explains it, and so does one that is still to be labelled. Students and
calibrators are never deleted, and a run stays, though perhaps without a result, as long as it has a
guarantee that nobody has withdrawn.
"""

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

from secondlook.store import Store
from secondlook.store.guarantees import GuaranteeState
from secondlook.store.images import image_ids
from secondlook.store.locks import deletion_lock
from secondlook.store.model_versions import held_by_models
from secondlook.store.queue import ACTIVE, ItemState
from secondlook.store.reviews import forget_review_items
from secondlook.store.runs import load_run
from secondlook.store.schema import (
    decisions,
    decoys,
    embeddings,
    evidence,
    guarantee_events,
    guarantees,
    images,
    items,
    jobs,
    review_items,
    review_queues,
    reviews,
    runs,
    snapshot_images,
    snapshots,
)
from secondlook.store.snapshots import manifest_blobs
from secondlook.store.uncertainties import forget_uncertainties
from secondlook_client.errors import InvalidInput

REDECIDE = "redecide"
"""Kind of a run that re-decided the evidence of another."""
BATCH = 200
"""Items deleted in a transaction: a server beside us waits no longer than that takes."""
MIN_AGE_S = 3600.0
"""Younger bytes without a row may belong to somebody who is about to insert it."""
ROUNDS = 5
"""Passes over images that other transactions had locked."""


@dataclass(frozen=True)
class Retention:
    """Which items to delete: those that meet every condition that is given."""

    runs: tuple[str, ...] = ()
    """Of these runs; empty: of all. Of a run that re-decided only its decisions are deleted."""
    before: float | None = None
    """Stored and decided before this time, seconds since 1970."""
    without_labels: bool = False
    """Labelled, with nothing accepted and nothing unsure in any run."""
    reviewed: bool = False
    """Also items whose image a person has reviewed."""

    def __post_init__(self) -> None:
        if not self.runs and self.before is None and not self.without_labels:
            raise InvalidInput(
                "say what to forget: runs, what is older than a time, or what has no labels"
            )


@dataclass(frozen=True)
class DeletionCounts:
    """What was deleted, or would be."""

    results: int = 0
    """Decisions, of all runs."""
    items: int = 0
    images: int = 0
    """Those that nothing else refers to."""
    size: int = 0
    """Bytes of those images."""
    runs: int = 0
    in_snapshots: int = 0
    """Items that match and stay because a snapshot has the image."""
    reviewed: int = 0
    """Items that match and stay because a person has reviewed the image."""

    def __add__(self, other: "DeletionCounts") -> "DeletionCounts":
        names = [field.name for field in fields(self)]
        return DeletionCounts(*(getattr(self, name) + getattr(other, name) for name in names))


def count_deletions(store: Store, retention: Retention) -> DeletionCounts:
    """What ``forget`` would delete now, except runs. Raises ``NotFound`` for an unknown run."""
    with store.database.reading() as connection:
        query = RetentionQuery(connection, retention)
        going = query.items().where(~query.protected).subquery()
        results = select(func.count()).select_from(decisions)
        elsewhere = exists().where(
            items.c.image_id == images.c.id, items.c.id.not_in(select(going.c.id))
        )
        alone = select(func.count(), func.coalesce(func.sum(images.c.size), 0)).where(
            images.c.id.in_(select(going.c.image_id)), ~elsewhere
        )
        count, size = connection.execute(alone).one()
        return DeletionCounts(
            results=_scalar(connection, results.where(decisions.c.item_id.in_(select(going.c.id))))
            + _scalar(connection, results.where(query.redecided)),
            items=_count(connection, going),
            images=count,
            size=int(size),
            in_snapshots=_count(connection, query.items().where(query.in_snapshot).subquery()),
            reviewed=_count(
                connection, query.items().where(~query.in_snapshot, query.protected).subquery()
            ),
        )


def forget(store: Store, retention: Retention) -> DeletionCounts:
    """Delete what matches for good; servers may be running.

    Deletes a few hundred items at a time: when it is interrupted, the same call does the rest.
    Raises ``NotFound`` for an unknown run, ``Busy`` while another deletion or a backup is running,
    and ``StoreUnavailable``.
    """
    expected = count_deletions(store, retention)
    total = DeletionCounts(in_snapshots=expected.in_snapshots, reviewed=expected.reviewed)
    with deletion_lock(store.database):
        total += _forget_redecided(store, retention)
        for _ in range(ROUNDS):
            gone = _forget_items(store, retention)
            total += gone
            if not gone.items:
                break
        with store.database.writing() as connection:
            return total + DeletionCounts(runs=_forget_runs(connection, retention))


def remove_orphans(store: Store, age_s: float = MIN_AGE_S) -> int:
    """Delete bytes that no row and no snapshot refers to, older than ``age_s`` seconds.

    They remain when a server dies between storing bytes and inserting the row, or when snapshots
    are deleted. Returns how many. Raises as ``forget``.
    """
    with deletion_lock(store.database):
        return sum(store.blobs.remove_unless_new(sha256, age_s) for sha256 in orphans(store))


def orphans(store: Store) -> Iterator[str]:
    """Blobs that no row and no snapshot refers to."""
    with store.database.reading() as connection:
        roots = connection.execute(select(snapshots.c.manifest)).scalars().all()
    referenced = {sha256 for root in roots for sha256 in manifest_blobs(store.blobs, root)}
    names = (name for name in store.blobs.all() if name not in referenced)
    while some := list(islice(names, BATCH)):
        with store.database.reading() as connection:
            known = image_ids(connection, some).keys() | held_by_models(connection, some)
        yield from (name for name in some if name not in known)


class RetentionQuery:
    """A ``Retention`` as conditions in SQL."""

    def __init__(self, connection: Connection, retention: Retention) -> None:
        """Raises ``NotFound`` for a run that is not there."""
        named = [load_run(connection, name) for name in retention.runs]
        self._retention = retention
        self._run_ids = [run.id for run in named if run.kind != REDECIDE]
        self._redecided_ids = [run.id for run in named if run.kind == REDECIDE]

    def items(self) -> Select[tuple[int, int | None, int, int]]:
        """(id, image_id, run_id, state) of every item that matches, protected or not."""
        query = (
            select(items.c.id, items.c.image_id, items.c.run_id, items.c.state)
            .join(runs, runs.c.id == items.c.run_id)
            .outerjoin(jobs, jobs.c.run_id == items.c.run_id)
            .outerjoin(images, images.c.id == items.c.image_id)
        )
        # An image that is still to be labelled is never deleted.
        query = query.where(or_(items.c.state != ItemState.QUEUED, ~_active))
        if self._retention.runs:
            query = query.where(items.c.run_id.in_(self._run_ids))
        if self._retention.before is not None:
            query = query.where(_older(self._retention.before))
        if self._retention.without_labels:
            query = query.where(_without_labels)
        return query

    @property
    def in_snapshot(self) -> ColumnElement[bool]:
        """Of items: a snapshot has the image."""
        return exists().where(snapshot_images.c.image_id == items.c.image_id)

    @property
    def protected(self) -> ColumnElement[bool]:
        """Of items that match: stays all the same."""
        if self._retention.reviewed:
            return self.in_snapshot
        return or_(self.in_snapshot, exists().where(reviews.c.image_id == items.c.image_id))

    @property
    def redecided(self) -> ColumnElement[bool]:
        """Of decisions: of a named run that re-decided, matching and not protected."""
        conditions = [
            decisions.c.run_id.in_(self._redecided_ids),
            ~exists().where(snapshot_images.c.image_id == decisions.c.image_id),
        ]
        if self._retention.before is not None:
            conditions.append(decisions.c.created_at < self._retention.before)
        if self._retention.without_labels:
            conditions.append(decisions.c.accepted + decisions.c.unsure == 0)
        return and_(true(), *conditions)


_active = func.coalesce(jobs.c.state, "").in_(ACTIVE)  # runs that re-decide have no job
_in_force = guarantees.c.state != GuaranteeState.WITHDRAWN
_of_item = decisions.c.item_id == items.c.id
_labelled = decisions.c.accepted + decisions.c.unsure > 0
_without_labels = and_(exists().where(_of_item), ~exists().where(_of_item, _labelled))


def _older(before: float) -> ColumnElement[bool]:
    """Neither the image nor the decision of its own run is younger; re-deciding does not count."""
    own = (_of_item, decisions.c.run_id == items.c.run_id, decisions.c.created_at >= before)
    return or_(
        and_(images.c.added_at < before, ~exists().where(*own)),
        and_(items.c.image_id.is_(None), runs.c.created_at < before, ~_active),
    )


def _forget_redecided(store: Store, retention: Retention) -> DeletionCounts:
    """Decisions of named runs that re-decided; their items belong to other runs."""
    with store.database.writing() as connection:
        query = RetentionQuery(connection, retention)
        forget_review_items(connection, query.redecided)
        forget_uncertainties(connection, query.redecided)
        judged = select(decisions.c.evidence_id).where(query.redecided)
        evidence_ids = connection.execute(judged).scalars().all()
        removed = connection.execute(delete(decisions).where(query.redecided)).rowcount
        _remove_unused_evidence(connection, evidence_ids)  # a run of tracks has its own
    return DeletionCounts(results=removed)


def _forget_items(store: Store, retention: Retention) -> DeletionCounts:
    total, after = DeletionCounts(), 0
    while True:
        with store.database.writing() as connection:
            query = RetentionQuery(connection, retention)
            some = query.items().where(items.c.id > after, ~query.protected)
            rows = connection.execute(some.order_by(items.c.id).limit(BATCH)).all()
            if not rows:
                return total
            after = rows[-1].id
            step, gone = _remove(connection, query, [row.id for row in rows])
            in_models = held_by_models(connection, gone)  # a student with the same bytes
        total += step
        for sha256 in gone:  # after the rows: no row may refer to missing bytes
            if sha256 not in in_models:
                store.blobs.remove_unless_new(sha256, MIN_AGE_S)


def _remove_unused_evidence(connection: Connection, ids: Sequence[int]) -> None:
    """Delete those that no decision refers to, with their decoys."""
    used = exists().where(decisions.c.evidence_id == evidence.c.id)
    for start in range(0, len(ids), BATCH):
        some = evidence.c.id.in_(ids[start : start + BATCH])
        unused = select(evidence.c.id).where(some, ~used)
        connection.execute(delete(decoys).where(decoys.c.evidence_id.in_(unused)))
        connection.execute(delete(evidence).where(evidence.c.id.in_(unused)))


def _remove(
    connection: Connection, query: RetentionQuery, ids: Sequence[int]
) -> tuple[DeletionCounts, list[str]]:
    """Delete those of the items that still match, once locks keep others from changing that."""
    rows = _lock(connection, query, ids)
    going = [row.id for row in rows]
    of_items = decisions.c.item_id.in_(going)
    evidence_ids = (
        connection.execute(select(decisions.c.evidence_id).where(of_items)).scalars().all()
    )
    forget_review_items(connection, of_items)
    forget_uncertainties(connection, of_items)
    results = connection.execute(delete(decisions).where(of_items)).rowcount
    _remove_unused_evidence(connection, evidence_ids)
    connection.execute(delete(items).where(items.c.id.in_(going)))
    for run_id, state, count in _counted(rows):
        counter = {ItemState.DONE: jobs.c.done, ItemState.FAILED: jobs.c.failed}.get(state)
        change = {"total": jobs.c.total - count}
        if counter is not None:
            change[counter.name] = counter - count
        connection.execute(update(jobs).where(jobs.c.run_id == run_id).values(change))
    sizes = _remove_images(connection, {row.image_id for row in rows} - {None})
    gone = DeletionCounts(results, len(going), len(sizes), sum(sizes.values()))
    return gone, list(sizes)


def _lock(connection: Connection, query: RetentionQuery, ids: Sequence[int]) -> Sequence[Row[Any]]:
    """Lock jobs and images of the items; those that match, with both locked.

    An image that another transaction is about to refer to is skipped, never waited for: that
    transaction may be waiting for one of our jobs.
    """
    run_ids = select(items.c.run_id).where(items.c.id.in_(ids))
    locked_jobs = select(jobs.c.run_id).where(jobs.c.run_id.in_(run_ids)).order_by(jobs.c.run_id)
    connection.execute(locked_jobs.with_for_update()).all()
    of_ids = select(items.c.image_id).where(items.c.id.in_(ids))
    free = select(images.c.id).where(images.c.id.in_(of_ids)).order_by(images.c.id)
    locked = connection.execute(free.with_for_update(skip_locked=True)).scalars().all()
    alone = items.c.image_id.in_(locked) | items.c.image_id.is_(None)
    again = query.items().where(items.c.id.in_(ids), ~query.protected, alone)
    return connection.execute(again.order_by(items.c.id)).all()


def _counted(rows: Sequence[Row[Any]]) -> list[tuple[int, ItemState, int]]:
    counts = Counter((row.run_id, ItemState(row.state)) for row in rows)
    return [(run_id, state, count) for (run_id, state), count in sorted(counts.items())]


def _remove_images(connection: Connection, ids: Collection[int]) -> dict[str, int]:
    """Delete those of the images that nothing refers to; their sizes by sha256."""
    needed = or_(
        exists().where(items.c.image_id == images.c.id),
        exists().where(decisions.c.image_id == images.c.id),
        exists().where(snapshot_images.c.image_id == images.c.id),
    )
    query = select(images.c.id, images.c.sha256, images.c.size)
    rows = connection.execute(query.where(images.c.id.in_(ids), ~needed)).all()
    going = [row.id for row in rows]
    for table in (reviews, decoys, embeddings, evidence):
        connection.execute(delete(table).where(table.c.image_id.in_(going)))
    connection.execute(delete(images).where(images.c.id.in_(going)))
    return {row.sha256.hex(): row.size for row in rows}


def _forget_runs(connection: Connection, retention: Retention) -> int:
    """Delete runs that match as a whole and that have nothing left."""
    if retention.without_labels:
        return 0
    child = runs.alias()
    used = or_(
        exists().where(items.c.run_id == runs.c.id),
        exists().where(decisions.c.run_id == runs.c.id),
        exists().where(child.c.parent_id == runs.c.id),
        exists().where(jobs.c.run_id == runs.c.id, jobs.c.state.in_(ACTIVE)),
        exists().where(_in_force, guarantees.c.run_id == runs.c.id),
    )
    matching: ColumnElement[bool] = runs.c.name.in_(retention.runs) if retention.runs else true()
    if retention.before is not None:
        matching &= runs.c.created_at < retention.before
    # Children first, so that their parents are free in the next round.
    removed = 0
    while ids := connection.execute(select(runs.c.id).where(matching, ~used)).scalars().all():
        connection.execute(delete(jobs).where(jobs.c.run_id.in_(ids)))
        withdrawn = select(guarantees.c.id).where(guarantees.c.run_id.in_(ids))
        of_runs = guarantee_events.c.guarantee_id.in_(withdrawn)
        connection.execute(delete(guarantee_events).where(of_runs))
        connection.execute(delete(guarantees).where(guarantees.c.run_id.in_(ids)))
        queues = select(review_queues.c.id).where(review_queues.c.run_id.in_(ids))
        # Of other runs: what is checked of a job under a guarantee is in the guarantee's queue.
        connection.execute(delete(review_items).where(review_items.c.queue_id.in_(queues)))
        connection.execute(delete(review_queues).where(review_queues.c.run_id.in_(ids)))
        removed += connection.execute(delete(runs).where(runs.c.id.in_(ids))).rowcount
    return removed


def _count(connection: Connection, of: Subquery) -> int:
    return _scalar(connection, select(func.count()).select_from(of))


def _scalar(connection: Connection, query: Select[Any]) -> int:
    return int(connection.execute(query).scalar_one())
