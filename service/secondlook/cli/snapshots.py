"""``secondlook snapshot``: freeze labels into datasets that never change; list, compare, export.

The commands open a store themselves, without a server; what they print is below them.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.dataset_options import (
    doubt_choices,
    doubt_options,
    format_option,
    split_options,
    split_shares,
)
from secondlook.cli.output import console, counted, created_text, table
from secondlook.cli.params import Time, empty_option, limit_option
from secondlook.cli.store import opened_store, store_options
from secondlook.config.entrypoint import CommandGroup
from secondlook.config.terminal import echo, print_json
from secondlook.datasets.writers import SNAPSHOT_FORMATS, DoubtfulImages
from secondlook_client.values import EmptyReason, GroupBy

if TYPE_CHECKING:
    from secondlook.datasets.diff import DiffCounts, ImageChange
    from secondlook.store.snapshots import SnapshotRow

SHOWN_CHANGES = 20
CHANGE_MARKS = {"added": "+", "removed": "-", "relabelled": "~", "moved": ">"}
BOX_KINDS = {"label": "labels", "ignore": "ignore regions", "hard_negative": "hard negatives"}


@click.group("snapshot", cls=CommandGroup)
def snapshot_command() -> None:
    """Freeze labels into datasets that never change; list, compare and export them.

    A snapshot keeps its images and labels, whatever happens to the runs that it was made from. A
    training can download it from a service: see `secondlook distill` and
    `secondlook_client.dataset`.
    """


@snapshot_command.command(
    "create",
    examples=[
        "secondlook snapshot create street-1 --run street --data data",
        "secondlook snapshot create street-95 --guarantee street-95 --data data",
    ],
)
@click.argument("name")
@click.option(
    "--run",
    "runs",
    multiple=True,
    metavar="NAME",
    help="Take the labels of this run or job. Repeat for more; a later one overrides.",
)
@click.option(
    "--ontology",
    default="",
    metavar="DIGEST|FILE",
    help="Take all runs with this ontology, given by its digest or as a YAML file.",
)
@click.option(
    "--guarantee",
    default="",
    metavar="NAME",
    help="Take only what this guarantee covers; what it does not is ignored in trainings.",
)
@click.option(
    "-c",
    "--class",
    "classes",
    multiple=True,
    metavar="CLASS",
    help="Keep only this class. Repeat for more.",
)
@click.option(
    "--since", type=Time(), help="Only images decided at this time or later, e.g. 2026-03-31."
)
@click.option("--until", type=Time(), help="Only images decided before this time.")
@click.option(
    "--min-probability",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    metavar="X",
    help="Labels with a lower probability become ignore regions.",
)
@empty_option("Which images without an object to keep:")
@click.option(
    "--no-ignore", is_flag=True, help="Leave out images with an ignore region (an unsure box)."
)
@click.option("--hard-negatives", is_flag=True, help="Keep rejected boxes as hard negatives.")
@split_options("train=0.8, val=0.2")
@store_options
def create(name: str, **flags: Any) -> None:
    """Freeze the labels of runs as the snapshot NAME.

    An image that was not judged for every class is left out, because an object that was not looked
    for would be learnt as background. So is one on which nothing was proposed, unless --empty says
    otherwise: the verifier never saw it. What was left out is told. The hash of the manifest is a
    hash of the content: equal content has an equal hash.
    """
    from secondlook.datasets.query import DEFAULT_SPLIT, Query

    query = Query(
        runs=flags.pop("runs"),
        ontology=_ontology_digest(flags.pop("ontology")),
        classes=flags.pop("classes"),
        since=flags.pop("since"),
        until=flags.pop("until"),
        min_probability=flags.pop("min_probability"),
        empty=flags.pop("empty"),
        ignore=not flags.pop("no_ignore"),
        hard_negatives=flags.pop("hard_negatives"),
        split=split_shares(flags.pop("split")) or DEFAULT_SPLIT,
        group_by=GroupBy(flags.pop("group_by")),
        guarantee=flags.pop("guarantee"),
    )
    with opened_store(flags) as store:
        from secondlook.datasets.snapshot import create_snapshot

        _print_snapshot(create_snapshot(store, name, query))


@snapshot_command.command("list")
@limit_option
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each.")
@store_options
def list_snapshots(limit: int, as_json: bool, **flags: Any) -> None:
    """List the snapshots, the newest first."""
    with opened_store(flags) as store:
        found = store.snapshots.page(limit=limit)
    if not as_json:
        _print_snapshots(found)
    for snapshot in found if as_json else ():
        print_json(snapshot_json(snapshot))


@snapshot_command.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@store_options
def show(name: str, as_json: bool, **flags: Any) -> None:
    """Show what the snapshot NAME has: images, groups and boxes by split and class."""
    with opened_store(flags) as store:
        found = store.snapshots.get(name)
    if as_json:
        print_json(snapshot_json(found), indent=2)
    else:
        _print_snapshot(found)


@snapshot_command.command("diff")
@click.argument("old")
@click.argument("new")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each image.")
@store_options
def diff(old: str, new: str, as_json: bool, **flags: Any) -> int:
    """Show what changed from the snapshot OLD to NEW; the exit code is 1 if they differ."""
    with opened_store(flags) as store:
        from secondlook.datasets.diff import DiffCounts, compare_snapshots
        from secondlook.datasets.manifest import load_manifest

        counts = DiffCounts()
        manifests = [
            load_manifest(store.blobs, store.snapshots.get(name).manifest) for name in (old, new)
        ]
        for place, change in enumerate(compare_snapshots(store.blobs, *manifests)):
            counts.add(change)
            if as_json:
                print_json(asdict(change))
            elif place < SHOWN_CHANGES:
                _print_change(change)
    if not as_json:
        _print_diff(counts)
    return 1 if counts.changes else 0


@snapshot_command.command(
    "export",
    examples=[
        "secondlook snapshot export street-1 --format coco,yolo --out out --data data",
    ],
)
@click.argument("name")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="A new or empty folder."
)
@format_option(SNAPSHOT_FORMATS)
@doubt_options(nothing_proposed=DoubtfulImages.BACKGROUND)
@store_options
def export_snapshot(name: str, out: Path, formats: tuple[str, ...], **flags: Any) -> None:
    """Write the snapshot NAME with its original image files into the folder --out."""
    doubts, notes = doubt_choices(flags), list[str]()
    with opened_store(flags) as store:
        from secondlook.datasets.export import export

        export(store, name, out, formats, **doubts, notes=notes)
    for note in notes:
        echo(note)
    echo(f"wrote {', '.join(formats)} to {out}; its README.md says how to open them")


@snapshot_command.command("remove")
@click.argument("name")
@store_options
def remove(name: str, **flags: Any) -> None:
    """Remove the snapshot NAME. `secondlook forget` may remove its images from then on."""
    with opened_store(flags) as store:
        store.snapshots.remove(name)
    echo(f"removed the snapshot '{name}'")


def _ontology_digest(given: str) -> str:
    """The digest of an ontology that is given by digest or as a file; empty for none."""
    from secondlook.core.ontology_yaml import load_ontology

    path = Path(given)
    return load_ontology(path).digest if given and path.is_file() else given


def snapshot_json(snapshot: "SnapshotRow") -> dict[str, Any]:
    """Everything about a snapshot as values for JSON."""
    return {
        "name": snapshot.name,
        "manifest": snapshot.manifest,
        "images": snapshot.images,
        "created_at": snapshot.created_at,
        "created_by": snapshot.created_by,
        "query": json.loads(snapshot.query),
        "statistics": dict(snapshot.statistics),
    }


def _print_snapshots(found: Sequence["SnapshotRow"]) -> None:
    from rich.text import Text

    numbers = ("images", "labels")
    rows = table("snapshot", "created", "manifest", "splits", *numbers, right=numbers)
    for snapshot in found:
        splits = snapshot.statistics["splits"]
        rows.add_row(
            Text(snapshot.name),
            created_text(snapshot.created_at, snapshot.created_by),
            snapshot.manifest[:16],
            ", ".join(f"{name} {counts['images']:,}" for name, counts in splits.items()),
            f"{snapshot.images:,}",
            f"{snapshot.statistics['labels']:,}",
        )
    console().print(rows)


def _print_snapshot(snapshot: "SnapshotRow") -> None:
    from rich.text import Text

    from secondlook.datasets.snapshot import LEFT_OUT_EMPTY, empty_counts

    statistics, screen = snapshot.statistics, console()
    splits = statistics["splits"]
    created = created_text(snapshot.created_at, snapshot.created_by)
    screen.print(f"snapshot '{snapshot.name}', created {created}", markup=False)
    screen.print(f"manifest {snapshot.manifest}", highlight=False)
    rows = table("", *splits, right=splits)
    for heading, key in (
        ("images", "images"),
        ("groups", "groups"),
        ("with an ignore region", "with_ignore"),
    ):
        rows.add_row(heading, *(f"{counts[key]:,}" for counts in splits.values()))
    for what, numbers in empty_counts([*splits.values()]).items():
        rows.add_row(what, *(f"{number:,}" for number in numbers))
    for class_name in statistics["classes"]:
        for kind, plural in BOX_KINDS.items():
            boxes = [counts["classes"][class_name][kind] for counts in splits.values()]
            if kind == "label" or any(boxes):
                rows.add_row(Text(f"{class_name}, {plural}"), *(f"{n:,}" for n in boxes))
    screen.print(rows)
    sizes = ", ".join(f"{count:,} {name}" for name, count in statistics["label_sizes"].items())
    screen.print(f"{statistics['bytes'] / 1e6:,.1f} MB of images; labels: {sizes}", highlight=False)
    for told in statistics.get("ended_guarantees", ()):
        screen.print(f"note: {told}", style="yellow", markup=False, soft_wrap=True)
    for reason, count in statistics["left_out"].items():
        line = f"left out: {counted(count, 'image')} {reason}"
        if reason == LEFT_OUT_EMPTY[EmptyReason.NOTHING_PROPOSED]:
            line += (
                ", so nobody looked twice; label with --verify-empty to have them verified, or "
                "take them as background with --empty all"
            )
        screen.print(line, style="yellow", highlight=False)


def _print_change(change: "ImageChange") -> None:
    from rich.text import Text

    boxes = [f"+{box}" for box in change.gained] + [f"-{box}" for box in change.lost]
    name = change.name.encode("utf-8", "replace").decode()
    words = "  ".join((CHANGE_MARKS[change.change], change.sha256[:12], name))
    console().print(Text(f"{words}  {', '.join(boxes)}".rstrip()))


def _print_diff(counts: "DiffCounts") -> None:
    from rich.text import Text

    screen, total = console(), counts.changes.total()
    if total > SHOWN_CHANGES:
        more = f"… and {total - SHOWN_CHANGES:,} more; --json lists them all"
        screen.print(more, highlight=False)
    if not total:
        screen.print("they have the same images, boxes and splits")
        return
    kinds = (f"{count:,} {kind.value}" for kind, count in counts.changes.most_common())
    screen.print(f"images: {', '.join(kinds)}", highlight=False)
    for sign, boxes in (("+", counts.gained), ("-", counts.lost)):
        for box, count in boxes.most_common():
            screen.print(Text(f"{sign}{count:,} {box}"))
