"""The job queue: jobs, their images (items), leases of servers, and outcomes.

A job is worked on by one server at a time, which holds a lease on it. Whoever records outcomes
checks in the same transaction that the lease is still its own, so a server that was presumed dead
and comes back writes nothing. All writes are idempotent.

``JobQueue`` opens its own transactions; the functions below it run inside a transaction of their
caller. Both lock the job's row first, so concurrent changes of one job are serialized.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import islice
from typing import Any

from sqlalchemy import (
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    func,
    insert,
    or_,
    select,
    true,
    update,
)

from secondlook.store.database import (
    LONGEST_LEASE_S,
    Database,
    DatabaseClock,
    insert_new,
    lease_ended,
    now,
    sanitize_text,
)
from secondlook.store.runs import create_run
from secondlook.store.schema import images, items, jobs, runs
from secondlook_client.errors import BadRequest, LostLease, NotFound
from secondlook_client.ontology import Ontology
from secondlook_client.values import JobState

BATCH = 1000
"""Items inserted in one transaction, so that others may write in between; keys a query."""


WORKED_ON = (JobState.LISTING, JobState.RUNNING)
"""States in which a server works on a job."""
ACTIVE = (*WORKED_ON, JobState.PAUSED)
"""States in which a job takes images and is not over."""


class ItemState(IntEnum):
    """State of one image of a job."""

    QUEUED = 0
    DONE = 1
    FAILED = 2
    """Given up; the row has the reason."""


@dataclass(frozen=True)
class JobRow:
    """A run with images to label, as it was when it was read."""

    run_id: int
    name: str
    kind: str
    """``folder``, ``upload`` or ``capture``."""
    ontology_id: int
    state: JobState
    root: str
    """Folder that names are relative to; or empty."""
    closed: bool
    """No more images will be added."""
    total: int
    done: int
    failed: int
    owner: str
    """The server that works on it; or empty."""
    message: str
    """What it waits for, or why it failed; or empty."""
    created_at: float
    updated_at: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    device_model: str = ""
    """Of a captured stream: what its device said it runs; or empty."""
    created_by: str = ""
    """As of its run."""

    @property
    def waiting(self) -> int:
        """Images still to be labelled."""
        return self.total - self.done - self.failed

    @property
    def active(self) -> bool:
        """Whether a server is, or may again be, working on it."""
        return self.state in ACTIVE


@dataclass(frozen=True, slots=True)
class NewItem:
    """An image to be added to a job."""

    key: int
    """Identity in the run, signed 64 bits."""
    name: str
    """For people; in a folder the relative path, see ``core.files``."""
    size: int = 0
    """Bytes of the file when it was listed."""
    mtime_ns: int = 0
    """The file's modification time, nanoseconds since 1970."""
    image_id: int | None = None
    """The stored image, where its bytes are in the blob store already."""
    refusal: str = ""
    """Why it cannot be labelled; such an item fails at once."""
    reason: str = "bad_image"
    """Stable code of the refusal."""


@dataclass(frozen=True, slots=True)
class Item:
    """A queued image of a job."""

    id: int
    run_id: int
    key: int
    name: str
    size: int
    mtime_ns: int
    image_id: int | None
    attempts: int
    """Failed ones so far."""
    sha256: str = ""
    """Of its bytes, where they are in the blob store: 64 hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """An attempt at an item that gave no result."""

    item_id: int
    reason: str
    """Stable code."""
    message: str
    not_before: float = 0.0
    """When to retry, seconds since 1970; unused when the item fails for good."""


@dataclass(frozen=True, slots=True)
class FailedItem:
    """An item that was given up."""

    item_id: int
    name: str
    key: int
    reason: str
    message: str
    attempts: int


@dataclass(frozen=True, slots=True)
class OutcomeCounts:
    """Items that a transaction moved from queued to done or failed."""

    done: int
    failed: int


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How much is to be done, of all servers of a store."""

    waiting: int = 0
    """Jobs with something to do that no server works on."""
    running: int = 0
    """Jobs with something to do that one works on."""
    images: int = 0
    """Of these jobs, still to be labelled."""


