"""Uncertainty of a student's labels against its own score, on scenes that it has not seen.

Two students of the synthetic demo world: the embedded one, and the same after it has learnt 24
scenes by heart without augmentation. A label is a detection from the score on at which F1 is best;
it is wrong where no unmatched true box of its class overlaps it by an IoU of at least 0.5. The
share of (right, wrong) pairs in the wrong order is 1 - AUROC; the area is the one under the
risk-coverage curve; both are compared with those of the score. Bars are on 20 random halves of the
scenes. What is *fitted* is a logistic model that has not seen the scenes it is judged on, five
parts in turn.
"""

import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from bench import fixtures
from bench.labelled_scenes import CACHE, rendered_world, unseen
from bench.paired_timing import Figure
from secondlook.core.images import decode
from secondlook.core.types import Boxes, Pixels
from secondlook.datasets.image_cache import read_pixels
from secondlook.datasets.open import open_training_set
from secondlook.datasets.samples import Sample
from secondlook.detector.detections import Detections
from secondlook.detector.runtime import stretch
from secondlook.detector.views import detect_again
from secondlook.evaluation.calibration import auroc, risk_coverage
from secondlook.evaluation.matching import match_detections
from secondlook.evaluation.uncertainty import (
    committee_opinions,
    edge_uncertainty,
    expected_wrong,
    sightings,
)
from secondlook.labeling.decisions import scored_boxes
from secondlook.labeling.pipeline import Task
from secondlook.models.embedded import EMBEDDED
from secondlook.training.settings import TrainingSettings

if TYPE_CHECKING:
    from torch import nn

NORMAL = EMBEDDED / "student-pico"
SEED, SCENES = 90_210, int(os.environ.get("SECONDLOOK_SCENES", "200"))
HEART_SEED, BY_HEART, STEPS = 501, 24, 300
"""Scenes that the overfitted student learns, and in how many steps of 16."""
FLOOR, FLOOR_OF_VIEWS = 0.05, 0.01
"""Lowest score of a detection, and of what confirms one in another view."""
RESPLITS, FOLDS, AT_ONCE = 20, 5, 8
FEW = (1, 2, 4)
"""Fewer views than all."""
BARS = {"normal": 0.8, "overfitted": 0.6}
"""Largest ratio to the score's figure."""
SCORE, MONTE_CARLO, COMMITTEE = "score", "Monte-Carlo", "committee"
BOTH, ALL = "mean of Monte-Carlo and committee", "all three, fitted"
SAME_BOX, SAME_SCORE = "box agrees in all views", "score agrees in all views"
PROPOSER, VERIFIER = "proposer's score", "P(yes)"
ENTROPY, WIDTH = "distribution: entropy of the edges", "distribution: width of the edges"
FITTED: Mapping[str, tuple[bool, Sequence[str]]] = {
    "score by class, fitted": (True, (SCORE,)),
    "score and distribution, fitted": (False, (SCORE, ENTROPY, WIDTH)),
    "Monte-Carlo, fitted": (False, (SCORE, MONTE_CARLO, SAME_BOX, SAME_SCORE)),
    ALL: (
        False,
        (SCORE, MONTE_CARLO, SAME_BOX, SAME_SCORE, PROPOSER, VERIFIER, ENTROPY, WIDTH),
    ),
}
"""Whether each class has a base of its own, and the confidences whose logits are weighed."""
WITH_BARS = (MONTE_CARLO, COMMITTEE, BOTH, ALL)

Measure = Literal["1 - AUROC", "area"]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Proposed = tuple[Boxes, NDArray[np.floating], NDArray[np.floating]]
"""The proposer's boxes on an image, and for the student's classes its scores and P(yes)."""


