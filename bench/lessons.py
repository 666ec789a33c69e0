"""Labels for the students' benches, made once a seed through the whole product and kept.

Scenes are drawn, labelled by both stages, frozen into a snapshot and pulled, as a user would. They
lie in ``.cache/bench/students`` so that a bench that was killed goes on.
"""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
SNAPSHOT = "lessons"


@dataclass(frozen=True)
class Lessons:
    """What both stages said of the scenes of one seed, and what is true of them."""

    data: TrainingSet
    """Verified labels: a snapshot with ignore regions and hard negatives."""
    results: Mapping[str, LabelResult]
    """By hash of the image."""
    truth: Mapping[str, Sequence[TrueBox]]
    """By hash of the image."""
    ontology_file: Path


def lessons(seed: int, count: int) -> Lessons:
    """``count`` scenes of the world ``seed``, labelled; read where that was done before."""
    place = CACHE / f"seed-{seed}-{count}"
    known = place / "lessons.pickle"  # our own: two trainings cannot hold the run's folder at once
    if not known.exists():
        made = _labelled(seed, count, place)
        with replacing(known) as part:
            part.write_bytes(pickle.dumps(made))
    found: Lessons = pickle.loads(known.read_bytes())
    return found


def _labelled(seed: int, count: int, place: Path) -> Lessons:
    world = drawn(place / "world", seed, count)
    run, data = verified(world, place)
    named = truth_of(world / "truth.json")
    by_hash = dict(_by_hash(run))
    truth = {sha256: named[name] for sha256, (name, _) in by_hash.items()}
    results = {sha256: result for sha256, (_, result) in by_hash.items()}
    return Lessons(data, results, truth, world / "ontology.yaml")


def verified(world: Path, place: Path, group_by: str = "auto") -> tuple[LabelRun, TrainingSet]:
    """Label ``world / "images"`` by its ``ontology.yaml``, freeze the labels and pull them.

    Labels, store and images stay in ``place``. ``group_by`` says what is on one side of the
    split, as ``snapshot create`` has it.
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
    """Scenes of another world with their exact truth, in the classes' order."""
    world = drawn(CACHE / f"unseen-{seed}-{count}", seed, count)
    data = open_training_set(str(world))
    if data.classes != tuple(classes):
        raise ValueError(f"expected the classes {classes}, got {data.classes}")
    return sorted((*data.train, *data.held_out), key=lambda sample: sample.name)


def drawn(folder: Path, seed: int, count: int) -> Path:
    """A world on the disk; drawn where it is not."""
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
