"""``secondlook demo``: the whole product from top to bottom, on a world whose truth is known.

``demo_command`` is the script to read. With ``--distill`` the labels train a student, which is
shown beside its teachers. A second student learns from what the proposer alone would have labelled,
at its best single threshold, so that the figures say what verification is worth for a training.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.output import console, counted, share, table
from secondlook.config.entrypoint import SectionedCommand
from secondlook.config.extras import check_extras
from secondlook.core.files import check_can_write
from secondlook_client.errors import OutputExists

if TYPE_CHECKING:
    from secondlook.cli.connection import Session
    from secondlook.cli.label import LabelRun
    from secondlook.datasets.samples import Sample, TrainingSet
    from secondlook.evaluation.run_stats import RunStats, StageComparison
    from secondlook_client.values import LabelResult

OVERVIEW_IMAGES, OVERVIEW_BOXES = 9, 7
"""Maximum number of images in overview.png, and boxes on an image that are easy to take in."""
SNAPSHOT = "demo"
STUDENT_FILES = ("pulled", "unseen", "student", "student-unverified", "strip.png", "demo.json")
"""What ``--distill`` writes."""
STEPS = 300
UNSEEN, STRIP_IMAGES = 120, 5
"""Scenes that the students are measured on, and how many of them are in strip.png."""
STRIP_BOXES = 10
"""Labels on a scene that are easy to take in."""
UNSEEN_SEED = 1_000_003
"""Added to the demo's seed, for another world."""


@click.command(
    "demo",
    cls=SectionedCommand,
    examples=[
        "secondlook demo --out demo-out",
        "secondlook demo --distill --out demo-out   # also trains a student",
    ],
)
@click.option(
    "--count",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Number of images.  [default: 48; 240 with --distill]",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=2024,
    show_default=True,
    metavar="N",
    help="Random seed of the scenes.",
)
@click.option(
    "--size",
    type=click.IntRange(64, 2048),
    default=320,
    show_default=True,
    metavar="N",
    help="Longest side of an image in pixels.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("demo-out"),
    show_default=True,
    help="Folder for everything that the demo writes.",
)
@click.option(
    "--distill",
    is_flag=True,
    help="Train a student on the labels too (some minutes), and compare it with its teachers.",
)
def demo_command(count: int | None, seed: int, size: int, out: Path, distill: bool) -> None:
    """Render synthetic scenes, label them through the service, and compare with the exact truth.

    Prints the precision and recall of the proposer alone and after verification, and writes
    gallery.html, overview.png, coco/, report.json and the images to --out. --distill adds
    student/ with its report.html, strip.png and demo.json.
    """
    check_extras("the demo", "serve", *(["distill"] if distill else []))
    check_can_write(out)
    from secondlook.cli.connection import connected
    from secondlook.cli.label import label_into
    from secondlook.cli.output_folder import OutputFolder
    from secondlook.config.settings import Settings
    from secondlook.core.image_folder import select_images
    from secondlook.core.ontology_yaml import load_ontology
    from secondlook.demo.world import write_world
    from secondlook.evaluation.coco_files import truth_of
    from secondlook.evaluation.run_stats import compare_stages

    # 1. Images that no model has seen, with the truth about every box.
    world = _empty(out / "world")
    write_world(world, seed, count or (240 if distill else 48), size)
    ontology = load_ontology(world / "ontology.yaml")

    # 2. The service, as `secondlook serve` starts it, with the embedded models and a store of its
    #    own, in a folder that no other run writes into.
    with OutputFolder(out) as folder:

        def ready() -> Path:
            folder.clear()
            return folder.store

        with connected(None, Settings(), ontology, ready) as session:
            # 3. The images go to it as `secondlook label` sends them: over gRPC, many at a time.
            run = label_into(folder, session, select_images([world / "images"]))
            if distill:
                _remove(out, STUDENT_FILES)
                teachers = freeze_and_label_unseen(session, out, seed, size)

    # 4. What each stage contributed, computed as `secondlook evaluate` does.
    stages = compare_stages(run.results, truth_of(world / "truth.json"), ontology)
    report = _report(run, stages, seed)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _write_overview(out / "overview.png", run.results(), world / "images", ontology.names)
    _print_report(report, out)

    # 5. A student of these labels, and one of labels without verification.
    if distill:
        figures = train_students(teachers, run, world, out)
        (out / "demo.json").write_text(json.dumps(report | figures, indent=2) + "\n")
        _print_student(figures, out)


