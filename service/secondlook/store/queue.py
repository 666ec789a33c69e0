"""The queue: which pictures of which jobs wait, who works on them, and what became of them.

A job is worked on by one server at a time, which holds a lease on it. Whatever settles items
checks in the same transaction that the lease is still that server's, so a server that was taken
for dead and comes back writes nothing. All writes here may be made twice.
"""

from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import Any

from sqlalchemy import Select, and_, insert, or_, select, true, update

from secondlook.ontology import Ontology
from secondlook.store.database import Database, now
from secondlook.store.job import (
    ACTIVE,
    ITEM_COLUMNS,
    Failure,
    Item,
    ItemState,
    Job,
    JobState,
    NewItem,
    Setback,
    Settled,
    item_of,
    job_of,
    storable,
)
from secondlook.store.runs import create_run
from secondlook.store.settling import (
    add_items,
    change_job,
    check_lease,
    job_rows,
    known_items,
    locked_job,
    named_job,
    settle,
)
from secondlook.store.tables import items, jobs, pictures

__all__ = [
    "Failure",
    "Item",
    "ItemState",
    "Job",
    "JobState",
    "NewItem",
    "Queue",
    "Setback",
    "Settled",
    "add_items",
    "settle",
]

AT_ONCE = 1000
"""Items added in one transaction, so that others may write in between."""


