"""``secondlook job``: many images at a time, on a service that keeps what it does."""

import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from secondlook.cli.options import Command, looked_for, ontology_of
from secondlook.cli.output import console
from secondlook_client import Job, JobFailure, PathCounts

if TYPE_CHECKING:
    from secondlook.cli.output import Step
    from secondlook_client import Client, Job
    from secondlook_client.jobs import Jobs


SHOWN_FAILURES = 20
"""More are a list to be read elsewhere: ``show --failures``."""


def served(command: Command) -> Command:
    """``--server``."""
    return click.option(
        "--server",
        default="127.0.0.1:50051",
        show_default=True,
        metavar="HOST:PORT",
        help="A service started with --data.",
    )(command)


@click.group("job")
def job_command() -> None:
    """Label many images at a time on a running service.

    A job outlives this command, the line and the service: what is under way when one of them
    ends goes on when it is back.
    """


@job_command.command("create")
@click.argument("name")
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option("--folder", help="Folder that the service itself reads, instead of IMAGES.")
@looked_for
@click.option("--watch", is_flag=True, help="Stay and show how it gets on.")
@served
def create(
    name: str,
    images: tuple[Path, ...],
    folder: str | None,
    lines: tuple[str, ...],
    ontology: Path | None,
    watch: bool,
    server: str,
) -> int:
    """Begin the job NAME: of IMAGES sent from here, or of a folder that the service can read.

    Without -c or --ontology the service's own classes are looked for. If sending is interrupted,
    the same command sends the rest.
    """
    from secondlook.core.ontology import for_client

    if bool(images) == bool(folder):
        raise click.UsageError("give either IMAGES to send, or --folder of the service")
    wanted = ontology_of(lines, ontology)
    classes = for_client(wanted) if wanted else None
    with _client(server) as client:
        if folder:
            path = str(Path(folder).absolute())  # of this machine, if it was a relative one
            client.jobs.create(name, classes=classes, folder=path)
        else:
            client.jobs.create(name, classes=classes, reuse=True)
            _send(client.jobs, name, images)
        if watch:
            return _watch(client.jobs, name)
    click.echo(f"job '{name}' is under way; `secondlook job watch` shows how it gets on")
    return 0


@job_command.command("list")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most.")
@served
def list_jobs(limit: int, server: str) -> None:
    """All jobs, the newest first."""
    import itertools

    with _client(server) as client:
        print_jobs(list(itertools.islice(client.jobs.list(), limit)))


@job_command.command("show")
@click.argument("name")
@click.option("--failures", is_flag=True, help="List every image that was set aside.")
@served
def show(name: str, failures: bool, server: str) -> None:
    """How the job NAME stands, and why images were set aside."""
    import itertools

    with _client(server) as client:
        job = client.jobs.get(name, paths=True)
        print_job(job)
        limit = None if failures else SHOWN_FAILURES
        print_failures(itertools.islice(client.jobs.failures(name), limit))
        if limit and job.failed > limit:
            click.echo(f"… and {job.failed - limit} more; --failures lists them all")


@job_command.command("watch")
@click.argument("name")
@served
def watch(name: str, server: str) -> int:
    """Show how the job NAME gets on until it is over; Ctrl-C leaves it running."""
    with _client(server) as client:
        return _watch(client.jobs, name)


@job_command.command("cancel")
@click.argument("name")
@served
def cancel(name: str, server: str) -> None:
    """Stop the job NAME for good; what is labelled stays."""
    with _client(server) as client:
        _print_end(client.jobs.cancel(name))


@job_command.command("retry")
@click.argument("name")
@click.option("--reason", "reasons", multiple=True, help="Only images set aside for it.")
@served
def retry(name: str, reasons: tuple[str, ...], server: str) -> None:
    """Try the images of the job NAME again that were set aside."""
    with _client(server) as client:
        click.echo(f"{client.jobs.retry(name, reasons=reasons)} images are queued again")


@job_command.command("results")
@click.argument("name")
@click.option("--after", type=click.IntRange(0), default=0, help="Only behind this cursor.")
@click.option("--follow", is_flag=True, help="Wait for more until the job is over.")
@click.option("--labels", is_flag=True, help="Only what was accepted.")
@served
def results(name: str, after: int, follow: bool, labels: bool, server: str) -> None:
    """What was found in the job NAME: one line of JSON an image.

    Each judgement has the name that `secondlook explain` takes.
    """
    import json

    with _client(server) as client:
        for found in client.jobs.results(name, after=after, follow=follow):
            plain = found.result.to_dict()
            judgements = [
                {"label": found.label_id(place), **judgement}
                for place, judgement in enumerate(plain.pop("judgements"))
                if not labels or judgement["outcome"] == "accept"
            ]
            line = {"cursor": found.cursor, "key": found.key, **plain, "judgements": judgements}
            click.echo(json.dumps(line))


def _client(server: str) -> "Client":
    from secondlook_client import Client

    return Client(server)


