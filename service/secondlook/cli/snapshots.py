"""``secondlook snapshot``: datasets with a name that never change, from what the store holds."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from secondlook.cli.output import console
from secondlook.cli.store import opened, stored
from secondlook.datasets.diff import Change, Changed, Difference

if TYPE_CHECKING:
    from secondlook.store.snapshots import Snapshot

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
def snapshot_command() -> None:
    """Freeze labels into datasets, look at them, and write them for others.

    A snapshot keeps its images and labels whatever becomes of the runs that it was made from.
    Trainings pull it from a service, see `secondlook_client.dataset`.
    """


@snapshot_command.command("create")
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
@click.option("--no-empties", is_flag=True, help="Leave out images that show none of it.")
@click.option("--no-ignore", is_flag=True, help="Leave out images with a region to ignore.")
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
    type=click.Choice(["auto", "folder", "similarity", "time"]),
    default="auto",
    show_default=True,
    help="What stays on one side of the split besides near duplicates; auto: frames of a stream. "
    "time, for one fixed camera: frames that come one shortly after the other, nothing besides.",
)
@stored
def create(name: str, **flags: Any) -> None:
    """Freeze what is labelled under NAME.

    Images that were not judged for every class are left out: what was not looked for is not
    background. The manifest's hash is that of the content: the same content has the same one.
    """
    from secondlook.datasets.query import DEFAULT_SPLIT, GroupBy, Query, SplitShare
    from secondlook.datasets.snapshot import create_snapshot

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


@snapshot_command.command("list")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@stored
def list_snapshots(limit: int, as_json: bool, **flags: Any) -> None:
    """All snapshots, the newest first."""

    with opened(flags) as store:
        found = store.snapshots.page(limit=limit)
    if not as_json:
        print_snapshots(found)
    for snapshot in found if as_json else ():
        click.echo(json.dumps(as_plain(snapshot)))


@snapshot_command.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@stored
def show(name: str, as_json: bool, **flags: Any) -> None:
    """What the snapshot NAME holds: images, groups and boxes by split and class."""

    with opened(flags) as store:
        found = store.snapshots.get(name)
    if as_json:
        click.echo(json.dumps(as_plain(found), indent=2))
    else:
        print_snapshot(found)


@snapshot_command.command("diff")
@click.argument("old")
@click.argument("new")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object an image.")
@stored
def diff(old: str, new: str, as_json: bool, **flags: Any) -> int:
    """What changed from the snapshot OLD to NEW; the exit code is 1 when they differ."""
    from dataclasses import asdict

    from secondlook.datasets.diff import Difference, compare
    from secondlook.datasets.manifest import load_manifest

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


@snapshot_command.command("export")
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
    """Write the snapshot NAME with its images, untouched, into the folder --out."""
    from secondlook.datasets.export import export

    with opened(flags) as store:
        export(store, name, out, formats)
    click.echo(f"{out} holds {', '.join(formats)}; README.md there says how to open it")


@snapshot_command.command("remove")
@click.argument("name")
@stored
def remove(name: str, **flags: Any) -> None:
    """Let go of the snapshot NAME; `secondlook forget` may remove its images from then on."""
    with opened(flags) as store:
        store.snapshots.remove(name)
    click.echo(f"snapshot '{name}' is gone")


def _digest(given: str) -> str:
    """Of an ontology that is named by digest or file; empty for none."""
    from secondlook.core.ontology_yaml import load_ontology

    path = Path(given)
    return load_ontology(path).digest if given and path.is_file() else given


# Snapshots as a person reads them, and as programs do.

KINDS = (("label", "labels"), ("ignore", "to ignore"), ("hard_negative", "hard negatives"))


def as_plain(snapshot: "Snapshot") -> dict[str, Any]:
    """Everything about a snapshot as plain values for JSON."""
    return {
        "name": snapshot.name,
        "manifest": snapshot.manifest,
        "images": snapshot.images,
        "created_at": snapshot.created_at,
        "query": json.loads(snapshot.query),
        "statistics": dict(snapshot.statistics),
    }


def print_snapshots(found: Sequence["Snapshot"]) -> None:
    """A line each."""
    table = Table(box=None)
    for heading in ("snapshot", "made", "manifest", "splits"):
        table.add_column(heading, overflow="fold")
    for heading in ("images", "labels"):
        table.add_column(heading, justify="right")
    for snapshot in found:
        splits = snapshot.statistics["splits"]
        table.add_row(
            Text(snapshot.name),
            _time(snapshot.created_at),
            snapshot.manifest[:16],
            ", ".join(f"{name} {counts['images']:,}" for name, counts in splits.items()),
            f"{snapshot.images:,}",
            f"{snapshot.statistics['labels']:,}",
        )
    console().print(table)


def print_snapshot(snapshot: "Snapshot") -> None:
    """All counts of one."""
    counted, screen = snapshot.statistics, console()
    screen.print(f"snapshot '{snapshot.name}', made {_time(snapshot.created_at)}", markup=False)
    screen.print(f"manifest {snapshot.manifest}", highlight=False)
    table = Table(box=None)
    table.add_column("", overflow="fold")
    for name in counted["splits"]:
        table.add_column(name, justify="right")
    for what, key in (
        ("images", "images"),
        ("groups", "groups"),
        ("verified empty", "verified_empty"),
        ("with a region to ignore", "with_ignore"),
    ):
        table.add_row(what, *(f"{split[key]:,}" for split in counted["splits"].values()))
    for class_name in counted["classes"]:
        for kind, what in KINDS:
            found = [s["classes"][class_name][kind] for s in counted["splits"].values()]
            if kind == "label" or any(found):
                table.add_row(Text(f"{class_name}, {what}"), *(f"{n:,}" for n in found))
    screen.print(table)
    sizes = ", ".join(f"{count:,} {name}" for name, count in counted["label_sizes"].items())
    screen.print(f"{counted['bytes'] / 1e6:,.1f} MB of images; labels: {sizes}", highlight=False)
    for why, count in counted["left_out"].items():
        screen.print(f"left out: {count:,} {why}", style="yellow", highlight=False)


def print_change(changed: Changed) -> None:
    """One image that differs."""
    marks = {Change.ADDED: "+", Change.REMOVED: "-", Change.RELABELLED: "~", Change.MOVED: ">"}
    boxes = [f"+{said}" for said in changed.gained] + [f"-{said}" for said in changed.lost]
    words = "  ".join((marks[changed.change], changed.sha256[:12], _printable(changed.name)))
    console().print(Text(f"{words}  {', '.join(boxes)}".rstrip()))


def print_difference(difference: Difference, shown: int) -> None:
    """The figures of a comparison of which ``shown`` images were printed at most."""
    screen, total = console(), difference.changes.total()
    if total > shown:
        screen.print(f"… and {total - shown:,} more; --json lists them all", highlight=False)
    if not total:
        screen.print("they hold the same images, boxes and splits")
        return
    counts = (f"{count:,} {change.value}" for change, count in difference.changes.most_common())
    screen.print(f"images: {', '.join(counts)}", highlight=False)
    for sign, counted in (("+", difference.gained), ("-", difference.lost)):
        for said, count in counted.most_common():
            screen.print(Text(f"{sign}{count:,} {said}"))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def _printable(name: str) -> str:
    return name.encode("utf-8", "replace").decode()
