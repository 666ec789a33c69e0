"""One run from start to outputs, with its progress shown; ``label`` and ``demo`` share it.

A run is an upload job of the service: the service keeps what was sent and what was found, so a
run that ended anywhere goes on there.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

from secondlook.cli.progress import Step, bar
from secondlook.cli.session import Session
from secondlook.command_line import gentle_interrupts
from secondlook.errors import InvalidInput, Unavailable
from secondlook.formats import Labels
from secondlook.runs.fetched import Fetched
from secondlook.runs.folder import SUFFIXES, Selection
from secondlook.runs.names import from_text
from secondlook.runs.out_folder import OutFolder
from secondlook.runs.outputs import Written, write_outputs
from secondlook.runs.sending import Refused, Sending
from secondlook.two_stages import Results
from secondlook_client import Job, JobState
from secondlook_client.errors import NotFound

LOOK_EVERY_S = 0.2
"""Between two questions how far the job is."""
STUCK_S = 15.0
"""A service of our own that waits for so long is not waited for: who would mend it?"""
TRANSIENT = (
    "busy",
    "deadline_exceeded",
    "internal",
    "storage_full",
    "store_unavailable",
    "unavailable",
    "verifier_failed",
)
"""Reasons that may have gone at the next start."""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    written: Written
    results: Results
    pictures: int
    """Labelled (or failed) since this start."""
    seconds: float
    """Spent on those."""


def label_into(
    folder: OutFolder,
    session: Session,
    selection: Selection,
    *,
    formats: Sequence[str] = ("coco",),
    shown: int = 200,
    retry_failed: bool = False,
) -> Run:
    """Label ``selection`` into ``folder``, going on where an earlier start stopped."""
    if next(selection.walk(), None) is None:
        raise InvalidInput(
            f"there is no picture in {selection.root}; pictures end in "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    job = _begin(folder, session, selection, retry_failed)
    sending = Sending(session.client.jobs, job, selection, session.image_limits.max_bytes)
    started = time.perf_counter()
    settled = _label(sending, session, job, folder.path)
    seconds = time.perf_counter() - started
    fetched = _fetch(folder.path, sending, session, job)
    written = write_outputs(
        folder.path,
        Labels(selection.root, session.ontology.names, fetched.results),
        _failures(fetched, sending, session, job),
        formats=formats,
        shown=shown,
        limits=session.image_limits,
    )
    return Run(written, fetched.results, settled, seconds)


def _begin(folder: OutFolder, session: Session, selection: Selection, retry_failed: bool) -> str:
    """The name of the run's job, which is there and may be sent pictures."""
    jobs = session.client.jobs
    if folder.left_job:
        with suppress(NotFound):
            jobs.cancel(folder.left_job)
    name = folder.claim(session.identity(selection.root))
    job = jobs.create(name, classes=session.classes, reuse=True)
    if job.state is JobState.CANCELLED:
        raise InvalidInput(
            f"the job of this run, '{name}', was cancelled; begin a new one with --fresh or "
            "another --out"
        )
    if job.failed:
        jobs.retry(name, reasons=() if retry_failed else TRANSIENT)
    return name


def _label(sending: Sending, session: Session, job: str, out: Path) -> int:
    """Send what the job lacks and wait until it is done; how many pictures that settled."""
    jobs = session.client.jobs
    sending.measure()
    before = jobs.get(job)
    progress = _Progress(sending, before)
    with (
        bar("labelling", progress.pictures, progress.settled(before)) as step,
        gentle_interrupts() as stopped,
    ):
        look = _Look(lambda: jobs.get(job), progress, step, own=session.own is not None)
        for _ in sending.send(stopped):
            look.now_and_then()
        if not stopped():
            jobs.finish(job)
        while not stopped() and not look.now().over:
            time.sleep(LOOK_EVERY_S)
    if session.own:
        session.own.finish_jobs()
    after = jobs.get(job)
    _check(after, progress.settled(after), progress.pictures, session, out)
    return progress.settled(after) - progress.settled(before)


def _check(job: Job, settled: int, pictures: int, session: Session, out: Path) -> None:
    """Raises what ended the run, if it is not done."""
    if job.state is JobState.DONE:
        return
    if job.over:
        raise InvalidInput(f"the job '{job.name}' was {job.state}: {job.message or 'by somebody'}")
    goes_on = "" if session.own else "; the service labels on what it was sent"
    raise KeyboardInterrupt(
        f"stopped: {settled} of {pictures} pictures are done and kept in {out}{goes_on}; the same "
        "command goes on from there"
    )


class _Progress:
    """Counts the pictures of the selection, where the job has those of earlier times too."""

    def __init__(self, sending: Sending, before: Job) -> None:
        self.pictures = sending.pictures
        self._refused = len(sending.refused)
        self._gone = before.total - sending.known
        """In the job, and not in the selection any more."""

    def settled(self, job: Job) -> int:
        """Labelled, set aside or refused."""
        found = job.done + job.failed - self._gone + self._refused
        return min(max(found, 0), self.pictures)


class _Look:
    """Asks how far the job is and shows it."""

    def __init__(self, ask: Callable[[], Job], progress: _Progress, step: Step, own: bool) -> None:
        """``own``: whether the service is this process's, and nobody else's to mend."""
        self._ask = ask
        self._progress = progress
        self._step = step
        self._own = own
        self._asked_at = 0.0
        self._waits_since: float | None = None
        self._told = ""

    def now_and_then(self) -> None:
        """Look, if the last look was a while ago."""
        if time.monotonic() - self._asked_at >= LOOK_EVERY_S:
            self.now()

    def now(self) -> Job:
        """The job as it stands. Raises ``Unavailable`` when it does not get on."""
        job, now = self._ask(), time.monotonic()
        self._asked_at = now
        self._step(self._progress.settled(job), self._progress.pictures)
        if job.message and not job.over:
            self._waits_since = self._waits_since or now
            if self._own and now - self._waits_since > STUCK_S:
                raise Unavailable(
                    f"{job.message}. What is done is kept; the same command goes on from there"
                )
            if job.message != self._told:
                click.echo(f"waiting: {job.message}", err=True)
        else:
            self._waits_since = None
        self._told = job.message
        return job


def _fetch(out: Path, sending: Sending, session: Session, job: str) -> Fetched:
    fetched = Fetched(out, sending.keys)
    with bar("reading results", sending.pictures) as step:
        for count, found in enumerate(session.client.jobs.results(job), start=1):
            fetched.add(found.key, found.result)
            step(min(count, sending.pictures), sending.pictures)
    return fetched


def _failures(fetched: Fetched, sending: Sending, session: Session, job: str) -> Iterator[Refused]:
    """Every picture that is there now and has no result."""
    yield from sending.refused
    for found in session.client.jobs.failures(job):
        if fetched.wants(found.key):
            yield Refused(from_text(found.name), found.reason, found.message)