def _empty(folder: Path) -> Path:
    """A folder for the images; only one that an earlier demo made is replaced."""
    if folder.exists():
        if not (folder / "truth.json").exists() and any(folder.iterdir()):
            raise OutputExists(f"{folder} was not made by the demo; give another --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def _remove(out: Path, names: Sequence[str]) -> None:
    for name in names:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)


def _report(run: "LabelRun", stages: "StageComparison", seed: int) -> dict[str, Any]:
    """The figures of ``report.json``. The proposer's count every candidate as a label."""
    from secondlook.demo.world import ATTRIBUTES, NOUNS

    stats = run.written.stats
    return {
        "images": stats.images,
        "proposals": stats.proposals,
        "judged_boxes": stats.judged_boxes,
        **_figures(stats, stages, (*NOUNS, *ATTRIBUTES)),
        "images_per_second": round(run.images / run.seconds, 2),
        "classes": {
            "nouns": _figures(stats, stages, NOUNS),
            "attributes": _figures(stats, stages, tuple(ATTRIBUTES)),
        },
        "seconds": round(run.seconds, 2),
        "seed": seed,
        "proposer": stats.proposer,
        "verifier": stats.verifier,
    }


def _figures(
    stats: "RunStats", stages: "StageComparison", classes: Sequence[str]
) -> dict[str, Any]:
    from secondlook_client.values import Outcome

    before, after = stages.before.total(classes), stages.after.total(classes)
    return {
        "accepted": stats.count(Outcome.ACCEPT, classes),
        "rejected": stats.count(Outcome.REJECT, classes),
        "unsure": stats.count(Outcome.UNSURE, classes),
        "precision_proposer": before.precision,
        "recall_proposer": before.recall,
        "precision": after.precision,
        "recall": after.recall,
    }


def _print_report(report: dict[str, Any], out: Path) -> None:
    from rich.text import Text

    outcomes, quality = ("accepted", "rejected", "unsure"), ("precision", "recall")
    rows = table("", *outcomes, *quality, right=(*outcomes, *quality))
    for name, figures in (*report["classes"].items(), ("all", report)):
        counts = (str(figures[key]) for key in outcomes)
        changes = (f"{share(figures[f'{k}_proposer'])} → {share(figures[k])}" for k in quality)
        rows.add_row(name, *counts, *changes, style="bold" if figures is report else "")
    screen = console()
    images, boxes = counted(report["images"], "image"), counted(report["proposals"], "box")
    judged = f"{report['judged_boxes']:,} of them reached the threshold of a class"
    screen.print(Text(f"\n{images}, {boxes} proposed, {judged}", style="bold"))
    screen.print(rows)
    screen.print("accepted, rejected, unsure: decisions, one for each class that a box may show")
    screen.print("precision and recall: of the proposer alone → after verification, IoU ≥ 0.5")
    for line in (
        f"{report['images_per_second']:.1f} images a second through the service",
        f"look at {out / 'gallery.html'} and {out / 'overview.png'}",
    ):
        screen.print(Text(line))


def _print_student(figures: dict[str, Any], out: Path) -> None:
    screen = console()
    fast, slow = figures["student_images_per_second"], figures["teacher_images_per_second"]
    screen.print(f"\nstudent: {fast:.0f} images a second, its teachers {slow:.0f}")
    screen.print(
        f"mAP50 on {figures['unseen']} unseen scenes: {figures['student_map50']:.3f} trained on "
        f"verified labels, {figures['student_map50_unverified']:.3f} on the proposer's alone (at "
        f"its best single threshold, {figures['unverified_threshold']:g})"
    )
    screen.print(f"look at {out / 'strip.png'} and {out / 'student' / 'report.html'}")


