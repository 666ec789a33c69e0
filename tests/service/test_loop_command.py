"""``secondlook loop`` from a folder to a student: it waits for answers, goes on, and is shown."""

import json
from pathlib import Path

import numpy as np
import pytest
from label_command import SCRIPTED
from PIL import Image
from tiny_trainings import tiny  # noqa: F401 - a fixture

from secondlook.cli import run
from secondlook.cli.loop import WorkTime
from secondlook.store import open_store

COUNT, SIZE = 14, (64, 48)


def write_world(folder: Path) -> None:
    """Images with a bright half, which is the dog that the scripted models find, and the truth."""
    (folder / "images").mkdir(parents=True)
    annotations = []
    rng = np.random.default_rng(5)
    for n in range(COUNT):
        pixels = rng.integers(0, 90, (SIZE[1], SIZE[0], 3), np.uint8)
        left = 0 if n % 2 else SIZE[0] // 2
        pixels[:, left : left + SIZE[0] // 2] += 120
        Image.fromarray(pixels).save(folder / "images" / f"{n:02}.png")
        box = [left, 0, SIZE[0] // 2, SIZE[1]]
        annotations.append({"id": n, "image_id": n, "category_id": 1, "bbox": box})
    truth = {
        "images": [
            {"id": n, "file_name": f"{n:02}.png", "width": SIZE[0], "height": SIZE[1]}
            for n in range(COUNT)
        ],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": annotations,
    }
    (folder / "truth.json").write_text(json.dumps(truth))


def test_a_loop_waits_goes_on_and_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_world(tmp_path)
    models = [part.format(pause=0) for part in SCRIPTED]
    words = ["loop", "start", "images", "--name", "street", "-c", "dog", *models]
    words += ["--batch", "3", "--held-out", "4", "--strategy", "uncertainty", "--seed", "1"]
    words += ["--steps", "2", "--start", "none", "--input-width", "64"]
    assert run(words) == 1
    told = capsys.readouterr().out
    assert "answers missing: 4" in told
    assert "secondlook review ask street-held-out street" in told
    assert run(["loop", "show", "street", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rounds"] == []
    resume = ["loop", "resume", "street", "--oracle", "truth.json", "--rounds", "1"]
    assert run(resume) == 0, capsys.readouterr().err
    assert "stopped: round 1 was the last one" in capsys.readouterr().out
    assert run(["loop", "show", "street", "--json", "--out", "curve.html"]) == 0
    shown = json.loads(capsys.readouterr().out)
    (first,) = shown["rounds"]
    assert shown["held_out"]["answers"] == 8 and shown["held_out"]["seconds"] == 20
    assert len(first["images"]) == 3 and first["answers"] == 6 and 0 <= first["map50"] <= 1
    assert (tmp_path / "street" / first["student"] / "manifest.json").is_file()
    assert "<polyline" in (tmp_path / "curve.html").read_text()
    with open_store(tmp_path / "street" / ".store") as store:
        assert store.snapshots.get(first["snapshot"]).images == COUNT
    # The same command again has nothing to do; one with another batch is about another loop.
    assert run([*words, "--rounds", "1", "--oracle", "truth.json"]) == 0
    capsys.readouterr()
    assert run([*words, "--batch", "5"]) == 2
    assert "begun with another batch (3, now 5)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--target", "0.9"], "such as map50=0.9"),
        (["--target", "map=0.9"], "expected map50= and a number up to 1"),
        (["--budget", "2"], "expected a time such as 2h"),
        (["--strategy", "transfer"], "'transfer' is not one of"),
        (["--plateau", "2", "--rounds", "3"], "--plateau N needs --stop plateau"),
        (["--oracle", "missing.json"], "missing.json"),
    ],
)
def test_bad_input_is_told(
    words: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = str(tmp_path / "street")
    assert run(["loop", "start", str(tmp_path), "--name", name, "-c", "dog", *words]) in (1, 2)
    assert problem in capsys.readouterr().err
    assert run(["loop", "show", name]) == 2 and "there is no loop" in capsys.readouterr().err


def test_a_time_is_hours_minutes_or_seconds() -> None:
    found = [WorkTime().convert(given, None, None) for given in ("2h", "1.5min", "600s", 7)]
    assert found == [7200, 90, 600, 7]
