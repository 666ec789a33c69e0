"""Jobs as messages, and what a message may say of one: checked here, once."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import blake2b, sha256

from secondlook.errors import BadRequest
from secondlook.labels import LabelPath
from secondlook.ontology import Ontology
from secondlook.server.convert import labelled_message, ontology_message
from secondlook.store.job import Failure, Job, JobState
from secondlook.store.paths import Stretch
from secondlook.store.records import Result
from secondlook_client.v1 import jobs_pb2 as pb

MAX_NAME = 200
"""Characters of a job's name."""

_KINDS = {
    "folder": pb.JOB_KIND_FOLDER,
    "upload": pb.JOB_KIND_UPLOAD,
    "capture": pb.JOB_KIND_CAPTURE,
}
_STATES = {
    JobState.LISTING: pb.JOB_STATE_LISTING,
    JobState.RUNNING: pb.JOB_STATE_RUNNING,
    JobState.DONE: pb.JOB_STATE_DONE,
    JobState.CANCELLED: pb.JOB_STATE_CANCELLED,
    JobState.FAILED: pb.JOB_STATE_FAILED,
}


def job_message(
    job: Job, ontology: Ontology | None = None, paths: Sequence[Stretch] = ()
) -> pb.Job:
    """A job as it stands; with its classes, and who labelled it, where they are given."""
    return pb.Job(
        name=job.name,
        kind=_KINDS.get(job.kind, pb.JOB_KIND_UNSPECIFIED),
        state=_STATES[job.state],
        folder=job.root,
        total=job.total,
        done=job.done,
        failed=job.failed,
        message=job.message,
        open=not job.closed,
        created_at=job.created_at,
        changed_at=job.changed_at,
        ontology=ontology_message(ontology) if ontology else None,
        paths=[
            pb.PathCounts(
                begin=part.begin,
                end=part.end,
                **{path.value: part.pictures.get(path, 0) for path in LabelPath},
            )
            for part in paths
        ],
    )


def result_message(result: Result, every: bool) -> pb.JobResult:
    """One result; only its labels unless ``every`` judgement is wanted."""
    labelled = labelled_message(result.labelled, every)
    return pb.JobResult(cursor=result.cursor, key=result.key, labelled=labelled)


def failure_message(failure: Failure) -> pb.JobFailure:
    """One picture that was set aside."""
    return pb.JobFailure(
        key=failure.key,
        name=failure.name,
        reason=failure.reason,
        message=failure.message,
        tries=failure.tries,
    )


def checked_job_name(name: str) -> str:
    """A name for a new job. Raises ``BadRequest``."""
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise BadRequest(
            f"expected a name of 1 to {MAX_NAME} printable characters for the job, got {name!r:.60}"
        )
    return name


def key_of(name: str, content: bytes) -> int:
    """A picture's number where the client gave none: name and content, signed 64 bits."""
    named = name.encode("utf-8", "replace") + b"\0" + sha256(content).digest()
    return int.from_bytes(blake2b(named, digest_size=8).digest(), "big", signed=True)


class Pace:
    """How fast a job gets on, by what it did in the last while."""

    WINDOW_S = 30.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def per_second(self, settled: int) -> float:
        """Pictures a second, now that ``settled`` are done or set aside; 0 while unknown."""
        now = self._clock()
        self._seen.append((now, settled))
        while len(self._seen) > 2 and self._seen[1][0] <= now - self.WINDOW_S:
            self._seen.popleft()
        then, before = self._seen[0]
        return max(settled - before, 0) / (now - then) if now > then else 0.0