class JobQueue:
    """Jobs and their items. Thread-safe; every method may raise ``StoreUnavailable``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        kind: str,
        ontology: Ontology,
        root: str = "",
        settings: Mapping[str, Any] | None = None,
        created_by: str = "",
    ) -> JobRow:
        """Create a job without items; one with a ``root`` has that folder listed first.

        Raises ``AlreadyExists`` when the name is taken.
        """
        with self._database.writing() as connection:
            run = create_run(
                connection, name, kind, ontology, settings or {}, created_by=created_by
            )
            row = {
                "run_id": run.id,
                "state": JobState.LISTING if root else JobState.RUNNING,
                "root": root,
                "closed": False,
                "owner": "",
                "lease_until": 0.0,
                "message": "",
                "updated_at": now(),
                **dict.fromkeys(("total", "done", "failed"), 0),
            }
            connection.execute(insert(jobs), [row])
            return named_job(connection, name)

    def get(self, name: str) -> JobRow:
        """The job of that name. Raises ``NotFound``."""
        with self._database.reading() as connection:
            return named_job(connection, name)

    def list_jobs(self, before: int | None = None, limit: int = 50) -> list[JobRow]:
        """Jobs, newest first; ``before`` is the ``run_id`` that the last page ended with."""
        query = _SELECT_JOBS.order_by(jobs.c.run_id.desc()).limit(limit)
        if before is not None:
            query = query.where(jobs.c.run_id < before)
        with self._database.reading() as connection:
            return [_job(row) for row in connection.execute(query)]

    def depth(self) -> QueueDepth:
        """How many jobs have something to do, and how many images they are."""
        free = or_(jobs.c.owner == "", lease_ended(jobs.c.lease_until)).label("free")
        left = func.sum(jobs.c.total - jobs.c.done - jobs.c.failed)
        query = (
            select(free, func.count(), left)
            .where(jobs.c.state.in_(WORKED_ON), _SOMETHING_TO_DO)
            .group_by(free)
        )
        with self._database.reading() as connection:
            found = {bool(of): (count, images) for of, count, images in connection.execute(query)}
        (waiting, queued), (running, under_way) = (found.get(of, (0, 0)) for of in (True, False))
        return QueueDepth(waiting, running, int(queued + under_way))

    def add(self, run_id: int, new: Iterable[NewItem], *, reopen: bool = False) -> int:
        """Add items; one whose key the run has already changes nothing. How many were new.

        With ``reopen`` a job that was finished takes more again. Raises ``BadRequest`` when the job
        takes no more: it is closed, or was cancelled.
        """
        rest, added = iter(new), 0
        while batch := list(islice(rest, BATCH)):
            with self._database.writing() as connection:
                job = locked_job(connection, run_id)
                if reopen and job.state is not JobState.CANCELLED:
                    job = reopened(connection, job)
                added += add_items(connection, job, batch)
        return added

    def known(self, run_id: int, keys: Iterable[int]) -> set[int]:
        """Those of the keys that are items of the run, in whatever state."""
        with self._database.reading() as connection:
            return set(known_items(connection, run_id, keys))

    def close(self, run_id: int) -> None:
        """Declare that no more items will be added."""
        with self._database.writing() as connection:
            job = locked_job(connection, run_id)
            state = JobState.RUNNING if job.state is JobState.LISTING else job.state
            change_job(connection, run_id, closed=True, state=state)

    def cancel(self, name: str) -> JobRow:
        """Cancel a job for good; its labels stay. A job that has ended is left as it is."""
        with self._database.writing() as connection:
            job = named_job(connection, name, lock=True)
            if job.active:
                ended = {"state": JobState.CANCELLED, "message": ""}
                change_job(connection, job.run_id, owner="", lease_until=0.0, **ended)
            return named_job(connection, name)

    def pause(self, name: str) -> JobRow:
        """Let nobody begin an image of a job until ``resume``; it still takes images.

        Whoever works on it keeps the lease until the images in flight are done. A job that has
        ended is left as it is.
        """
        with self._database.writing() as connection:
            job = named_job(connection, name, lock=True)
            if job.active:
                change_job(connection, job.run_id, state=JobState.PAUSED, message="")
            return named_job(connection, name)

    def resume(self, name: str) -> JobRow:
        """Work on a paused job again; any other is left as it is."""
        with self._database.writing() as connection:
            job = named_job(connection, name, lock=True)
            if job.state is JobState.PAUSED:
                change_job(connection, job.run_id, state=_state_of_work(job))
            return named_job(connection, name)

    def paused(self, run_ids: Collection[int]) -> list[int]:
        """Those of the jobs that are paused."""
        query = select(jobs.c.run_id).where(jobs.c.state == JobState.PAUSED)
        with self._database.reading() as connection:
            return [*connection.scalars(query.where(jobs.c.run_id.in_(run_ids)))]

    def retry(self, name: str, reasons: Collection[str] = ()) -> int:
        """Queue failed items again, and resume a job that ended; how many items. A paused job
        stays paused.

        With ``reasons`` only those that failed for one of them.
        """
        failed = and_(
            items.c.state == ItemState.FAILED, items.c.reason.in_(reasons) if reasons else true()
        )
        fresh = {"state": ItemState.QUEUED, "attempts": 0, "not_before": 0.0, "reason": ""}
        with self._database.writing() as connection:
            job = named_job(connection, name, lock=True)
            again = connection.execute(
                update(items)
                .where(items.c.run_id == job.run_id, failed)
                .values(fresh | {"message": ""})
            ).rowcount
            changes: dict[str, Any] = {"failed": job.failed - again}
            if not job.active and (again or job.waiting or not job.closed):
                changes |= {"state": _state_of_work(job), "message": "", "lease_until": 0.0}
            change_job(connection, job.run_id, **changes)
            return again

    def claim(self, owner: str, lease_s: float, skip: Collection[int] = ()) -> JobRow | None:
        """Lease a job that has something to do and no lease; None when there is none.

        ``owner`` (up to 64 characters) is this server. A job that is open and has nothing queued
        is left alone, and so are the runs ``skip``.
        """
        with self._database.reading() as connection:
            if connection.execute(_claimable(skip)).first() is None:
                return None  # the usual answer, without blocking other writers
        with self._database.writing() as connection:
            free = _claimable(skip).with_for_update(skip_locked=True)
            run_id = connection.execute(free).scalar()
            if run_id is None:
                return None
            values = {"owner": owner, "lease_until": DatabaseClock() + lease_s}
            connection.execute(update(jobs).where(jobs.c.run_id == run_id).values(values))
            return _job(connection.execute(_SELECT_JOBS.where(jobs.c.run_id == run_id)).one())

    def renew(self, run_id: int, owner: str, lease_s: float, message: str | None = None) -> bool:
        """Renew a lease; False when it is another's, or the job was cancelled.

        ``message`` (None leaves it as it is) says what the job waits for.
        """
        changes = {} if message is None else {"message": sanitize_text(message)}
        until = DatabaseClock() + lease_s
        return self._change_leased(run_id, owner, lease_until=until, **changes)

    def release(self, run_id: int, owner: str, pause_s: float = 0.0) -> None:
        """Give up a lease, if it is still ours; nobody claims the job for ``pause_s`` seconds."""
        lease_until = DatabaseClock() + pause_s if pause_s else 0.0
        self._change_leased(run_id, owner, owner="", lease_until=lease_until)

    def clear_leases(self) -> None:
        """End every lease: for the one server of a data folder, when it starts."""
        with self._database.writing() as connection:
            leased = update(jobs).where(or_(jobs.c.owner != "", jobs.c.lease_until > 0))
            connection.execute(leased.values(owner="", lease_until=0.0))

    def next(self, run_id: int, limit: int, skip: Collection[int] = ()) -> list[Item]:
        """Items that are queued and due, those never tried first, without the ids in ``skip``.

        ``skip`` are the items that the caller is working on already.
        """
        query = (
            select(*_ITEM_COLUMNS)
            .outerjoin(images, images.c.id == items.c.image_id)
            .where(items.c.run_id == run_id, items.c.state == ItemState.QUEUED)
            .order_by(items.c.not_before, items.c.id)
            .limit(limit + len(skip))
        )
        due = items.c.not_before <= now()
        of_a_later_clock = items.c.not_before > now() + LONGEST_LEASE_S  # it was set back since
        with self._database.reading() as connection:
            for when in (due, of_a_later_clock):
                rows = connection.execute(query.where(when))
                if found := [_item(row) for row in rows if row.id not in skip]:
                    return found[:limit]
        return []

    def replace(self, item: Item, owner: str, new: NewItem) -> bool:
        """Update a queued item whose file was replaced by another. Raises ``LostLease``.

        False when the new file is an item of its own already, or the old one is no longer queued.
        """
        with self._database.writing() as connection:
            check_lease(locked_job(connection, item.run_id), owner)
            same_key = and_(items.c.run_id == item.run_id, items.c.key == new.key)
            if connection.execute(select(items.c.id).where(same_key)).first():
                return False
            values = {"key": new.key, "size": new.size, "mtime_ns": new.mtime_ns}
            query = update(items).where(items.c.id == item.id, items.c.state == ItemState.QUEUED)
            return connection.execute(query.values(values)).rowcount == 1

    def failures(self, run_id: int, after: int = 0, limit: int = 200) -> list[FailedItem]:
        """Failed items by id; ``after`` is the ``item_id`` that the last page ended with."""
        columns = (items.c.id, items.c.name, items.c.key, items.c.reason)
        query = (
            select(*columns, items.c.message, items.c.attempts)
            .where(items.c.run_id == run_id, items.c.state == ItemState.FAILED)
            .where(items.c.not_before == 0.0, items.c.id > after)
            .order_by(items.c.id)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [FailedItem(*row) for row in connection.execute(query)]

    def finish(self, run_id: int, owner: str, state: JobState, message: str = "") -> bool:
        """End a job and its lease; False when the lease is another's.

        Also False, and nothing is changed, when it would be done with items left or to come.
        """
        complete = and_(jobs.c.closed, jobs.c.done + jobs.c.failed >= jobs.c.total)
        condition = complete if state is JobState.DONE else true()
        changes = {"state": state, "owner": "", "lease_until": 0.0}
        return self._change_leased(
            run_id, owner, condition, **changes, message=sanitize_text(message)
        )

    def _change_leased(self, run_id: int, holder: str, *conditions: Any, **values: Any) -> bool:
        """Set columns of a job if ``holder`` has the lease; whether it does."""
        leased = update(jobs).where(jobs.c.run_id == run_id, jobs.c.owner == holder, *conditions)
        with self._database.writing() as connection:
            return connection.execute(leased.values(values)).rowcount == 1


def _state_of_work(job: JobRow) -> JobState:
    """What a server does next for a job that is taken up again."""
    listed = job.closed or not job.root
    return JobState.RUNNING if listed else JobState.LISTING


def named_job(connection: Connection, name: str, *, lock: bool = False) -> JobRow:
    """The job of that name. Raises ``NotFound``.

    With ``lock`` nobody else changes it until the transaction, a writing one, ends.
    """
    query = _NAMED.with_for_update(of=jobs) if lock else _NAMED
    row = connection.execute(query, {"name": name}).first()
    if row is None:
        raise NotFound(f"there is no job '{name:.200}'; see `secondlook job list`")
    return _job(row)


def locked_job(connection: Connection, run_id: int) -> JobRow:
    """The job, which nobody else changes until the transaction ends. Raises ``NotFound``."""
    row = connection.execute(_NUMBERED, {"number": run_id}).first()
    if row is None:
        raise NotFound(f"there is no job number {run_id}; see `secondlook job list`")
    return _job(row)


def check_lease(job: JobRow, owner: str) -> None:
    """Raises ``LostLease`` when ``owner`` does not hold the job's lease any more."""
    if job.owner != owner:
        raise LostLease(f"job '{job.name}' is no longer leased by this server")


