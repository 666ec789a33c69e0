"""``secondlook evaluate``: the quality of predictions against truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from secondlook.cli.output import console, counted, share, table
from secondlook.config.entrypoint import SectionedCommand
from secondlook.config.extras import check_extras
from secondlook.config.terminal import print_json
from secondlook.evaluation.average_precision import AveragePrecision, average_precision_of_images
from secondlook.evaluation.coco_files import Joined, join
from secondlook.evaluation.matching import Counts, Quality, evaluate


@click.command(
    "evaluate",
    cls=SectionedCommand,
    examples=[
        "secondlook evaluate labels truth.json",
        "secondlook evaluate labels truth.json --json",
    ],
)
@click.argument("predictions", type=click.Path(path_type=Path))
@click.argument("truth", type=click.Path(path_type=Path))
@click.option(
    "--iou",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    metavar="X",
    help="IoU from which a prediction matches a true box, for precision and recall.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def evaluate_command(predictions: Path, truth: Path, iou: float, as_json: bool) -> None:
    """Measure precision, recall and average precision of PREDICTIONS against TRUTH.

    Both are COCO files, or folders that have one. PREDICTIONS may be a list of results, or the
    output folder of `secondlook label`. Crowd and ignore regions count neither as right nor as
    wrong.
    """
    check_extras("average precision", "evaluate")
    joined = join(predictions, truth)
    quality = evaluate(joined.images.values(), joined.classes, iou)
    precision = average_precision_of_images([*joined.images.values()], joined.classes)
    report = report_json(quality, precision, joined, iou)
    print_json(report, indent=2) if as_json else _print(report)


def report_json(
    quality: Quality, precision: AveragePrecision, joined: Joined, iou: float
) -> dict[str, Any]:
    """The whole report as values for JSON."""
    return {
        "images": len(joined.images),
        "iou": iou,
        **_figures(quality.total()),
        "ap": precision.map,
        "ap50": precision.map50,
        "ap75": precision.map75,
        "predictions_without_truth": joined.without_truth,
        "classes_left_out": list(joined.classes_left_out),
        "warnings": list(joined.warnings),
        "classes": {
            name: {**_figures(counts), "ap": precision.map_per_class[name]}
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
    from rich.text import Text

    counts, shares = ("right", "wrong", "missed"), ("precision", "recall", "f1", "ap")
    headings = (*counts, "precision", "recall", "F1", "AP")
    rows = table("class", *headings, right=headings)
    rows.title = f"{counted(report['images'], 'image')}, IoU ≥ {report['iou']:g}"
    for name, figures in report["classes"].items():
        rows.add_row(Text(name), *_cells(figures, counts, shares))
    rows.add_section()
    rows.add_row("all", *_cells(report, counts, shares), style="bold")
    screen = console()
    screen.print(rows)
    screen.print(f"AP50 {share(report['ap50'])}, AP75 {share(report['ap75'])}")
    for line in _left_out(report):
        screen.print(line, style="yellow", highlight=False, markup=False)


def _cells(figures: dict[str, Any], counts: Sequence[str], shares: Sequence[str]) -> list[str]:
    return [*(str(figures[name]) for name in counts), *(share(figures[name]) for name in shares)]


def _left_out(report: dict[str, Any]) -> list[str]:
    lines = []
    if report["predictions_without_truth"]:
        left_out = counted(report["predictions_without_truth"], "prediction")
        lines.append(f"left out: {left_out} whose image or class is not in the truth")
    if report["classes_left_out"]:
        names = report["classes_left_out"]
        some = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
        lines.append(f"left out: classes of the truth that PREDICTIONS does not list: {some}")
    return [*lines, *(f"warning: {sentence}" for sentence in report["warnings"])]
