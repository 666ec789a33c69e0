"""Items come and are settled: what the queue does inside a transaction of its caller.

Every function locks the job's row first, so those who add, settle, end and take over one job
follow each other.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, select, update

from secondlook.errors import BadRequest, LostLease, NotFound
from secondlook.store.database import insert_new, now
from secondlook.store.job import (
    JOB_COLUMNS,
    ItemState,
    Job,
    NewItem,
    Setback,
    Settled,
    item_row,
    job_of,
    storable,
)
from secondlook.store.tables import items, jobs, runs

AT_ONCE = 1000
"""Items asked for in one query."""


def add_items(connection: Connection, job: Job, new: Sequence[NewItem]) -> int:
    """``Queue.add`` in the transaction that locked ``job``, for up to about a thousand items."""
    run_id = job.run_id
    if job.closed or not job.active:
        state = "closed" if job.closed else job.state.value
        raise BadRequest(f"job '{job.name}' is {state} and takes no more pictures; make another")
    # In a fixed order, so that two servers that list one folder never wait for each other.
    ordered = sorted(new, key=lambda item: item.key)
    refused = [item_row(run_id, item) for item in ordered if item.refusal]
    failed = insert_new(connection, items, refused)
    queued = insert_new(connection, items, [item_row(run_id, i) for i in ordered if not i.refusal])
    if failed or queued:
        change_job(
            connection, run_id, total=jobs.c.total + failed + queued, failed=jobs.c.failed + failed
        )
    return failed + queued


def known_items(connection: Connection, run_id: int, keys: Iterable[int]) -> dict[int, int | None]:
    """Those of the keys that are items of the run, in whatever state, and their pictures' ids."""
    rest, found = iter(keys), dict[int, int | None]()
    while batch := list(islice(rest, AT_ONCE)):
        rows = connection.execute(_KNOWN, {"run": run_id, "keys": batch})
        found.update((row.key, row.picture_id) for row in rows)
    return found


_KNOWN = select(items.c.key, items.c.picture_id).where(
    items.c.run_id == bindparam("run"), items.c.key.in_(bindparam("keys", expanding=True))
)


def settle(
    connection: Connection,
    run_id: int,
    owner: str,
    done: Mapping[int, int],
    failed: Sequence[Setback] = (),
    later: Sequence[Setback] = (),
) -> Settled:
    """Say what became of items: in the transaction that keeps their results, and after them.

    ``done`` maps items to their pictures, ``failed`` are set aside and ``later`` tried again.
    Items that are settled already are left as they are. Raises ``LostLease`` when the job is not
    ``owner``'s any more.
    """
    check_lease(locked_job(connection, run_id), owner)
    pictures = [{"item": item, "picture": picture} for item, picture in sorted(done.items())]
    state = {"state": ItemState.DONE, "reason": "", "message": "", "not_before": 0.0}
    finished = _update(connection, pictures, picture_id=bindparam("picture"), **state)
    aside = _update(connection, _setbacks(failed), state=ItemState.FAILED, **_TRIED)
    _update(connection, _setbacks(later), **_TRIED)
    if finished or aside:
        counts = {"done": jobs.c.done + finished, "failed": jobs.c.failed + aside}
        change_job(connection, run_id, **counts)
    return Settled(finished, aside)


_TRIED = {
    "tries": items.c.tries + 1,
    "reason": bindparam("why"),
    "message": bindparam("text"),
    "not_before": bindparam("due"),
}


def _setbacks(found: Sequence[Setback]) -> list[dict[str, Any]]:
    return [
        {"item": s.item_id, "why": s.reason[:64], "text": storable(s.message), "due": s.not_before}
        for s in sorted(found, key=lambda setback: setback.item_id)
    ]


def _update(connection: Connection, rows: list[dict[str, Any]], **values: Any) -> int:
    """Update those of the items that are still queued; how many were."""
    if not rows:
        return 0
    queued = and_(items.c.id == bindparam("item"), items.c.state == ItemState.QUEUED)
    return connection.execute(update(items).where(queued).values(values), rows).rowcount


def job_rows() -> Select[Any]:
    """Every job with what its run says."""
    return select(*JOB_COLUMNS).join(runs, runs.c.id == jobs.c.run_id)


# Built once: SQLAlchemy takes longer to build a statement than SQLite to answer it.
_NAMED = job_rows().where(runs.c.name == bindparam("name"))
_NUMBERED = job_rows().where(jobs.c.run_id == bindparam("number")).with_for_update(of=jobs)


def named_job(connection: Connection, name: str, *, lock: bool = False) -> Job:
    """The job of that name. Raises ``NotFound``.

    With ``lock`` nobody else changes it until the transaction, a writing one, ends.
    """
    query = _NAMED.with_for_update(of=jobs) if lock else _NAMED
    row = connection.execute(query, {"name": name}).first()
    if row is None:
        raise NotFound(f"there is no job '{name}'; see `secondlook job list`")
    return job_of(row)


def locked_job(connection: Connection, run_id: int) -> Job:
    """The job, which nobody else changes until the transaction ends."""
    row = connection.execute(_NUMBERED, {"number": run_id}).first()
    if row is None:
        raise NotFound(f"there is no job number {run_id}; see `secondlook job list`")
    return job_of(row)


def check_lease(job: Job, owner: str) -> None:
    """Raises ``LostLease`` when the job is not ``owner``'s any more."""
    if job.owner != owner:
        raise LostLease(f"job '{job.name}' is not this server's any more")


def change_job(connection: Connection, run_id: int, **values: Any) -> None:
    """Set columns of a job, and when that was."""
    changed = update(jobs).where(jobs.c.run_id == run_id)
    connection.execute(changed.values(values | {"changed_at": now()}))
