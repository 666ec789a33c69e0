"""What commands print: tables and figures on standard output, progress on standard error."""

import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from secondlook.config.terminal import echo, printable
from secondlook_client.values import EmptyReason

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from secondlook.evaluation.run_stats import RunStats

WIDE = 160
"""Width assumed where the output is not a terminal, so that tables in logs do not wrap at 80."""
PLAIN_EVERY_S = 5.0
"""Between two lines of progress where there is no terminal."""
RECENT = 0.05
"""Weight of the newest step in the rate, so that it follows a machine that slows down."""

EMPTY_WORDS = {
    EmptyReason.NOTHING_PROPOSED: "with nothing proposed",
    EmptyReason.ALL_REJECTED: "with every box rejected",
    EmptyReason.VERIFIED_EMPTY: "verified empty",
}
"""Kinds of empty images, behind their number."""

Step = Callable[[int, int], None]
"""Called with (done so far, total)."""


def console(*, err: bool = False) -> "Console":
    """The standard output, or error, for tables. What it prints is ``printable``, without markup.

    A text may begin with line breaks; others in it are escaped.
    """
    from rich.console import Console

    class PrintableConsole(Console):
        def print(self, *objects: Any, **how: Any) -> None:
            super().print(*(_printable_lines(each) for each in objects), **how)

    terminal = (sys.stderr if err else sys.stdout).isatty()
    width = shutil.get_terminal_size().columns if terminal else WIDE
    return PrintableConsole(width=width, markup=False, stderr=err)


def table(*headings: str, right: Collection[str] = (), header: bool = True) -> "Table":
    """A table without borders; columns in ``right`` are aligned to the right and never wrap.

    A cell is one ``printable`` line, whatever it is given.
    """
    from rich.table import Table

    class PrintableTable(Table):
        def add_row(self, *cells: Any, **how: Any) -> None:
            super().add_row(*map(_printable_cell, cells), **how)

    made = PrintableTable(box=None, show_header=header)
    for heading in headings:
        numbers = heading in right
        made.add_column(
            printable(heading),
            justify="right" if numbers else "left",
            no_wrap=numbers,
            overflow="fold",
        )
    return made


def _printable_lines(shown: Any) -> Any:
    """A text with the line breaks at its beginning kept; what is no text stays as it is."""
    from rich.text import Text

    text = shown.plain if isinstance(shown, Text) else shown
    if not isinstance(text, str):
        return shown
    inside = text.lstrip("\n")
    safe = text[: len(text) - len(inside)] + printable(inside)
    if safe == text:
        return shown
    return Text(safe, style=shown.style) if isinstance(shown, Text) else safe


def _printable_cell(cell: Any) -> Any:
    from rich.text import Text

    text = cell.plain if isinstance(cell, Text) else cell
    if not isinstance(text, str) or printable(text) == text:
        return cell
    return Text(printable(text), style=cell.style if isinstance(cell, Text) else "")


def print_facts(facts: Mapping[str, str]) -> None:
    """A line for each name and its value."""
    from rich.text import Text

    made = table(header=False)
    for name, value in facts.items():
        made.add_row(Text(name, style="dim"), Text(value))
    console().print(made)


def share(value: float | None) -> str:
    """A share in [0, 1] with three digits, or a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def counted(count: int, noun: str) -> str:
    """``1 image``, ``2,000 images``, ``3 boxes``."""
    ending = "" if count == 1 else "es" if noun.endswith("x") else "s"
    return f"{count:,} {noun}{ending}"


def sums_of(stats: "RunStats") -> Iterator[str]:
    """What became of the boxes, and of the images without one: lines whose numbers add up."""
    yield (
        f"{counted(stats.images, 'image')}: {counted(stats.proposals, 'box')} proposed, "
        f"{stats.judged_boxes:,} of them reached the threshold of a class"
    )
    yield (
        f"{counted(stats.decisions, 'decision')}, one for each class that such a box may show: "
        f"{stats.accepted:,} accepted, {stats.rejected:,} rejected, {stats.unsure:,} unsure"
    )
    if stats.empty:
        reasons = (f"{stats.empty[r]:,} {w}" for r, w in EMPTY_WORDS.items() if stats.empty[r])
        yield f"{counted(stats.empty.total(), 'image')} empty: {', '.join(reasons)}"
    if stats.empty[EmptyReason.NOTHING_PROPOSED]:
        yield "where nothing was proposed nobody looked twice; --verify-empty asks about that"
    if stats.doubtful_images:
        yield (
            f"{counted(stats.doubtful_images, 'image')} without a box, but not verified empty: "
            f"the verifier did not say no to every class ({counted(stats.doubts, 'doubt')}); each "
            "is unsure of the whole image"
        )


def size(count: int) -> str:
    """A number of bytes with a suitable unit."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.1f} {unit}" if unit != "bytes" else f"{count} bytes"
        value /= 1000
    return f"{value:.1f} TB"


def local_time(seconds: float) -> str:
    """A time since 1970 in this machine's time zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def created_text(created_at: float, created_by: str) -> str:
    """When something was made and, where it is known, with whose token."""
    return local_time(created_at) + (f" by {created_by}" if created_by else "")


@contextmanager
def bar(what: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Step]:
    """Show the progress of ``what`` on stderr, its rate and the time left.

    A bar on a terminal, a line every ``PLAIN_EVERY_S`` anywhere else. ``done`` of ``total`` were
    done before and do not count in the rate.
    """
    shown = _rich_bar if sys.stderr.isatty() else _plain_lines
    with shown(what, total, done, unit) as step:
        yield step


@contextmanager
def _rich_bar(what: str, total: int, done: int, unit: str) -> Iterator[Step]:
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
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TextColumn("[dim]left[/dim]"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console(err=True)) as progress:
        task = progress.add_task(printable(what), total=total, completed=done)
        yield lambda now, whole: progress.update(task, completed=now, total=whole)


@contextmanager
def _plain_lines(what: str, total: int, done: int, unit: str) -> Iterator[Step]:
    meter = RateMeter(done)
    printed_at = time.monotonic()

    def step(now: int, whole: int) -> None:
        nonlocal printed_at
        rate = meter.rate(now)
        if time.monotonic() - printed_at >= PLAIN_EVERY_S:
            printed_at = time.monotonic()
            left = f", {duration((whole - now) / rate)} left" if rate else ""
            echo(f"{what}: {now}/{whole}, {rate:.1f} {unit}/s{left}", err=True)

    yield step


class RateMeter:
    """A rate as a moving average, so that the time left follows changes of speed."""

    def __init__(self, done: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._done, self._at = done, clock()
        self._seconds_each = 0.0

    def rate(self, done: int) -> float:
        """Steps a second, after ``done`` steps in all; 0 while it is not known."""
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