@dataclass(frozen=True, eq=False)
class RankedDetections:
    """The detections of all scenes."""

    confidences: Mapping[str, Floats]
    """(D,) each; the more, the surer."""
    right: Flags
    """(D,)."""
    scenes: NDArray[np.intp]
    """(D,)."""
    classes: NDArray[np.int64]
    """(D,)."""
    true_boxes: int

    def take(self, rows: Flags) -> "RankedDetections":
        """Only ``rows`` (D,)."""
        taken = {name: values[rows] for name, values in self.confidences.items()}
        rest = {name: getattr(self, name)[rows] for name in ("right", "scenes", "classes")}
        return replace(self, confidences=taken, **rest)

    def labels(self) -> "RankedDetections":
        """Those from the score on at which F1 is best."""
        scores = self.confidences[SCORE]
        order = np.argsort(-scores, kind="stable")
        hits = np.cumsum(self.right[order])
        f1 = 2 * hits / (np.arange(1, len(order) + 1) + self.true_boxes)
        return self.take(scores >= scores[order][f1.argmax()])

    def disorder(self, name: str) -> float:
        """1 - AUROC."""
        return 1 - auroc(self.confidences[name], self.right)

    def area(self, name: str) -> float:
        """Under the risk-coverage curve."""
        return risk_coverage(self.confidences[name], self.right).area

    def least_area(self) -> float:
        """The area where every right one comes before every wrong one."""
        order = np.arange(len(self.right))[::-1].astype(np.float64)
        return risk_coverage(order, np.sort(self.right)[::-1]).area

    def image_disorder(self, name: str) -> float:
        """1 - AUROC of finding the scenes that have a wrong label."""
        of = [self.scenes == scene for scene in np.unique(self.scenes)]
        wrong = np.array([not self.right[rows].all() for rows in of])
        return 1 - auroc(
            np.array([expected_wrong(self.confidences[name][rows]) for rows in of]), wrong
        )


MEASURES: Mapping[Measure, Callable[[RankedDetections, str], float]] = {
    "1 - AUROC": RankedDetections.disorder,
    "area": RankedDetections.area,
}


def run() -> list[Figure | str]:
    """The bars, and a table for each student."""
    classes = known_classes(NORMAL)
    samples = unseen(SEED, SCENES, classes)
    proposed = _proposed(samples, classes)
    results: list[Figure | str] = []
    for student, folder in (("normal", NORMAL), ("overfitted", overfitted(classes))):
        plain = ranked(folder, samples, proposed)
        labels, found = _with_fitted(plain.labels()), _with_fitted(plain)
        results += [_bar(labels, student, name, of) for name in WITH_BARS for of in MEASURES]
        results.append(_table(student, labels, found))
    return results


def known_classes(folder: Path) -> tuple[str, ...]:
    """The classes of a student's weights, in their order."""
    names = json.loads((folder / "config.json").read_text())["id2label"]
    return tuple(names[key] for key in sorted(names, key=int))


def overfitted(classes: Sequence[str]) -> Path:
    """The folder of the student that learnt a few scenes by heart; trained unless it is there."""
    from secondlook.training.trainer import train

    count = 2 * BY_HEART
    samples = unseen(HEART_SEED, count, classes)
    world = rendered_world(CACHE / f"unseen-{HEART_SEED}-{count}", HEART_SEED, count)
    data = replace(
        open_training_set(str(world)),
        classes=tuple(classes),
        train=tuple(samples[:BY_HEART]),
        held_out=tuple(samples[BY_HEART:]),
        ontology="",
    )
    settings = TrainingSettings(
        size="pico",
        start="demo",
        steps=STEPS,
        validate_every=STEPS,
        seed=1,
        workers=0,
        device="cpu",
        augment=False,
    )
    return train(data, settings, CACHE / f"by-heart-{BY_HEART}-{STEPS}")


def _proposed(samples: Sequence[Sample], classes: Sequence[str]) -> list[Proposed]:
    """What both embedded stages say of each image."""
    ontology, pipeline = fixtures.ontology(), fixtures.pipeline()
    columns = [ontology.names.index(name) for name in classes]
    found: list[Proposed] = []
    for start in range(0, len(samples), AT_ONCE):
        tasks = [
            Task(decode(sample.path.read_bytes(), sample.name), ontology)
            for sample in samples[start : start + AT_ONCE]
        ]
        for one in pipeline.label(tasks):
            boxes = scored_boxes(one.evidence, ontology, (one.width, one.height))
            found.append((boxes.boxes, boxes.scores[:, columns], boxes.p_yes[:, columns]))
    return found


def ranked(
    folder: Path, samples: Sequence[Sample], proposed: Sequence[Proposed]
) -> RankedDetections:
    """What a student finds on the images, by every confidence that needs no fit."""
    from secondlook.training.model import input_size_of, load_student

    model = load_student(folder)
    size = input_size_of(model)
    parts = [
        _confidences(model, size, sample, of_image)
        for sample, of_image in zip(samples, proposed, strict=True)
    ]
    counts = [len(right) for _, right, _ in parts]
    names = list(parts[0][0])
    return RankedDetections(
        {name: np.concatenate([values[name] for values, _, _ in parts]) for name in names},
        np.concatenate([right for _, right, _ in parts]),
        np.repeat(np.arange(len(samples)), counts),
        np.concatenate([classes for _, _, classes in parts]),
        sum(len(sample.boxes) for sample in samples),
    )


def _confidences(
    model: "nn.Module", size: tuple[int, int], sample: Sample, proposed: Proposed
) -> tuple[dict[str, Floats], Flags, NDArray[np.int64]]:
    """Of the detections on one image; which are right, and their classes."""
    from secondlook.training.predict import edge_bins, predict_images

    def detect(images: Sequence[Pixels], floor: float = FLOOR_OF_VIEWS) -> list[Detections]:
        sizes = [(image.shape[1], image.shape[0]) for image in images]
        return predict_images(model, [stretch(image, size) for image in images], sizes, floor)

    pixels = read_pixels(sample)
    (first,) = detect([pixels], FLOOR)
    again = detect_again(detect, pixels, first)
    seen = sightings(first, again)
    opinions = committee_opinions(first, *proposed)
    bins = edge_bins(model, stretch(pixels, size), first, (sample.width, sample.height))
    entropy, width = edge_uncertainty(*bins)
    values = {
        SCORE: opinions[0],
        **{f"{MONTE_CARLO}, {n} of the views": sightings(first, again[:n]).confidence for n in FEW},
        MONTE_CARLO: seen.confidence,
        SAME_BOX: 1 - seen.box_spread,
        SAME_SCORE: 1 - seen.score_spread,
        PROPOSER: opinions[1],
        VERIFIER: opinions[2],
        COMMITTEE: opinions.mean(axis=0),
        BOTH: np.mean([seen.confidence, *opinions[1:]], axis=0),
        ENTROPY: 1 - entropy.mean(axis=1),
        WIDTH: 1 - width.mean(axis=1),
    }
    return values, match_detections(sample, first).truth >= 0, first.classes


def _with_fitted(found: RankedDetections) -> RankedDetections:
    """With the fitted confidences too; each scene is judged by a fit to others."""
    fitted = {name: _fitted(found, *given) for name, given in FITTED.items()}
    return replace(found, confidences={**found.confidences, **fitted})


def _fitted(found: RankedDetections, by_class: bool, names: Sequence[str]) -> Floats:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    inside = [np.clip(found.confidences[name], 1e-4, 1 - 1e-4) for name in names]
    columns = [np.log(one) - np.log1p(-one) for one in inside]
    if by_class:
        columns += list((found.classes == np.unique(found.classes)[:, None]).astype(np.float64))
    features, judged = np.stack(columns, axis=1), np.zeros(len(found.right))
    for fold in range(FOLDS):
        own = found.scenes % FOLDS == fold
        model = make_pipeline(StandardScaler(), LogisticRegression())
        model.fit(features[~own], found.right[~own])
        judged[own] = model.predict_proba(features[own])[:, 1]
    return judged


def _bar(labels: RankedDetections, student: str, name: str, measure: Measure) -> Figure:
    """Of 20 random halves of the scenes."""
    pairs = []
    for seed in range(RESPLITS):
        half = np.random.default_rng(seed).permutation(SCENES) % 2 == 0
        part = labels.take(half[labels.scenes])
        pairs.append((MEASURES[measure](part, name), MEASURES[measure](part, SCORE)))
    ratios = [ours / plain for ours, plain in pairs]
    ours, plain = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio, bar = statistics.median(ratios), BARS[student]
    ends = min(ratios), max(ratios)
    title = f"{student} student, {name} ÷ {SCORE}: {measure}"
    return Figure(title, f"≤ {bar:g}", ours, plain, measure, ratio, *ends, RESPLITS, ratio <= bar)


def _table(student: str, labels: RankedDetections, found: RankedDetections) -> str:
    share = labels.right.mean()
    head = (
        f"The {student} student on {SCENES} scenes: {len(labels.right):,} labels, {share:.3f} of "
        f"them right; the least possible area is {labels.least_area():.4f}. There are "
        f"{len(found.right):,} detections from {FLOOR:g} on, "
        f"{found.right.mean():.3f} of them right. In brackets the ratio to the score's figure. "
        "Images: finding those that have a wrong label.\n\n"
        "| confidence | 1 - AUROC | area | 1 - AUROC, images | 1 - AUROC, all detections |\n"
        "|---|---|---|---|---|"
    )
    return "\n".join([head, *(_row(labels, found, name) for name in labels.confidences)])


def _row(labels: RankedDetections, found: RankedDetections, name: str) -> str:
    columns = [(labels, measure) for measure in MEASURES.values()]
    columns += [(labels, RankedDetections.image_disorder), (found, RankedDetections.disorder)]
    pairs = [(measure(of, name), measure(of, SCORE)) for of, measure in columns]
    cells = " | ".join(f"{ours:.4f} ({ours / plain:.2f})" for ours, plain in pairs)
    return f"| {name} | {cells} |"
