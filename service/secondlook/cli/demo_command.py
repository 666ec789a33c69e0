"""``secondlook demo``: the whole product from top to bottom, on a world whose truth is known."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.tables import console, counted, share
from secondlook.errors import OutputExists

if TYPE_CHECKING:
    from secondlook.cli.labelling import Run
    from secondlook.totals import Totals
    from secondlook.two_stages import Change
    from secondlook_client.results import LabelResult

OVERVIEW = 9
"""Pictures that overview.png is made from, at most."""
EASY = 7
"""Boxes on a picture that can be taken in at a glance."""


@click.command("demo")
@click.option(
    "--count",
    type=click.IntRange(1, 100_000),
    help="Pictures.  [default: 48; 240 with --distill]",
)
@click.option("--seed", type=click.IntRange(0), default=2024, show_default=True)
@click.option("--size", type=click.IntRange(64, 2048), default=320, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-out"), show_default=True)
@click.option(
    "--distill",
    is_flag=True,
    help="Train a student on the labels too (some minutes) and show it beside its teachers.",
)
def command(count: int | None, seed: int, size: int, out: Path, distill: bool) -> None:
    """Draw a small world, label it through the service, and compare with its exact truth.

    Shows what the proposer finds and what the second look makes of it, and leaves gallery.html,
    overview.png, coco.json, report.json and the pictures in --out. --distill adds student/ with
    its report.html, strip.png and demo.json.
    """
    from secondlook.cli import demo_distilling
    from secondlook.cli.labelling import label_into
    from secondlook.cli.session import connected
    from secondlook.coco_files import truth_of
    from secondlook.config import Settings
    from secondlook.demo.world import write_world
    from secondlook.ontology_text import load_ontology
    from secondlook.runs.folder import select
    from secondlook.runs.out_folder import OutFolder
    from secondlook.two_stages import compare

    # 1. Pictures that no model has seen, with the truth about every box.
    world = _empty(out / "world")
    write_world(world, seed, count or (240 if distill else 48), size)
    ontology = load_ontology(world / "ontology.yaml")

    # 2. The service, as `secondlook serve` starts it, with the models that come with the package
    #    and a store of its own, in a folder that no other run writes into.
    with OutFolder(out) as folder:

        def ready() -> Path:
            folder.clear()
            return folder.store

        models = Settings(proposer="demo", verifier="demo")
        with connected(None, models, ontology, ready) as session:
            # 3. The pictures go to it as `secondlook label` sends them: over gRPC, many at a time.
            run = label_into(folder, session, select([world / "images"]))
            if distill:
                _clear(out, demo_distilling.MADE)
                taught = demo_distilling.teach(session, out, seed, size)

    # 4. What each stage did, by the arithmetic of `secondlook evaluate`.
    change = compare(run.results, truth_of(world / "truth.json"), ontology)
    report = report_of(run, change, seed)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _draw_overview(out / "overview.png", run.results(), world / "images")
    _print(report, out)

    # 5. A student of these labels, and what it would be without the second look.
    if distill:
        learned = demo_distilling.learn(taught, run, world, out)
        (out / "demo.json").write_text(json.dumps(report | learned, indent=2) + "\n")
        _print_student(learned, out)


def report_of(run: "Run", change: "Change", seed: int) -> dict[str, Any]:
    """The figures of ``report.json``. Those of the proposer take every candidate at its word."""
    from secondlook.demo.world import ATTRIBUTES, NOUNS

    totals = run.written.totals
    return {
        "pictures": totals.pictures,
        "proposals": totals.proposals,
        **_figures(totals, change, (*NOUNS, *ATTRIBUTES)),
        "pictures_per_second": round(run.pictures / run.seconds, 2),
        "classes": {
            "nouns": _figures(totals, change, NOUNS),
            "attributes": _figures(totals, change, tuple(ATTRIBUTES)),
        },
        "seconds": round(run.seconds, 2),
        "seed": seed,
        "proposer": totals.proposer,
        "verifier": totals.verifier,
    }


def _figures(totals: "Totals", change: "Change", classes: Sequence[str]) -> dict[str, Any]:
    from secondlook_client.results import Outcome

    before, after = change.before.total(classes), change.after.total(classes)
    return {
        "accepted": totals.count(Outcome.ACCEPT, classes),
        "rejected": totals.count(Outcome.REJECT, classes),
        "unsure": totals.count(Outcome.UNSURE, classes),
        "precision_proposer": before.precision,
        "recall_proposer": before.recall,
        "precision": after.precision,
        "recall": after.recall,
    }


def _print(report: dict[str, Any], out: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    pictures, boxes = counted(report["pictures"], "picture"), counted(report["proposals"], "box")
    title = f"{pictures}, {boxes} proposed"
    table = Table(box=None)
    table.add_column("")
    for heading in ("accepted", "rejected", "unsure", "precision", "recall"):
        table.add_column(heading, justify="right")
    for name, figures in (*report["classes"].items(), ("all", report)):
        counts = (str(figures[key]) for key in ("accepted", "rejected", "unsure"))
        changes = (
            f"{share(figures[f'{key}_proposer'])} → {share(figures[key])}"
            for key in ("precision", "recall")
        )
        table.add_row(name, *counts, *changes, style="bold" if figures is report else "")
    screen = console()
    screen.print(Text(f"\n{title}", style="bold"))
    screen.print(table)
    screen.print("a box is judged for each class whose threshold it reaches: for none, one or many")
    screen.print("precision and recall: of the proposer alone → after the second look, IoU ≥ 0.5")
    for line in (
        f"{report['pictures_per_second']:.1f} pictures a second through the service",
        f"look at {out / 'gallery.html'} and {out / 'overview.png'}",
    ):
        screen.print(Text(line))


def _print_student(learned: dict[str, Any], out: Path) -> None:
    screen = console()
    fast, slow = learned["student_images_per_second"], learned["teacher_images_per_second"]
    screen.print(f"\nstudent: {fast:.0f} pictures a second, its teachers {slow:.0f}")
    screen.print(
        f"mAP50 on {learned['unseen']} unseen scenes: {learned['student_map50']:.3f} on verified "
        f"labels, {learned['student_map50_unverified']:.3f} on the proposer's alone (best single "
        f"threshold, {learned['unverified_threshold']:g})"
    )
    screen.print(f"look at {out / 'strip.png'} and {out / 'student' / 'report.html'}")


def _clear(out: Path, made: Sequence[str]) -> None:
    """What an earlier demo left of a student."""
    for name in made:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)


def _draw_overview(path: Path, results: "Iterator[tuple[str, LabelResult]]", images: Path) -> None:
    """Pictures with few boxes, of which the second look rejected some: easy to take in."""
    from secondlook.gallery import Shown, overview
    from secondlook.images import ImageLimits
    from secondlook.runs.outputs import loader

    best = sorted(results, key=lambda entry: (_crowding(entry[1]), entry[0]))[:OVERVIEW]
    shown = [Shown(name, result) for name, result in best]
    overview.write(path, shown, loader(images, ImageLimits()))


def _crowding(result: "LabelResult") -> float:
    """How far it is from a landscape with about seven boxes, one of them rejected altogether."""
    boxes = {judgement.box for judgement in result.judgements}
    refuted = len(boxes) > len({j.box for j in result.judgements if j.outcome.value != "reject"})
    return abs(len(boxes) - EASY) + 5 * (result.width < result.height) - 3 * refuted


def _empty(folder: Path) -> Path:
    """A folder for the pictures; only one that an earlier demo made is replaced."""
    if folder.exists():
        if not (folder / "truth.json").exists() and any(folder.iterdir()):
            raise OutputExists(f"{folder} is not the demo's; give another --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder
