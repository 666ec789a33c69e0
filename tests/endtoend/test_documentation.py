"""The pages of ``docs/`` are true: every block of them runs, with the embedded models."""

import json
import shutil
from pathlib import Path

import pytest
from snippets import Rewrites, snippets
from students import write_student
from walkthrough import Walkthrough, embed_photo_models, free_port

from secondlook.cli import run
from secondlook.core.frame_names import FrameAddress
from secondlook.demo.clips import FPS, write_clip

DOCS = Path(__file__).parents[2] / "docs"
RUN = ("", "python", "yaml")
"""Languages of blocks that are run; ``text`` is what is printed."""
ELSEWHERE = ("architecture",)
"""Pages whose examples have a test of their own."""
ONLY_PARSED = {
    "index": {"secondlook demo": "a minute; test_demo runs it"},
    "tutorial": {
        "secondlook demo": "a minute; test_demo runs it",
        "secondlook distill": "minutes; test_student_story trains a smaller student",
    },
    "reviews": {"secondlook review ask labels": "a person answers; test_review_command does"},
    "decoys": {"secondlook decoys later": "a second run; test_decoy_audit compares two"},
    "guarantees": {
        "secondlook job ": "of a service and a guarantee; test_guaranteed_jobs has both",
        "secondlook guarantee ": "twelve images are too few; test_guarantee_story has enough",
        "secondlook review ask": "a person answers; test_review_command does",
        "secondlook snapshot create": "of a guarantee; test_guarantee_story makes one",
    },
    "many-machines": {
        "secondlook label photos/": "needs a cluster; test_on_ray has one",
        "secondlook label s3://": "needs a cluster; test_on_ray has one",
        "secondlook select labels": "needs a cluster; test_on_ray has one",
        "secondlook uncertainty labels": "needs a cluster; test_on_ray has one",
    },
    "photos": {
        "secondlook label photos/ -c person -c car --proposer onnx": "needs that file",
        "secondlook label photos/ -c person wearing a mask": "needs weights; test_photos runs it",
    },
    "security": {"secondlook serve --data": "needs a certificate; test_doors has one"},
    "loop": {
        "secondlook loop": "of more images than are here; test_loop_command has few",
        "secondlook review ask": "a person answers; test_review_command does",
    },
    "micro-models": {
        "secondlook micro train": "a minute; test_micro_command takes fewer steps",
        "secondlook review ask": "a person answers; test_review_command does",
        "secondlook label week/": "of two models; test_micro has several",
    },
    "selection": {
        "secondlook select labels --strategy committee --student": "of students; test_select does",
        "secondlook select labels --strategy expected-change": "of a student; test_select has one",
    },
    "videos": {
        "secondlook record": "needs a camera; test_record has one",
        "secondlook guarantee": "six frames are too few; test_filled_guarantee has enough",
        "secondlook review ask": "a person answers; test_review_command does",
    },
}
"""By page: commands that are not run, by their beginning, and why."""
REWRITTEN = {
    "tutorial": {"30": "6"},
    "classes": {"= car, bus, truck": "= car", "[car, bus, truck]": "[car]"},
    "decoys": {"cat": "car", "0.02": "0.3"},
    "empties": {"cat": "car"},
    "photos": {"photo-small": "demo"},
    "verify": {", and not a wolf or a fox": ""},
    "python": {'"photo"': '"demo"', "photo-small": "demo"},
    "reviews": {"photo-small": "demo"},
    "selection": {"facebook/dinov2-small": "demo"},
    "videos": {"photo-small": "demo"},
}
"""By page: what stands in a page, and what is run here instead."""
PAGES = sorted(path.stem for path in DOCS.glob("*.md") if snippets(path, *RUN))


@pytest.fixture
def home(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages name; the models for photos are the embedded ones."""
    shutil.copytree(world / "images", tmp_path / "photos")
    shutil.copyfile(sorted((tmp_path / "photos").iterdir())[0], tmp_path / "photo.jpg")
    shutil.copyfile(world / "truth.json", tmp_path / "annotations.json")
    write_student(tmp_path / "student", ("person",))
    write_clip(tmp_path / "clip.mp4", seed=3, count=6, size=128)
    shutil.copyfile(tmp_path / "clip.mp4", tmp_path / "gate.mkv")
    embed_photo_models(monkeypatch)
    return tmp_path


def train_micro_model(home: Path) -> None:
    """``batman`` of the page, of the people in a clip, in a few steps."""
    scenes = write_clip(home / "clip.mp4", seed=3, count=4)
    frames = [FrameAddress("clip.mp4", 1000 * n // FPS).name for n in range(len(scenes))]
    boxes = [
        (n, [x0, y0, x1 - x0, y1 - y0])
        for n, one in enumerate(scenes)
        for thing in one.scene.things
        if thing.noun == "person"
        for x0, y0, x1, y1 in [thing.box]
    ]
    five = {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(frames)],
        "categories": [{"id": 1, "name": "person in the striped hat"}],
        "annotations": [
            {"id": n, "image_id": image, "category_id": 1, "bbox": box}
            for n, (image, box) in enumerate(boxes)
        ],
    }
    (home / "five.json").write_text(json.dumps(five))
    train = ["micro", "train", "--clip", str(home / "clip.mp4"), "--phrase", "person"]
    train += ["--labels", str(home / "five.json"), "--out", str(home / "batman")]
    assert run([*train, "--steps", "4"]) == 0


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE])
@pytest.mark.timeout(600)  # a service, and some twenty commands, one after the other
def test_every_block_runs_as_it_stands(page: str, home: Path) -> None:
    blocks = snippets(DOCS / f"{page}.md", *RUN)
    has_service = any("50051" in block.code for block in blocks)
    ports = {"50051": str(free_port())} if has_service else {}
    rewrites = Rewrites({**REWRITTEN.get(page, {}), **ports})
    if page == "micro-models":
        train_micro_model(home)
    with Walkthrough(home, rewrites, ONLY_PARSED.get(page, {}), serve=[]) as walk:
        failed = walk.run_all(blocks)
    assert not failed, "\n".join(failed)
    assert not rewrites.unused and not walk.stale
