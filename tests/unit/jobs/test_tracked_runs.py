"""A run with tracks: what is asked, what fills the gaps, and what a snapshot keeps of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fakes import Row, ScriptedProposer, ScriptedVerifier
from frozen import HALVES, PETS, drawn, encoded, entries_of, stored
from PIL import Image as PILImage

from secondlook.core.frame_names import FrameAddress, frame_address
from secondlook.core.types import Image, Labelled
from secondlook.datasets.division import SplitPlan, divide
from secondlook.datasets.export import export
from secondlook.datasets.query import Query
from secondlook.datasets.snapshot import create_snapshot
from secondlook.datasets.writers import Labels
from secondlook.jobs.answer_log import AnswerLog
from secondlook.jobs.tracking import TrackedRun, track_run
from secondlook.labeling.pipeline import Pipeline
from secondlook.review.redecide import redecide
from secondlook.store import Store
from secondlook_client.values import BoxKind, Outcome

FRAMES, STEP_MS = 40, 200
MISSED = (10, 11, 20)
"""Frames in which the dog is not found, and does not move."""


def street(image: Image, phrases: Sequence[str]) -> Sequence[Row]:
    """A dog, a second and worse box on it, and in two frames something that may be a cat."""
    number = int(frame_address(image.name).ms / STEP_MS)
    rows: list[Row] = []
    if number not in MISSED:
        rows.append(((10, 10, 40, 50), {"dog": 0.9}))
        rows.append(((14, 16, 44, 60), {"dog": 0.5}))
    if number in (30, 31):
        rows.append(((50, 10, 66, 30), {"cat": 0.4}))
    return rows


def frames(clip: str, count: int = FRAMES, seed: int = 0) -> dict[str, bytes]:
    """Images that differ in one pixel; those of two seeds are not alike."""
    found = {}
    for number in range(count):
        pixels = np.array(drawn(seed))
        pixels[63, number] = 255
        name = FrameAddress(clip, STEP_MS * number).name
        found[name] = encoded(PILImage.fromarray(pixels), "PNG")
    return found


def tracked(store: Store, tmp_path: Path, name: str = "r", **how: bool) -> tuple[TrackedRun, int]:
    """The run of the tracks of a run, and how many boxes were shown."""
    verifier = ScriptedVerifier({"Dog?": 0.95, "Cat?": 0.9})
    run = store.results.run(name)
    keys = {key for _, key, _ in store.results.names(run.id)}
    log = AnswerLog(tmp_path / f"{name}{len(how)}.jsonl")
    pipeline = Pipeline(ScriptedProposer(street), verifier)
    return track_run(store, pipeline, name, keys, 5, log, **how), verifier.views


def by_frame(store: Store, run: int) -> dict[int, Labelled]:
    return {
        frame_address(one.labelled.name).ms // STEP_MS: one.labelled
        for one in store.results.page(run, 0, 500)
    }


def test_a_gap_is_unsure_and_what_is_seen_for_a_moment_is_not_asked(
    store: Store, tmp_path: Path
) -> None:
    stored(store, "r", frames("a.mp4"), script=street)
    found, shown = tracked(store, tmp_path, fill_gaps=True)
    assert (found.tracks, found.frames, found.looks, shown) == (1, FRAMES, 1, 1)
    of_frame = by_frame(store, found.run.id)
    for number in set(range(FRAMES)) - {*MISSED}:
        (label,) = of_frame[number].of(Outcome.ACCEPT)
        assert (label.class_name, label.track, label.score) == ("dog", 1, pytest.approx(0.9))
        assert "duplicate" in of_frame[number].of(Outcome.REJECT)[0].reason
    for number in MISSED:
        (gap,) = of_frame[number].judgements
        assert gap.outcome is Outcome.UNSURE and gap.track == 1
        assert gap.box == (10, 10, 40, 50)
    assert of_frame[11].judgements[0].reason == (
        "filled between 00:00:01.800 and 00:00:02.400: nothing was found here"
    )
    for number in (30, 31):
        brief = next(one for one in of_frame[number].judgements if one.class_name == "cat")
        assert brief.outcome is Outcome.REJECT and brief.track == 0
        assert brief.reason == "not asked: its object was seen for less than a second or so"
    redecide(store, found.run.name, "again", PETS)
    again = by_frame(store, store.results.run("again").id)
    assert again[11].judgements[0].reason == of_frame[11].judgements[0].reason
    assert not again[30].of(Outcome.UNSURE)
    bare, shown = tracked(store, tmp_path)
    assert bare.run.name != found.run.name
    assert not by_frame(store, bare.run.id)[11].judgements


def test_a_snapshot_keeps_tracks_and_no_clip_is_divided(store: Store, tmp_path: Path) -> None:
    clips = [f"clips/{name}.mp4" for name in "abcdef"]
    runs = []
    for place, clip in enumerate(clips):
        stored(store, clip[6], frames(clip, 8, seed=place), script=street)
        runs.append(tracked(store, tmp_path, clip[6])[0].run)
    names = tuple(run.name for run in runs)
    create_snapshot(store, "s", Query(runs=names, split=HALVES))
    of_clip: dict[str, set[str]] = {clip: set() for clip in clips}
    tracks: dict[str, set[int]] = {clip: set() for clip in clips}
    for entry in entries_of(store):
        clip = frame_address(entry.name).clip
        of_clip[clip].add(entry.split)
        tracks[clip] |= {box.track for box in entry.of(BoxKind.LABEL)}
    assert all(len(splits) == 1 for splits in of_clip.values())
    assert set().union(*of_clip.values()) == {"train", "val"}
    assert sorted(tracks.values()) == [{n} for n in range(1, 7)], "each run counts from 1"
    rows = [
        (result.labelled.name, result.labelled.result)
        for run in runs
        for result in store.results.page(run.id, 0, 100)
    ]
    labels = Labels(PETS.names, lambda: iter(rows), lambda *_: None)
    divided = divide(labels, SplitPlan(HALVES), "r")
    sides = {name: {frame_address(n).clip for n, _ in of.results()} for name, of in divided.items()}
    assert sides == {
        split: {clip for clip in clips if of_clip[clip] == {split}} for split in ("train", "val")
    }
    export(store, "s", tmp_path / "out", ("coco",))
    written = (tmp_path / "out/coco/annotations/instances_train.json").read_text()
    assert '"track_id"' in written
