"""Tracks of rendered clips: how seldom the verifier is asked, and what that costs.

Clips of the demo world's camera, in which people, dogs and cars walk and drive past each other, are
labelled frame by frame and with ``--track``. Labels are matched to the exact truth of each frame by
class, at IoU 0.5; IDF1 (Ristani et al., 2016, arXiv 1609.01775) is that of the package ``trackers``
over the accepted boxes of each noun.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.paired_timing import Figure, against
from secondlook.core.boxes import iou
from secondlook.core.frame_names import FrameAddress
from secondlook.demo.clips import FPS, write_clip
from secondlook.demo.stream import TrackedScene
from secondlook.demo.world import ATTRIBUTES, NOUNS, classes_of, ontology_yaml
from secondlook.evaluation.matching import ScoredBox, ScoredImage, TrueBox, evaluate

CLIPS = int(os.environ.get("SECONDLOOK_CLIPS", "6"))
FRAMES = int(os.environ.get("SECONDLOOK_FRAMES", "150"))
FIRST_SEED = 900
ASKED, KEPT, IDENTITY = 0.1, 0.98, 0.95
"""Boxes shown a frame at most, F1 against that of every frame at least, IDF1 at least."""
Annotations = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class LabelledClip:
    """A clip as one of the two ways labelled it."""

    frames: Sequence[Annotations]
    """Accepted boxes of each frame, as COCO has them, with the class under ``name``."""
    shown: float
    """Boxes that the verifier was shown, a frame."""


def run() -> list[Figure | str]:
    """Three figures, and each clip in a line."""
    every, tracked, truth = [], [], []
    lines = ["| clip | objects | shown a frame | F1 | IDF1 |", "| --- | --- | --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(FIRST_SEED, FIRST_SEED + CLIPS):
            clip = Path(folder) / f"{seed}.mp4"
            scenes = write_clip(clip, seed, FRAMES)
            frame, track = _labelled(clip, scenes), _labelled(clip, scenes, "--track")
            every.append(frame)
            tracked.append(track)
            truth.append(scenes)
            lines.append(_line(seed, scenes, frame, track))
    before, after = (_f1(side, truth) for side in (every, tracked))
    identity = float(np.mean([_idf1(*one) for one in zip(truth, tracked, strict=True)]))
    shown = float(np.mean([one.shown for one in tracked]))
    usual = float(np.mean([one.shown for one in every]))
    return [
        against(f"boxes shown to the verifier, of {usual:.1f} a frame", shown, ASKED, "a frame"),
        _at_least("F1 with tracks against F1 of every frame", after, before, KEPT),
        _at_least("IDF1 of the labels", identity, 1.0, IDENTITY),
        "\n".join(lines),
    ]


def _at_least(name: str, ours: float, baseline: float, bar: float) -> Figure:
    ratio = ours / baseline
    return Figure(name, f"≥ {bar:g}", ours, baseline, "", ratio, ratio, ratio, 1, ratio >= bar)


def _line(
    seed: int, scenes: Sequence[TrackedScene], frame: LabelledClip, track: LabelledClip
) -> str:
    objects = len({number for scene in scenes for number in scene.objects})
    f1 = " / ".join(f"{_f1([side], [scenes]):.3f}" for side in (frame, track))
    shown = f"{frame.shown:.2f} / {track.shown:.2f}"
    return f"| {seed} | {objects} | {shown} | {f1} | {_idf1(scenes, track):.3f} |"


def _labelled(clip: Path, scenes: Sequence[TrackedScene], *more: str) -> LabelledClip:
    """The clip labelled by the embedded models, with the world's classes."""
    out = clip.with_suffix(".tracked" if more else ".frames")
    ontology = clip.with_name("ontology.yaml")
    ontology.write_text(ontology_yaml(), encoding="utf-8")
    command = [sys.executable, "-m", "secondlook", "label", str(clip), "--models", "demo"]
    command += ["--ontology", str(ontology), "--fps", "0", "--gallery", "0", "--out", str(out)]
    done = subprocess.run([*command, *more], check=True, capture_output=True, text=True)
    coco = json.loads((out / "coco/annotations/instances_default.json").read_text())
    names = {one["id"]: one["name"] for one in coco["categories"]}
    place = {one["id"]: one["file_name"] for one in coco["images"]}
    frames: dict[str, list[dict[str, Any]]] = {name: [] for name in place.values()}
    for one in coco["annotations"]:
        if not one["iscrowd"]:
            frames[place[one["image_id"]]].append({**one, "name": names[one["category_id"]]})
    wanted = (FrameAddress(clip.name, 1000 * at // FPS).name for at in range(len(scenes)))
    told = re.search(r"shown ([\d.]+) boxes a frame", done.stderr)
    judged = re.search(r"([\d,]+) of them reached", done.stdout)
    shown = (
        float(told[1]) if told else int(judged[1].replace(",", "")) / len(scenes) if judged else 0
    )
    return LabelledClip([frames[name] for name in wanted], shown)


def _xyxy(annotation: dict[str, Any]) -> tuple[float, float, float, float]:
    x, y, width, height = annotation["bbox"]
    return x, y, x + width, y + height


def _f1(sides: Sequence[LabelledClip], truth: Sequence[Sequence[TrackedScene]]) -> float:
    """Over all clips and classes."""
    images: list[ScoredImage] = [
        (
            [ScoredBox(one["name"], _xyxy(one), one["score"]) for one in found],
            [TrueBox(name, t.box) for t in scene.scene.things for name in classes_of(t)],
        )
        for side, scenes in zip(sides, truth, strict=True)
        for found, scene in zip(side.frames, scenes, strict=True)
    ]
    names = (*NOUNS, *ATTRIBUTES)
    return evaluate(images, names).total().f1 or 0.0


def _idf1(scenes: Sequence[TrackedScene], side: LabelledClip) -> float:
    """Of one clip, over its nouns; an object may be matched to one of its own noun only."""
    from trackers.eval import compute_identity_metrics

    true_ids, found_ids, overlaps = [], [], []
    for scene, found in zip(scenes, side.frames, strict=True):
        nouns = [one for one in found if one["name"] in NOUNS]
        true_ids.append(np.array(scene.objects, int))
        found_ids.append(np.array([one["track_id"] for one in nouns], int))
        same = np.array(
            [[t.noun == one["name"] for one in nouns] for t in scene.scene.things], bool
        ).reshape(len(scene.objects), len(nouns))
        boxes = (
            np.array([t.box for t in scene.scene.things], np.float32).reshape(-1, 4),
            np.array([_xyxy(one) for one in nouns], np.float32).reshape(-1, 4),
        )
        overlaps.append(iou(*boxes) * same)
    return float(compute_identity_metrics(true_ids, found_ids, overlaps)["IDF1"])
