"""``secondlook job``: label many images on a service that was started with ``--data``.

The commands, then how a job is sent and watched, then what is printed.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from secondlook.cli.options import class_options, fps_option, ontology_of
from secondlook.cli.output import console, counted, created_text, local_time, print_facts, table
from secondlook.cli.params import limit_option, server_option
from secondlook.config.entrypoint import CommandGroup
from secondlook.config.terminal import echo, print_json

if TYPE_CHECKING:
    from secondlook.cli.output import Step
    from secondlook.core.image_folder import ImageSelection
    from secondlook_client import Client, Job, JobFailure, PathCounts
    from secondlook_client.jobs import Jobs

SHOWN_FAILURES = 20
SHARE_BARS = " ▁▂▃▄▅▆▇█"
"""Shares from none to all, in eighths."""


@click.group("job", cls=CommandGroup)
def job_command() -> None:
    """Label many images on a running service.

    The service keeps the images, the results and the progress of a job. A job continues after this
    command ends, after a lost connection and after a restart of the service.
    """


@job_command.command(
    "create",
    examples=[
        "secondlook job create street photos/ -c person --watch",
        "secondlook job create archive --folder /archive -c person",
        "secondlook job create monday photos/ --guarantee street-0.95",
    ],
)
@click.argument("name")
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--folder", metavar="DIR", help="Label a folder on the service's machine instead of IMAGES."
)
@class_options
@click.option(
    "--guarantee",
    default="",
    metavar="NAME",
    help="Accept boxes under this guarantee, and look for its classes.",
)
@fps_option
@click.option("--watch", is_flag=True, help="Show the progress until the job has ended.")
@server_option
def create(
    name: str,
    images: tuple[Path, ...],
    folder: str | None,
    lines: tuple[str, ...],
    ontology: Path | None,
    guarantee: str,
    fps: float,
    watch: bool,
    server: str,
) -> int:
    """Create the job NAME and send IMAGES (files or folders), or label a --folder of the service.

    Of a video among IMAGES --fps frames of each second are sent.

    Without -c or --ontology, the service's own classes are used. If sending is interrupted, the
    same command sends the rest. Under a --guarantee a few accepted boxes are put into the review
    queue GUARANTEE-checks: answer them, and the job says when the guarantee no longer holds.
    """
    if bool(images) == bool(folder):
        raise click.UsageError("give either IMAGES to send, or --folder of the service")
    wanted = ontology_of(lines, ontology)
    classes = wanted.classes if wanted else None
    selection = _selected(images, fps) if images else None
    with _client(server) as client:
        if folder:
            path = str(Path(folder).absolute())  # of this machine, if it was a relative one
            client.jobs.create(name, classes=classes, folder=path, guarantee=guarantee)
        if selection:
            client.jobs.create(name, classes=classes, reuse=True, guarantee=guarantee)
            _send(client.jobs, name, selection)
        if watch:
            return _watch(client.jobs, name)
        job = client.jobs.get(name)
    more = "" if job.over else "; `secondlook job watch` shows its progress"
    echo(f"job '{name}' is {state_of(job)}{more}")
    return 0


@job_command.command("list")
@limit_option
@server_option
def list_jobs(limit: int, server: str) -> None:
    """List the jobs, the newest first."""
    with _client(server) as client:
        _print_jobs(list(islice(client.jobs.list(), limit)))


@job_command.command("show")
@click.argument("name")
@click.option("--failures", is_flag=True, help="List all failed images.")
@server_option
def show(name: str, failures: bool, server: str) -> None:
    """Show the state of the job NAME and the images that failed, with the reasons."""
    with _client(server) as client:
        job = client.jobs.get(name, paths=True)
        print_job(job)
        limit = None if failures else SHOWN_FAILURES
        _print_failures(islice(client.jobs.failures(name), limit))
        if limit and job.failed > limit:
            echo(f"… and {job.failed - limit} more; --failures lists them all")


@job_command.command("watch")
@click.argument("name")
@server_option
def watch(name: str, server: str) -> int:
    """Show the progress of the job NAME until it has ended. Ctrl-C does not stop the job."""
    with _client(server) as client:
        return _watch(client.jobs, name)


@job_command.command("cancel")
@click.argument("name")
@server_option
def cancel(name: str, server: str) -> None:
    """Stop the job NAME for good. Its results are kept."""
    with _client(server) as client:
        _print_end(client.jobs.cancel(name))


@job_command.command("pause")
@click.argument("name")
@server_option
def pause(name: str, server: str) -> None:
    """Pause the job NAME, also over a restart of the service.

    Images under way are finished, and more may be sent.
    """
    with _client(server) as client:
        _print_end(client.jobs.pause(name))


@job_command.command("resume")
@click.argument("name")
@server_option
def resume(name: str, server: str) -> None:
    """Continue the paused job NAME."""
    with _client(server) as client:
        job = client.jobs.resume(name)
    echo(f"job '{name}' is {state_of(job)}")


@job_command.command("retry")
@click.argument("name")
@click.option(
    "--reason",
    "reasons",
    multiple=True,
    metavar="REASON",
    help="Only images that failed for this reason, e.g. verifier_failed. Repeat for more.",
)
@server_option
def retry(name: str, reasons: tuple[str, ...], server: str) -> None:
    """Try the failed images of the job NAME again."""
    with _client(server) as client:
        retried = client.jobs.retry(name, reasons=reasons)
    echo(f"{counted(retried, 'image')} queued again")


@job_command.command(
    "results",
    examples=[
        "secondlook job results street --labels > labels.jsonl",
    ],
)
@click.argument("name")
@click.option(
    "--after",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="CURSOR",
    help="Only results after this cursor, which is in each line.",
)
@click.option("--follow", is_flag=True, help="Wait for more results until the job has ended.")
@click.option("--labels", is_flag=True, help="Only accepted boxes.")
@server_option
def results(name: str, after: int, follow: bool, labels: bool, server: str) -> None:
    """Print the results of the job NAME, one line of JSON for each image.

    The "label" of each judgement is the id that `secondlook explain` takes.
    """
    with _client(server) as client:
        for found in client.jobs.results(name, after=after, follow=follow):
            result = found.result.to_dict()
            judgements = [
                {"label": found.label_id(place), **judgement}
                for place, judgement in enumerate(result.pop("judgements"))
                if not labels or judgement["outcome"] == "accept"
            ]
            line = {"cursor": found.cursor, "key": found.key, **result, "judgements": judgements}
            print_json(line)


def _client(server: str) -> "Client":
    from secondlook_client import Client

    return Client(server)


def _selected(images: tuple[Path, ...], fps: float) -> "ImageSelection":
    """The images to send. Raises ``InvalidInput`` and ``NotFound`` where there are none."""
    from secondlook.cli.label import check_has_image
    from secondlook.core.clips import clips_in
    from secondlook.core.image_folder import select_images
    from secondlook.core.images import DEFAULT_LIMITS

    selection = select_images(images, clips=clips_in(images, DEFAULT_LIMITS, fps))
    check_has_image(selection)
    return selection


def _send(jobs: "Jobs", name: str, selection: "ImageSelection") -> None:
    """Send the images that the job lacks, and finish the upload."""
    from secondlook.cli.label import SelectionUpload
    from secondlook.cli.output import bar
    from secondlook.config.entrypoint import gentle_interrupts
    from secondlook.core.images import DEFAULT_LIMITS

    upload = SelectionUpload(jobs, name, selection, DEFAULT_LIMITS.max_image_bytes)
    upload.count()
    upload.print_left_out()
    total, sent = upload.images, upload.known
    with bar("sending", total, sent) as step, gentle_interrupts() as stopped:
        for _ in upload.send(stopped):
            sent += 1
            step(min(sent, total), total)
    if stopped():
        raise KeyboardInterrupt(
            f"stopped: {sent} of {total} images are sent; the same command sends the rest"
        )
    jobs.finish(name)
    for image in upload.failed:
        echo(f"not sent: {image.name}: {image.message}", err=True)


def _watch(jobs: "Jobs", name: str) -> int:
    from secondlook.cli.output import bar
    from secondlook.config.entrypoint import gentle_interrupts

    job = jobs.get(name)
    printer = _ProgressPrinter(jobs, name)
    with (
        bar("labelling", job.total, job.done + job.failed) as step,
        gentle_interrupts("leaving; the job continues") as stopped,
    ):
        for progress in jobs.watch(name):
            job = progress.job
            printer.show(job, step)
            if stopped():
                raise KeyboardInterrupt(f"job '{name}' continues; `secondlook job watch` shows it")
    _print_end(job)
    return 0 if job.state == "done" else 1


class _ProgressPrinter:
    """Prints the progress, each failure once, and what a job waits for."""

    def __init__(self, jobs: "Jobs", name: str) -> None:
        self._jobs = jobs
        self._name = name
        self._failed = 0
        self._printed: set[int] = set()
        self._message = ""

    def show(self, job: "Job", step: "Step") -> None:
        step(job.done + job.failed, max(job.total, 1))
        message = (
            "paused; `secondlook job resume` continues it" if job.state == "paused" else job.message
        )
        if message and message != self._message:
            echo(f"waiting: {message}", err=True)
        self._message = message
        if job.failed > self._failed and len(self._printed) < SHOWN_FAILURES:
            self._print_new_failures()
        self._failed = job.failed

    def _print_new_failures(self) -> None:
        for failure in self._jobs.failures(self._name):
            if len(self._printed) >= SHOWN_FAILURES:
                echo("more failed: `secondlook job show --failures` lists them", err=True)
                return
            if failure.key not in self._printed:
                self._printed.add(failure.key)
                echo(f"failed: {failure.name}: {failure.message}", err=True)


def _print_end(job: "Job") -> None:
    left = f", {job.waiting} not tried" if job.waiting else ""
    why = f": {job.message}" if job.message else ""
    echo(f"{job.name}: {job.state}, {job.done} labelled, {job.failed} failed{left}{why}")


def _print_jobs(jobs: Sequence["Job"]) -> None:
    from rich.text import Text

    if not jobs:
        console().print("there is no job; `secondlook job create` creates one")
        return
    numbers = ("images", "labelled", "failed")
    rows = table("job", "kind", "state", *numbers, "created", "message", right=numbers)
    for job in jobs:
        counts = (f"{n:,}" for n in (job.total, job.done, job.failed))
        created = created_text(job.created_at, job.created_by)
        cells = (job.name, job.kind, state_of(job), *counts, created, job.message)
        rows.add_row(*(Text(cell) for cell in cells))
    console().print(rows)


def state_of(job: "Job") -> str:
    """The state in a word: one that only waits for more images does not run."""
    return "idle" if job.idle else str(job.state)


def print_job(job: "Job") -> None:
    """Print everything about a job. The numbers are of images."""
    more = ": every image that came is done, and more may come" if job.idle else ""
    facts = {
        "job": job.name,
        "kind": job.kind + (f" {job.folder}" if job.folder else ""),
        "state": state_of(job) + (f": {job.message}" if job.message else more),
        "classes": ", ".join(job.classes or ()),
        "images": f"{job.total:,}" + (" so far" if job.open else ""),
        "labelled": f"{job.done:,}",
        "failed": f"{job.failed:,}",
        "waiting": f"{job.waiting:,}",
        "created": created_text(job.created_at, job.created_by),
        "last change": local_time(job.updated_at),
    }
    if job.device_model:
        facts["device runs"] = job.device_model
    if job.guarantee:
        facts["guarantee"] = f"{job.guarantee}: {job.guarantee_state}"
    if job.paths:
        facts["by the models"] = _share_of_teachers(job.paths)
    print_facts(facts)


def _share_of_teachers(paths: Sequence["PathCounts"]) -> str:
    """The share of images that proposer and verifier labelled, in all and over time."""
    counts = [(part.teachers + part.audit, part.student) for part in paths]
    teachers, student = (sum(side) for side in zip(*counts, strict=True))
    audits, images = sum(part.audit for part in paths), teachers + student
    if not student:
        return "all" + (f" ({audits:,} as audits of the student)" if audits else "")
    shares = [by_teachers / (by_teachers + by_student) for by_teachers, by_student in counts]
    bars = "".join(SHARE_BARS[math.ceil(share * (len(SHARE_BARS) - 1))] for share in shares)
    return (
        f"{teachers / images:.0%} of {images:,} ({audits:,} as audits of the student); over time "
        f"{bars}, most recently {shares[-1]:.0%}"
    )


def _print_failures(failures: Iterable["JobFailure"]) -> None:
    from rich.text import Text

    rows = table("failed image", "reason", "message")
    for failure in failures:
        rows.add_row(Text(failure.name), Text(failure.reason), Text(failure.message))
    if rows.row_count:
        console().print(rows)
