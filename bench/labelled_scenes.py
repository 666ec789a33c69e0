"""Labelled scenes for the student benchmarks, made once per seed with the product itself.

Scenes are rendered, labelled by both stages, frozen into a snapshot and downloaded, as a user
would do it. They are cached in ``.cache/bench/students``, so that a benchmark that was killed can
be resumed.
"""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secondlook.cli.connection import Session, connected
from secondlook.cli.label import LabelRun, label_into
from secondlook.cli.output_folder import OutputFolder
from secondlook.config.settings import Settings
from secondlook.core.files import replacing
from secondlook.core.image_folder import select_images
from secondlook.core.ontology_yaml import load_ontology
from secondlook.datasets.open import open_training_set
from secondlook.datasets.samples import Sample, TrainingSet
from secondlook.demo.world import write_world
from secondlook.evaluation.coco_files import truth_of
from secondlook.evaluation.matching import TrueBox
from secondlook_client.errors import NotFound
from secondlook_client.values import LabelResult, SnapshotQuery

CACHE = Path(__file__).parents[1] / ".cache" / "bench" / "students"
SNAPSHOT = "verified"


@dataclass(frozen=True)
class LabelledScenes:
    """The scenes of one seed, with the labels of both stages and with the exact truth."""

    data: TrainingSet
    """Verified labels: a snapshot with ignore regions and hard negatives."""
    results: Mapping[str, LabelResult]
    """By the image's hash."""
    truth: Mapping[str, Sequence[TrueBox]]
    """By the image's hash."""
    ontology_file: Path


def labelled_scenes(seed: int, count: int) -> LabelledScenes:
    """``count`` scenes of the world ``seed``, labelled; read from the cache if possible."""
    place = CACHE / f"seed-{seed}-{count}"
    cached = place / "labelled.pickle"  # two trainings cannot lock the run's folder at once
    if not cached.exists():
        labelled = _labelled(seed, count, place)
        with replacing(cached) as part:
            part.write_bytes(pickle.dumps(labelled))
    found: LabelledScenes = pickle.loads(cached.read_bytes())
    return found


def _labelled(seed: int, count: int, place: Path) -> LabelledScenes:
    world = rendered_world(place / "world", seed, count)
    run, data = verified(world, place)
    named = truth_of(world / "truth.json")
    by_hash = dict(_by_hash(run))
    truth = {sha256: named[name] for sha256, (name, _) in by_hash.items()}
    results = {sha256: result for sha256, (_, result) in by_hash.items()}
    return LabelledScenes(data, results, truth, world / "ontology.yaml")


def verified(world: Path, place: Path, group_by: str = "auto") -> tuple[LabelRun, TrainingSet]:
    """Label ``world / "images"`` by its ``ontology.yaml``, freeze the labels and download them.

    Labels, store and images are left in ``place``. ``group_by``: what stays within one split, as
    in ``snapshot create``.
    """
    ontology = load_ontology(world / "ontology.yaml")
    settings = Settings()
    with (
        OutputFolder(place / "labels") as folder,
        connected(None, settings, ontology, lambda: folder.store) as session,
    ):
        run = label_into(folder, session, select_images([world / "images"]))
        _freeze(session, group_by)
        assert session.own is not None
        data = open_training_set(SNAPSHOT, server=session.own.address, cache=place / "pulled")
    return run, data


def unseen(seed: int, count: int, classes: Sequence[str]) -> list[Sample]:
    """Scenes of another world with their exact truth about ``classes``, some or all of its own."""
    world = rendered_world(CACHE / f"unseen-{seed}-{count}", seed, count)
    data = open_training_set(str(world))
    places = np.array([classes.index(n) if n in classes else -1 for n in data.classes])
    if (places >= 0).sum() != len(classes):
        raise ValueError(f"expected classes of {data.classes}, got {classes}")
    samples = sorted((*data.train, *data.held_out), key=lambda sample: sample.name)
    return [_of_classes(sample, places) for sample in samples]


def _of_classes(sample: Sample, places: NDArray[np.intp]) -> Sample:
    """Without the boxes of classes whose new place is -1; the truth has nothing to ignore."""
    classes = places[sample.classes].astype(np.int64)
    kept = classes >= 0
    return replace(sample, boxes=sample.boxes[kept], classes=classes[kept])


def rendered_world(folder: Path, seed: int, count: int) -> Path:
    """The folder of a world; rendered unless it exists."""
    if not (folder / "truth.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_world(folder, seed, count, 320)
    return folder


def _freeze(session: Session, group_by: str) -> None:
    datasets = session.client.datasets
    try:
        datasets.get(SNAPSHOT)
    except NotFound:
        (job,) = session.client.jobs.list()
        names = session.ontology.names
        query = SnapshotQuery([job.name], classes=names, hard_negatives=True, group_by=group_by)
        datasets.create(SNAPSHOT, query)


def _by_hash(run: LabelRun) -> list[tuple[str, tuple[str, LabelResult]]]:
    return [(result.sha256, (name, result)) for name, result in run.results()]
