"""``secondlook forget``: remove what is needed no longer."""

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.stored import opened, stored
from secondlook.cli.tables import counted, size

if TYPE_CHECKING:
    from secondlook.store.retention import Forgotten

UNITS_S = {"h": 3600, "d": 86400, "w": 7 * 86400}


@click.command("forget")
@stored
@click.option("--run", "runs", multiple=True, metavar="NAME", help="Of this run. Repeat for more.")
@click.option("--older-than", metavar="AGE", help="Kept before that long ago: 12h, 30d, 8w.")
@click.option(
    "--before", metavar="TIME", help="Kept before that time: 2026-03-01, 2026-03-01T12:00."
)
@click.option("--without-labels", is_flag=True, help="Nothing accepted and nothing unsure there.")
@click.option("--corrected", is_flag=True, help="Also pictures of which a person said something.")
@click.option("--orphans", is_flag=True, help="Bytes that nothing names, as left by a crash.")
@click.option("--yes", is_flag=True, help="Do it; without this only say what would go.")
def command(
    runs: tuple[str, ...],
    older_than: str | None,
    before: str | None,
    without_labels: bool,
    corrected: bool,
    orphans: bool,
    yes: bool,
    **flags: Any,
) -> None:
    """Remove results, pictures and their bytes for good, beside a server at work.

    What goes is what every condition given is true of. Pictures that a snapshot holds stay with
    everything that explains them, and so do pictures that wait to be labelled.
    """
    from secondlook.store.forget import count_forgotten, forget, remove_orphans
    from secondlook.store.retention import Retention

    query = None
    if runs or older_than or before or without_labels or not orphans:
        query = Retention(runs, _time(older_than, before), without_labels, corrected)
    with opened(flags) as store:
        if query and not yes:
            _tell("would go", count_forgotten(store, query))
        elif query:
            _tell("are gone", forget(store, query))
        if orphans and yes:
            click.echo(f"{counted(remove_orphans(store), 'blob')} that nothing named: gone")
    if not yes:
        click.echo("nothing was removed; say --yes to do it")


def _tell(verb: str, gone: "Forgotten") -> None:
    click.echo(
        f"{counted(gone.items, 'picture')} of runs with {counted(gone.results, 'result')}, "
        f"{counted(gone.pictures, 'picture')} altogether ({size(gone.size)}) {verb}"
    )
    if gone.runs:
        click.echo(f"gone too, as nothing was left of them: {counted(gone.runs, 'run')}")
    if gone.held:
        click.echo(f"kept because a snapshot holds them: {gone.held:,}")
    if gone.corrected:
        click.echo(
            f"kept because a person said something of them: {gone.corrected:,} (--corrected)"
        )


def _time(older_than: str | None, before: str | None) -> float | None:
    """The earlier of the two, seconds since 1970. Raises ``click.UsageError``."""
    times = []
    if older_than:
        match = re.fullmatch(r"(\d{1,6})([hdw])", older_than)
        if match is None:
            raise click.UsageError(f"--older-than is such as 12h, 30d or 8w, not '{older_than}'")
        times.append(time.time() - int(match[1]) * UNITS_S[match[2]])
    if before:
        try:
            times.append(datetime.fromisoformat(before).timestamp())
        except ValueError:
            raise click.UsageError(f"--before is such as 2026-03-01, not '{before}'") from None
    return min(times, default=None)
