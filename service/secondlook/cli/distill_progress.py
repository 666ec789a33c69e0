"""A distillation as it goes: a bar with losses and mAP on a terminal, a plain line elsewhere, and
``progress.jsonl`` beside the student for programs that watch."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from secondlook.atomic import explaining
from secondlook.cli.progress import PLAIN_EVERY_S, duration

if TYPE_CHECKING:
    from secondlook.distill.progress import Progress, Tell

FILE_NAME = "progress.jsonl"
WRITTEN_EVERY_S = 0.5
DOING = {
    "train": "training",
    "score": "measuring",
    "export": "exporting",
    "report": "writing the report",
}
"""What each phase is called."""


@contextmanager
def watched(out: Path, how: str) -> Iterator["Tell"]:
    """A function that shows each ``Progress`` and appends it to ``out/progress.jsonl``.

    ``how``: ``bar``, or ``jsonl`` for only the file, which gets two lines a second at most and one
    for every decision.
    """
    with explaining(out), _written(out / FILE_NAME) as write:
        if how == "jsonl":
            yield write
            return
        with (_rich if sys.stderr.isatty() else _plain)() as show:

            def tell(progress: "Progress") -> None:
                write(progress)
                show(progress)

            yield tell


@contextmanager
def _written(path: Path) -> Iterator["Tell"]:
    last: tuple[str, float | None] = ("", None)
    at = 0.0
    with path.open("a", encoding="utf-8") as file:

        def write(progress: "Progress") -> None:
            nonlocal last, at
            news = (progress.phase, progress.map50)
            over = progress.step >= progress.of or bool(progress.note)
            if news != last or over or time.monotonic() - at >= WRITTEN_EVERY_S:
                last, at = news, time.monotonic()
                file.write(progress.line())
                file.flush()

        yield write


@contextmanager
def _rich() -> Iterator[Callable[["Progress"], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, object] = {}

        def show(progress: "Progress") -> None:
            if progress.phase not in tasks:
                doing = DOING.get(progress.phase, progress.phase)
                tasks[progress.phase] = bars.add_task(doing, total=progress.of, facts="")
            task = tasks[progress.phase]
            facts = facts_of(progress)
            if facts:
                bars.update(task, facts=facts)  # type: ignore[arg-type]
            bars.update(task, completed=progress.step, total=progress.of)  # type: ignore[arg-type]
            if progress.note:
                bars.console.print(progress.note, style="dim")

        yield show


@contextmanager
def _plain() -> Iterator[Callable[["Progress"], None]]:
    at, phase = 0.0, ""

    def show(progress: "Progress") -> None:
        nonlocal at, phase
        new = progress.phase != phase
        if progress.note or new or time.monotonic() - at >= PLAIN_EVERY_S:
            at, phase = time.monotonic(), progress.phase
            facts = progress.note or facts_of(progress)
            doing = DOING.get(progress.phase, progress.phase)
            click.echo(f"{doing}: {progress.step}/{progress.of} {facts}".rstrip(), err=True)

    yield show


def facts_of(progress: "Progress") -> str:
    """ "loss 12.3 (mal 2.1, bbox 0.4) · mAP50 0.41, best 0.43 · 2.1 steps/s · 3 min left"."""
    facts = []
    if "loss" in progress.losses:
        kinds = [f"{k} {v:.2f}" for k, v in progress.losses.items() if k != "loss" and v]
        more = f" ({', '.join(kinds[:4])})" if kinds else ""
        facts.append(f"loss {progress.losses['loss']:.2f}{more}")
    if progress.map50 is not None:
        best = progress.best_map50
        facts.append(f"mAP50 {progress.map50:.3f}" + (f", best {best:.3f}" if best else ""))
    if progress.steps_a_second:
        facts.append(f"{progress.steps_a_second:.1f} steps/s")
    if progress.seconds_left is not None and progress.losses:
        facts.append(f"{duration(progress.seconds_left)} left")
    return " · ".join(facts)