def change_job(connection: Connection, run_id: int, **values: Any) -> None:
    """Set columns of a job, and the time of the change."""
    changed = update(jobs).where(jobs.c.run_id == run_id)
    connection.execute(changed.values(values | {"updated_at": now()}))


def reopened(connection: Connection, job: JobRow) -> JobRow:
    """The job, which the transaction locked, ready to take more items."""
    if job.closed or not job.active:
        state = job.state if job.active else JobState.RUNNING
        job = replace(job, closed=False, state=state)
        change_job(connection, job.run_id, closed=False, state=state)
    return job


def add_items(connection: Connection, job: JobRow, new: Sequence[NewItem]) -> int:
    """``JobQueue.add`` in the transaction that locked ``job``, for at most ``BATCH`` items."""
    run_id = job.run_id
    if job.closed or not job.active:
        state = "closed" if job.closed else job.state.value
        raise BadRequest(f"job '{job.name}' is {state} and takes no more images; make another")
    # In a fixed order, so that two servers that list one folder never deadlock.
    ordered = sorted(new, key=lambda item: item.key)
    failed = insert_new(connection, items, [_item_row(run_id, i) for i in ordered if i.refusal])
    queued = insert_new(connection, items, [_item_row(run_id, i) for i in ordered if not i.refusal])
    if failed or queued:
        change_job(
            connection, run_id, total=jobs.c.total + failed + queued, failed=jobs.c.failed + failed
        )
    return failed + queued


