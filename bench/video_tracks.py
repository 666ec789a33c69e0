"""Tracks of rendered clips: how seldom the verifier is asked, and what that costs.

Clips of the demo world's camera, in which people, dogs and cars walk and drive past each other, are
labelled frame by frame, some at 5 frames a second, the default of ``--fps``, and one at 25; then
the same boxes are tracked, as ``--track`` does. Labels are matched to the exact truth of each frame
by class, at IoU 0.5; IDF1 (Ristani et al., 2016, arXiv 1609.01775) is that of the package
``trackers`` over the accepted boxes of each noun. Two figures say what could be reached at all: the
verifier has to see each object once, and labels that find fewer boxes than there are have an IDF1
below 1 even with the true numbers.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from bench.paired_timing import Figure, against
from secondlook.config.settings import Settings
from secondlook.core.boxes import iou
from secondlook.core.frame_names import FrameAddress
from secondlook.demo.clips import write_frames
from secondlook.demo.stream import TrackedScene, tracked_frames
from secondlook.demo.world import ATTRIBUTES, NOUNS, classes_of, ontology_yaml
from secondlook.evaluation.matching import ScoredBox, ScoredImage, TrueBox, evaluate
from secondlook.jobs.answer_log import AnswerLog
from secondlook.jobs.tracking import track_run
from secondlook.labeling.pipeline import Pipeline
from secondlook.models.embedded_calibrator import embedded_calibrator
from secondlook.models.registry import load_pipeline
from secondlook.store import Store, open_store
from secondlook.store.runs import Run
from secondlook_client.values import Judgement, Outcome

CLIPS = int(os.environ.get("SECONDLOOK_CLIPS", "4"))
FRAMES = int(os.environ.get("SECONDLOOK_FRAMES", "300"))
FAST_CLIPS = int(os.environ.get("SECONDLOOK_FAST_CLIPS", "1"))
"""Of 25 frames a second, and twice as many frames."""
CAMERA_FPS = 25
FIRST_SEED = 900
ASKED, KEPT, IDENTITY, FILLED = 0.1, 0.98, 0.95, 0.95
"""Boxes shown a frame at most, F1 against that of every frame, IDF1 and precision of filled labels
at least."""
GAP = re.compile(r"filled between (\d+):(\d+):([\d.]+) and (\d+):(\d+):([\d.]+)")


@dataclass(frozen=True)
class RenderedClip:
    """A clip and its truth."""

    path: Path
    fps: int
    scenes: Sequence[TrackedScene]

    @property
    def objects(self) -> int:
        """How many it shows."""
        return len({number for scene in self.scenes for number in scene.objects})


@dataclass(frozen=True)
class LabelledClip:
    """A clip as one of the two ways labelled it."""

    frames: Sequence[Sequence[Judgement]]
    """Of each frame what was not rejected."""
    shown: float
    """Boxes that the verifier was shown, a frame."""

    @property
    def labels(self) -> list[list[Judgement]]:
        """Of each frame what was accepted."""
        return [[one for one in of if one.outcome is Outcome.ACCEPT] for of in self.frames]


Labelled = Sequence[tuple[RenderedClip, LabelledClip, LabelledClip]]
"""Each clip frame by frame, and with tracks."""


def run() -> list[Figure | str]:
    """The figures at 5 frames a second and at 25, each clip in a line, and the gaps."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slow = [_both(folder, FIRST_SEED + place, FRAMES, 5) for place in range(CLIPS)]
        seeds = range(FIRST_SEED + 50, FIRST_SEED + 50 + FAST_CLIPS)
        fast = [_both(folder, seed, 2 * FRAMES, CAMERA_FPS) for seed in seeds]
    lines = [
        "| clip | a second | objects | a frame | shown a frame | F1 | IDF1 | with true numbers |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_line(*one) for one in [*slow, *fast]),
    ]
    return [
        *_figures(slow, "5 frames a second"),
        *(_figures(fast, "25 frames a second") if fast else ()),
        "\n".join(lines),
        *_gaps([*slow, *fast]),
    ]


def _figures(clips: Labelled, what: str) -> Iterator[Figure]:
    truth = [clip.scenes for clip, _, _ in clips]
    before, after = _f1([one for _, one, _ in clips], truth), _f1([one for *_, one in clips], truth)
    identity = float(np.mean([_idf1(clip.scenes, track.labels) for clip, _, track in clips]))
    usual = float(np.mean([frame.shown for _, frame, _ in clips]))
    shown = float(np.mean([track.shown for _, _, track in clips]))
    yield against(f"{what}: boxes shown, of {usual:.1f} a frame", shown, ASKED, "a frame")
    yield _at_least(f"{what}: F1 with tracks against F1 of every frame", after, before, KEPT)
    yield _at_least(f"{what}: IDF1 of the labels", identity, 1.0, IDENTITY)


def _at_least(name: str, ours: float, baseline: float, bar: float) -> Figure:
    ratio = ours / baseline
    return Figure(name, f"≥ {bar:g}", ours, baseline, "", ratio, ratio, ratio, 1, ratio >= bar)


