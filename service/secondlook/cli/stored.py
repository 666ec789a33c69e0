"""Options of commands that open the store themselves, without a server."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.options import Command, setting_option, settings_of

if TYPE_CHECKING:
    from secondlook.store import Store

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
    from secondlook.errors import MissingExtra, NotFound

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
