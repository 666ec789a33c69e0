"""Ingest of images that clients send: made durable, then queued, many in one transaction.

Uploads belong to a job that a client created. Captured streams are jobs without an end, whose items
are identified by the number of the frame. Both are acknowledged only once bytes and rows are
durable.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sqlalchemy import Connection, and_, func, select, update

from secondlook.store.blobs import Blobs
from secondlook.store.database import Database
from secondlook.store.guarantees import guarantee_of
from secondlook.store.images import NewImage, add_images
from secondlook.store.queue import (
    JobQueue,
    JobRow,
    NewItem,
    add_items,
    known_items,
    locked_job,
    named_job,
    reopened,
)
from secondlook.store.runs import load_run
from secondlook.store.schema import items, jobs, runs
from secondlook_client.errors import AlreadyExists, BadRequest, NotFound, StoreUnavailable
from secondlook_client.ontology import Ontology
from secondlook_client.spool import MAX_SEQUENCE
from secondlook_client.values import JobState

UPLOAD_KIND, CAPTURE_KIND = "upload", "capture"
"""Kinds of runs, see ``runs.Run``."""
WRITERS = 4
"""Images written at a time: most of the time of each is the disk's."""


@dataclass(frozen=True, slots=True)
class UploadedImage:
    """An uploaded image whose bytes are in the blob store."""

    key: int
    """Identity in the job, signed 64 bits."""
    name: str
    image: NewImage


@dataclass(frozen=True)
class CapturedFrame:
    """A frame as a client sent it."""

    sequence: int
    """0 to ``spool.MAX_SEQUENCE``."""
    name: str
    content: bytes


class FrameStatus(Enum):
    """Outcome of storing a frame."""

    NEW = "new"
    DUPLICATE = "duplicate"
    """The same frame was stored before."""
    CONFLICT = "conflict"
    """Another image has that number in the stream; this one was not stored."""


@dataclass(frozen=True)
class OpenedStream:
    """A captured stream, new or resumed."""

    stream_id: str
    run_id: int
    created_by: str
    """As of its run."""
    resume_after: int | None
    """The highest number stored; None before the first.

    Numbers above ``spool.MAX_SEQUENCE``, which earlier versions took, are left out of account.
    """


class UploadIngest:
    """Stores images that are uploaded to jobs. Thread-safe."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    def store(self, content: bytes) -> NewImage:
        """Make an image's bytes durable. Raises ``StorageFull`` and ``StoreUnavailable``."""
        return NewImage.of(self._blobs.put(content), content)

    def job(self, name: str) -> JobRow:
        """The job, if it takes uploads.

        Raises ``NotFound``, and ``BadRequest`` for one that takes none or was ended.
        """
        with self._database.reading() as connection:
            return _uploadable(named_job(connection, name))

    def add(self, name: str, uploaded: Sequence[UploadedImage]) -> list[bool]:
        """Queue images in one transaction; for each, whether its key was known before.

        A job whose upload was finished is reopened. Raises ``NotFound``, and ``BadRequest``
        for one that was cancelled.
        """
        with self._database.writing() as connection:
            job = _uploadable(named_job(connection, name, lock=True))
            before = known_items(connection, job.run_id, [one.key for one in uploaded])
            new = {one.key: one for one in reversed(uploaded) if one.key not in before}
            if new:
                job = reopened(connection, job)
                ids = add_images(connection, [one.image for one in new.values()])
                add_items(connection, job, [_upload_item(one, ids) for one in new.values()])
        # Of a key that occurs twice in one call the first is new.
        return [new.get(one.key) is not one for one in uploaded]