def known_items(connection: Connection, run_id: int, keys: Iterable[int]) -> dict[int, int | None]:
    """Those of the keys that are items of the run, in whatever state, and their images' ids."""
    rest, found = iter(keys), dict[int, int | None]()
    while batch := list(islice(rest, BATCH)):
        rows = connection.execute(_KNOWN, {"run": run_id, "keys": batch})
        found.update((row.key, row.image_id) for row in rows)
    return found


def same_items(connection: Connection, run_id: int, todo: Iterable[Item]) -> set[int]:
    """Ids of those that are still what they were.

    A fail-over to a standby that had not received the newest rows gives their ids to others; what
    was begun before it must not be recorded for them.
    """
    keys = {item.id: item.key for item in todo}
    query = select(items.c.id, items.c.key).where(items.c.run_id == run_id, items.c.id.in_(keys))
    return {row.id for row in connection.execute(query) if keys[row.id] == row.key}


def record_outcomes(
    connection: Connection,
    run_id: int,
    owner: str,
    done: Mapping[int, int],
    failed: Sequence[FailedAttempt] = (),
    retries: Sequence[FailedAttempt] = (),
) -> OutcomeCounts:
    """Record what became of items, in the transaction that stores their results, and after them.

    ``done`` maps items to their images, ``failed`` are given up and ``retries`` stay queued.
    Items that are no longer queued are left as they are. Raises ``LostLease`` when ``owner`` does
    not hold the job's lease any more.
    """
    check_lease(locked_job(connection, run_id), owner)
    rows = [{"item": item, "image": image} for item, image in sorted(done.items())]
    state = {"state": ItemState.DONE, "reason": "", "message": "", "not_before": 0.0}
    finished = _update_queued(connection, rows, image_id=bindparam("image"), **state)
    given_up = _update_queued(
        connection, _attempt_rows(failed), state=ItemState.FAILED, **_FAILED_ATTEMPT
    )
    _update_queued(connection, _attempt_rows(retries), **_FAILED_ATTEMPT)
    if finished or given_up:
        counts = {"done": jobs.c.done + finished, "failed": jobs.c.failed + given_up}
        change_job(connection, run_id, **counts)
    return OutcomeCounts(finished, given_up)


