"""Jobs and items as values: what ``queue`` takes and gives."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

from sqlalchemy import Row

from secondlook.store.tables import items, jobs, pictures, runs


class JobState(StrEnum):
    """What a job is doing; its message says what a running one waits for."""

    LISTING = "listing"
    """The folder is being read; pictures already found are being labelled."""
    RUNNING = "running"
    DONE = "done"
    """Every picture is labelled or set aside."""
    CANCELLED = "cancelled"
    FAILED = "failed"
    """It cannot go on for a reason that concerns every picture; the message says which."""


ACTIVE = (JobState.LISTING, JobState.RUNNING)
"""States in which a server may be at work on a job."""


class ItemState(IntEnum):
    """What became of one picture of a job."""

    QUEUED = 0
    DONE = 1
    FAILED = 2
    """Set aside, with the reason."""


@dataclass(frozen=True, slots=True)
class NewItem:
    """One picture for a job."""

    key: int
    """Identity in the run, signed 64 bits."""
    name: str
    """For people; in a folder the relative path, see ``runs.names``."""
    size: int = 0
    """Bytes of the file when it was found."""
    changed_ns: int = 0
    """The file's time of change, nanoseconds since 1970."""
    picture_id: int | None = None
    """Where its bytes are kept already."""
    refusal: str = ""
    """Why it cannot be labelled; such an item is set aside at once."""
    reason: str = "bad_image"
    """Stable word for the refusal."""


@dataclass(frozen=True, slots=True)
class Item:
    """One picture of a job that waits to be labelled."""

    id: int
    run_id: int
    key: int
    name: str
    size: int
    changed_ns: int
    picture_id: int | None
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
    """A picture that was set aside."""

    item_id: int
    name: str
    key: int
    reason: str
    message: str
    tries: int


@dataclass(frozen=True)
class Job:
    """A run with pictures to label, as it stood when it was read."""

    run_id: int
    name: str
    kind: str
    """``folder``, ``upload`` or ``capture``."""
    ontology_id: int
    state: JobState
    root: str
    """Folder that names are relative to; or empty."""
    closed: bool
    """No more pictures will come."""
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
        """Pictures still to be labelled."""
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
    items.c.picture_id,
    items.c.tries,
    pictures.c.sha256,
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
        picture_id=row.picture_id,
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
        "picture_id": new.picture_id,
        "state": ItemState.FAILED if new.refusal else ItemState.QUEUED,
        "tries": 0,
        "not_before": 0.0,
        "reason": new.reason if new.refusal else "",
        "message": storable(new.refusal),
    }


def storable(text: str) -> str:
    """A message as every database can hold it: no NUL, no halves of characters, not endless."""
    return text[:2000].encode("utf-8", "replace").decode().replace("\x00", "?")
