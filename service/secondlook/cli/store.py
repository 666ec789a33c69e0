"""``secondlook check``: is everything that was kept still there, and whole?"""

import re
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.options import Command, setting_option, settings_of
from secondlook.cli.output import bar, counted, size

if TYPE_CHECKING:
    from secondlook.store import Store
    from secondlook.store.retention import Forgotten


# Options of commands that open the store themselves, without a server.

NAMES = ("data", "database_url", "blob_url")


def stored(command: Command) -> Command:
    """``--data``, ``--database-url``, ``--blob-url`` and ``--config``."""
    for name in reversed(NAMES):
        command = setting_option(name)(command)
    file = click.option("--config", type=click.Path(path_type=Path), help="Settings file (TOML).")
    return file(command)


def opened(flags: dict[str, Any], *, new: bool = False) -> "Store":
    """The store that these flags, the environment and the file name; removes them from ``flags``.

    ``new`` allows one that is not there yet. Raises ``click.UsageError`` when none is named,
    ``NotFound`` when there is none, ``MissingExtra``, and what ``open_store`` raises.
    """
    settings = settings_of(flags)
    if not settings.data and not (settings.database_url and settings.blob_url):
        raise click.UsageError(
            "say where the store is: --data DIR, or --database-url and --blob-url"
        )
    from secondlook.core.errors import MissingExtra, NotFound

    try:
        from secondlook.store import DATABASE_FILE, open_store
    except ImportError as missing:
        raise MissingExtra(
            f"the store needs a package that is not installed ({missing.name}); "
            "pip install 'secondlook[serve]'"
        ) from missing

    data = Path(settings.data)
    if not new and not settings.database_url and not (data / DATABASE_FILE).is_file():
        raise NotFound(f"there is no store in {data}; give the --data of the server")
    return open_store(data, settings.database_url, settings.blob_url)


def tell_broken(broken: Sequence[str]) -> int:
    """Say which blobs could not be copied; the exit code."""
    for problem in broken:
        click.echo(f"not copied: {problem}", err=True)
    return 1 if broken else 0


SHOWN = 100


@click.command("check")
@stored
@click.option("--quick", is_flag=True, help="Only whether the images are there; do not read them.")
def check_command(quick: bool, **flags: Any) -> int:
    """Verify every row and every image of a store, beside a server at work on it.

    Prints what is wrong and what to do about it, and exits with 1 if anything is.
    """
    from secondlook.store.integrity import Checked, check

    checked, found = Checked(), 0
    with opened(flags) as store:
        for finding in check(store, checked, content=not quick):
            found += 1
            if found <= SHOWN:
                click.echo(str(finding))
    if found > SHOWN:
        click.echo(f"… and {found - SHOWN} more")
    click.echo(
        f"{counted(checked.rows, 'row')} and {counted(checked.blobs, 'blob')}: "
        + (f"{counted(found, 'thing')} wrong" if found else "all is well")
    )
    if checked.orphans:
        click.echo(
            f"named by nothing, as after a crash: {counted(checked.orphans, 'blob')}; "
            "`secondlook forget --orphans` removes them"
        )
    return 1 if found else 0


# ``secondlook backup``: a copy of a store that is in use.


@click.command("backup")
@click.argument("to", metavar="FOLDER", type=click.Path(path_type=Path))
@stored
def backup_command(to: Path, **flags: Any) -> int:
    """Copy a whole store into FOLDER, beside a server at work on it.

    FOLDER is new, or holds an earlier backup: then only what is new is copied. It is a store of
    its own, of one moment: look into it with --data FOLDER, or bring it back with `restore`.
    """
    from secondlook.store.backup import back_up

    with opened(flags) as store, bar("backing up", 0) as step:
        copied = back_up(store, to, step)
    click.echo(f"{to}: {copied.rows} rows, {copied.blobs} new blobs ({size(copied.size)})")
    return tell_broken(copied.broken)


# ``secondlook restore``: a store from a backup.


@click.command("restore")
@click.argument("backup", metavar="FOLDER", type=click.Path(path_type=Path))
@stored
def restore_command(backup: Path, **flags: Any) -> int:
    """Fill an empty store from the backup in FOLDER.

    The store may be of another kind than the one that was backed up: this is also the way from
    SQLite to PostgreSQL and back, and from a folder of images to S3. Jobs that were under way
    go on once a server serves the new store.
    """
    from secondlook.store.backup import restore

    with opened(flags, new=True) as store, bar("restoring", 0) as step:
        copied = restore(backup, store, step)
    click.echo(
        f"{counted(copied.rows, 'row')}, {counted(copied.blobs, 'blob')} ({size(copied.size)})"
    )
    return tell_broken(copied.broken)


# ``secondlook forget``: remove what is needed no longer.

UNITS_S = {"h": 3600, "d": 86400, "w": 7 * 86400}


@click.command("forget")
@stored
@click.option("--run", "runs", multiple=True, metavar="NAME", help="Of this run. Repeat for more.")
@click.option("--older-than", metavar="AGE", help="Kept before that long ago: 12h, 30d, 8w.")
@click.option(
    "--before", metavar="TIME", help="Kept before that time: 2026-03-01, 2026-03-01T12:00."
)
@click.option("--without-labels", is_flag=True, help="Nothing accepted and nothing unsure there.")
@click.option("--corrected", is_flag=True, help="Also images of which a person said something.")
@click.option("--orphans", is_flag=True, help="Bytes that nothing names, as left by a crash.")
@click.option("--yes", is_flag=True, help="Do it; without this only say what would go.")
def forget_command(
    runs: tuple[str, ...],
    older_than: str | None,
    before: str | None,
    without_labels: bool,
    corrected: bool,
    orphans: bool,
    yes: bool,
    **flags: Any,
) -> None:
    """Remove results, images and their bytes for good, beside a server at work.

    What goes is what every condition given is true of. Images that a snapshot holds stay with
    everything that explains them, and so do images that wait to be labelled.
    """
    from secondlook.store.retention import Retention, count_forgotten, forget, remove_orphans

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
        f"{counted(gone.items, 'image')} of runs with {counted(gone.results, 'result')}, "
        f"{counted(gone.images, 'image')} altogether ({size(gone.size)}) {verb}"
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
