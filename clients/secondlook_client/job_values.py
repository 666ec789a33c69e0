"""What the service tells of jobs, as frozen values, and how the wire says it."""

from dataclasses import dataclass
from enum import StrEnum

from secondlook_client import messages
from secondlook_client.classes import Classes
from secondlook_client.results import LabelResult
from secondlook_client.v1 import jobs_pb2 as pb


class JobState(StrEnum):
    """How a job stands."""

    LISTING = "listing"
    """The folder is being read; images found so far are labelled meanwhile."""
    RUNNING = "running"
    """Images are labelled, or more are waited for."""
    DONE = "done"
    """Every image is labelled or set aside."""
    CANCELLED = "cancelled"
    FAILED = "failed"
    """It cannot go on; its message says why."""
    UNKNOWN = "unknown"
    """Something that only a newer client knows."""


@dataclass(frozen=True)
class PathCounts:
    """Who labelled the images of a job in a stretch of time."""

    begin: float
    end: float
    """Seconds since 1970, UTC."""
    teachers: int
    """Images by proposer and verifier."""
    student: int
    """By a student alone."""
    audit: int
    """By proposer and verifier, with the student compared."""


@dataclass(frozen=True)
class Job:
    """A job as it stood when it was asked for."""

    name: str
    kind: str
    """``folder``, ``upload`` or ``capture``."""
    state: JobState
    folder: str
    """On the server; empty unless it is the kind."""
    total: int
    """Images found or received so far."""
    done: int
    """Labelled."""
    failed: int
    """Set aside, each with a reason."""
    message: str
    """What it waits for, or why it failed; empty when all goes well."""
    open: bool
    """More images may come."""
    created_at: float
    """Seconds since 1970, UTC; so is ``changed_at``."""
    changed_at: float
    classes: tuple[str, ...] | None
    """What is looked for; None where only many jobs or news were asked for."""
    paths: tuple[PathCounts, ...] = ()
    """Who labelled its images, over time; empty unless asked for."""

    @property
    def waiting(self) -> int:
        """Images neither labelled nor set aside yet."""
        return self.total - self.done - self.failed

    @property
    def over(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.state not in (JobState.LISTING, JobState.RUNNING, JobState.UNKNOWN)


@dataclass(frozen=True)
class JobNews:
    """How a job stands and how fast it gets on."""

    job: Job
    images_per_second: float
    """Settled lately; 0 while that is not known."""
    seconds_left: float | None
    """Until all images known so far are settled; None while that is not known."""


@dataclass(frozen=True)
class Uploaded:
    """An image that the server has made durable."""

    key: int
    """Its number in the job, signed 64 bits."""
    already: bool
    """Whether the job had this number before."""


@dataclass(frozen=True)
class JobResult:
    """One image's result in a job."""

    cursor: int
    """Grows within a job: results behind it come after this one."""
    key: int
    """The image's number in the job."""
    result: LabelResult

    def label_id(self, place: int) -> str:
        """The name of a judgement for ``secondlook explain``.

        ``place`` is its place in ``result.judgements``, which must hold all of them (``detail``).
        """
        return f"{self.cursor}.{place}"


@dataclass(frozen=True)
class JobFailure:
    """An image that was set aside."""

    key: int
    """Its number in the job."""
    name: str
    reason: str
    """Stable word for programs."""
    message: str
    """The cause and the way out."""
    tries: int


_KINDS = {
    pb.JOB_KIND_FOLDER: "folder",
    pb.JOB_KIND_UPLOAD: "upload",
    pb.JOB_KIND_CAPTURE: "capture",
}
_STATES = {
    pb.JOB_STATE_LISTING: JobState.LISTING,
    pb.JOB_STATE_RUNNING: JobState.RUNNING,
    pb.JOB_STATE_DONE: JobState.DONE,
    pb.JOB_STATE_CANCELLED: JobState.CANCELLED,
    pb.JOB_STATE_FAILED: JobState.FAILED,
}


def create_request(
    name: str, classes: Classes | None, folder: str, reuse: bool
) -> pb.CreateJobRequest:
    """The message for a new job: of a folder on the server, or else of an upload."""
    return pb.CreateJobRequest(
        name=messages.sendable(name),
        ontology=messages.ontology(classes),
        folder=pb.FolderSource(path=folder) if folder else None,
        upload=None if folder else pb.UploadSource(),
        reuse=reuse,
    )


def job(message: pb.Job) -> Job:
    """The value of a message."""
    return Job(
        name=message.name,
        kind=_KINDS.get(message.kind, "unknown"),
        state=_STATES.get(message.state, JobState.UNKNOWN),
        folder=message.folder,
        total=message.total,
        done=message.done,
        failed=message.failed,
        message=message.message,
        open=message.open,
        created_at=message.created_at,
        changed_at=message.changed_at,
        classes=(
            tuple(spec.name for spec in message.ontology.classes)
            if message.HasField("ontology")
            else None
        ),
        paths=tuple(
            PathCounts(part.begin, part.end, part.teachers, part.student, part.audit)
            for part in message.paths
        ),
    )


def news(message: pb.WatchJobResponse) -> JobNews:
    """The value of a message."""
    left = message.seconds_left if message.HasField("seconds_left") else None
    return JobNews(job(message.job), message.images_per_second, left)


def uploaded(message: pb.UploadImageResponse) -> Uploaded:
    """The value of a message."""
    return Uploaded(message.key, message.already)


def result(message: pb.JobResult) -> JobResult:
    """The value of a message."""
    return JobResult(message.cursor, message.key, messages.label_result(message.labelled))


def failure(message: pb.JobFailure) -> JobFailure:
    """The value of a message."""
    return JobFailure(message.key, message.name, message.reason, message.message, message.tries)
