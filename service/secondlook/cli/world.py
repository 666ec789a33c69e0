"""``secondlook world``: images of the demo world with their exact truth."""

from pathlib import Path

import click

from secondlook.cli.output import bar, counted
from secondlook.core.errors import OutputExists


@click.command("world")
@click.option("--out", type=click.Path(path_type=Path), default=Path("world"), show_default=True)
@click.option("--count", type=click.IntRange(1, 1_000_000), default=100, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--size", type=click.IntRange(64, 2048), default=320, show_default=True, help="Longest side."
)
def world_command(out: Path, count: int, seed: int, size: int) -> None:
    """Write images of the drawn demo world with their exact truth.

    Makes images/, truth.json (COCO) and ontology.yaml below --out. The same seed gives the same
    bytes.
    """
    from secondlook.core.files import explaining
    from secondlook.demo.world import write_world

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExists(f"{out} is not an empty folder; give another --out or remove it")
    with explaining(out), bar("drawing", total=count) as step:
        write_world(out, seed, count, size, progress=step)
    click.echo(f"{counted(count, 'image')} in {out / 'images'}, truth in {out / 'truth.json'}")
