"""The pages of ``docs/`` are true: every block of them runs, with the embedded models."""

import shutil
from pathlib import Path

import pytest
from snippets import Rewrites, snippets
from students import write_student
from walkthrough import Walkthrough, embed_photo_models, free_port

from secondlook.demo.clips import write_clip

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
    "photos": {
        "secondlook label photos/ -c person -c car --proposer onnx": "needs that file",
        "secondlook label photos/ -c person wearing a mask": "needs weights; test_photos runs it",
    },
    "security": {"secondlook serve --data": "needs a certificate; test_doors has one"},
    "videos": {"secondlook record": "needs a camera; test_record has one"},
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


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE])
@pytest.mark.timeout(600)  # a service, and some twenty commands, one after the other
def test_every_block_runs_as_it_stands(page: str, home: Path) -> None:
    blocks = snippets(DOCS / f"{page}.md", *RUN)
    has_service = any("50051" in block.code for block in blocks)
    ports = {"50051": str(free_port())} if has_service else {}
    rewrites = Rewrites({**REWRITTEN.get(page, {}), **ports})
    with Walkthrough(home, rewrites, ONLY_PARSED.get(page, {}), serve=[]) as walk:
        failed = walk.run_all(blocks)
    assert not failed, "\n".join(failed)
    assert not rewrites.unused and not walk.stale
