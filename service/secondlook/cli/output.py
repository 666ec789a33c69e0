"""Figures as a person reads them."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console


WIDE = 160
"""Columns assumed where the output is no terminal, so that tables in logs do not fold at 80."""


def console() -> "Console":
    """The standard output, for tables."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(width=shutil.get_terminal_size().columns if terminal else WIDE)


def share(value: float | None) -> str:
    """A share in [0, 1] with three digits, or a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"


def counted(count: int, noun: str) -> str:
    """``1 image``, ``2,000 images``, ``3 boxes``."""
    ending = "" if count == 1 else "es" if noun.endswith("x") else "s"
    return f"{count:,} {noun}{ending}"


def size(count: int) -> str:
    """A number of bytes in the unit that a person would use."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.1f} {unit}" if unit != "bytes" else f"{count} bytes"
        value /= 1000
    return f"{value:.1f} TB"


# Progress on stderr: a bar on a terminal, a plain line now and then anywhere else.

PLAIN_EVERY_S = 5.0
RECENT = 0.05
"""Weight of the newest step in the rate, so that it follows a machine that slows down."""

Step = Callable[[int, int], None]
"""Called with (done so far, total)."""


@contextmanager
def bar(what: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Step]:
    """Show how far ``what`` has come, how fast it goes and how long it will take.

    ``done`` of ``total`` were done before and are not in the rate.
    """
    shown = _rich_bar if sys.stderr.isatty() else _plain_lines
    with shown(what, total, done, unit) as step:
        yield step


@contextmanager
def _rich_bar(what: str, total: int, done: int, unit: str) -> Iterator[Step]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.1f} {unit}/s" if speed else "", style="dim")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TextColumn("[dim]left[/dim]"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total, completed=done)
        yield lambda now, whole: progress.update(task, completed=now, total=whole)


@contextmanager
def _plain_lines(what: str, total: int, done: int, unit: str) -> Iterator[Step]:
    meter = Meter(done)
    told_at = time.monotonic()

    def step(now: int, whole: int) -> None:
        nonlocal told_at
        rate = meter.rate(now)
        if time.monotonic() - told_at >= PLAIN_EVERY_S:
            told_at = time.monotonic()
            left = f", {duration((whole - now) / rate)} left" if rate else ""
            click.echo(f"{what}: {now}/{whole}, {rate:.1f} {unit}/s{left}", err=True)

    yield step


class Meter:
    """A rate that forgets the past slowly, so that the time left stays honest."""

    def __init__(self, done: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._done, self._at = done, clock()
        self._seconds_each = 0.0

    def rate(self, done: int) -> float:
        """Things a second after ``done`` in all; 0 while nothing is known."""
        fresh, now = done - self._done, self._clock()
        if fresh > 0:
            each = (now - self._at) / fresh
            weight = 1.0 if not self._seconds_each else 1 - (1 - RECENT) ** fresh
            self._seconds_each += weight * (each - self._seconds_each)
            self._done, self._at = done, now
        return 1 / self._seconds_each if self._seconds_each else 0.0


def duration(seconds: float) -> str:
    """ "45 s", "12 min" or "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
