"""Contrast groups in a student: the same model with its groups resolved, and without.

The student of the suite ``student_speed`` looks at 200 unseen scenes of the synthetic demo world
with exact truth, in float32 on one thread. The thresholds of both sides are the best ones on these
scenes. A contradiction is a box of one class of a group, above its threshold, with an IoU above 0.5
with one of another class.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bench.labelled_scenes import unseen
from bench.paired_timing import Figure, paired
from bench.student_speed import exported
from secondlook.core.boxes import iou
from secondlook.datasets.image_cache import read_pixels
from secondlook.detector.detections import Detections
from secondlook.detector.manifest import FP32, StudentManifest, read_manifest
from secondlook.detector.runtime import OnnxDetector
from secondlook.evaluation.detector_scores import Scores, score
from secondlook.evaluation.matching import Counts

SCENES, SEED, TIMED, ROUNDS = 200, 88_001, 60, 9


def run() -> list[Figure | str]:
    """Images per second with groups ÷ without, and a table of what they change."""
    folder = exported()
    model, manifest = (folder / FP32).read_bytes(), read_manifest(folder)
    plain = replace(manifest, groups=(), group_calibration=())
    before, after = (OnnxDetector(model, m, "fp32", threads=1) for m in (plain, manifest))
    samples = unseen(SEED, SCENES, manifest.classes)
    pixels = [read_pixels(sample) for sample in samples]
    rows = []
    for name, detector in (("no groups", before), ("groups", after)):
        found = detector.detect(pixels)
        rows.append(_row(name, manifest, found, score(samples, found, manifest.classes)))
    timed = pixels[:TIMED]
    figure = paired(
        "images a second with contrast groups ÷ without",
        lambda: len([after.detect([one]) for one in timed]),
        lambda: len([before.detect([one]) for one in timed]),
        at_least=0.95,
        unit="images/s",
        rounds=ROUNDS,
    )
    head = "| | contradictions | mAP50 | mAP50 of other classes | precision, recall in groups |"
    return [figure, "\n".join([head, "|---|---|---|---|---|", *rows])]


def _row(name: str, manifest: StudentManifest, found: Sequence[Detections], scores: Scores) -> str:
    groups = dict(zip(manifest.classes, manifest.groups, strict=True))
    inside = sum((scores.at_thresholds[one] for one in groups if groups[one]), Counts())
    others = [scores.map50_per_class[one] or 0.0 for one in groups if not groups[one]]
    thresholds = np.array([scores.best_thresholds[one] for one in groups])
    contradicting, boxes = np.sum(
        [_contradictions(one, manifest.groups, thresholds) for one in found], axis=0
    )
    return (
        f"| {name} | {contradicting:,} of {boxes:,} boxes | {scores.map50:.3f} | "
        f"{np.mean(others):.3f} | {inside.precision:.3f}, {inside.recall:.3f} |"
    )


def _contradictions(
    found: Detections, groups: Sequence[str], thresholds: np.ndarray
) -> tuple[int, int]:
    """Boxes above their thresholds that contradict another one, and all of the groups."""
    sure = found.take(found.scores >= thresholds[found.classes])
    of = np.array([groups[place] for place in sure.classes], dtype=object)
    same = (of[:, None] == of) & (of[:, None] != "")
    same &= sure.classes[:, None] != sure.classes
    same &= iou(sure.boxes, sure.boxes) > 0.5
    return int(same.any(axis=1).sum()), int((of != "").sum())