def _update_queued(connection: Connection, rows: list[dict[str, Any]], **values: Any) -> int:
    """Update those of the items that are still queued; how many were."""
    if not rows:
        return 0
    queued = and_(items.c.id == bindparam("item"), items.c.state == ItemState.QUEUED)
    return connection.execute(update(items).where(queued).values(values), rows).rowcount


_FAILED_ATTEMPT = {
    "attempts": items.c.attempts + 1,
    "reason": bindparam("why"),
    "message": bindparam("text"),
    "not_before": bindparam("due"),
}


def _attempt_rows(failed: Sequence[FailedAttempt]) -> list[dict[str, Any]]:
    return [
        {
            "item": one.item_id,
            "why": one.reason[:64],
            "text": sanitize_text(one.message),
            "due": one.not_before,
        }
        for one in sorted(failed, key=lambda one: one.item_id)
    ]


_SOMETHING_TO_DO = or_(
    jobs.c.state == JobState.LISTING,
    jobs.c.closed,
    jobs.c.done + jobs.c.failed < jobs.c.total,
)


def _claimable(skip: Collection[int]) -> Select[Any]:
    """The job that a server may claim: of those with something to do, the one idle for longest."""
    return (
        select(jobs.c.run_id)
        .where(jobs.c.state.in_(WORKED_ON), lease_ended(jobs.c.lease_until), _SOMETHING_TO_DO)
        .where(jobs.c.run_id.not_in(skip))
        .order_by(jobs.c.lease_until, jobs.c.run_id)
        .limit(1)
    )


