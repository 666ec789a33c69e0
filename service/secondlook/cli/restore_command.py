"""``secondlook restore``: a store from a backup."""

from pathlib import Path
from typing import Any

import click

from secondlook.cli.progress import bar
from secondlook.cli.stored import opened, stored, tell_broken
from secondlook.cli.tables import counted, size


@click.command("restore")
@click.argument("backup", metavar="FOLDER", type=click.Path(path_type=Path))
@stored
def command(backup: Path, **flags: Any) -> int:
    """Fill an empty store from the backup in FOLDER.

    The store may be of another kind than the one that was backed up: this is also the way from
    SQLite to PostgreSQL and back, and from a folder of pictures to S3. Jobs that were under way
    go on once a server serves the new store.
    """
    from secondlook.store.backup import restore

    with opened(flags, new=True) as store, bar("restoring", 0) as step:
        copied = restore(backup, store, step)
    click.echo(
        f"{counted(copied.rows, 'row')}, {counted(copied.blobs, 'blob')} ({size(copied.size)})"
    )
    return tell_broken(copied.broken)
