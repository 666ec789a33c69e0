"""Fit the calibrator of the embedded models: ``python -m recipes.calibrator.train --work DIR``.

Scenes of the demo world are labelled by the embedded models in this process, and every judged box
is compared with the exact truth. A box is a label of its class from the lowest probability at which
``PRECISION`` of the boxes on these scenes are right, each judged by a calibrator that did not see
its scene. What was tried and dropped is in ``recipes/LOG.md``.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from secondlook.config.settings import ModelSettings
from secondlook.core.files import replacing
from secondlook.core.images import decode
from secondlook.core.ontology_yaml import load_ontology
from secondlook.core.types import Labelled
from secondlook.demo.world import write_world
from secondlook.evaluation.calibrator_fit import accept_limits, cross_fitted, fit_calibrator
from secondlook.evaluation.coco_files import truth_of
from secondlook.evaluation.judged_boxes import JudgedRun, of_labelled
from secondlook.evaluation.verify_budget_fit import with_budgets
from secondlook.labeling.calibrator import Calibrator
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook.models.embedded import EMBEDDED, load_proposer, load_verifier

WORLDS, SIDE = {501: 400, 502: 200}, 320
"""Scenes by seed, and the longest side of their images in pixels."""
PRECISION = 0.96
"""Of each class's labels on the scenes of the recipe: above the 0.95 that is wanted elsewhere."""
FILE = "calibrator.json"
AT_ONCE = 8


def judged_scenes(work: Path, seed: int, count: int) -> JudgedRun:
    """``count`` scenes of a world, labelled by the embedded models, beside their truth.

    They are kept in ``work``: of an earlier call with the same folder.
    """
    kept = work / f"judged-{count}.pickle"
    if not kept.exists():
        judged = _labelled(work, seed, count)
        with replacing(kept) as part:
            part.write_bytes(pickle.dumps(judged))
    found: JudgedRun = pickle.loads(kept.read_bytes())
    return found


def _labelled(work: Path, seed: int, count: int) -> JudgedRun:
    if not (work / "truth.json").exists():
        write_world(work, seed, count, SIDE)
    ontology = load_ontology(work / "ontology.yaml")
    options = ModelSettings()
    pipeline = Pipeline(load_proposer("", options), load_verifier("", options))
    truth = truth_of(work / "truth.json")
    files = sorted((work / "images").iterdir())[:count]
    labelled: list[Labelled] = []
    for start in range(0, len(files), AT_ONCE):
        images = [decode(path.read_bytes()) for path in files[start : start + AT_ONCE]]
        labelled += pipeline.label([Task(image, ontology) for image in images])
        print(f"{len(labelled)}/{len(files)} scenes", flush=True)
    return of_labelled(labelled, ontology, [truth[path.name] for path in files])


def fit(worlds: Mapping[int, JudgedRun]) -> Calibrator:
    """The calibrator of labelled worlds by seed, with the limits of its classes."""
    runs = list(worlds.values())
    features = np.concatenate([run.features() for run in runs])
    names = np.concatenate([run.class_names for run in runs])
    right = np.concatenate([run.right(run.products) for run in runs])
    first = np.cumsum([0, *(len(run.truth) for run in runs)])
    scenes = np.concatenate([run.scenes + at for run, at in zip(runs, first[:-1], strict=True)])
    evidence = features, names, right, scenes
    fitted = fit_calibrator(
        *evidence,
        ontology=runs[0].ontology,
        proposer=runs[0].proposer,
        verifier=runs[0].verifier,
        source=source({seed: len(run.truth) for seed, run in worlds.items()}),
    )
    unseen = cross_fitted(*evidence, ontology=runs[0].ontology)
    by_run = np.split(unseen, np.cumsum([len(run.boxes) for run in runs])[:-1])
    truly = np.concatenate([run.right(p) for run, p in zip(runs, by_run, strict=True)])
    limited = replace(fitted, accept=accept_limits(unseen, names, truly, PRECISION))
    return with_budgets(limited, runs)


def source(worlds: Mapping[int, int]) -> str:
    """What the calibrator says of its answers."""
    seeds = " and ".join(map(str, worlds))
    return f"{sum(worlds.values()):,} scenes of the demo worlds {seeds}, with their exact truth"


def main(arguments: Sequence[str] | None = None) -> None:
    """Label, fit, and write the calibrator beside the embedded weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="Folder of the scenes.")
    parser.add_argument("--out", type=Path, default=EMBEDDED, help="Folder of the calibrator.")
    parser.add_argument("--at-most", type=int, help="Scenes of each world; all of them without it.")
    given = parser.parse_args(arguments)
    worlds = {}
    for seed, count in WORLDS.items():
        folder = given.work / str(seed)
        folder.mkdir(parents=True, exist_ok=True)
        worlds[seed] = judged_scenes(folder, seed, min(count, given.at_most or count))
    calibrator = fit(worlds)
    with replacing(given.out / FILE) as part:
        part.write_text(calibrator.to_json() + "\n", encoding="utf-8")
    limits = ", ".join(f"{name} {limit:.2f}" for name, limit in calibrator.accept.items())
    for budget in calibrator.budgets:
        print(f"asking {budget.share:.3f} of the questions costs {budget.loss:.4f} of F1")
    print(f"{calibrator.answers:,} judged boxes of {calibrator.scenes:,} scenes; from {limits}")


if __name__ == "__main__":
    main()
