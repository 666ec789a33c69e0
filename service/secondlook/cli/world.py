"""``secondlook world``: synthetic scenes with their exact truth."""

from pathlib import Path

import click

from secondlook.cli.output import bar, counted
from secondlook.config.entrypoint import SectionedCommand
from secondlook.config.terminal import echo
from secondlook_client.errors import OutputExists


@click.command(
    "world",
    cls=SectionedCommand,
    examples=[
        "secondlook world --seed 7 --count 100 --out world",
    ],
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("world"),
    show_default=True,
    help="A new or empty folder.",
)
@click.option(
    "--count",
    type=click.IntRange(1, 1_000_000),
    default=100,
    show_default=True,
    metavar="N",
    help="Number of images.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Random seed; the same seed gives the same bytes.",
)
@click.option(
    "--size",
    type=click.IntRange(64, 2048),
    default=320,
    show_default=True,
    metavar="N",
    help="Longest side of an image in pixels.",
)
def world_command(out: Path, count: int, seed: int, size: int) -> None:
    """Write synthetic scenes of the demo world with their exact truth.

    Writes images/, truth.json (COCO) and ontology.yaml to --out. The embedded demo models know only
    such scenes.
    """
    from secondlook.core.files import explain_write_errors
    from secondlook.demo.world import write_world

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExists(f"{out} is not an empty folder; give another --out or remove it")
    with explain_write_errors(out), bar("rendering", total=count) as step:
        write_world(out, seed, count, size, progress=step)
    echo(f"{counted(count, 'image')} in {out / 'images'}, truth in {out / 'truth.json'}")