def _write_overview(
    path: Path,
    results: "Iterator[tuple[str, LabelResult]]",
    images: Path,
    classes: "Sequence[str]",
) -> None:
    """Images with few boxes, some of them rejected, which are easy to take in."""
    from secondlook.cli.output_folder import image_loader
    from secondlook.config.settings import ImageSettings
    from secondlook.core import drawing
    from secondlook.core.types import LabelledImage

    best = sorted(results, key=lambda entry: (_crowding(entry[1]), entry[0]))[:OVERVIEW_IMAGES]
    shown = [LabelledImage(name, result) for name, result in best]
    drawing.write_overview(path, shown, image_loader(images, ImageSettings()), classes)


def _crowding(result: "LabelResult") -> float:
    """Distance from a landscape with about seven boxes, one of them rejected for every class."""
    boxes = {judgement.box for judgement in result.judgements}
    not_rejected = {j.box for j in result.judgements if j.outcome.value != "reject"}
    some_rejected = len(boxes) > len(not_rejected)
    portrait = result.width < result.height
    return abs(len(boxes) - OVERVIEW_BOXES) + 5 * portrait - 3 * some_rejected


@dataclass(frozen=True)
class TeacherLabels:
    """What is kept of the teachers when their service ends."""

    data: "TrainingSet"
    """Their labels of the demo's images, as a snapshot."""
    unseen: "tuple[Sample, ...]"
    """Other scenes, with exact truth."""
    results: "Mapping[str, LabelResult]"
    """The teachers' results on the first of these, by name."""
    images_per_second: float
    """Of the teachers on those, through the service."""