# Statements are built once: SQLAlchemy takes longer to build one than SQLite to answer it.
def jobs_of_kind(
    connection: Connection, kind: str, before: int | None = None, limit: int = 50
) -> list[JobRow]:
    """Jobs whose images come from there, as ``JobQueue.list_jobs`` lists them."""
    query = _SELECT_JOBS.where(runs.c.kind == kind).order_by(jobs.c.run_id.desc()).limit(limit)
    if before is not None:
        query = query.where(jobs.c.run_id < before)
    return [_job(row) for row in connection.execute(query)]


_SELECT_JOBS: Select[Any] = select(
    jobs,
    runs.c.name,
    runs.c.kind,
    runs.c.ontology_id,
    runs.c.settings,
    runs.c.created_at,
    runs.c.created_by,
).join(runs, runs.c.id == jobs.c.run_id)
_NAMED = _SELECT_JOBS.where(runs.c.name == bindparam("name"))
_NUMBERED = _SELECT_JOBS.where(jobs.c.run_id == bindparam("number")).with_for_update(of=jobs)
_KNOWN = select(items.c.key, items.c.image_id).where(
    items.c.run_id == bindparam("run"), items.c.key.in_(bindparam("keys", expanding=True))
)
_ITEM_COLUMNS = (
    items.c.id,
    items.c.run_id,
    items.c.key,
    items.c.name,
    items.c.size,
    items.c.mtime_ns,
    items.c.image_id,
    items.c.attempts,
    images.c.sha256,
)


def _job(row: "Row[Any]") -> JobRow:
    return JobRow(
        run_id=row.run_id,
        name=row.name,
        kind=row.kind,
        ontology_id=row.ontology_id,
        state=JobState(row.state),
        root=row.root,
        closed=row.closed,
        total=row.total,
        done=row.done,
        failed=row.failed,
        owner=row.owner,
        message=row.message,
        created_at=row.created_at,
        updated_at=row.updated_at,
        settings=json.loads(row.settings),
        device_model=row.device_model,
        created_by=row.created_by,
    )


def _item(row: Any) -> Item:
    return Item(
        id=row.id,
        run_id=row.run_id,
        key=row.key,
        name=row.name,
        size=row.size,
        mtime_ns=row.mtime_ns,
        image_id=row.image_id,
        attempts=row.attempts,
        sha256=row.sha256.hex() if row.sha256 else "",
    )


def _item_row(run_id: int, new: NewItem) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "key": new.key,
        "name": new.name,
        "size": new.size,
        "mtime_ns": new.mtime_ns,
        "image_id": new.image_id,
        "state": ItemState.FAILED if new.refusal else ItemState.QUEUED,
        "attempts": 0,
        "not_before": 0.0,
        "reason": new.reason if new.refusal else "",
        "message": sanitize_text(new.refusal),
    }
