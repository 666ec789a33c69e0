"""``secondlook backup``: a copy of a store that is in use."""

from pathlib import Path
from typing import Any

import click

from secondlook.cli.progress import bar
from secondlook.cli.stored import opened, stored, tell_broken
from secondlook.cli.tables import size


@click.command("backup")
@click.argument("to", metavar="FOLDER", type=click.Path(path_type=Path))
@stored
def command(to: Path, **flags: Any) -> int:
    """Copy a whole store into FOLDER, beside a server at work on it.

    FOLDER is new, or holds an earlier backup: then only what is new is copied. It is a store of
    its own, of one moment: look into it with --data FOLDER, or bring it back with `restore`.
    """
    from secondlook.store.backup import back_up

    with opened(flags) as store, bar("backing up", 0) as step:
        copied = back_up(store, to, step)
    click.echo(f"{to}: {copied.rows} rows, {copied.blobs} new blobs ({size(copied.size)})")
    return tell_broken(copied.broken)