def freeze_and_label_unseen(session: "Session", out: Path, seed: int, size: int) -> TeacherLabels:
    """Freeze and download the labels, and label scenes that are in no training."""
    from secondlook.core.image_folder import select_images
    from secondlook.datasets.open import open_training_set
    from secondlook.demo.world import write_world
    from secondlook_client.values import LabelResult, SnapshotQuery

    assert session.own is not None
    (job,) = session.client.jobs.list()  # the store is this demo's own
    query = SnapshotQuery([job.name], classes=session.ontology.names, hard_negatives=True)
    session.client.datasets.create(SNAPSHOT, query)
    data = open_training_set(SNAPSHOT, server=session.own.address, cache=out / "pulled")

    world = out / "unseen"
    write_world(world, seed + UNSEEN_SEED, UNSEEN, size)
    truth = open_training_set(str(world))
    unseen = tuple(sorted((*truth.train, *truth.held_out), key=lambda sample: sample.name))

    files = list(select_images([world / "images"]).walk())[: UNSEEN // 2]
    images = [(file, file.path.read_bytes()) for file in files]
    started = time.perf_counter()
    results = {
        file.name: result
        for file, result in session.label_many(images)
        if isinstance(result, LabelResult)
    }
    seconds = time.perf_counter() - started
    return TeacherLabels(data, unseen, results, len(results) / seconds)


def train_students(
    teachers: TeacherLabels, run: "LabelRun", world: Path, out: Path
) -> dict[str, Any]:
    """Train both students and draw the first; the figures of ``demo.json``."""
    from secondlook.cli.distill import training_progress
    from secondlook.detector.runtime import OnnxDetector
    from secondlook.training.distill import distill
    from secondlook.training.settings import TrainingSettings
    from secondlook.training.trainer import train

    settings = TrainingSettings(size="pico", start="demo", steps=STEPS, validate_every=STEPS // 3)
    verified, unverified = out / "student", out / "student-unverified"
    for folder in (verified, unverified):
        folder.mkdir()
    with training_progress(verified, "bar") as progress:
        distill(teachers.data, settings, verified, progress, name=SNAPSHOT)
    data, threshold = _unverified_data(teachers.data, run, world)
    with training_progress(unverified, "bar") as progress:
        train(data, settings, unverified, progress)
    detector = OnnxDetector.open(verified)
    rate = _images_per_second(detector, teachers.unseen)
    _write_strip(out / "strip.png", detector, teachers, rate)
    detector.close()
    return {
        "teacher_images_per_second": round(teachers.images_per_second, 2),
        "student_images_per_second": round(rate, 1),
        "student_map50": _map50(verified, teachers),
        "student_map50_unverified": _map50(unverified, teachers),
        "unverified_threshold": threshold,
        "snapshot": teachers.data.digest,
        "steps": settings.steps,
        "unseen": len(teachers.unseen),
    }


def _unverified_data(
    data: "TrainingSet", run: "LabelRun", world: Path
) -> "tuple[TrainingSet, float]":
    """The data as the proposer alone would have labelled it, and its best threshold."""
    from secondlook.core.ontology_yaml import load_ontology
    from secondlook.demo.label_baselines import best_threshold, proposer_labels
    from secondlook.evaluation.coco_files import truth_of

    named = truth_of(world / "truth.json")
    results, truth = {}, {}
    for name, result in run.results():
        results[result.sha256], truth[result.sha256] = result, named[name]
    threshold = best_threshold(results, truth, load_ontology(world / "ontology.yaml"))
    return proposer_labels(data, results, threshold), threshold


def _map50(folder: Path, teachers: TeacherLabels) -> float:
    """Against the exact truth of the unseen scenes; in torch, as only one student is exported."""
    from secondlook.evaluation.detector_scores import score
    from secondlook.training.model import input_size_of, load_student
    from secondlook.training.predict import predict

    model = load_student(folder / "torch")
    groups = teachers.data.groups
    found = predict(model, teachers.unseen, input_size_of(model), groups=groups)
    return round(score(teachers.unseen, found, teachers.data.classes).map50, 4)


def _images_per_second(detector: Any, samples: "Sequence[Sample]") -> float:
    """One image at a time, as on a device; reading files is not counted."""
    from secondlook.datasets.image_cache import read_pixels

    images = [read_pixels(sample) for sample in samples[:60]]
    detector.detect(images[:5])
    started = time.perf_counter()
    for pixels in images:
        detector.detect([pixels])
    return len(images) / (time.perf_counter() - started)


def _write_strip(path: Path, detector: Any, teachers: TeacherLabels, rate: float) -> None:
    """The teachers above and the student below, on scenes that neither has seen."""
    from secondlook.core.drawing import StripRow, comparison_strip
    from secondlook.core.files import replacing
    from secondlook.datasets.image_cache import read_pixels

    samples = [sample for sample in teachers.unseen if Path(sample.name).name in teachers.results]
    chosen = sorted(
        samples,
        key=lambda s: (s.height > s.width, abs(len(s.boxes) - STRIP_BOXES)),
    )[:STRIP_IMAGES]
    images = [read_pixels(sample) for sample in chosen]
    rows = (
        StripRow(
            "teachers: Grounding DINO and the verifier",
            [_labels(teachers.results[Path(sample.name).name]) for sample in chosen],
            [1000 / teachers.images_per_second] * len(chosen),
        ),
        StripRow(
            "student",
            [_detections(detector, pixels) for pixels in images],
            [1000 / rate] * len(chosen),
        ),
    )
    with replacing(path) as part:
        comparison_strip(images, rows, detector.manifest.classes).save(part, "PNG")


def _labels(result: "LabelResult") -> tuple[Any, list[str]]:
    import numpy as np

    boxes = np.array([label.box for label in result.labels], np.float32).reshape(-1, 4)
    return boxes, [label.class_name for label in result.labels]


def _detections(detector: Any, pixels: Any) -> tuple[Any, list[str]]:
    """Boxes and class names above each class's own threshold, as a device shows them."""
    import numpy as np

    (found,) = detector.detect([pixels])
    manifest = detector.manifest
    above = found.take(found.scores >= np.asarray(manifest.thresholds)[found.classes])
    return above.boxes, [manifest.classes[place] for place in above.classes]
