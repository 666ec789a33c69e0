"""Commands that look after a store, beside a server that uses it: check, back up, restore, forget.

Also the options by which any command opens a store itself, without a server. Modules of the store
are imported once it is open: the base installation has none of the packages that they need, and
``opened_store`` says so.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.options import settings_of
from secondlook.cli.output import bar, counted, size
from secondlook.cli.params import Age, Time
from secondlook.config.entrypoint import Command, SectionedCommand, config_option, setting_options
from secondlook.config.extras import STORE, check_extras
from secondlook.config.settings import StoreSettings
from secondlook.config.terminal import echo

if TYPE_CHECKING:
    from secondlook.store import Store
    from secondlook.store.retention import DeletionCounts

STORE_FLAGS = (*StoreSettings.specs(), "config")
"""The parameters that ``store_options`` adds."""
SHOWN_FINDINGS = 100


def store_options(command: Command) -> Command:
    """``--data``, ``--database-url``, ``--blob-url`` and ``--config``."""
    return config_option(setting_options(StoreSettings)(command))


def opened_store(flags: dict[str, Any], *, new: bool = False) -> "Store":
    """The store that these flags, the environment and the file name; removes them from ``flags``.

    ``new`` allows one that does not exist yet. Raises ``click.UsageError`` when none is named,
    ``NotFound`` when there is none, ``MissingExtra``, and what ``open_store`` raises.
    """
    settings = settings_of(flags).store
    if not settings.given:
        raise click.UsageError(
            "say where the store is: --data DIR, or --database-url and --blob-url"
        )
    check_extras("the store", "serve", only=STORE)
    from secondlook.store import DATABASE_FILE, open_store
    from secondlook_client.errors import NotFound

    data = Path(settings.data)
    if not new and not settings.database_url and not (data / DATABASE_FILE).is_file():
        raise NotFound(f"there is no store in {data}; give the --data of the server")
    return open_store(data, settings.database_url, settings.blob_url)


def run_of(run: str, flags: dict[str, Any]) -> tuple[Path | None, str]:
    """The output folder of `secondlook label` that ``run`` names, if it does, and the run's name.

    ``flags`` then say where its store is. Raises ``click.UsageError`` where ``run`` is no such
    folder and no store is named, and ``NotFound`` for a folder without a run or store.
    """
    from secondlook.cli.output_folder import RUN, run_in, store_of

    folder = Path(run)
    named = settings_of({name: flags[name] for name in STORE_FLAGS}).store.given
    if flags["data"] or flags["database_url"] or (named and not (folder / RUN).is_file()):
        return None, run
    if not folder.is_dir():
        raise click.UsageError(
            f"there is no folder '{run}'; give the output folder of `secondlook label`, or the "
            "name of a run and its store with --data"
        )
    flags["data"] = str(store_of(folder))
    return folder, run_in(folder)


@click.command(
    "check",
    cls=SectionedCommand,
    examples=[
        "secondlook check --data data",
    ],
)
@store_options
@click.option("--quick", is_flag=True, help="Check only that the images exist; do not read them.")
@click.option(
    "--accept-losses",
    is_flag=True,
    help="Forget which transactions were lost, once what they held was sent again.",
)
def check_command(quick: bool, accept_losses: bool, **flags: Any) -> int:
    """Check every row and every image of a store. A server may use it meanwhile.

    Prints what is wrong and how to repair it. The exit code is 1 if anything is wrong.
    """
    with opened_store(flags) as store:
        if accept_losses and store.database.witness:
            store.database.witness.forget_losses()
        from secondlook.store.integrity import CheckCounts, check

        lossy = bool(store.database.witness and store.database.witness.losses())
        checked, found = CheckCounts(), 0
        for finding in check(store, checked, content=not quick):
            found += 1
            if found <= SHOWN_FINDINGS:
                echo(str(finding))
    if found > SHOWN_FINDINGS:
        echo(f"… and {found - SHOWN_FINDINGS} more")
    echo(
        f"{counted(checked.rows, 'row')} and {counted(checked.blobs, 'blob')} checked: "
        + (f"{counted(found, 'problem')}" if found else "no problem")
    )
    if checked.orphans:
        advice = (
            "keep them: images of the lost transactions may be among them"
            if lossy
            else "`secondlook forget --orphans` removes them"
        )
        echo(f"unused, as a crash may leave them: {counted(checked.orphans, 'blob')}; {advice}")
    return 1 if found else 0


@click.command(
    "backup",
    cls=SectionedCommand,
    examples=[
        "secondlook backup backup --data data",
    ],
)
@click.argument("to", metavar="FOLDER", type=click.Path(path_type=Path))
@store_options
def backup_command(to: Path, **flags: Any) -> int:
    """Copy a whole store into FOLDER. A server may use it meanwhile.

    FOLDER is new, or has an earlier backup, to which only what is new is added. The backup is a
    store itself, as it was at one moment: read it with --data FOLDER, or copy it back with
    `secondlook restore`.
    """
    with opened_store(flags) as store, bar("backing up", 0) as step:
        from secondlook.store.backup import back_up

        copied = back_up(store, to, step)
    echo(
        f"{to}: {counted(copied.rows, 'row')}, {counted(copied.blobs, 'new blob')} "
        f"({size(copied.size)})"
    )
    return _print_broken(copied.broken)


@click.command(
    "restore",
    cls=SectionedCommand,
    examples=[
        "secondlook restore backup --data new",
        "secondlook restore backup --data new --database-url postgresql://host/labels",
    ],
)
@click.argument("backup", metavar="FOLDER", type=click.Path(path_type=Path))
@store_options
def restore_command(backup: Path, **flags: Any) -> int:
    """Fill an empty store from the backup in FOLDER.

    The store may be of another kind than the one that was backed up, so this also moves a store
    from SQLite to PostgreSQL and back, and its images from a folder to S3. Unfinished jobs continue
    when a server uses the new store.
    """
    with opened_store(flags, new=True) as store, bar("restoring", 0) as step:
        from secondlook.store.backup import restore

        copied = restore(backup, store, step)
    echo(f"{counted(copied.rows, 'row')}, {counted(copied.blobs, 'blob')} ({size(copied.size)})")
    return _print_broken(copied.broken)


def _print_broken(broken: Sequence[str]) -> int:
    """Print which blobs could not be copied; the exit code."""
    for problem in broken:
        echo(f"not copied: {problem}", err=True)
    return 1 if broken else 0


@click.command(
    "forget",
    cls=SectionedCommand,
    examples=[
        "secondlook forget --older-than 90d --without-labels --data data",
        "secondlook forget --run street --data data --yes",
    ],
)
@store_options
@click.option(
    "--run", "runs", multiple=True, metavar="NAME", help="Only of this run. Repeat for more runs."
)
@click.option("--older-than", type=Age(), metavar="AGE", help="Only older ones: 12h, 30d, 8w.")
@click.option(
    "--before",
    type=Time(),
    metavar="TIME",
    help="Only from before this time: 2026-03-01, 2026-03-01T12:00.",
)
@click.option(
    "--without-labels", is_flag=True, help="Only images with neither an accepted nor an unsure box."
)
@click.option("--reviewed", is_flag=True, help="Also images that a person has reviewed.")
@click.option("--orphans", is_flag=True, help="Remove unused blobs too, as a crash may leave them.")
@click.option("--yes", is_flag=True, help="Remove them. Without it, only what would be removed "
              "is printed.")  # fmt: skip
def forget_command(
    runs: tuple[str, ...],
    older_than: float | None,
    before: float | None,
    without_labels: bool,
    reviewed: bool,
    orphans: bool,
    yes: bool,
    **flags: Any,
) -> None:
    """Remove results and images for good. A server may use the store meanwhile.

    Removes what matches all conditions given. Images in a snapshot are kept, with everything that
    explains their labels, and so are images that wait to be labelled.
    """
    until = _earlier(older_than, before)
    conditions = bool(runs or without_labels) or until is not None
    if not conditions and not orphans:
        raise click.UsageError(
            "say what to forget: --run, --older-than, --before, --without-labels or --orphans"
        )
    with opened_store(flags) as store:
        from secondlook.store.retention import Retention, count_deletions, forget, remove_orphans

        if conditions:
            query = Retention(runs, until, without_labels, reviewed)
            if yes:
                _print_deletions("removed", forget(store, query))
            else:
                _print_deletions("would be removed", count_deletions(store, query))
        if orphans and yes:
            echo(f"removed: {counted(remove_orphans(store), 'unused blob')}")
    if not yes:
        echo("nothing was removed; give --yes to do it")


def _print_deletions(verb: str, counts: "DeletionCounts") -> None:
    echo(
        f"{verb}: {counted(counts.results, 'result')} of {counted(counts.items, 'image')} in runs; "
        f"{counted(counts.images, 'image')} ({size(counts.size)}) that nothing else needs"
    )
    if counts.runs:
        echo(f"{verb}, as nothing is left of them: {counted(counts.runs, 'run')}")
    if counts.in_snapshots:
        echo(f"kept because they are in a snapshot: {counted(counts.in_snapshots, 'image')}")
    if counts.reviewed:
        echo(
            f"kept because a person reviewed them: {counted(counts.reviewed, 'image')}; "
            "--reviewed removes them too"
        )


def _earlier(older_than: float | None, before: float | None) -> float | None:
    """The earlier of an age and a time, in seconds since 1970."""
    times = [time.time() - older_than] if older_than is not None else []
    times += [before] if before is not None else []
    return min(times, default=None)
