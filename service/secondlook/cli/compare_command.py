"""``secondlook compare``: what one run labels and another does not."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.options import setting_option, settings_of
from secondlook.cli.stored import opened, stored

if TYPE_CHECKING:
    from secondlook.replay.compare import Comparison


@click.command("compare")
@click.argument("before")
@click.argument("after")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("compare.html"),
    show_default=True,
    help="Page with the pictures that changed; overwritten.",
)
@click.option(
    "--gallery",
    "shown",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    help="Pictures shown at most, those with most changes first; 0 writes no page.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@setting_option("max_image_pixels")
@setting_option("max_image_side")
@stored
def command(before: str, after: str, out: Path, shown: int, as_json: bool, **flags: Any) -> None:
    """Which labels the run AFTER gained and lost against the run BEFORE.

    Boxes of one class that overlap by half are one label. What a person said stands in both.
    """
    from secondlook.cli.session import image_limits
    from secondlook.replay.compare import compare
    from secondlook.replay.page import write_comparison

    limits = image_limits(settings_of({**flags}))
    with opened(flags) as store:
        found, changes = compare(store, before, after)
        if shown:
            write_comparison(out, found, changes, store.blobs, shown, limits)
        else:
            for _ in changes:
                pass
    if as_json:
        click.echo(json.dumps(as_plain(found), indent=2))
        return
    _print(found)
    if shown:
        click.echo(f"The pictures that changed most: {out}")


def as_plain(found: "Comparison") -> dict[str, Any]:
    """The figures as plain values for JSON."""
    return {
        "before": found.before.name,
        "after": found.after.name,
        "pictures": found.pictures,
        "only_before": found.only_before,
        "only_after": found.only_after,
        "kept": found.kept.total(),
        "gained": found.gained.total(),
        "lost": found.lost.total(),
        "classes": {
            name: {
                "kept": found.kept[name],
                "gained": found.gained[name],
                "lost": found.lost[name],
            }
            for name in found.classes
        },
    }


def _print(found: "Comparison") -> None:
    from rich.table import Table
    from rich.text import Text

    from secondlook.cli.tables import console, counted

    figures = as_plain(found)
    title = f"{found.before.name} → {found.after.name}: {counted(found.pictures, 'picture')}"
    table = Table(title=Text(title), box=None)
    table.add_column("class", overflow="fold")
    for heading in ("kept", "gained", "lost"):
        table.add_column(heading, justify="right")
    rows = [*figures["classes"].items(), ("all", figures)]
    for place, (name, counts) in enumerate(rows):
        cells = [f"{counts[column]:,}" for column in ("kept", "gained", "lost")]
        last = place == len(rows) - 1
        table.add_row(
            Text(name), *cells, style="bold" if last else "", end_section=place == len(rows) - 2
        )
    screen = console()
    screen.print(table)
    for amount, run in ((found.only_before, found.before), (found.only_after, found.after)):
        if amount:
            told = f"left out, with a result in '{run.name}' alone: {counted(amount, 'picture')}"
            screen.print(told, style="yellow", highlight=False, markup=False)
