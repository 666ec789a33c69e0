"""Images that clients send for jobs: kept, and queued in one transaction for all that wait."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from sqlalchemy import func, select

from secondlook.core.errors import AlreadyExists, BadOntology, BadRequest, NotFound
from secondlook.core.ontology import Ontology
from secondlook.store.blobs import Blobs
from secondlook.store.database import Database
from secondlook.store.images import NewImage, add_images
from secondlook.store.queue import (
    Job,
    JobState,
    NewItem,
    Queue,
    add_items,
    change_job,
    known_items,
    locked_job,
    named_job,
)
from secondlook.store.runs import load_run
from secondlook.store.schema import items

UPLOAD_KIND = "upload"


@dataclass(frozen=True, slots=True)
class Arrived:
    """One image whose bytes are in the blob store."""

    key: int
    """Identity in the job, signed 64 bits."""
    name: str
    image: NewImage


class Uploads:
    """Keeps what is sent for jobs. Safe for threads."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    def keep(self, content: bytes) -> NewImage:
        """Make an image's bytes durable. Raises ``StorageFull`` and ``StoreUnavailable``."""
        return NewImage.of(self._blobs.put(content), content)

    def job(self, name: str) -> Job:
        """The job, if images may be sent for it.

        Raises ``NotFound``, and ``BadRequest`` for one that is no upload or was ended.
        """
        with self._database.reading() as connection:
            return _uploadable(named_job(connection, name))

    def add(self, name: str, arrived: Sequence[Arrived]) -> list[bool]:
        """Queue images in one transaction; for each, whether its key was there before.

        A job whose upload was finished is opened again. Raises ``NotFound``, and ``BadRequest``
        for one that was cancelled.
        """
        with self._database.writing() as connection:
            job = _uploadable(named_job(connection, name, lock=True))
            before = known_items(connection, job.run_id, [one.key for one in arrived])
            new = {one.key: one for one in reversed(arrived) if one.key not in before}
            if new:
                if job.closed or not job.active:
                    job = replace(job, closed=False, state=JobState.RUNNING)
                    change_job(connection, job.run_id, closed=False, state=JobState.RUNNING)
                ids = add_images(connection, [one.image for one in new.values()])
                add_items(connection, job, [_upload_item(one, ids) for one in new.values()])
        # Of one key sent twice at a time the first is new.
        return [new.get(one.key) is not one for one in arrived]


def _uploadable(job: Job) -> Job:
    if job.kind != UPLOAD_KIND:
        raise BadRequest(f"'{job.name}' is no upload: its images come from a {job.kind}")
    if job.state in (JobState.CANCELLED, JobState.FAILED):
        raise BadRequest(f"job '{job.name}' is {job.state} and takes no more images")
    return job


def _upload_item(one: Arrived, ids: dict[str, int]) -> NewItem:
    image = one.image
    return NewItem(one.key, one.name, image.size, image_id=ids[image.sha256])


# Frames of captured streams: items of a job that goes on for ever, by the frame's number.

FRAME_KIND = "capture"
WRITERS = 4
"""Images written at a time: most of the time of each is the disk's."""


@dataclass(frozen=True)
class Frame:
    """One frame as a client sent it."""

    sequence: int
    """0 to 2^63 - 1."""
    name: str
    content: bytes


class Kept(Enum):
    """What keeping a frame came to."""

    NEW = "new"
    ALREADY = "already"
    """The same frame had been kept before."""
    OTHER = "other"
    """Another image has that number in the stream; this one was not kept."""


@dataclass(frozen=True)
class OpenedStream:
    """A captured stream, begun now or before."""

    run_id: int
    resume_after: int | None
    """The highest number kept; None before the first."""


class Frames:
    """Keeps frames of any number of streams. Safe for threads."""

    def __init__(self, database: Database, blobs: Blobs, queue: Queue) -> None:
        self._database = database
        self._blobs = blobs
        self._queue = queue
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="frames")

    def open(
        self,
        stream_id: str,
        ontology: Ontology | None,
        default: Ontology | None,
        settings: Mapping[str, Any],
    ) -> OpenedStream:
        """The stream of that name; made, with ``ontology`` and ``settings``, when it is new.

        ``default`` is what a new stream is labelled with when ``ontology`` is None. Raises
        ``AlreadyExists`` when the name is that of another job or was begun with other classes,
        and ``BadOntology`` for a new stream without classes.
        """
        try:
            return self._opened(stream_id, ontology)
        except NotFound:
            classes = ontology or default
            if classes is None:
                raise BadOntology(
                    f"'{stream_id}' is a new stream; say with which classes to label it"
                ) from None
        with suppress(AlreadyExists):  # another connection of the same stream was quicker
            self._queue.create(stream_id, FRAME_KIND, classes, settings=settings)
        return self._opened(stream_id, ontology)

    def keep(self, run_id: int, frames: Sequence[Frame]) -> list[Kept]:
        """Make frames durable: they are when this returns. One answer a frame, in order.

        Raises ``StoreUnavailable`` and ``StorageFull``; the same frames may then be given again.
        """
        written = list(self._writers.map(self._blobs.put, (frame.content for frame in frames)))
        found = [
            NewImage.of(sha256, frame.content)
            for sha256, frame in zip(written, frames, strict=True)
        ]
        with self._database.writing() as connection:
            numbers = add_images(connection, found)
            images = [numbers[sha256] for sha256 in written]
            job = locked_job(connection, run_id)  # two connections of one stream take turns
            before = known_items(connection, run_id, [frame.sequence for frame in frames])
            new = [
                _frame_item(frame, image)
                for frame, image in zip(frames, images, strict=True)
                if frame.sequence not in before
            ]
            add_items(connection, job, new)
        return [
            _kept(before.get(frame.sequence), image)
            for frame, image in zip(frames, images, strict=True)
        ]

    def close(self) -> None:
        """Let the writing threads end."""
        self._writers.shutdown()

    def _opened(self, stream_id: str, ontology: Ontology | None) -> OpenedStream:
        with self._database.reading() as connection:
            run = load_run(connection, stream_id)
            if run.kind != FRAME_KIND:
                raise AlreadyExists(
                    f"'{stream_id}' is the name of a job of another kind; give another stream_id"
                )
            if ontology is not None and ontology.digest != run.ontology.digest:
                raise AlreadyExists(
                    f"the stream '{stream_id}' was begun with other classes; go on without "
                    "classes, or give another stream_id"
                )
            if named_job(connection, stream_id).state is JobState.CANCELLED:
                raise AlreadyExists(
                    f"the stream '{stream_id}' was cancelled; give another stream_id"
                )
            highest = select(func.max(items.c.key)).where(items.c.run_id == run.id)
            return OpenedStream(run.id, connection.execute(highest).scalar())


def _kept(before: int | None, image: int) -> Kept:
    if before is None:
        return Kept.NEW
    return Kept.ALREADY if before == image else Kept.OTHER


def _frame_item(frame: Frame, image_id: int) -> NewItem:
    name = frame.name or str(frame.sequence)
    return NewItem(frame.sequence, name, len(frame.content), image_id=image_id)
