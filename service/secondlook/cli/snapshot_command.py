"""``secondlook snapshot``: datasets with a name that never change, from what the store holds."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from secondlook.cli.stored import opened, stored

SHOWN_CHANGES = 20


class Share(click.ParamType):
    """``train=0.8``."""

    name = "share"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """(name, weight)."""
        if isinstance(value, tuple):
            return value
        name, _, weight = str(value).partition("=")
        try:
            return name.strip(), float(weight)
        except ValueError:
            self.fail(f"expected NAME=SHARE such as train=0.8, got '{value}'", param, ctx)


class Moment(click.ParamType):
    """A date, or a date and time, with or without a zone."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds since 1970; without a zone it is this machine's time."""
        if isinstance(value, float):
            return value
        try:
            return datetime.fromisoformat(str(value)).timestamp()
        except ValueError:
            self.fail(f"expected a time such as 2026-03-31 or 2026-03-31T18:00, got '{value}'")


class Formats(click.ParamType):
    """Names of formats with commas between."""

    name = "formats"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """In the order given; ``export`` checks them."""
        return tuple(dict.fromkeys(part.strip() for part in str(value).split(",")))


@click.group("snapshot")
def command() -> None:
    """Freeze labels into datasets, look at them, and write them for others.

    A snapshot keeps its pictures and labels whatever becomes of the runs that it was made from.
    Trainings pull it from a service, see `secondlook_client.dataset`.
    """


@command.command("create")
@click.argument("name")
@click.option(
    "--run", "runs", multiple=True, help="A run or job; repeat for more, the later outranks."
)
@click.option(
    "--ontology",
    default="",
    metavar="DIGEST|FILE",
    help="All runs with this ontology, by its digest or YAML file.",
)
@click.option("-c", "--class", "classes", multiple=True, help="Keep only this class; repeat.")
@click.option("--since", type=Moment(), help="Decided from this time on, e.g. 2026-03-31.")
@click.option("--until", type=Moment(), help="Decided before this time.")
@click.option(
    "--min-probability",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Labels below become regions to ignore.",
)
@click.option("--no-empties", is_flag=True, help="Leave out pictures that show none of it.")
@click.option("--no-ignore", is_flag=True, help="Leave out pictures with a region to ignore.")
@click.option("--hard-negatives", is_flag=True, help="Keep rejected boxes too.")
@click.option(
    "--split",
    "split",
    type=Share(),
    multiple=True,
    metavar="NAME=SHARE",
    help="A part and its share; repeat.  [default: train=0.8, val=0.2]",
)
@click.option(
    "--group-by",
    type=click.Choice(["auto", "folder", "likeness", "time"]),
    default="auto",
    show_default=True,
    help="What stays on one side of the split besides near duplicates; auto: frames of a stream. "
    "time, for one fixed camera: frames that come one shortly after the other, nothing besides.",
)
@stored
def create(name: str, **flags: Any) -> None:
    """Freeze what is labelled under NAME.

    Pictures that were not judged for every class are left out: what was not looked for is not
    background. The manifest's hash is that of the content: the same content has the same one.
    """
    from secondlook.cli.snapshot_tables import print_snapshot
    from secondlook.dataset.freeze import create_snapshot
    from secondlook.dataset.query import DEFAULT_SPLIT, GroupBy, Query, SplitShare

    query = Query(
        runs=flags.pop("runs"),
        ontology=_digest(flags.pop("ontology")),
        classes=flags.pop("classes"),
        since=flags.pop("since"),
        until=flags.pop("until"),
        min_probability=flags.pop("min_probability"),
        empties=not flags.pop("no_empties"),
        ignore=not flags.pop("no_ignore"),
        hard_negatives=flags.pop("hard_negatives"),
        split=tuple(SplitShare(*share) for share in flags.pop("split")) or DEFAULT_SPLIT,
        group_by=GroupBy(flags.pop("group_by")),
    )
    with opened(flags) as store:
        print_snapshot(create_snapshot(store, name, query))


@command.command("list")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@stored
def list_snapshots(limit: int, as_json: bool, **flags: Any) -> None:
    """All snapshots, the newest first."""
    from secondlook.cli.snapshot_tables import as_plain, print_snapshots

    with opened(flags) as store:
        found = store.snapshots.page(limit=limit)
    if not as_json:
        print_snapshots(found)
    for snapshot in found if as_json else ():
        click.echo(json.dumps(as_plain(snapshot)))


@command.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@stored
def show(name: str, as_json: bool, **flags: Any) -> None:
    """What the snapshot NAME holds: pictures, groups and boxes by split and class."""
    from secondlook.cli.snapshot_tables import as_plain, print_snapshot

    with opened(flags) as store:
        found = store.snapshots.get(name)
    if as_json:
        click.echo(json.dumps(as_plain(found), indent=2))
    else:
        print_snapshot(found)


@command.command("diff")
@click.argument("old")
@click.argument("new")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a picture.")
@stored
def diff(old: str, new: str, as_json: bool, **flags: Any) -> int:
    """What changed from the snapshot OLD to NEW; the exit code is 1 when they differ."""
    from dataclasses import asdict

    from secondlook.cli.snapshot_tables import print_change, print_difference
    from secondlook.dataset.diff import Difference, compare
    from secondlook.dataset.manifest import load_manifest

    difference = Difference()
    with opened(flags) as store:
        manifests = [
            load_manifest(store.blobs, store.snapshots.get(name).manifest) for name in (old, new)
        ]
        for place, changed in enumerate(compare(store.blobs, *manifests)):
            difference.add(changed)
            if as_json:
                click.echo(json.dumps(asdict(changed)))
            elif place < SHOWN_CHANGES:
                print_change(changed)
    if not as_json:
        print_difference(difference, SHOWN_CHANGES)
    return 1 if difference.changes else 0


@command.command("export")
@click.argument("name")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="A new or empty folder."
)
@click.option(
    "--format",
    "formats",
    type=Formats(),
    default="coco",
    show_default=True,
    help="Any of coco, yolo, voc, parquet, with commas between.",
)
@stored
def export_snapshot(name: str, out: Path, formats: tuple[str, ...], **flags: Any) -> None:
    """Write the snapshot NAME with its pictures, untouched, into the folder --out."""
    from secondlook.dataset.export import export

    with opened(flags) as store:
        export(store, name, out, formats)
    click.echo(f"{out} holds {', '.join(formats)}; README.md there says how to open it")


@command.command("remove")
@click.argument("name")
@stored
def remove(name: str, **flags: Any) -> None:
    """Let go of the snapshot NAME; `secondlook forget` may remove its pictures from then on."""
    with opened(flags) as store:
        store.snapshots.remove(name)
    click.echo(f"snapshot '{name}' is gone")


def _digest(given: str) -> str:
    """Of an ontology that is named by digest or file; empty for none."""
    from secondlook.ontology_text import load_ontology

    path = Path(given)
    return load_ontology(path).digest if given and path.is_file() else given
