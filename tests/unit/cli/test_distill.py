"""The command ``distill`` around the training: flags, what is shown, what is refused."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from students import write_student
from training_sets import training_set, write_coco, write_yolo

from secondlook.cli import distill as distill_command
from secondlook.cli import distill as distill_progress
from secondlook.cli import run
from secondlook.cli.distill import progress_facts, training_progress
from secondlook.cli.output_folder import OutputFolder
from secondlook.config.entrypoint import INTERRUPTED
from secondlook.datasets.bad_images import write_record
from secondlook.detector.manifest import StudentManifest
from secondlook.training import distill as distilling
from secondlook.training import finished
from secondlook.training.progress import Progress
from secondlook.training.settings import TrainingSettings
from secondlook_client.errors import Cancelled

PARTS = {"train": range(6), "val": range(6, 9)}
STEP = Progress(
    "train",
    120,
    400,
    {"loss": 12.34, "mal": 2.1, "bbox": 0.4, "ddf": 0.0},
    1e-3,
    0.41,
    0.43,
    2.1,
    200.0,
)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the training was asked for; it gives a student without files."""
    calls: list[dict[str, Any]] = []

    def distill(
        data: Any, settings: Any, out: Path, tell: Any, stop: Any, **more: Any
    ) -> StudentManifest:
        calls.append({"data": data, "settings": settings, "out": out, **more})
        tell(STEP)
        if settings.seed == 13:
            raise Cancelled("stopped at step 7 of 9; the same command goes on from there")
        return StudentManifest(
            name=more["name"] or data.name,
            architecture="deimv2",
            size=settings.size,
            classes=data.classes,
            input_size=(64, 64),
            thresholds=(0.5, 0.5),
            calibration=((1.0, 0.0), (1.0, 0.0)),
            ontology=data.ontology,
            snapshot=data.digest,
            split=data.split,
            metrics={"map": 0.25, "map50": 0.5, "images_per_second": 123.4},
            files={},
            created_at=0.0,
        )

    monkeypatch.setattr(distilling, "distill", distill)
    return calls