class Queue:
    """Jobs and their items. Safe for threads; every method may raise ``StoreUnavailable``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        kind: str,
        ontology: Ontology,
        root: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> Job:
        """Add a job without items; one with a ``root`` has that folder listed first.

        Raises ``AlreadyExists`` when the name is taken.
        """
        with self._database.writing() as connection:
            run = create_run(connection, name, kind, ontology, settings or {})
            row = {
                "run_id": run.id,
                "state": JobState.LISTING if root else JobState.RUNNING,
                "root": root,
                "closed": False,
                "owner": "",
                "lease_until": 0.0,
                "message": "",
                "changed_at": now(),
                **dict.fromkeys(("total", "done", "failed"), 0),
            }
            connection.execute(insert(jobs), [row])
            return named_job(connection, name)

    def get(self, name: str) -> Job:
        """The job as it stands. Raises ``NotFound``."""
        with self._database.reading() as connection:
            return named_job(connection, name)

    def list_jobs(self, before: int | None = None, limit: int = 50) -> list[Job]:
        """Jobs, newest first; ``before`` is the ``run_id`` that the last page ended with."""
        query = job_rows().order_by(jobs.c.run_id.desc()).limit(limit)
        if before is not None:
            query = query.where(jobs.c.run_id < before)
        with self._database.reading() as connection:
            return [job_of(row) for row in connection.execute(query)]

    def add(self, run_id: int, new: Iterable[NewItem]) -> int:
        """Add items; one whose key the run knows changes nothing. How many were new.

        Raises ``BadRequest`` when the job takes no more: it is closed, or was cancelled.
        """
        rest, added = iter(new), 0
        while batch := list(islice(rest, AT_ONCE)):
            with self._database.writing() as connection:
                added += add_items(connection, locked_job(connection, run_id), batch)
        return added

    def known(self, run_id: int, keys: Iterable[int]) -> set[int]:
        """Those of the keys that are items of the run, in whatever state."""
        with self._database.reading() as connection:
            return set(known_items(connection, run_id, keys))

    def close(self, run_id: int) -> None:
        """Say that no more items will come."""
        with self._database.writing() as connection:
            job = locked_job(connection, run_id)
            state = JobState.RUNNING if job.state is JobState.LISTING else job.state
            change_job(connection, run_id, closed=True, state=state)

    def cancel(self, name: str) -> Job:
        """Stop a job for good; what is labelled stays. One that has ended is left as it is."""
        with self._database.writing() as connection:
            job = named_job(connection, name, lock=True)
            if job.active:
                ended = {"state": JobState.CANCELLED, "message": ""}
                change_job(connection, job.run_id, owner="", lease_until=0.0, **ended)
            return named_job(connection, name)

    def retry(self, name: str, reasons: Collection[str] = ()) -> int:
        """Queue again what was set aside, and go on with a job that ended; how many items.

        With ``reasons`` only what was set aside for one of them.
        """
        aside = and_(
            items.c.state == ItemState.FAILED, items.c.reason.in_(reasons) if reasons else true()
        )
        fresh = {"state": ItemState.QUEUED, "tries": 0, "not_before": 0.0, "reason": ""}
        with self._database.writing() as connection:
            job = named_job(connection, name, lock=True)
            again = connection.execute(
                update(items)
                .where(items.c.run_id == job.run_id, aside)
                .values(fresh | {"message": ""})
            ).rowcount
            listing = bool(job.root) and not job.closed
            changes: dict[str, Any] = {"failed": job.failed - again}
            if not job.active and (again or job.waiting or not job.closed):
                state = JobState.LISTING if listing else JobState.RUNNING
                changes |= {"state": state, "message": "", "lease_until": 0.0}
            change_job(connection, job.run_id, **changes)
            return again

    def reopen(self, name: str) -> Job:
        """Let a job take more pictures, whatever its state; its folder is listed again.

        A server at work on a folder loses its lease; results not yet written are made again.
        """
        with self._database.writing() as connection:
            job = named_job(connection, name, lock=True)
            changes: dict[str, Any] = {"state": JobState.RUNNING, "closed": False, "message": ""}
            if job.root:
                changes["state"] = JobState.LISTING
            if job.root or not job.active:
                changes |= {"owner": "", "lease_until": 0.0}
            change_job(connection, job.run_id, **changes)
            return named_job(connection, name)

    def claim(self, owner: str, lease_s: float, skip: Collection[int] = ()) -> Job | None:
        """Take one job that has something to do and that no living server works on.

        ``owner`` (up to 64 characters) is this server; None when there is no such job. A job that
        is open and has nothing queued is left alone, and so are the runs ``skip``.
        """
        with self._database.reading() as connection:
            if connection.execute(_with_work(skip)).first() is None:
                return None  # the usual answer, without keeping other writers waiting
        with self._database.writing() as connection:
            free = _with_work(skip).with_for_update(skip_locked=True)
            run_id = connection.execute(free).scalar()
            if run_id is None:
                return None
            values = {"owner": owner, "lease_until": now() + lease_s}
            connection.execute(update(jobs).where(jobs.c.run_id == run_id).values(values))
            return job_of(connection.execute(job_rows().where(jobs.c.run_id == run_id)).one())

    def renew(self, run_id: int, owner: str, lease_s: float, message: str | None = None) -> bool:
        """Prolong a lease; False when it is another's, or the job was cancelled.

        ``message`` (None leaves it as it is) says what the job waits for.
        """
        said = {} if message is None else {"message": storable(message)}
        return self._owned(run_id, owner, lease_until=now() + lease_s, **said)

    def release(self, run_id: int, owner: str, pause_s: float = 0.0) -> None:
        """Give a lease back, if it is still ours; nobody takes the job for ``pause_s``."""
        self._owned(run_id, owner, owner="", lease_until=now() + pause_s if pause_s else 0.0)

    def clear_leases(self) -> None:
        """End every lease: for the one server of a data folder, when it starts."""
        with self._database.writing() as connection:
            held = update(jobs).where(or_(jobs.c.owner != "", jobs.c.lease_until > 0))
            connection.execute(held.values(owner="", lease_until=0.0))

    def next(self, run_id: int, limit: int, skip: Collection[int] = ()) -> list[Item]:
        """Items that are queued and due, those never tried first, without the ids in ``skip``.

        ``skip`` is what the caller is at work on already.
        """
        query = (
            select(*ITEM_COLUMNS)
            .outerjoin(pictures, pictures.c.id == items.c.picture_id)
            .where(items.c.run_id == run_id, items.c.state == ItemState.QUEUED)
            .where(items.c.not_before <= now())
            .order_by(items.c.not_before, items.c.id)
            .limit(limit + len(skip))
        )
        with self._database.reading() as connection:
            found = [item_of(row) for row in connection.execute(query) if row.id not in skip]
        return found[:limit]

    def replace(self, item: Item, owner: str, new: NewItem) -> bool:
        """Make a queued item that of a file put in the old one's place; raises ``LostLease``.

        False when the new file is an item of its own already, or the old one is settled.
        """
        with self._database.writing() as connection:
            check_lease(locked_job(connection, item.run_id), owner)
            same_key = and_(items.c.run_id == item.run_id, items.c.key == new.key)
            if connection.execute(select(items.c.id).where(same_key)).first():
                return False
            values = {"key": new.key, "size": new.size, "changed_ns": new.changed_ns}
            query = update(items).where(items.c.id == item.id, items.c.state == ItemState.QUEUED)
            return connection.execute(query.values(values)).rowcount == 1

    def failures(self, run_id: int, after: int = 0, limit: int = 200) -> list[Failure]:
        """What was set aside, by id; ``after`` is the ``item_id`` that the last page ended with."""
        columns = (items.c.id, items.c.name, items.c.key, items.c.reason)
        query = (
            select(*columns, items.c.message, items.c.tries)
            .where(items.c.run_id == run_id, items.c.state == ItemState.FAILED)
            .where(items.c.not_before == 0.0, items.c.id > after)
            .order_by(items.c.id)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [Failure(*row) for row in connection.execute(query)]

    def finish(self, run_id: int, owner: str, state: JobState, message: str = "") -> bool:
        """End a job and its lease; False when the lease is another's.

        Also False, and nothing is changed, when it would be done with items left or to come.
        """
        whole = and_(jobs.c.closed, jobs.c.done + jobs.c.failed >= jobs.c.total)
        condition = whole if state is JobState.DONE else jobs.c.run_id == run_id
        ended = {"state": state, "owner": "", "lease_until": 0.0, "message": storable(message)}
        return self._owned(run_id, owner, condition, **ended)

    def _owned(self, run_id: int, holder: str, *conditions: Any, **values: Any) -> bool:
        ours = update(jobs).where(jobs.c.run_id == run_id, jobs.c.owner == holder, *conditions)
        with self._database.writing() as connection:
            return connection.execute(ours.values(values)).rowcount == 1


def _with_work(skip: Collection[int]) -> Select[Any]:
    """The job that a server may take, the one left alone for longest."""
    something_to_do = or_(
        jobs.c.state == JobState.LISTING,
        jobs.c.closed,
        jobs.c.done + jobs.c.failed < jobs.c.total,
    )
    return (
        select(jobs.c.run_id)
        .where(jobs.c.state.in_(ACTIVE), jobs.c.lease_until < now(), something_to_do)
        .where(jobs.c.run_id.not_in(skip))
        .order_by(jobs.c.lease_until, jobs.c.run_id)
        .limit(1)
    )
