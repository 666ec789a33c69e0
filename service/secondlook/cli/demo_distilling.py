"""``secondlook demo --distill``: the demo's labels become a student, shown beside its teachers.

A second student learns from what the proposer alone would have labelled, at its best single
threshold, so that the figures say what the second look is worth to whoever trains on it.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secondlook.cli.labelling import Run
    from secondlook.cli.session import Session
    from secondlook.distill.samples import Sample, TrainingSet
    from secondlook_client.results import LabelResult

SNAPSHOT = "demo"
MADE = ("pulled", "unseen", "student", "student-unverified", "strip.png", "demo.json")
"""What is left in the demo's folder."""
STEPS = 300
UNSEEN, FRAMES = 120, 5
"""Scenes that the students are measured on, and how many of them are shown."""
EASY = 10
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
    from secondlook.demo.world import write_world
    from secondlook.distill.sources import open_training_set
    from secondlook.runs.folder import select
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
    pictures = [(source, source.path.read_bytes()) for source in sources]
    began = time.perf_counter()
    said = {
        source.name: result
        for source, result in session.label_many(pictures)
        if isinstance(result, LabelResult)
    }
    return Taught(data, unseen, said, len(said) / (time.perf_counter() - began))


def learn(taught: Taught, run: "Run", world: Path, out: Path) -> dict[str, Any]:
    """Train both students and show the first; the figures of ``demo.json``."""
    from secondlook.cli.distill_progress import watched
    from secondlook.detector.onnx_detector import OnnxDetector
    from secondlook.distill.distilling import distill
    from secondlook.distill.loop import train
    from secondlook.distill.settings import TrainingSettings

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
    from secondlook.coco_files import truth_of
    from secondlook.demo.other_labels import best_threshold, unverified
    from secondlook.ontology_text import load_ontology

    named = truth_of(world / "truth.json")
    results, truth = {}, {}
    for name, result in run.results():
        results[result.sha256], truth[result.sha256] = result, named[name]
    threshold = best_threshold(results, truth, load_ontology(world / "ontology.yaml"))
    return unverified(data, results, threshold), threshold


def _map50(folder: Path, taught: Taught) -> float:
    """Against the exact truth of the unseen scenes, in torch: one arithmetic for both students."""
    from secondlook.distill.model import input_size_of, load_student
    from secondlook.distill.predicting import predict
    from secondlook.distill.scores import score

    model = load_student(folder / "torch")
    found = predict(model, taught.unseen, input_size_of(model))
    return round(score(taught.unseen, found, taught.data.classes).map50, 4)


def _rate(detector: Any, samples: "Sequence[Sample]") -> float:
    """Pictures a second, one at a time as on a device; reading files is not counted."""
    from secondlook.distill.pictures import read_pixels

    pictures = [read_pixels(sample) for sample in samples[:60]]
    detector.detect(pictures[:5])
    began = time.perf_counter()
    for pixels in pictures:
        detector.detect([pixels])
    return len(pictures) / (time.perf_counter() - began)


def _draw(path: Path, detector: Any, taught: Taught, rate: float) -> None:
    """Teachers above, the student below, on scenes that neither has seen."""
    from secondlook.atomic import replacing
    from secondlook.distill.pictures import read_pixels
    from secondlook.distill.side_by_side import Row, strip

    samples = [sample for sample in taught.unseen if Path(sample.name).name in taught.said]
    shown = sorted(samples, key=lambda sample: (_tall(sample), abs(len(sample.boxes) - EASY)))
    frames = shown[:FRAMES]
    pictures = [read_pixels(sample) for sample in frames]
    rows = (
        Row(
            "teachers: Grounding DINO and the verifier",
            [_labels(taught.said[Path(sample.name).name]) for sample in frames],
            [1000 / taught.images_per_second] * len(frames),
        ),
        Row(
            "student",
            [_detections(detector, pixels) for pixels in pictures],
            [1000 / rate] * len(frames),
        ),
    )
    with replacing(path) as part:
        strip(pictures, rows).save(part, "PNG")


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
