"""Clicks to a mask on unseen scenes of the demo world, by the embedded segmenter.

A robot clicks as the field does it (``evaluation/click_robot.py``): NoC@90 is the number of clicks
to an IoU of 0.9, of 20 at most. Unseen are the kinds that no prompt of the training meant: dogs and
balls, which are in no image of it either, glasses, and shapes with textures of families of their
own. A verified box is one that both stages accepted and that is on the object (IoU 0.5).
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bench import fixtures
from bench.mask_sessions import (
    HEAD,
    MODES,
    KindSession,
    OutlinedImage,
    chosen_segmenter,
    row,
    run_sessions,
    tight_box,
)
from bench.paired_timing import Figure, against
from recipes.segmenter.data import HELD_OUT_KINDS, render_unseen
from secondlook.core.boxes import iou
from secondlook.core.types import Image
from secondlook.evaluation.click_robot import ClickScores, score_sessions, segment_by_clicks
from secondlook.evaluation.matching import MIN_IOU
from secondlook.labeling.pipeline import Task
from secondlook.labeling.segmenter import SegmentationPrompt, Segmenter
from secondlook_client.values import LabelResult

SCENES = int(os.environ.get("SECONDLOOK_SCENES", "100"))
WORLD = 15_201
"""Of the scenes; no training has seen it."""
SHAPE = "shape"
UNSEEN = HELD_OUT_KINDS | {SHAPE}
VERIFIED = "a verified box first"
SIDES: Mapping[str, Callable[[str], bool]] = {
    "kinds unseen in training": lambda kind: kind in UNSEEN,
    "kinds seen": lambda kind: kind not in UNSEEN,
}
BATCH = 8


def run() -> list[Figure | str]:
    """Figures of the unseen kinds and of verified boxes, and tables of everything."""
    segmenter = chosen_segmenter("demo")
    images = [_outlined(segmenter, index) for index in range(SCENES)]
    found = {
        mode: run_sessions(segmenter, images, start, shaky)
        for mode, (start, shaky) in MODES.items()
    }
    found[VERIFIED] = list(_from_verified(segmenter, images))
    return [*_figures(found), *_tables(found)]


def _outlined(segmenter: Segmenter, index: int) -> OutlinedImage:
    scene = render_unseen(WORLD, index)
    digest = hashlib.sha256(scene.image.tobytes()).hexdigest()
    image = Image(np.ascontiguousarray(scene.image), digest, f"scene {index}")
    (encoding,) = segmenter.encode([image])
    return OutlinedImage(image, scene.kinds, scene.masks, encoding)


def _from_verified(segmenter: Segmenter, images: Sequence[OutlinedImage]) -> Iterator[KindSession]:
    """Sessions that start with the labels of both stages."""
    pipeline, ontology = fixtures.pipeline(), fixtures.ontology()
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        labelled = pipeline.label([Task(one.image, ontology) for one in part])
        for one, found in zip(part, labelled, strict=True):
            boxes = verified_boxes(one, found.result)
            rows = sorted(boxes)
            if not rows:
                continue
            starts = [SegmentationPrompt(box=boxes[place]) for place in rows]
            sessions = segment_by_clicks(segmenter, one.encoding, one.masks[rows], starts)
            for place, session in zip(rows, sessions, strict=True):
                yield KindSession(one.kinds[place], session)


def verified_boxes(
    one: OutlinedImage, result: LabelResult
) -> dict[int, tuple[float, float, float, float]]:
    """Of each object that has a label of its kind on it, that label's box."""
    found = {}
    for place, (kind, mask) in enumerate(zip(one.kinds, one.masks, strict=True)):
        of_kind = [label.box for label in result.labels if label.class_name == kind]
        if of_kind:
            tight = np.array([tight_box(mask)], np.float32)
            overlaps = iou(tight, np.array(of_kind, np.float32))[0]
            if overlaps.max() >= MIN_IOU:
                found[place] = of_kind[int(overlaps.argmax())]
    return found


def _scores(found: Sequence[KindSession], of: Callable[[str], bool]) -> ClickScores:
    return score_sessions([one.session for one in found if of(one.kind)])


def _figures(found: Mapping[str, Sequence[KindSession]]) -> Iterator[Figure]:
    unseen = SIDES["kinds unseen in training"]
    exact, person = (_scores(found[mode], unseen) for mode in ("clicks", "clicks of a person"))
    boxed = score_sessions([one.session for one in found[VERIFIED]])
    yield against("clicks to IoU 0.85, unseen kinds", exact.noc85, 1.6, "clicks")
    yield against("clicks to IoU 0.9, unseen kinds", exact.noc90, 2.2, "clicks")
    yield against("clicks after a verified box to IoU 0.9", boxed.noc90, 1.0, "clicks")
    yield _at_least("mean IoU from a verified box alone", boxed.start or 0.0, 0.85)
    yield against("clicks below IoU 0.9 that lower it, unseen kinds", exact.declines, 0.01, "share")
    for name, ours, base in (
        ("0.85", person.noc85, exact.noc85),
        ("0.9", person.noc90, exact.noc90),
    ):
        cost = against(f"clicks of a person ÷ of the robot, IoU {name}", ours / base, 1.25, "")
        yield replace(cost, ours=ours, baseline=base, unit="clicks", ratio=ours / base)


def _at_least(name: str, value: float, bar: float) -> Figure:
    ratio = value / bar
    return Figure(name, f"≥ {bar:g} IoU", value, bar, "IoU", ratio, ratio, ratio, 1, met=ratio >= 1)


def _tables(found: Mapping[str, Sequence[KindSession]]) -> Iterator[str]:
    for side, of in SIDES.items():
        rows = [row(mode, _scores(some, of)) for mode, some in found.items()]
        yield "\n".join([f"**{side.capitalize()}**\n\n{HEAD}", *rows])
    kinds = sorted(
        {one.kind for one in found["clicks"]}, key=lambda kind: (kind not in UNSEEN, kind)
    )
    for mode in ("clicks", "the exact box first"):
        rows = [row(kind, _scores(found[mode], kind.__eq__)) for kind in kinds]
        yield "\n".join([f"**By kind, {mode}** (unseen first)\n\n{HEAD}", *rows])
