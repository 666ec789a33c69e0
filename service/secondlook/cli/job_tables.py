"""Jobs and failures as a person reads them."""

import math
import time
from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from secondlook.cli.tables import console
from secondlook_client import Job, JobFailure, PathCounts


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
        "pictures": f"{job.total:,}" + (" so far" if job.open else ""),
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
    """The share of pictures that proposer and verifier labelled, and how it came about."""
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
    """A line a picture that was set aside."""
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
