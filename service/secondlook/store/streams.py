"""Captured streams: what devices sent, and the last frame of each."""

from dataclasses import dataclass

from sqlalchemy import Connection, select

from secondlook.store.ingest import CAPTURE_KIND
from secondlook.store.queue import JobRow, jobs_of_kind
from secondlook.store.schema import images, items


@dataclass(frozen=True)
class LastFrame:
    """The frame of a stream with the highest number."""

    name: str
    sha256: str
    """Of its bytes, 64 hex digits."""
    added_at: float
    """When an image with this content first came, seconds since 1970."""


@dataclass(frozen=True)
class StreamRow:
    """A captured stream."""

    job: JobRow
    last: LastFrame | None
    """None before the first frame."""


def captured_streams(
    connection: Connection, before: int | None = None, limit: int = 50
) -> list[StreamRow]:
    """The newest first; ``before`` is the ``run_id`` that the last page ended with."""
    jobs = jobs_of_kind(connection, CAPTURE_KIND, before, limit)
    return [StreamRow(job, _last_frame(connection, job.run_id)) for job in jobs]


def _last_frame(connection: Connection, run_id: int) -> LastFrame | None:
    query = select(items.c.name, images.c.sha256, images.c.added_at).join(images)
    newest = query.where(items.c.run_id == run_id).order_by(items.c.key.desc()).limit(1)
    row = connection.execute(newest).first()
    return LastFrame(row.name, row.sha256.hex(), row.added_at) if row else None
