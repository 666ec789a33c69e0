"""``secondlook demo``: the whole product from top to bottom, on a world whose truth is known."""

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.output import console, counted, share
from secondlook.core.errors import OutputExists

if TYPE_CHECKING:
    from secondlook.cli.connection import Session
    from secondlook.cli.label import Run
    from secondlook.datasets.samples import Sample, TrainingSet
    from secondlook.evaluation.run_stats import Change, Totals
    from secondlook_client.results import LabelResult


OVERVIEW = 9
"""Images that overview.png is made from, at most."""
EASY = 7
"""Boxes on an image that can be taken in at a glance."""


@click.command("demo")
@click.option(
    "--count",
    type=click.IntRange(1, 100_000),
    help="Images.  [default: 48; 240 with --distill]",
)
@click.option("--seed", type=click.IntRange(0), default=2024, show_default=True)
@click.option("--size", type=click.IntRange(64, 2048), default=320, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-out"), show_default=True)
@click.option(
    "--distill",
    is_flag=True,
    help="Train a student on the labels too (some minutes) and show it beside its teachers.",
)
def demo_command(count: int | None, seed: int, size: int, out: Path, distill: bool) -> None:
    """Draw a small world, label it through the service, and compare with its exact truth.

    Shows what the proposer finds and what the second look makes of it, and leaves gallery.html,
    overview.png, coco.json, report.json and the images in --out. --distill adds student/ with
    its report.html, strip.png and demo.json.
    """
    from secondlook.cli.connection import connected
    from secondlook.cli.label import label_into
    from secondlook.cli.output_folder import OutFolder
    from secondlook.config.settings import Settings
    from secondlook.core.image_folder import select
    from secondlook.core.ontology_yaml import load_ontology
    from secondlook.demo.world import write_world
    from secondlook.evaluation.coco_files import truth_of
    from secondlook.evaluation.run_stats import compare

    # 1. Images that no model has seen, with the truth about every box.
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
            # 3. The images go to it as `secondlook label` sends them: over gRPC, many at a time.
            run = label_into(folder, session, select([world / "images"]))
            if distill:
                _clear(out, MADE)
                taught = teach(session, out, seed, size)

    # 4. What each stage did, by the arithmetic of `secondlook evaluate`.
    change = compare(run.results, truth_of(world / "truth.json"), ontology)
    report = report_of(run, change, seed)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _draw_overview(out / "overview.png", run.results(), world / "images")
    _print(report, out)

    # 5. A student of these labels, and what it would be without the second look.
    if distill:
        learned = learn(taught, run, world, out)
        (out / "demo.json").write_text(json.dumps(report | learned, indent=2) + "\n")
        _print_student(learned, out)


def report_of(run: "Run", change: "Change", seed: int) -> dict[str, Any]:
    """The figures of ``report.json``. Those of the proposer take every candidate at its word."""
    from secondlook.demo.world import ATTRIBUTES, NOUNS

    totals = run.written.totals
    return {
        "images": totals.images,
        "proposals": totals.proposals,
        **_figures(totals, change, (*NOUNS, *ATTRIBUTES)),
        "images_per_second": round(run.images / run.seconds, 2),
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

    images, boxes = counted(report["images"], "image"), counted(report["proposals"], "box")
    title = f"{images}, {boxes} proposed"
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
        f"{report['images_per_second']:.1f} images a second through the service",
        f"look at {out / 'gallery.html'} and {out / 'overview.png'}",
    ):
        screen.print(Text(line))


def _print_student(learned: dict[str, Any], out: Path) -> None:
    screen = console()
    fast, slow = learned["student_images_per_second"], learned["teacher_images_per_second"]
    screen.print(f"\nstudent: {fast:.0f} images a second, its teachers {slow:.0f}")
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
    """Images with few boxes, of which the second look rejected some: easy to take in."""
    from secondlook.cli.output_folder import loader
    from secondlook.core import drawing
    from secondlook.core.drawing import Shown
    from secondlook.core.images import ImageLimits

    best = sorted(results, key=lambda entry: (_crowding(entry[1]), entry[0]))[:OVERVIEW]
    shown = [Shown(name, result) for name, result in best]
    drawing.write(path, shown, loader(images, ImageLimits()))


def _crowding(result: "LabelResult") -> float:
    """How far it is from a landscape with about seven boxes, one of them rejected altogether."""
    boxes = {judgement.box for judgement in result.judgements}
    refuted = len(boxes) > len({j.box for j in result.judgements if j.outcome.value != "reject"})
    return abs(len(boxes) - EASY) + 5 * (result.width < result.height) - 3 * refuted


def _empty(folder: Path) -> Path:
    """A folder for the images; only one that an earlier demo made is replaced."""
    if folder.exists():
        if not (folder / "truth.json").exists() and any(folder.iterdir()):
            raise OutputExists(f"{folder} is not the demo's; give another --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


# ``secondlook demo --distill``: the demo's labels become a student, shown beside its teachers.
#
# A second student learns from what the proposer alone would have labelled, at its best single
# threshold, so that the figures say what the second look is worth to whoever trains on it.

SNAPSHOT = "demo"
MADE = ("pulled", "unseen", "student", "student-unverified", "strip.png", "demo.json")
"""What is left in the demo's folder."""
STEPS = 300
UNSEEN, FRAMES = 120, 5
"""Scenes that the students are measured on, and how many of them are shown."""
EASY_STRIPS = 10
"""Labels on a scene that shows something and can be taken in."""
UNSEEN_SEED = 1_000_003
"""Added to the demo's seed: another world."""


@dataclass(frozen=True)
class Taught:
    """What the teachers leave behind when their service ends."""

    data: "TrainingSet"
    unseen: "tuple[Sample, ...]"
    """With exact truth."""
    said: "Mapping[str, LabelResult]"
    """By name, of the first unseen scenes: what the teachers find there."""
    images_per_second: float
    """Of the teachers on those, through the service."""


def teach(session: "Session", out: Path, seed: int, size: int) -> Taught:
    """Freeze and pull the labels, and let the teachers look at scenes that nobody has seen."""
    from secondlook.core.image_folder import select
    from secondlook.datasets.open import open_training_set
    from secondlook.demo.world import write_world
    from secondlook_client.dataset import SnapshotQuery
    from secondlook_client.results import LabelResult

    assert session.own is not None
    (job,) = session.client.jobs.list()  # the store is this demo's own
    query = SnapshotQuery([job.name], classes=session.ontology.names, hard_negatives=True)
    session.client.datasets.create(SNAPSHOT, query)
    data = open_training_set(SNAPSHOT, server=session.own.address, cache=out / "pulled")

    world = out / "unseen"
    write_world(world, seed + UNSEEN_SEED, UNSEEN, size)
    truth = open_training_set(str(world))
    unseen = tuple(sorted((*truth.train, *truth.held_out), key=lambda sample: sample.name))

    sources = list(select([world / "images"]).walk())[: UNSEEN // 2]
    images = [(source, source.path.read_bytes()) for source in sources]
    began = time.perf_counter()
    said = {
        source.name: result
        for source, result in session.label_many(images)
        if isinstance(result, LabelResult)
    }
    return Taught(data, unseen, said, len(said) / (time.perf_counter() - began))


def learn(taught: Taught, run: "Run", world: Path, out: Path) -> dict[str, Any]:
    """Train both students and show the first; the figures of ``demo.json``."""
    from secondlook.cli.distill import watched
    from secondlook.detector.runtime import OnnxDetector
    from secondlook.training.distill import distill
    from secondlook.training.settings import TrainingSettings
    from secondlook.training.trainer import train

    settings = TrainingSettings(size="pico", start="demo", steps=STEPS, look_every=STEPS // 3)
    student, rival = out / "student", out / "student-unverified"
    for folder in (student, rival):
        folder.mkdir()
    with watched(student, "bar") as tell:
        distill(taught.data, settings, student, tell, name=SNAPSHOT)
    data, threshold = _unverified(taught.data, run, world)
    with watched(rival, "bar") as tell:
        train(data, settings, rival, tell)
    detector = OnnxDetector.open(student)
    rate = _rate(detector, taught.unseen)
    _draw(out / "strip.png", detector, taught, rate)
    detector.close()
    return {
        "teacher_images_per_second": round(taught.images_per_second, 2),
        "student_images_per_second": round(rate, 1),
        "student_map50": _map50(student, taught),
        "student_map50_unverified": _map50(rival, taught),
        "unverified_threshold": threshold,
        "snapshot": taught.data.digest,
        "steps": settings.steps,
        "unseen": len(taught.unseen),
    }


def _unverified(data: "TrainingSet", run: "Run", world: Path) -> "tuple[TrainingSet, float]":
    from secondlook.core.ontology_yaml import load_ontology
    from secondlook.demo.label_baselines import best_threshold, unverified
    from secondlook.evaluation.coco_files import truth_of

    named = truth_of(world / "truth.json")
    results, truth = {}, {}
    for name, result in run.results():
        results[result.sha256], truth[result.sha256] = result, named[name]
    threshold = best_threshold(results, truth, load_ontology(world / "ontology.yaml"))
    return unverified(data, results, threshold), threshold


def _map50(folder: Path, taught: Taught) -> float:
    """Against the exact truth of the unseen scenes, in torch: one arithmetic for both students."""
    from secondlook.evaluation.detector_scores import score
    from secondlook.training.model import input_size_of, load_student
    from secondlook.training.predict import predict

    model = load_student(folder / "torch")
    found = predict(model, taught.unseen, input_size_of(model))
    return round(score(taught.unseen, found, taught.data.classes).map50, 4)


def _rate(detector: Any, samples: "Sequence[Sample]") -> float:
    """Images a second, one at a time as on a device; reading files is not counted."""
    from secondlook.datasets.image_cache import read_pixels

    images = [read_pixels(sample) for sample in samples[:60]]
    detector.detect(images[:5])
    began = time.perf_counter()
    for pixels in images:
        detector.detect([pixels])
    return len(images) / (time.perf_counter() - began)


def _draw(path: Path, detector: Any, taught: Taught, rate: float) -> None:
    """Teachers above, the student below, on scenes that neither has seen."""
    from secondlook.core.drawing import Row, strip
    from secondlook.core.files import replacing
    from secondlook.datasets.image_cache import read_pixels

    samples = [sample for sample in taught.unseen if Path(sample.name).name in taught.said]
    shown = sorted(
        samples, key=lambda sample: (_tall(sample), abs(len(sample.boxes) - EASY_STRIPS))
    )
    frames = shown[:FRAMES]
    images = [read_pixels(sample) for sample in frames]
    rows = (
        Row(
            "teachers: Grounding DINO and the verifier",
            [_labels(taught.said[Path(sample.name).name]) for sample in frames],
            [1000 / taught.images_per_second] * len(frames),
        ),
        Row(
            "student",
            [_detections(detector, pixels) for pixels in images],
            [1000 / rate] * len(frames),
        ),
    )
    with replacing(path) as part:
        strip(images, rows).save(part, "PNG")


def _tall(sample: "Sample") -> bool:
    return sample.height > sample.width


def _labels(result: "LabelResult") -> tuple[Any, list[str]]:
    import numpy as np

    boxes = np.array([label.box for label in result.labels], np.float32).reshape(-1, 4)
    return boxes, [label.class_name for label in result.labels]


def _detections(detector: Any, pixels: Any) -> tuple[Any, list[str]]:
    """At each class's own threshold, as a device shows them."""
    import numpy as np

    (found,) = detector.detect([pixels])
    manifest = detector.manifest
    sure = found.take(found.scores >= np.asarray(manifest.thresholds)[found.classes])
    return sure.boxes, [manifest.classes[place] for place in sure.classes]
