"""The queue: which images of which jobs wait, who works on them, and what became of them.

A job is worked on by one server at a time, which holds a lease on it. Whatever settles items
checks in the same transaction that the lease is still that server's, so a server that was taken
for dead and comes back writes nothing. All writes here may be made twice.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, bindparam, insert, or_, select, true, update

from secondlook.core.errors import BadRequest, LostLease, NotFound
from secondlook.core.ontology import Ontology
from secondlook.store.database import Database, insert_new, now
from secondlook.store.runs import create_run
from secondlook.store.schema import images, items, jobs, runs

# Jobs and items as values: what ``queue`` takes and gives.


class JobState(StrEnum):
    """What a job is doing; its message says what a running one waits for."""

    LISTING = "listing"
    """The folder is being read; images already found are being labelled."""
    RUNNING = "running"
    DONE = "done"
    """Every image is labelled or set aside."""
    CANCELLED = "cancelled"
    FAILED = "failed"
    """It cannot go on for a reason that concerns every image; the message says which."""


ACTIVE = (JobState.LISTING, JobState.RUNNING)
"""States in which a server may be at work on a job."""


class ItemState(IntEnum):
    """What became of one image of a job."""

    QUEUED = 0
    DONE = 1
    FAILED = 2
    """Set aside, with the reason."""


@dataclass(frozen=True, slots=True)
class NewItem:
    """One image for a job."""

    key: int
    """Identity in the run, signed 64 bits."""
    name: str
    """For people; in a folder the relative path, see ``core.files``."""
    size: int = 0
    """Bytes of the file when it was found."""
    changed_ns: int = 0
    """The file's time of change, nanoseconds since 1970."""
    image_id: int | None = None
    """Where its bytes are kept already."""
    refusal: str = ""
    """Why it cannot be labelled; such an item is set aside at once."""
    reason: str = "bad_image"
    """Stable word for the refusal."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a job that waits to be labelled."""

    id: int
    run_id: int
    key: int
    name: str
    size: int
    changed_ns: int
    image_id: int | None
    tries: int
    """How often it was tried for nothing."""
    sha256: str = ""
    """Of its bytes, where they are kept already: 64 hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Setback:
    """A try that gave no result."""

    item_id: int
    reason: str
    """Stable word."""
    message: str
    not_before: float = 0.0
    """When to try again, seconds since 1970; no meaning for an item that is set aside."""


@dataclass(frozen=True, slots=True)
class Settled:
    """How many items a transaction settled that were not settled before."""

    done: int
    failed: int


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that was set aside."""

    item_id: int
    name: str
    key: int
    reason: str
    message: str
    tries: int


@dataclass(frozen=True)
class Job:
    """A run with images to label, as it stood when it was read."""

    run_id: int
    name: str
    kind: str
    """``folder``, ``upload`` or ``capture``."""
    ontology_id: int
    state: JobState
    root: str
    """Folder that names are relative to; or empty."""
    closed: bool
    """No more images will come."""
    total: int
    done: int
    failed: int
    """Set aside."""
    owner: str
    """Server at work on it; or empty."""
    message: str
    """What it waits for, or why it failed; or empty."""
    created_at: float
    changed_at: float
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def waiting(self) -> int:
        """Images still to be labelled."""
        return self.total - self.done - self.failed

    @property
    def active(self) -> bool:
        """True while a server is, or will be, at work on it."""
        return self.state in ACTIVE


JOB_COLUMNS = (
    jobs,
    runs.c.name,
    runs.c.kind,
    runs.c.ontology_id,
    runs.c.settings,
    runs.c.created_at,
)
ITEM_COLUMNS = (
    items.c.id,
    items.c.run_id,
    items.c.key,
    items.c.name,
    items.c.size,
    items.c.changed_ns,
    items.c.image_id,
    items.c.tries,
    images.c.sha256,
)


def job_of(row: "Row[Any]") -> Job:
    """A row of ``JOB_COLUMNS``."""
    return Job(
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
        changed_at=row.changed_at,
        settings=json.loads(row.settings),
    )


def item_of(row: Any) -> Item:
    """A row of ``ITEM_COLUMNS``."""
    return Item(
        id=row.id,
        run_id=row.run_id,
        key=row.key,
        name=row.name,
        size=row.size,
        changed_ns=row.changed_ns,
        image_id=row.image_id,
        tries=row.tries,
        sha256=row.sha256.hex() if row.sha256 else "",
    )


def item_row(run_id: int, new: NewItem) -> dict[str, Any]:
    """What is inserted for a new item."""
    return {
        "run_id": run_id,
        "key": new.key,
        "name": new.name,
        "size": new.size,
        "changed_ns": new.changed_ns,
        "image_id": new.image_id,
        "state": ItemState.FAILED if new.refusal else ItemState.QUEUED,
        "tries": 0,
        "not_before": 0.0,
        "reason": new.reason if new.refusal else "",
        "message": storable(new.refusal),
    }


def storable(text: str) -> str:
    """A message as every database can hold it: no NUL, no halves of characters, not endless."""
    return text[:2000].encode("utf-8", "replace").decode().replace("\x00", "?")


# Items come and are settled: what the queue does inside a transaction of its caller.
#
# Every function locks the job's row first, so those who add, settle, end and take over one job
# follow each other.

KEYS_A_QUERY = 1000
"""Items asked for in one query."""


def add_items(connection: Connection, job: Job, new: Sequence[NewItem]) -> int:
    """``Queue.add`` in the transaction that locked ``job``, for up to about a thousand items."""
    run_id = job.run_id
    if job.closed or not job.active:
        state = "closed" if job.closed else job.state.value
        raise BadRequest(f"job '{job.name}' is {state} and takes no more images; make another")
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
    """Those of the keys that are items of the run, in whatever state, and their images' ids."""
    rest, found = iter(keys), dict[int, int | None]()
    while batch := list(islice(rest, KEYS_A_QUERY)):
        rows = connection.execute(_KNOWN, {"run": run_id, "keys": batch})
        found.update((row.key, row.image_id) for row in rows)
    return found


_KNOWN = select(items.c.key, items.c.image_id).where(
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

    ``done`` maps items to their images, ``failed`` are set aside and ``later`` tried again.
    Items that are settled already are left as they are. Raises ``LostLease`` when the job is not
    ``owner``'s any more.
    """
    check_lease(locked_job(connection, run_id), owner)
    images = [{"item": item, "image": image} for item, image in sorted(done.items())]
    state = {"state": ItemState.DONE, "reason": "", "message": "", "not_before": 0.0}
    finished = _update(connection, images, image_id=bindparam("image"), **state)
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
        """Let a job take more images, whatever its state; its folder is listed again.

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
            .outerjoin(images, images.c.id == items.c.image_id)
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
