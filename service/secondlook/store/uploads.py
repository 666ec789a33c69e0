"""Pictures that clients send for jobs: kept, and queued in one transaction for all that wait."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from secondlook.errors import BadRequest
from secondlook.store.blobs import Blobs
from secondlook.store.database import Database
from secondlook.store.job import Job, JobState, NewItem
from secondlook.store.pictures import NewPicture, add_pictures
from secondlook.store.settling import add_items, change_job, known_items, named_job

KIND = "upload"


@dataclass(frozen=True, slots=True)
class Arrived:
    """One picture whose bytes are in the blob store."""

    key: int
    """Identity in the job, signed 64 bits."""
    name: str
    picture: NewPicture


class Uploads:
    """Keeps what is sent for jobs. Safe for threads."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    def keep(self, content: bytes) -> NewPicture:
        """Make a picture's bytes durable. Raises ``StorageFull`` and ``StoreUnavailable``."""
        return NewPicture.of(self._blobs.put(content), content)

    def job(self, name: str) -> Job:
        """The job, if pictures may be sent for it.

        Raises ``NotFound``, and ``BadRequest`` for one that is no upload or was ended.
        """
        with self._database.reading() as connection:
            return _uploadable(named_job(connection, name))

    def add(self, name: str, arrived: Sequence[Arrived]) -> list[bool]:
        """Queue pictures in one transaction; for each, whether its key was there before.

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
                ids = add_pictures(connection, [one.picture for one in new.values()])
                add_items(connection, job, [_item(one, ids) for one in new.values()])
        # Of one key sent twice at a time the first is new.
        return [new.get(one.key) is not one for one in arrived]


def _uploadable(job: Job) -> Job:
    if job.kind != KIND:
        raise BadRequest(f"'{job.name}' is no upload: its pictures come from a {job.kind}")
    if job.state in (JobState.CANCELLED, JobState.FAILED):
        raise BadRequest(f"job '{job.name}' is {job.state} and takes no more pictures")
    return job


def _item(one: Arrived, ids: dict[str, int]) -> NewItem:
    picture = one.picture
    return NewItem(one.key, one.name, picture.size, picture_id=ids[picture.sha256])