def _send(jobs: "Jobs", name: str, images: tuple[Path, ...]) -> None:
    """Send what the job lacks, and finish the upload."""
    from secondlook.cli.label import Sending
    from secondlook.cli.output import bar
    from secondlook.config.entrypoint import gentle_interrupts
    from secondlook.core.image_folder import select
    from secondlook.core.images import DEFAULT_LIMITS

    sending = Sending(jobs, name, select(images), DEFAULT_LIMITS.max_bytes)
    sending.measure()
    total, sent = sending.images, sending.known
    with bar("sending", total, sent) as step, gentle_interrupts() as stopped:
        for _ in sending.send(stopped):
            sent += 1
            step(min(sent, total), total)
    if stopped():
        raise KeyboardInterrupt(f"stopped: {sent} of {total} images are sent; the same command "
                                "sends the rest")  # fmt: skip
    jobs.finish(name)
    for refused in sending.refused:
        click.echo(f"not sent: {refused.name}: {refused.message}", err=True)


def _watch(jobs: "Jobs", name: str) -> int:
    from secondlook.cli.output import bar
    from secondlook.config.entrypoint import gentle_interrupts

    job = jobs.get(name)
    tell = _Tell(jobs, name)
    with (
        bar("labelling", job.total, job.done + job.failed) as step,
        gentle_interrupts("leaving; the job goes on") as stopped,
    ):
        for news in jobs.watch(name):
            job = news.job
            tell.news(job, step)
            if stopped():
                raise KeyboardInterrupt(f"job '{name}' goes on; `secondlook job watch` shows it")
    _print_end(job)
    return 0 if job.state == "done" else 1


class _Tell:
    """Tells each failure once, and what a job waits for."""

    def __init__(self, jobs: "Jobs", name: str) -> None:
        self._jobs = jobs
        self._name = name
        self._failed = 0
        self._told: set[int] = set()
        self._waits = ""

    def news(self, job: "Job", step: "Step") -> None:
        """Show how the job stands."""
        step(job.done + job.failed, max(job.total, 1))
        if job.message and job.message != self._waits:
            click.echo(f"waiting: {job.message}", err=True)
        self._waits = job.message
        if job.failed > self._failed and len(self._told) < SHOWN_FAILURES:
            self._tell_failures()
        self._failed = job.failed

    def _tell_failures(self) -> None:
        for failure in self._jobs.failures(self._name):
            if len(self._told) >= SHOWN_FAILURES:
                click.echo("more failures: `secondlook job show --failures`", err=True)
                return
            if failure.key not in self._told:
                self._told.add(failure.key)
                click.echo(f"set aside: {failure.name}: {failure.message}", err=True)


def _print_end(job: "Job") -> None:
    left = f", {job.waiting} not tried" if job.waiting else ""
    why = f": {job.message}" if job.message else ""
    click.echo(f"{job.name}: {job.state}, {job.done} labelled, {job.failed} set aside{left}{why}")


# Jobs and failures as a person reads them.


def print_jobs(jobs: Sequence[Job]) -> None:
    """A line a job."""
    if not jobs:
        console().print("there is no job yet; `secondlook job create` begins one")
        return
    table = Table(box=None)
    for heading in ("job", "kind", "state", "labelled", "of", "set aside", "begun", ""):
        right = heading in ("labelled", "of", "set aside")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for job in jobs:
        counts = (f"{n:,}" for n in (job.done, job.total, job.failed))
        cells = (job.name, job.kind, str(job.state), *counts, moment(job.created_at), job.message)
        table.add_row(*(Text(cell) for cell in cells))
    console().print(table)


def print_job(job: Job) -> None:
    """All that is known of one job."""
    table = Table(box=None, show_header=False)
    facts = {
        "job": job.name,
        "kind": job.kind + (f" {job.folder}" if job.folder else ""),
        "state": str(job.state) + (f": {job.message}" if job.message else ""),
        "classes": ", ".join(job.classes or ()),
        "images": f"{job.total:,}" + (" so far" if job.open else ""),
        "labelled": f"{job.done:,}",
        "set aside": f"{job.failed:,}",
        "waiting": f"{job.waiting:,}",
        "begun": moment(job.created_at),
        "last change": moment(job.changed_at),
    }
    if job.paths:
        facts["teachers needed"] = _needed(job.paths)
    for name, value in facts.items():
        table.add_row(Text(name, style="dim"), Text(value))
    console().print(table)


BARS = " ▁▂▃▄▅▆▇█"
"""Shares from none to all, in eighths."""


def _needed(paths: Sequence[PathCounts]) -> str:
    """The share of images that proposer and verifier labelled, and how it came about."""
    taught = [(part.teachers + part.audit, part.student) for part in paths]
    needed, alone = (sum(side) for side in zip(*taught, strict=True))
    if not alone:
        return "for all" + (" (audits)" if any(part.audit for part in paths) else "")
    audits = sum(part.audit for part in paths)
    shares = [by / (by + without) for by, without in taught]
    bars = "".join(BARS[math.ceil(share * (len(BARS) - 1))] for share in shares)
    return (
        f"for {needed / (needed + alone):.0%} ({audits:,} of {needed + alone:,} as audits); "
        f"over time {bars} lately {shares[-1]:.0%}"
    )


def print_failures(failures: Iterable[JobFailure]) -> None:
    """A line an image that was set aside."""
    table = Table(box=None)
    for heading in ("set aside", "reason", "because"):
        table.add_column(heading, overflow="fold")
    for failure in failures:
        table.add_row(Text(failure.name), Text(failure.reason), Text(failure.message))
    if table.row_count:
        console().print(table)


def moment(seconds: float) -> str:
    """A time since 1970 in this machine's time zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
