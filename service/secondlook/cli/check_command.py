"""``secondlook check``: is everything that was kept still there, and whole?"""

from typing import Any

import click

from secondlook.cli.stored import opened, stored
from secondlook.cli.tables import counted

SHOWN = 100


@click.command("check")
@stored
@click.option(
    "--quick", is_flag=True, help="Only whether the pictures are there; do not read them."
)
def command(quick: bool, **flags: Any) -> int:
    """Verify every row and every picture of a store, beside a server at work on it.

    Prints what is wrong and what to do about it, and exits with 1 if anything is.
    """
    from secondlook.store.check import check
    from secondlook.store.finding import Checked

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
