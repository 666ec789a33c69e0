"""What masks do to labels of the demo world, and what the third stage costs.

The same labels, once with the proposer's box and once with that of their mask (``box: mask``). They
are matched to the truth by class; the IoU is that of the pairs that the proposer's boxes form.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench import fixtures
from bench.mask_sessions import chosen_segmenter
from bench.paired_timing import Figure, paired
from secondlook.core.boxes import iou
from secondlook.core.images import decode
from secondlook.core.types import Image
from secondlook.demo.world import Scene, classes_of, scene
from secondlook.evaluation.matching import MIN_IOU, Quality, ScoredBox, TrueBox, evaluate
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook_client.ontology import Ontology
from secondlook_client.values import BoxSource, Judgement, Outcome

SCENES = int(os.environ.get("SECONDLOOK_SCENES", "150"))
WORLD = 15_301
TIMED, ROUNDS = 48, 7
TIGHT_IOU = 0.75
POINTS = 5.0
"""By which precision at ``TIGHT_IOU`` shall rise, in points."""
BATCH = 8


@dataclass(frozen=True)
class LabelledScene:
    """The labels of one scene by whose boxes they have, in the same order, and its truth."""

    proposed: tuple[Judgement, ...]
    masked: tuple[Judgement, ...]
    truth: tuple[TrueBox, ...]


def run() -> list[Figure | str]:
    """Three ratios and a table."""
    two = fixtures.pipeline()
    three = Pipeline(two.proposer, two.verifier, two.settings, chosen_segmenter("demo"))
    ontology = fixtures.ontology()
    masked = replace(
        ontology, classes=tuple(replace(spec, box=BoxSource.MASK) for spec in ontology.classes)
    )
    found = labelled_scenes(three, ontology, masked)
    names = [spec.name for spec in ontology.classes]
    sides = {
        side: {
            bar: evaluate([_scored(one, side) for one in found], names, bar)
            for bar in (MIN_IOU, TIGHT_IOU)
        }
        for side in ("proposed", "masked")
    }
    overlaps = np.concatenate([_overlaps(one) for one in found])
    return [*_figures(sides, overlaps), _cost(two, three, ontology), _table(found, overlaps, sides)]


def labelled_scenes(
    pipeline: Pipeline, ontology: Ontology, masked: Ontology
) -> list[LabelledScene]:
    """Each scene labelled with both ontologies, which differ in the boxes alone."""
    found = []
    for start in range(0, SCENES, BATCH):
        scenes = [scene(WORLD, index) for index in range(start, min(start + BATCH, SCENES))]
        images = [decode(fixtures.jpeg(one.image)) for one in scenes]
        of_proposer, of_mask = (_labels(pipeline, images, said) for said in (ontology, masked))
        for one, proposed, tight in zip(scenes, of_proposer, of_mask, strict=True):
            found.append(LabelledScene(proposed, tight, _truth(one)))
    return found


def _labels(
    pipeline: Pipeline, images: Sequence[Image], ontology: Ontology
) -> list[tuple[Judgement, ...]]:
    labelled = pipeline.label([Task(image, ontology) for image in images])
    return [one.of(Outcome.ACCEPT) for one in labelled]


def _truth(one: Scene) -> tuple[TrueBox, ...]:
    return tuple(TrueBox(name, thing.box) for thing in one.things for name in classes_of(thing))


def _scored(one: LabelledScene, side: str) -> tuple[list[ScoredBox], Sequence[TrueBox]]:
    labels: tuple[Judgement, ...] = getattr(one, side)
    return [ScoredBox(j.class_name, j.box, j.decision.probability) for j in labels], one.truth


def _overlaps(one: LabelledScene) -> np.ndarray:
    """(P, 2): the IoU of the proposer's box and of the mask's box with the object, of the pairs
    that the proposer's boxes form."""
    pairs = []
    for proposed, masked in zip(one.proposed, one.masked, strict=True):
        real = [true.box for true in one.truth if true.class_name == proposed.class_name]
        if real:
            boxes = np.array([proposed.box, masked.box], np.float32)
            both = iou(boxes, np.array(real, np.float32))
            best = int(both[0].argmax())
            if both[0, best] >= MIN_IOU:
                pairs.append(both[:, best])
    return np.array(pairs, np.float64).reshape(-1, 2)


def _figures(sides: dict[str, dict[float, Quality]], overlaps: np.ndarray) -> list[Figure]:
    proposed, masked = overlaps.mean(axis=0)
    ratio = float(masked / proposed)
    better = Figure(
        "mean IoU of labels, the mask's box ÷ the proposer's",
        "≥ 1",
        float(masked),
        float(proposed),
        "IoU",
        ratio,
        ratio,
        ratio,
        1,
        met=ratio > 1,
    )
    ours, theirs = (
        100 * _precision_recall(sides[side][TIGHT_IOU])[0] for side in ("masked", "proposed")
    )
    gain = ours - theirs
    tight = Figure(
        f"precision at IoU {TIGHT_IOU}, the mask's box − the proposer's",
        f"≥ {POINTS:g} points",
        ours,
        theirs,
        "%",
        gain,
        gain,
        gain,
        1,
        met=gain >= POINTS,
    )
    return [better, tight]


def _cost(two: Pipeline, three: Pipeline, ontology: Ontology) -> Figure:
    encoded = fixtures.jpegs(TIMED)
    engines = Engine(three), Engine(two)

    def labelled(engine: Engine) -> float:
        futures = [engine.submit(Task(decode(data), ontology)) for data in encoded]
        return len([future.result() for future in futures])

    figure = paired(
        "images per second, three stages ÷ two",
        lambda: labelled(engines[0]),
        lambda: labelled(engines[1]),
        at_least=0.75,
        unit="images/s",
        rounds=ROUNDS,
    )
    for engine in engines:
        engine.close()
    return figure


def _precision_recall(quality: Quality) -> tuple[float, float]:
    """Of all classes together; 0 where there was nothing."""
    total = quality.total()
    return total.precision or 0.0, total.recall or 0.0


def _table(
    found: Sequence[LabelledScene],
    overlaps: np.ndarray,
    sides: dict[str, dict[float, Quality]],
) -> str:
    labels = [label for one in found for label in one.masked]
    moved = sum(
        label.box != before.box
        for one in found
        for label, before in zip(one.masked, one.proposed, strict=True)
    )
    lines = [
        f"{SCENES} scenes, {len(labels):,} labels, {sum(j.mask is not None for j in labels):,} "
        f"with a mask; {moved:,} have their mask's box, the others keep the proposer's because the "
        "mask is doubtful.\n\n| box | mean IoU, tenth percentile | precision, recall at IoU 0.5 "
        f"| at {TIGHT_IOU} |\n|---|---|---|---|"
    ]
    for values, (side, name) in zip(
        overlaps.T, (("proposed", "the proposer's"), ("masked", "the mask's")), strict=True
    ):
        cells = [
            "{:.3f}, {:.3f}".format(*_precision_recall(sides[side][bar]))
            for bar in (MIN_IOU, TIGHT_IOU)
        ]
        means = f"{values.mean():.3f}, {np.quantile(values, 0.1):.3f}"
        lines.append(f"| {name} | {means} | {' | '.join(cells)} |")
    return "\n".join(lines)
