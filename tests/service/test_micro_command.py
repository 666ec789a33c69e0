"""``secondlook micro`` from a few labels of a clip to labels, corrections and the next version."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image as PILImage

from secondlook.cli import run
from secondlook.core.frame_names import FrameAddress
from secondlook.demo.clips import FPS, write_frames
from secondlook.demo.lookalikes import LookalikeFrame, lookalike_frames
from secondlook.models.micro_folder import read_micro_manifest

HAT = "person with that hat"
FRAMES, LABELLED = 6, (0, 2, 4)


@pytest.fixture(scope="module")
def scenes() -> list[LookalikeFrame]:
    return [*lookalike_frames(100, FRAMES)]


def coco(path: Path, scenes: Sequence[LookalikeFrame], places: Sequence[int]) -> str:
    """The truth of some frames of ``clip.mp4``."""
    images, rows = [], []
    for number, place in enumerate(places, start=1):
        name = FrameAddress("clip.mp4", 1000 * place // FPS).name
        images.append({"id": number, "file_name": name, "width": 320, "height": 240})
        for x0, y0, x1, y1 in scenes[place].targets:
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0}
            rows.append({"id": len(rows) + 1, "image_id": number, "category_id": 1, **box})
    whole = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": HAT}]}
    path.write_text(json.dumps(whole))
    return str(path)


def test_a_few_labels_become_labels_of_the_clip_and_corrections_the_next_version(
    tmp_path, scenes, capsys, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    clip, model, labels = (str(tmp_path / name) for name in ("clip.mp4", "hat", "labels"))
    write_frames(Path(clip), (frame.scene.image for frame in scenes))
    few = coco(tmp_path / "few.json", scenes, LABELLED)
    whole = coco(tmp_path / "truth.json", scenes, range(FRAMES))
    train = ["micro", "train", "--clip", clip, "--fps", "0", "--out", model, "--steps", "4"]
    assert run([*train, "--labels", few, "--phrase", "person", "--threads", "1"]) == 0
    assert os.environ["OMP_NUM_THREADS"] == "1", "torch was to be told before it was imported"
    first = read_micro_manifest(Path(model))
    assert (first.version, first.class_name, first.frames) == (1, HAT, 3)
    assert first.labels == sum(len(scenes[place].targets) for place in LABELLED)

    how = ["--proposer", f"micro:{model}", "--verifier", "none", "--fps", "0", "--gallery", "0"]
    assert run(["label", clip, "-c", HAT, *how, "--out", labels]) == 0
    found = json.loads((Path(labels) / "coco/annotations/instances_default.json").read_text())
    assert len(found["images"]) == FRAMES and found["annotations"]

    # An assembly line of it: another proposer finds, it tells apart, a segmenter outlines.
    line, outlined = tmp_path / "line.yaml", str(tmp_path / "outlined")
    line.write_text("find: demo\nphrase: person\ntell_apart: [hat]\noutline: demo\n")
    how[1] = f"micro:{line}"
    assert run(["label", clip, "-c", HAT, *how, "--out", outlined]) == 0
    whole_line = json.loads((tmp_path / "outlined/run.json").read_text())
    assert whole_line["proposer"].startswith("micro-line@")
    assert whole_line["segmenter"].startswith("demo-segmenter@")
    in_line = json.loads(
        (tmp_path / "outlined/coco/annotations/instances_default.json").read_text()
    )
    assert len(in_line["annotations"]) == len(found["annotations"])
    assert all(one["segmentation"]["counts"] for one in in_line["annotations"])

    assert run(["review", "import", whole, labels]) == 0
    assert run([*train, "--continue", "--reviews", labels]) == 0
    second = read_micro_manifest(Path(model))
    assert (second.version, second.parent, second.phrase) == (2, first.digest, "person")
    assert second.frames == FRAMES and second.labels > first.labels
    assert second.negatives > first.negatives == 0

    PILImage.new("RGB", (320, 240), (90, 140, 90)).save(tmp_path / "meadow.png")
    capsys.readouterr()
    assert run(["micro", "show", model, clip, str(tmp_path / "meadow.png"), "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [bool(one["scene"]) for one in told] == [True] * FRAMES + [False]
    assert run(["micro", "show", model]) == 0
    assert "version 2" in capsys.readouterr().out


def test_what_does_not_fit_the_clip_is_told_in_a_sentence(tmp_path, scenes, capsys):
    clip, model = tmp_path / "clip.mp4", tmp_path / "hat"
    write_frames(clip, (frame.scene.image for frame in scenes[:4]))
    train = ["micro", "train", "--clip", str(clip), "--out", str(model), "--steps", "1"]
    late = coco(tmp_path / "late.json", scenes, (0, 5))
    assert run([*train, "--labels", late, "--phrase", "person"]) == 2
    assert "cut short" in capsys.readouterr().err
    good = coco(tmp_path / "good.json", scenes, (0,))
    assert run([*train, "--labels", good, "--phrase", "dog"]) == 2
    assert "the finder 'demo' has no box on any of" in capsys.readouterr().err
    assert run([*train, "--labels", good, "--continue"]) == 2
    assert "no micro-model to continue" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    there = ["micro", "train", "--clip", str(tmp_path / "empty"), "--out", str(model)]
    assert run([*there, "--labels", good, "--phrase", "person"]) == 2
    assert "no frame that can be read" in capsys.readouterr().err
    clip.write_bytes(clip.read_bytes()[:200])
    assert run([*train, "--labels", good, "--phrase", "person"]) == 2
    assert "cut short" in capsys.readouterr().err
    assert not model.exists()
