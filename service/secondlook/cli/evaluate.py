"""``secondlook evaluate``: how good are these predictions?"""

import json
from pathlib import Path
from typing import Any

import click

from secondlook.evaluation.coco_files import AveragePrecision, Joined, average_precision, join
from secondlook.evaluation.matching import Counts, Quality, evaluate


@click.command("evaluate")
@click.argument("predictions", type=click.Path(path_type=Path))
@click.argument("truth", type=click.Path(path_type=Path))
@click.option(
    "--iou",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="Overlap from which a box is found, for precision and recall.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def evaluate_command(predictions: Path, truth: Path, iou: float, as_json: bool) -> None:
    """Precision, recall and average precision of PREDICTIONS against TRUTH.

    Both are COCO files of anyone; PREDICTIONS may be a results list or a whole data set such as
    the coco.json of a run. Crowd and ignore regions count neither for nor against.
    """
    joined = join(predictions, truth)
    quality = evaluate(joined.images.values(), joined.classes, iou)
    precision = average_precision(joined)
    report = as_plain(quality, precision, joined, iou)
    click.echo(json.dumps(report, indent=2)) if as_json else _print(report)


def as_plain(
    quality: Quality, precision: AveragePrecision, joined: Joined, iou: float
) -> dict[str, Any]:
    """The whole report as plain values for JSON."""
    return {
        "images": len(joined.images),
        "iou": iou,
        **_figures(quality.total()),
        "ap": precision.ap,
        "ap50": precision.ap50,
        "ap75": precision.ap75,
        "predictions_without_truth": joined.without_truth,
        "classes_left_out": list(joined.classes_left_out),
        "classes": {
            name: {**_figures(counts), "ap": precision.by_class[name]}
            for name, counts in quality.by_class.items()
        },
    }


def _figures(counts: Counts) -> dict[str, Any]:
    return {
        "right": counts.right,
        "wrong": counts.wrong,
        "missed": counts.missed,
        "ignored": counts.ignored,
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
    }


def _print(report: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from secondlook.cli.output import console, share

    table = Table(title=f"{report['images']} images, IoU ≥ {report['iou']:g}", box=None)
    table.add_column("class", overflow="fold")
    columns = ("right", "wrong", "missed", "precision", "recall", "f1", "ap")
    for heading in columns:
        table.add_column("AP" if heading == "ap" else heading, justify="right")
    rows = [*report["classes"].items(), ("all", report)]
    for place, (name, figures) in enumerate(rows):
        cells = [str(figures[c]) if c in columns[:3] else share(figures[c]) for c in columns]
        style = "bold" if place == len(rows) - 1 else ""
        table.add_row(Text(name), *cells, style=style, end_section=place == len(rows) - 2)
    screen = console()
    screen.print(table)
    screen.print(f"AP50 {share(report['ap50'])}, AP75 {share(report['ap75'])}")
    for line in _left_out(report):
        screen.print(line, style="yellow", highlight=False, markup=False)


def _left_out(report: dict[str, Any]) -> list[str]:
    lines = []
    if report["predictions_without_truth"]:
        lines.append(
            f"{report['predictions_without_truth']} predictions were left out: their image or "
            "class is not in the truth"
        )
    if report["classes_left_out"]:
        names = report["classes_left_out"]
        some = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
        lines.append(f"{len(names)} classes of the truth were not predicted at all: {some}")
    return lines
