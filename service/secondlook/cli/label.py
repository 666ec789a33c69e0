"""``secondlook label``: a folder of images in, labels out."""

import itertools
import json
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from secondlook.cli.connection import Session
from secondlook.cli.options import looked_for, models, ontology_of, setting_option, settings_of
from secondlook.cli.output import Step, bar, counted
from secondlook.cli.output_folder import OutFolder, Refused, Written, write_outputs
from secondlook.config.entrypoint import gentle_interrupts
from secondlook.core.errors import InvalidInput, SecondlookError, Unavailable
from secondlook.core.files import explaining, from_text, to_text
from secondlook.core.image_folder import SUFFIXES, Selection, Source, read
from secondlook.datasets.writers import WRITERS, Labels
from secondlook.evaluation.run_stats import Results
from secondlook_client import Job, JobState
from secondlook_client.errors import BadImage, ClientError, ImageTooLarge, MessageTooLarge, NotFound
from secondlook_client.jobs import Jobs
from secondlook_client.results import LabelResult


class FormatList(click.ParamType):
    """Names of formats with commas between."""

    name = "formats"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Checked names, in the order given."""
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(part.strip() for part in str(value).split(",")))
        for name in names:
            if name not in WRITERS:
                self.fail(f"'{name}' is none of {', '.join(WRITERS)}", param, ctx)
        return names


@click.command("label")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("labels"),
    show_default=True,
    help="Folder for the labels; the same one resumes the run.",
)
@looked_for
@click.option(
    "--format",
    "formats",
    type=FormatList(),
    default="coco",
    show_default=True,
    help=f"Any of {', '.join(WRITERS)}, with commas between.",
)
@click.option(
    "--gallery",
    "shown",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    help="Images shown in gallery.html at most, the doubtful first.",
)
@click.option("--fresh", is_flag=True, help="Remove what an earlier run left in --out first.")
@click.option("--retry-failed", is_flag=True, help="Try images again that could not be labelled.")
@models
@setting_option("cascade")
@setting_option("audit_share")
@setting_option("agreement")
@setting_option("data")
@setting_option("database_url")
@setting_option("blob_url")
def label_command(
    images: tuple[Path, ...],
    out: Path,
    lines: tuple[str, ...],
    ontology: Path | None,
    formats: tuple[str, ...],
    shown: int,
    fresh: bool,
    retry_failed: bool,
    server: str | None,
    **flags: Any,
) -> int:
    """Label IMAGES: folders, searched with all that is in them, or single files.

    Ctrl-C, a crash or a full disk loses nothing: the same command goes on where it stopped.
    Images that cannot be labelled are listed in failed.jsonl, each with its reason. What models
    run here say is kept in --out, or in --data; a service used with --server keeps it there.

    With --cascade a student labels what it is certain of, as long as audits by the models agree.
    """
    from secondlook.cli.connection import connected, say_what_demo_knows
    from secondlook.cli.output_folder import OutFolder
    from secondlook.core.image_folder import select
    from secondlook_client import LabelPath

    settings = settings_of(flags)
    selection = select(images, out)
    if not server:
        say_what_demo_knows(settings)
    wanted = ontology_of(lines, ontology)
    with OutFolder(out) as folder:

        def ready() -> Path:
            if fresh:
                folder.clear()
            return folder.store

        with connected(server, settings, wanted, ready) as session:
            run = label_into(
                folder,
                session,
                selection,
                formats=formats,
                shown=shown,
                retry_failed=retry_failed,
            )
    written, totals = run.written, run.written.totals
    click.echo(
        f"{counted(totals.images, 'image')}: {counted(totals.accepted, 'box')} accepted, "
        f"{totals.rejected:,} rejected, {totals.unsure:,} unsure; "
        f"{counted(totals.verified_empty, 'image')} verified empty"
    )
    if by_student := totals.by_path[LabelPath.STUDENT]:
        click.echo(
            f"{by_student} images by the student alone; the models were needed for "
            f"{1 - by_student / totals.images:.0%}"
        )
    if totals.without_verdict:
        click.echo(
            f"unsure for want of a verdict: {counted(totals.without_verdict, 'box')}; the first "
            f"because: {totals.first_error}"
        )
    if written.failed:
        failed = counted(written.failed, "image")
        click.echo(f"{failed} failed; the reasons are in {out / 'failed.jsonl'}")
    for path in written.paths:
        click.echo(f"  {path}")
    return 1 if written.failed and not totals.images else 0


# Results fetched from the service once, to be read as often as the outputs need.
#
# They lie in a file that vanishes with the process; in memory an image is two numbers, whatever
# its results weigh. What is durable is the service's store.


class Fetched:
    """The results of the images that are there now, in the order of the folder."""

    def __init__(self, folder: Path, keys: "array[int]") -> None:
        """``keys``: the images', in order; results of others are not taken."""
        self._folder = folder
        self._keys = np.array(keys, dtype=np.int64)
        self._order = np.argsort(self._keys, kind="stable")
        self._ranked = self._keys[self._order]
        self._places = np.full(len(self._keys), -1, dtype=np.int64)
        with explaining(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (ours to the end)

    def wants(self, key: int) -> bool:
        """Whether the image is there now."""
        return self._row(key) is not None

    def add(self, key: int, result: LabelResult) -> None:
        """Keep a result, if its image is there now. Raises ``StorageFull``."""
        row = self._row(key)
        if row is None:
            return
        line = json.dumps(result.to_dict(), separators=(",", ":")).encode("ascii") + b"\n"
        with explaining(self._folder):
            self._places[row] = self._file.seek(0, 2)
            self._file.write(line)
            self._file.flush()  # or a full disk shows when it is read

    def results(self) -> Iterator[tuple[str, LabelResult]]:
        """(name, result) of every image that has one."""
        for place in self._places.tolist():
            if place >= 0:
                self._file.seek(place)
                result = LabelResult.from_dict(json.loads(self._file.readline()))
                yield from_text(result.name), result

    def _row(self, key: int) -> int | None:
        found = int(np.searchsorted(self._ranked, key))
        if found < len(self._ranked) and int(self._ranked[found]) == key:
            return int(self._order[found])
        return None


def holds(ranked: "NDArray[np.int64]", key: int) -> bool:
    """Whether the sorted numbers hold ``key``."""
    row = int(np.searchsorted(ranked, key))
    return row < len(ranked) and int(ranked[row]) == key


# A selection of images on its way to an upload job: only what the job lacks is sent.

OFFERED_AT_ONCE = 1000
IN_FLIGHT = 16
"""Images sent and not durable yet: the server makes durable together what waits together."""
NAME_ROOM = 4000
"""Characters of a name that are sent; the server takes few more."""
OF_ONE_IMAGE = (BadImage, ImageTooLarge, MessageTooLarge)
"""What is wrong with one image; any other failure would be the same for all of them."""


class Sending:
    """One walk to count, one to send. Names are kept by the job as ``core.files`` writes them."""

    def __init__(self, jobs: Jobs, job: str, selection: Selection, max_bytes: int) -> None:
        """``max_bytes`` bounds one image."""
        self._jobs = jobs
        self._job = job
        self._selection = selection
        self._max_bytes = max_bytes
        self._known = np.zeros(0, dtype=np.int64)
        self.images = 0
        """Found by the last walk."""
        self.keys = array("q")
        """Of the images found by the last walk that can be opened, in order."""
        self.refused: list[Refused] = []
        """By the last walk."""

    @property
    def known(self) -> int:
        """Images of ``measure``'s walk that the job had then."""
        return len(self._known)

    def measure(self) -> None:
        """Count the images, and ask the job which of them it has."""
        known = array("q")
        for batch in _batches(self._walk(), OFFERED_AT_ONCE):
            keys = [source.key for source in batch]
            wanted = set(self._jobs.offer(self._job, keys))
            known.extend(key for key in keys if key not in wanted)
        self._known = np.unique(np.array(known, dtype=np.int64))

    def send(self, stopped: Callable[[], bool]) -> Iterator[None]:
        """Send what the job lacks; yields whenever an image is durable or refused.

        Once ``stopped`` says so, nothing more is read and what is under way is finished. Raises
        the ``ClientError`` that concerns all images.
        """
        sources = itertools.takewhile(lambda _: not stopped(), self._walk())
        for source, answer in self._jobs.upload(
            self._job,
            self._readable(source for source in sources if not holds(self._known, source.key)),
            number=lambda source: source.key,
            name=lambda source: to_text(source.name)[-NAME_ROOM:],
            concurrency=IN_FLIGHT,
        ):
            if isinstance(answer, OF_ONE_IMAGE):
                self._refuse(source, answer)
            elif isinstance(answer, ClientError):
                raise answer
            yield

    def _walk(self) -> Iterator[Source]:
        """Every image that can be opened; the others are refused."""
        self.images, self.keys, self.refused = 0, array("q"), []
        for source in self._selection.walk():
            self.images += 1
            if source.refusal:
                self.refused.append(Refused(source.name, "bad_image", source.refusal))
            else:
                self.keys.append(source.key)
                yield source

    def _readable(self, sources: Iterator[Source]) -> Iterator[tuple[Source, bytes]]:
        for source in sources:
            try:
                yield source, read(source, self._max_bytes)
            except SecondlookError as failure:
                self._refuse(source, failure)

    def _refuse(self, source: Source, failure: SecondlookError | ClientError) -> None:
        self.refused.append(Refused(source.name, failure.reason, str(failure)))


def _batches(sources: Iterator[Source], size: int) -> Iterator[list[Source]]:
    while batch := list(itertools.islice(sources, size)):
        yield batch


# One run from start to outputs, with its progress shown; ``label`` and ``demo`` share it.
#
# A run is an upload job of the service: the service keeps what was sent and what was found, so a
# run that ended anywhere goes on there.

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
    images: int
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
            f"there is no image in {selection.root}; images end in {', '.join(sorted(SUFFIXES))}"
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
    """The name of the run's job, which is there and may be sent images."""
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
    """Send what the job lacks and wait until it is done; how many images that settled."""
    jobs = session.client.jobs
    sending.measure()
    before = jobs.get(job)
    progress = _Progress(sending, before)
    with (
        bar("labelling", progress.images, progress.settled(before)) as step,
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
    _check(after, progress.settled(after), progress.images, session, out)
    return progress.settled(after) - progress.settled(before)


def _check(job: Job, settled: int, images: int, session: Session, out: Path) -> None:
    """Raises what ended the run, if it is not done."""
    if job.state is JobState.DONE:
        return
    if job.over:
        raise InvalidInput(f"the job '{job.name}' was {job.state}: {job.message or 'by somebody'}")
    goes_on = "" if session.own else "; the service labels on what it was sent"
    raise KeyboardInterrupt(
        f"stopped: {settled} of {images} images are done and kept in {out}{goes_on}; the same "
        "command goes on from there"
    )


class _Progress:
    """Counts the images of the selection, where the job has those of earlier times too."""

    def __init__(self, sending: Sending, before: Job) -> None:
        self.images = sending.images
        self._refused = len(sending.refused)
        self._gone = before.total - sending.known
        """In the job, and not in the selection any more."""

    def settled(self, job: Job) -> int:
        """Labelled, set aside or refused."""
        found = job.done + job.failed - self._gone + self._refused
        return min(max(found, 0), self.images)


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
        self._step(self._progress.settled(job), self._progress.images)
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
    with bar("reading results", sending.images) as step:
        for count, found in enumerate(session.client.jobs.results(job), start=1):
            fetched.add(found.key, found.result)
            step(min(count, sending.images), sending.images)
    return fetched


def _failures(fetched: Fetched, sending: Sending, session: Session, job: str) -> Iterator[Refused]:
    """Every image that is there now and has no result."""
    yield from sending.refused
    for found in session.client.jobs.failures(job):
        if fetched.wants(found.key):
            yield Refused(from_text(found.name), found.reason, found.message)
