"""Snapshots as a person reads them, and as programs do."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from secondlook.cli.tables import console
from secondlook.dataset.diff import Change, Changed, Difference
from secondlook.store.snapshots import Snapshot

KINDS = (("label", "labels"), ("ignore", "to ignore"), ("hard_negative", "hard negatives"))


def as_plain(snapshot: Snapshot) -> dict[str, Any]:
    """Everything about a snapshot as plain values for JSON."""
    return {
        "name": snapshot.name,
        "manifest": snapshot.manifest,
        "pictures": snapshot.pictures,
        "created_at": snapshot.created_at,
        "query": json.loads(snapshot.query),
        "statistics": dict(snapshot.statistics),
    }


def print_snapshots(found: Sequence[Snapshot]) -> None:
    """A line each."""
    table = Table(box=None)
    for heading in ("snapshot", "made", "manifest", "splits"):
        table.add_column(heading, overflow="fold")
    for heading in ("pictures", "labels"):
        table.add_column(heading, justify="right")
    for snapshot in found:
        splits = snapshot.statistics["splits"]
        table.add_row(
            Text(snapshot.name),
            _time(snapshot.created_at),
            snapshot.manifest[:16],
            ", ".join(f"{name} {counts['pictures']:,}" for name, counts in splits.items()),
            f"{snapshot.pictures:,}",
            f"{snapshot.statistics['labels']:,}",
        )
    console().print(table)


def print_snapshot(snapshot: Snapshot) -> None:
    """All counts of one."""
    counted, screen = snapshot.statistics, console()
    screen.print(f"snapshot '{snapshot.name}', made {_time(snapshot.created_at)}", markup=False)
    screen.print(f"manifest {snapshot.manifest}", highlight=False)
    table = Table(box=None)
    table.add_column("", overflow="fold")
    for name in counted["splits"]:
        table.add_column(name, justify="right")
    for what, key in (
        ("pictures", "pictures"),
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
    screen.print(f"{counted['bytes'] / 1e6:,.1f} MB of pictures; labels: {sizes}", highlight=False)
    for why, count in counted["left_out"].items():
        screen.print(f"left out: {count:,} {why}", style="yellow", highlight=False)


def print_change(changed: Changed) -> None:
    """One picture that differs."""
    marks = {Change.ADDED: "+", Change.REMOVED: "-", Change.RELABELLED: "~", Change.MOVED: ">"}
    boxes = [f"+{said}" for said in changed.gained] + [f"-{said}" for said in changed.lost]
    words = "  ".join((marks[changed.change], changed.sha256[:12], _printable(changed.name)))
    console().print(Text(f"{words}  {', '.join(boxes)}".rstrip()))


def print_difference(difference: Difference, shown: int) -> None:
    """The figures of a comparison of which ``shown`` pictures were printed at most."""
    screen, total = console(), difference.changes.total()
    if total > shown:
        screen.print(f"… and {total - shown:,} more; --json lists them all", highlight=False)
    if not total:
        screen.print("they hold the same pictures, boxes and splits")
        return
    counts = (f"{count:,} {change.value}" for change, count in difference.changes.most_common())
    screen.print(f"pictures: {', '.join(counts)}", highlight=False)
    for sign, counted in (("+", difference.gained), ("-", difference.lost)):
        for said, count in counted.most_common():
            screen.print(Text(f"{sign}{count:,} {said}"))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def _printable(name: str) -> str:
    return name.encode("utf-8", "replace").decode()
