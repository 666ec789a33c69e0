"""Students trained on guaranteed labels, compared with the same student on other labels.

Every class of the drawn scenes is guaranteed by itself at a precision of 0.95 with confidence 0.95,
by 200 answers of the truth file at most, and only what is guaranteed is a label; doubts are ignore
regions, or background in one student more. A class that cannot be guaranteed is not learnt, and
counts with an AP of 0. The others learn from the exact truth, and from the
proposer alone at its best single threshold, chosen with the truth. They start from the embedded
weights, which learnt the nouns from exact truth and so flatter all of them, and from random ones,
which have seen none of the classes and take eight times as many steps.
"""

import os
import pickle
import statistics
from dataclasses import replace
from pathlib import Path

from real_photos import secondlook

from bench.labelled_scenes import CACHE, labelled_scenes
from bench.paired_timing import Figure, of_pairs
from bench.students import kept_result, labels_of, process_pool, settings_for, train_and_score
from secondlook.cli.connection import connected
from secondlook.cli.output_folder import OutputFolder
from secondlook.config.settings import Settings
from secondlook.core.files import replacing
from secondlook.core.ontology_yaml import load_ontology
from secondlook.datasets.open import open_training_set
from secondlook.datasets.samples import TrainingSet
from secondlook.demo.label_baselines import ignore_as_background

SEEDS = tuple(range(71, 71 + int(os.environ.get("SECONDLOOK_SEEDS", "3"))))
IMAGES = int(os.environ.get("SECONDLOOK_IMAGES", "600"))
STEPS = int(os.environ.get("SECONDLOOK_STEPS", "200"))
STARTS = {
    start: times
    for start, times in {"demo": 1, "none": 8}.items()
    if start in os.environ.get("SECONDLOOK_STARTS", "demo,none").split(",")
}
"""Initial weights, and how many times as many steps they take. A step from random weights takes a
CPU-second or two, so those students are hours of work."""
NAME = "guaranteed"
"""Of the guarantee, of the snapshot, and of the labels."""
DOUBTS = f"{NAME}, doubts as background"
KINDS = {
    "demo": (NAME, "truth", "unverified", DOUBTS),
    "none": (NAME, "truth", "unverified"),
}

Result = dict[str, float | str]


def run() -> list[Figure | str]:
    """Medians over the seeds, for each start."""
    jobs = [(seed, kind, start) for start in STARTS for seed in SEEDS for kind in KINDS[start]]
    for seed in SEEDS:  # one after the other: each uses both cores
        guaranteed_labels(seed)
    with process_pool() as pool:
        found = dict(zip(jobs, pool.map(_student, *zip(*jobs, strict=True)), strict=True))
    figures = [figure for start in STARTS for figure in _figures(found, start)]
    return [*figures, _table(found)]


def guaranteed_labels(seed: int) -> TrainingSet:
    """The snapshot of what is guaranteed of the scenes of a seed; from the cache if possible."""
    place = CACHE / f"seed-{seed}-{IMAGES}"
    cached = place / f"{NAME}.pickle"
    if not cached.exists():
        given = labelled_scenes(seed, IMAGES)
        _freeze(place / "labels", given.ontology_file.with_name("truth.json"), seed)
        data = _pulled(place, given.ontology_file)
        with replacing(cached) as part:
            part.write_bytes(pickle.dumps(data))
    found: TrainingSet = pickle.loads(cached.read_bytes())
    return found


def _freeze(labels: Path, truth: Path, seed: int) -> None:
    """Guarantee each class of these scenes and make the snapshot, as a user would."""
    terms = ("--each-class", "--promise", "run", "--oracle", str(truth), "--seed", str(seed))
    secondlook("guarantee", "create", str(labels), "--name", NAME, *terms)
    secondlook("guarantee", "apply", NAME, str(labels))
    store = ("--data", str(labels / ".store"))
    secondlook("snapshot", "create", NAME, "--guarantee", NAME, "--hard-negatives", *store)


def _pulled(place: Path, ontology_file: Path) -> TrainingSet:
    ontology = load_ontology(ontology_file)
    with (
        OutputFolder(place / "labels") as folder,
        connected(None, Settings(), ontology, lambda: folder.store) as session,
    ):
        assert session.own is not None
        return open_training_set(NAME, server=session.own.address, cache=place / "pulled")


def _student(seed: int, kind: str, start: str) -> Result:
    """Train and evaluate one student, unless its result is cached."""
    place = CACHE / f"seed-{seed}-{IMAGES}" / f"{kind}-{start}-{STEPS}".replace(" ", "-")
    return kept_result(place, lambda: _trained(seed, kind, start, place))


def _trained(seed: int, kind: str, start: str, place: Path) -> Result:
    if kind.startswith(NAME):
        data, note = guaranteed_labels(seed), ""
        if kind == DOUBTS:
            data = ignore_as_background(data)
    else:
        data, note = labels_of(kind, labelled_scenes(seed, IMAGES))
    steps = STEPS * STARTS[start]
    settings = replace(settings_for(seed), start=start, steps=steps, validate_every=steps)
    images = len(data.train) + len(data.held_out)
    return {**train_and_score(data, settings, place), "note": note, "images": images}


def _figures(found: dict[tuple[int, str, str], Result], start: str) -> list[Figure]:
    def ratio(name: str, other: str, bar: float, key: str = "map50") -> Figure:
        sides = [[float(found[s, kind, start][key]) for s in SEEDS] for kind in (NAME, other)]
        pairs = list(zip(*sides, strict=True))
        return of_pairs(f"{name}, start {start}", pairs, at_least=bar, unit="AP50")

    figures = [
        ratio("guaranteed ÷ exact truth", "truth", 0.97),
        ratio("guaranteed ÷ unverified at the best threshold", "unverified", 1.03),
        ratio("the same, attribute classes", "unverified", 1.3, "attributes"),
    ]
    if DOUBTS in KINDS[start]:
        figures.append(ratio("doubts as ignore regions ÷ as background", DOUBTS, 1.0))
    return figures


def _table(found: dict[tuple[int, str, str], Result]) -> str:
    head = (
        f"Medians of {len(SEEDS)} seeds; {IMAGES} scenes labelled, {STEPS} steps of 16 from the "
        "embedded start and eight times as many from random weights; pico.\n\n"
        "| start | labels | mAP50 | nouns, AP50 | attributes, AP50 | classes | images "
        "| training boxes | ignored |\n|---|---|---|---|---|---|---|---|---|"
    )
    return "\n".join(
        [head, *(_row(found, kind, start) for start in STARTS for kind in KINDS[start])]
    )


def _row(found: dict[tuple[int, str, str], Result], kind: str, start: str) -> str:
    results = [found[seed, kind, start] for seed in SEEDS]

    def middle(key: str) -> float:
        return statistics.median(float(result[key]) for result in results)

    cells = [f"{middle(key):.3f}" for key in ("map50", "nouns", "attributes")]
    cells += [f"{middle(key):,.0f}" for key in ("classes", "images", "labels", "ignored")]
    notes = ", ".join(sorted({str(result["note"]) for result in results} - {""}))
    return f"| {start} | {kind}{f' ({notes})' if notes else ''} | {' | '.join(cells)} |"
