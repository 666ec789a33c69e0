"""Students trained on verified labels, compared with the same student on other labels.

Each seed has scenes of its own, labelled by the product, and four students that differ only in
their labels: verified (with ignore regions and hard negatives), exact truth, the proposer alone at
its best single threshold (chosen with the truth), and verified with unsure boxes learnt as
background. Few of those labels are unsure, so two more students use a careful user's limits (accept
from 0.95, reject up to 0.05): unsure boxes ignored, and as background. Every student starts from
the embedded weights and takes the same number of steps; the last averaged weights are evaluated on
unseen scenes with exact truth.
"""

import json
import os
import statistics
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from bench.labelled_scenes import CACHE, LabelledScenes, labelled_scenes, unseen
from bench.paired_timing import Figure, of_pairs
from secondlook.core.ontology_yaml import load_ontology
from secondlook.datasets.samples import TrainingSet
from secondlook.demo.label_baselines import (
    best_threshold,
    confident_labels,
    ignore_as_background,
    proposer_labels,
    true_labels,
)
from secondlook.demo.world import ATTRIBUTES, NOUNS
from secondlook.training.settings import TrainingSettings

SEEDS = tuple(range(71, 71 + int(os.environ.get("SECONDLOOK_SEEDS", "3"))))
IMAGES = int(os.environ.get("SECONDLOOK_IMAGES", "600"))
STEPS = int(os.environ.get("SECONDLOOK_STEPS", "400"))
UNSEEN, UNSEEN_SEED = 400, 88_001
KINDS = ("verified", "truth", "unverified", "background", "careful", "careful background")
CAREFUL = (0.95, 0.05)
"""Limits of a careful user: accept from the first probability, reject up to the second."""


def run() -> list[Figure | str]:
    """Medians over the seeds."""
    jobs = [(seed, kind) for seed in SEEDS for kind in KINDS]
    for seed in SEEDS:  # one after the other: each uses both cores
        labelled_scenes(seed, IMAGES)
    with process_pool() as pool:
        found = dict(zip(jobs, pool.map(_student, *zip(*jobs, strict=True)), strict=True))
    return [*_figures(found), _table(found)]


def process_pool() -> ProcessPoolExecutor:
    """Processes of one thread each: two threads make a training only 1.2 times as fast."""
    return ProcessPoolExecutor(
        min(2, os.cpu_count() or 1), get_context("spawn"), initializer=_one_thread
    )


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def labels_of(kind: str, given: LabelledScenes) -> tuple[TrainingSet, str]:
    """The training set under these labels, and a note."""
    if kind == "truth":
        return true_labels(given.data, given.truth), ""
    if kind == "unverified":
        ontology = load_ontology(given.ontology_file)
        threshold = best_threshold(given.results, given.truth, ontology)
        return proposer_labels(given.data, given.results, threshold), f"threshold {threshold:g}"
    if kind == "background":
        return ignore_as_background(given.data), ""
    if kind.startswith("careful"):
        data = confident_labels(given.data, given.results, *CAREFUL)
        return (ignore_as_background(data) if kind.endswith("background") else data), ""
    return given.data, ""


def settings_for(seed: int) -> TrainingSettings:
    """No early stopping and a single validation: all take the same number of steps."""
    return TrainingSettings(
        size="pico",
        start="demo",
        steps=STEPS,
        validate_every=STEPS,
        seed=seed,
        workers=0,
        device="cpu",
    )


def place_of(seed: int, kind: str) -> Path:
    """The folder of a student."""
    return CACHE / f"seed-{seed}-{IMAGES}" / f"{kind}-{STEPS}".replace(" ", "-")


def _student(seed: int, kind: str) -> dict[str, float | str]:
    """Train and evaluate one student, unless its result is cached."""
    place = place_of(seed, kind)
    return kept_result(place, lambda: _trained(seed, kind, place))


def kept_result(place: Path, make: Callable[[], dict[str, float | str]]) -> dict[str, float | str]:
    """The result in the folder ``place``, made unless it is there."""
    done = place / "result.json"
    if not done.exists():
        place.mkdir(parents=True, exist_ok=True)
        done.write_text(json.dumps(make()))
    result: dict[str, float | str] = json.loads(done.read_text())
    return result


def _trained(seed: int, kind: str, place: Path) -> dict[str, float | str]:
    data, note = labels_of(kind, labelled_scenes(seed, IMAGES))
    return {**train_and_score(data, settings_for(seed), place), "note": note}


def train_and_score(
    data: TrainingSet, settings: TrainingSettings, place: Path
) -> dict[str, float | str]:
    """Train a student in the folder ``place``, and evaluate it on unseen scenes.

    A class of the world that it did not learn has an AP of 0.
    """
    from secondlook.evaluation.detector_scores import score
    from secondlook.training.model import input_size_of, load_student
    from secondlook.training.predict import predict
    from secondlook.training.trainer import train

    model = load_student(train(data, settings, place))
    samples = unseen(UNSEEN_SEED, UNSEEN, data.classes)
    found = predict(model, samples, input_size_of(model), groups=data.groups)
    scores = score(samples, found, data.classes)
    by_class = {name: scores.map50_per_class.get(name) or 0.0 for name in (*NOUNS, *ATTRIBUTES)}
    return {
        "map50": _mean(by_class.values()),
        "map": scores.map * len(data.classes) / len(by_class),
        "classes": len(data.classes),
        "nouns": _mean(by_class[name] for name in NOUNS),
        "attributes": _mean(by_class[name] for name in ATTRIBUTES),
        "labels": sum(len(sample.boxes) for sample in data.train),
        "ignored": sum(len(sample.ignore) for sample in data.train),
    }


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def _figures(found: dict[tuple[int, str], dict[str, float | str]]) -> list[Figure]:
    def ratio(
        name: str, other: str, bar: float, key: str = "map50", ours: str = "verified"
    ) -> Figure:
        pairs = [(float(found[s, ours][key]), float(found[s, other][key])) for s in SEEDS]
        return of_pairs(name, pairs, at_least=bar, unit="mAP50")

    return [
        ratio("student on verified labels ÷ on the exact truth", "truth", 0.95),
        ratio("… ÷ on unverified labels at their best single threshold", "unverified", 1.03),
        ratio("… the same, attribute classes", "unverified", 1.3, "attributes"),
        ratio("unsure boxes as ignore regions ÷ as background", "background", 1.0),
        ratio("… with a careful user's limits", "careful background", 1.0, ours="careful"),
    ]


def _table(found: dict[tuple[int, str], dict[str, float | str]]) -> str:
    head = (
        f"Medians of {len(SEEDS)} seeds, {IMAGES} images, {STEPS} steps of 16, pico; "
        f"evaluated on {UNSEEN} unseen scenes.\n\n"
        "| labels | mAP50 | mAP | nouns, AP50 | attributes, AP50 | training boxes | ignored |\n"
        "|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *(_row(found, kind) for kind in KINDS)])


def _row(found: dict[tuple[int, str], dict[str, float | str]], kind: str) -> str:
    def middle(key: str) -> float:
        return statistics.median(float(found[seed, kind][key]) for seed in SEEDS)

    figures: list[tuple[str, Callable[[float], str]]] = [
        *((key, "{:.3f}".format) for key in ("map50", "map", "nouns", "attributes")),
        *((key, "{:,.0f}".format) for key in ("labels", "ignored")),
    ]
    cells = " | ".join(shape(middle(key)) for key, shape in figures)
    notes = sorted({str(found[seed, kind]["note"]) for seed in SEEDS} - {""})
    return f"| {kind}{' (' + ', '.join(notes) + ')' if notes else ''} | {cells} |"