def test_flags_become_settings(
    called: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_yolo(tmp_path / "set", PARTS)
    out = tmp_path / "out"
    flags = "--size nano --steps 70 --learning-rate 0.01 --no-augment --no-use-ignore"
    flags += " --int8 never --name dogs"
    assert run(["distill", str(source), "--out", str(out), *flags.split()]) == 0
    (call,) = called
    assert call["settings"] == TrainingSettings(
        size="nano", steps=70, learning_rate=0.01, augment=False, use_ignore=False
    )
    assert (call["out"], call["name"], call["int8"]) == (out, "dogs", "never")
    shown = capsys.readouterr()
    assert "6 images to train on, 3 held out (val), 2 classes" in shown.err
    assert "dogs: mAP 0.250, mAP50 0.500, 123 images/s here on 'val'" in shown.out


def test_a_finished_student_is_told_without_torch(
    called: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = write_student(tmp_path / "done", name="street")
    monkeypatch.setattr(finished, "finished_student", lambda data, settings, out: done)
    source = write_yolo(tmp_path / "set", PARTS)
    assert run(["distill", str(source), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert not called and "nothing has changed since" in shown.err
    assert "street: mAP 0.500, mAP50 0.800" in shown.out
    code = f"import {finished.__name__}, sys; print('torch' in sys.modules)"
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert alone.stdout == "False\n"


def test_an_output_that_cannot_be_written_is_told_first(
    called: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(["distill", "nowhere", "--out", str(tmp_path / "file" / "student")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_every_setting_has_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["distill", "--help"]) == 0
    shown = capsys.readouterr().out.replace("--[no-]", "--")
    for name in TrainingSettings.specs():
        assert "--" + name.replace("_", "-") in shown


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--steps many", "steps: expected a whole number from 0"),
        ("--learning-rate 3", "--learning-rate: expected a number from 0 to 0.1"),
        ("--size huge", "expected one of pico, nano, small, got 'huge'"),
        ("--register street", "--register needs --server"),
        ("--server nowhere", "expected HOST:PORT"),
        ("--split dev", "has no split 'dev'"),
        ("--input-height 64", "give input_width too"),
    ],
)
def test_wrong_flags_are_refused(
    called: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: str,
    told: str,
) -> None:
    source = write_coco(tmp_path / "set", PARTS)
    assert run(["distill", str(source), "--out", str(tmp_path / "out"), *flags.split()]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not called


def test_the_classes_may_be_described(
    called: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, file = write_coco(tmp_path / "set", PARTS), tmp_path / "o.yaml"
    text = "classes:\n  green: {}\n  red: {phrases: red thing}\n  blue: {}\n"
    file.write_text(text)
    command = ["distill", str(source), "--out", str(tmp_path / "out"), "--ontology", str(file)]
    assert run(command) == 0 and called[0]["data"].ontology == text
    file.write_text("classes:\n  green: {}\n")
    assert run(command) == 2 and len(called) == 1
    assert "lacks the class 'red'" in capsys.readouterr().err


def test_bad_images_are_all_told_and_a_few_are_left_out(
    called: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("secondlook.cli.output.PLAIN_EVERY_S", 0.0)
    source, out = write_yolo(tmp_path / "set", PARTS), tmp_path / "out"
    bad = [source / "images/train/001.png", source / "images/val/007.png"]
    content = [path.read_bytes() for path in bad]
    for path in bad:
        path.write_bytes(path.read_bytes()[:-900])
    command = ["distill", str(source), "--out", str(out)]
    assert run(command) == 2 and not called
    told = capsys.readouterr().err
    assert "2 of the 9 images of 'set' cannot be used, more than 5 %" in told
    assert all(f"{path}: the image is truncated" in told for path in bad)
    assert f"all are listed in {out / 'bad_images.txt'}" in told

    assert run([*command, "--max-bad-images", "0.3"]) == 0
    told = capsys.readouterr().err
    assert "warning: 2 of 9 images cannot be used and are left out" in told
    assert "checking images" in told and "5 images to train on, 2 held out" in told
    assert len((out / "bad_images.txt").read_text().splitlines()) == 2

    # What goes on has the images that it began with, though the bad ones are sound by now.
    first = called[0]["data"]
    write_record(out, first.images)
    (out / "checkpoints").mkdir()
    for path, data in zip(bad, content, strict=True):
        path.write_bytes(data)
    assert run([*command, "--max-bad-images", "0.3"]) == 0
    assert called[1]["data"].digest == first.digest and len(called[1]["data"].train) == 5
    (out / "checkpoints").rmdir()
    assert run(command) == 0
    assert called[2]["data"].digest != first.digest and len(called[2]["data"].train) == 6
    assert not (out / "bad_images.txt").exists()


def test_a_stop_is_reported(
    called: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_coco(tmp_path / "set", PARTS)
    command = ["distill", str(source), "--out", str(tmp_path / "out"), "--seed", "13"]
    assert run(command) == INTERRUPTED
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == "stopped at step 7 of 9; the same command goes on from there"


def test_a_folder_in_use_is_refused(called: list[dict[str, Any]], tmp_path: Path) -> None:
    source, out = write_coco(tmp_path / "set", PARTS), tmp_path / "out"
    with OutputFolder(out):
        assert run(["distill", str(source), "--out", str(out)]) == 2
    assert not called


# --- what is shown ------------------------------------------------------------------------------


def test_the_facts_of_a_moment() -> None:
    assert progress_facts(STEP) == (
        "loss 12.34 (mal 2.10, bbox 0.40) · mAP50 0.410, best 0.430 · 2.1 steps/s · 3 min left"
    )
    assert progress_facts(Progress("export", 1, 2)) == ""


def test_programs_read_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with training_progress(tmp_path, "jsonl") as tell:
        for step in range(100):
            tell(Progress("train", step, 1000, {"loss": 1.0}))
        tell(Progress("train", 100, 1000, map50=0.25))
        tell(Progress("train", 101, 1000, map50=0.25, note="no progress in 8 looks"))
        tell(Progress("report", 1, 1, map50=0.25))
    lines = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines][-3:] == [100, 101, 1] and len(lines) < 10
    assert lines[0] == {
        "phase": "train",
        "step": 0,
        "of": 1000,
        "loss": 1.0,
        "map50": None,
        "best_map50": None,
        "seconds_left": None,
        "note": "",
    }
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(record=True, force_terminal=True, width=140, file=io.StringIO())
    monkeypatch.setattr(distill_progress, "console", lambda **_: console)
    with distill_progress._progress_bars() as show:
        show(STEP)
        show(Progress("train", 121, 400, map50=0.44, note="going on"))
        show(Progress("export", 1, 1))
    text = console.export_text()
    assert "training" in text and "121/400" in text and "mAP50 0.440" in text
    assert "exporting" in text and "going on" in text


def test_a_student_is_added_to_a_service(
    called: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[tuple[str, str, Path]] = []
    data = training_set(tmp_path / "images")
    monkeypatch.setattr(distill_command, "_open_data", lambda *given: data)
    monkeypatch.setattr(distill_command, "_register", lambda *given: added.append(given))
    out = tmp_path / "out"
    command = ["distill", "s", "--server", "here:1", "--register", "street", "--out", str(out)]
    assert run(command) == 0
    assert added == [("here:1", "street", out)]