class CaptureIngest:
    """Stores frames of any number of captured streams. Thread-safe."""

    def __init__(self, database: Database, blobs: Blobs, queue: JobQueue) -> None:
        self._database = database
        self._blobs = blobs
        self._queue = queue
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="capture")

    def open(
        self,
        stream_id: str,
        ontology: Ontology | None,
        terms: Callable[[], tuple[Ontology, Mapping[str, Any]]],
        guarantee: str = "",
        created_by: str = "",
    ) -> OpenedStream:
        """The stream of that name; if it is new, with the classes and settings that ``terms`` give.

        ``created_by`` names the token of whoever opens it, if it is new.

        ``ontology`` and ``guarantee`` are what is asked for; None and empty are as it was begun.
        Raises ``AlreadyExists`` when the name belongs to another job, or the stream has other
        classes or another guarantee, and what ``terms`` raise.
        """
        with suppress(NotFound):
            return self._opened(stream_id, ontology, guarantee)
        classes, settings = terms()
        with suppress(AlreadyExists):  # another connection of the same stream was faster
            self._queue.create(
                stream_id, CAPTURE_KIND, classes, settings=settings, created_by=created_by
            )
        return self._opened(stream_id, ontology, guarantee)

    def add(self, stream: OpenedStream, frames: Sequence[CapturedFrame]) -> list[FrameStatus]:
        """Make frames durable and queue them; one status a frame, in order.

        Raises ``StoreUnavailable`` and ``StorageFull``; the same frames may then be added again,
        once the stream is opened anew.
        """
        run_id = stream.run_id
        sha256s = list(self._writers.map(self._blobs.put, (frame.content for frame in frames)))
        found = [
            NewImage.of(sha256, frame.content)
            for sha256, frame in zip(sha256s, frames, strict=True)
        ]
        with self._database.writing() as connection:
            ids = add_images(connection, found)
            images = [ids[sha256] for sha256 in sha256s]
            job = locked_job(connection, run_id)  # serializes two connections of one stream
            if job.name != stream.stream_id:  # a fail-over lost the stream, and gave its id away
                raise StoreUnavailable("the stream is to be opened again; try again in a moment")
            before = known_items(connection, run_id, [frame.sequence for frame in frames])
            new = [
                _frame_item(frame, image)
                for frame, image in zip(frames, images, strict=True)
                if frame.sequence not in before
            ]
            add_items(connection, job, new)
        return [
            _status(before.get(frame.sequence), image)
            for frame, image in zip(frames, images, strict=True)
        ]

    def note_device_model(self, run_id: int, model: str) -> None:
        """Keep what the device of a stream said it runs."""
        other = (jobs.c.run_id == run_id) & (jobs.c.device_model != model)
        with self._database.reading() as connection:
            if connection.execute(select(jobs.c.run_id).where(other)).first() is None:
                return  # the usual case, without a transaction that writes
        with self._database.writing() as connection:
            connection.execute(update(jobs).where(other).values(device_model=model))

    def close(self) -> None:
        """Let the writing threads end; call it when no stream is open."""
        self._writers.shutdown(wait=False)

    def _opened(self, stream_id: str, ontology: Ontology | None, guarantee: str) -> OpenedStream:
        with self._database.reading() as connection:
            run = load_run(connection, stream_id)
            if run.kind != CAPTURE_KIND:
                raise AlreadyExists(
                    f"'{stream_id}' is the name of a job of another kind; give another stream_id"
                )
            if guarantee and guarantee_of(run.settings) != guarantee:
                raise AlreadyExists(
                    f"the stream '{stream_id}' was begun with another guarantee, or with none; "
                    "resume it without one, or give another stream_id"
                )
            if ontology is not None and not _same_classes(ontology, run.ontology, guarantee):
                raise AlreadyExists(
                    f"the stream '{stream_id}' was begun with other classes; resume it without "
                    "classes, or give another stream_id"
                )
            if named_job(connection, stream_id).state is JobState.CANCELLED:
                raise AlreadyExists(
                    f"the stream '{stream_id}' was cancelled; give another stream_id"
                )
            counted = and_(items.c.run_id == run.id, items.c.key <= MAX_SEQUENCE)
            highest = select(func.max(items.c.key)).where(counted)
            resume_after = connection.execute(highest).scalar()
            return OpenedStream(stream_id, run.id, run.created_by, resume_after)


def stored_bytes(connection: Connection, created_by: str) -> int:
    """Bytes of all images that a token's jobs and streams have, each as often as it was sent."""
    total = select(func.sum(items.c.size)).join(runs, runs.c.id == items.c.run_id)
    return int(connection.execute(total.where(runs.c.created_by == created_by)).scalar() or 0)


def _same_classes(asked: Ontology, begun: Ontology, guarantee: str) -> bool:
    """Under a guarantee the limits of acceptance are its own, whatever was asked for."""
    return asked.names == begun.names if guarantee else asked.digest == begun.digest


def _uploadable(job: JobRow) -> JobRow:
    if job.kind != UPLOAD_KIND:
        raise BadRequest(f"'{job.name}' takes no uploads: its images come from a {job.kind}")
    if job.state in (JobState.CANCELLED, JobState.FAILED):
        raise BadRequest(f"job '{job.name}' is {job.state} and takes no more images")
    return job


def _upload_item(one: UploadedImage, ids: dict[str, int]) -> NewItem:
    image = one.image
    return NewItem(one.key, one.name, image.size, image_id=ids[image.sha256])


def _status(before: int | None, image: int) -> FrameStatus:
    if before is None:
        return FrameStatus.NEW
    return FrameStatus.DUPLICATE if before == image else FrameStatus.CONFLICT


def _frame_item(frame: CapturedFrame, image_id: int) -> NewItem:
    name = frame.name or str(frame.sequence)
    return NewItem(frame.sequence, name, len(frame.content), image_id=image_id)