def _line(clip: RenderedClip, frame: LabelledClip, track: LabelledClip) -> str:
    scenes = clip.scenes
    cells = (
        *(clip.path.stem, clip.fps, clip.objects, f"{clip.objects / len(scenes):.2f}"),
        f"{frame.shown:.2f} / {track.shown:.2f}",
        " / ".join(f"{_f1([side], [scenes]):.3f}" for side in (frame, track)),
        f"{_idf1(scenes, track.labels):.3f}",
        f"{_idf1(scenes, _identified(scenes, frame.labels)):.3f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def _both(
    folder: Path, seed: int, count: int, fps: int
) -> tuple[RenderedClip, LabelledClip, LabelledClip]:
    """A clip, and what the embedded models make of it with the world's classes."""
    scenes = list(tracked_frames(seed, count, every=CAMERA_FPS // fps))
    clip, out = RenderedClip(folder / f"{seed}.mp4", fps, scenes), folder / f"{seed}"
    write_frames(clip.path, (scene.scene.image for scene in scenes), fps)
    ontology = folder / "ontology.yaml"
    ontology.write_text(ontology_yaml(), encoding="utf-8")
    command = [sys.executable, "-m", "secondlook", "label", str(clip.path), "--models", "demo"]
    command += ["--ontology", str(ontology), "--fps", "0", "--gallery", "0", "--out", str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    judged = re.search(r"([\d,]+) of them reached", done.stdout)
    shown = int(judged[1].replace(",", "")) / count if judged else 0.0
    with open_store(out / ".store") as store:
        job = store.results.run(json.loads((out / "run.json").read_text())["job"])
        keys = {key for _, key, _ in store.results.names(job.id)}
        log = AnswerLog(out / ".answers.jsonl")
        tracked = track_run(store, _pipeline(), job.name, keys, 0, log, fill_gaps=True)
        frame = LabelledClip(_judged(store, job, clip), shown)
        looks = tracked.looks / count
        return clip, frame, LabelledClip(_judged(store, tracked.run, clip), looks)


@cache
def _pipeline() -> Pipeline:
    settings = Settings()
    demo = replace(settings.models, proposer="demo", verifier="demo")
    pipeline = load_pipeline(replace(settings, models=demo))
    pipeline.use_calibrator(embedded_calibrator())
    return pipeline


def _judged(store: Store, run: Run, clip: RenderedClip) -> list[list[Judgement]]:
    found, cursor = {}, 0
    while page := store.results.page(run.id, cursor, 200):
        cursor = page[-1].cursor
        for result in page:
            judged = result.labelled.judgements
            kept = [one for one in judged if one.outcome is not Outcome.REJECT]
            found[result.labelled.name] = kept
    times = (1000 * at // clip.fps for at in range(len(clip.scenes)))
    return [found[FrameAddress(clip.path.name, ms).name] for ms in times]


def _f1(sides: Sequence[LabelledClip], truth: Sequence[Sequence[TrackedScene]]) -> float:
    """Over all clips and classes."""
    images: list[ScoredImage] = [
        (
            [ScoredBox(one.class_name, one.box, one.probability) for one in found],
            [TrueBox(name, t.box) for t in scene.scene.things for name in classes_of(t)],
        )
        for side, scenes in zip(sides, truth, strict=True)
        for found, scene in zip(side.labels, scenes, strict=True)
    ]
    return evaluate(images, (*NOUNS, *ATTRIBUTES)).total().f1 or 0.0


def _idf1(scenes: Sequence[TrackedScene], labels: Sequence[Sequence[Judgement]]) -> float:
    """Of one clip, over its nouns; an object may be matched to one of its own noun only."""
    from trackers.eval import compute_identity_metrics

    true_ids, found_ids, overlaps = [], [], []
    for scene, found in zip(scenes, labels, strict=True):
        nouns = [one for one in found if one.class_name in NOUNS]
        true_ids.append(np.array(scene.objects, int))
        found_ids.append(np.array([one.track for one in nouns], int))
        overlaps.append(_overlaps(scene, nouns))
    return float(compute_identity_metrics(true_ids, found_ids, overlaps)["IDF1"])


def _overlaps(scene: TrackedScene, found: Sequence[Judgement]) -> np.ndarray:
    """(things, found) IoU, 0 where the classes differ."""
    things = scene.scene.things
    same = [[one.class_name in classes_of(thing) for one in found] for thing in things]
    boxes = (
        np.array([some.box for some in side], np.float32).reshape(-1, 4) for side in (things, found)
    )
    return iou(*boxes) * np.array(same, bool).reshape(len(things), len(found))


def _identified(
    scenes: Sequence[TrackedScene], labels: Sequence[Sequence[Judgement]]
) -> list[list[Judgement]]:
    """With the true identity of each box that is right, and one of its own for each other."""
    frames, wrong = [], -1
    for scene, found in zip(scenes, labels, strict=True):
        overlaps = np.vstack([_overlaps(scene, found), np.zeros(len(found))])
        named = []
        for one, column in zip(found, overlaps.T, strict=True):
            right = column.max() >= 0.5
            wrong -= not right
            track = scene.objects[int(column.argmax())] if right else wrong
            named.append(replace(one, track=track))
        frames.append(named)
    return frames


def _gaps(clips: Labelled) -> Iterator[Figure | str]:
    """How many of the boxes in gaps of tracks are right, by the length of the gap."""
    right: dict[int, list[bool]] = {}
    for clip, _, track in clips:
        for scene, found in zip(clip.scenes, track.frames, strict=True):
            for one in found:
                if gap := GAP.match(one.decision.reason):
                    h, m, s, *end = map(float, gap.groups())
                    lasts_s = (end[0] - h) * 3600 + (end[1] - m) * 60 + end[2] - s
                    hit = _overlaps(scene, [one]).max(initial=0) >= 0.5
                    right.setdefault(round(lasts_s * clip.fps) - 1, []).append(bool(hit))
    every = [hit for hits in right.values() for hit in hits]
    if not every:
        return
    name = "boxes in gaps, which are unsure: right, if they were labels"
    yield _at_least(name, float(np.mean(every)), 1.0, FILLED)
    rows = ["| frames in the gap | boxes | right |", "| --- | --- | --- |"]
    rows += [f"| {n} | {len(hits)} | {np.mean(hits):.2f} |" for n, hits in sorted(right.items())]
    yield "\n".join(rows)
