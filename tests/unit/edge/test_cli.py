"""The command line of the agent."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image as PILImage
from students import UNDECIDED, image, write_student

from secondlook.edge.cli import run
from secondlook.edge.hooks import load_hook
from secondlook.edge.settings import EdgeSettings
from secondlook_client import RetryPolicy
from secondlook_client.errors import NotFound


@pytest.fixture
def student(tmp_path: Path) -> Path:
    write_student(tmp_path / "student")
    return tmp_path / "student"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        PILImage.fromarray(image((number, 1))).save(folder / f"{number}.png")
    (folder / "9.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def test_detections_are_printed_a_line_a_frame(
    student: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", "--source", str(images), "--student", str(student)]) == 0
    shown = capsys.readouterr()
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert [line["frame"] for line in lines] == ["0.png", "1.png", "2.png", "3.png"]
    (found,) = lines[3]["detections"]
    assert found["class"] == "dog" and found["box"] == [32, 32, 64, 64]
    assert lines[0]["size"] == [64, 64]
    assert "4 frames, 4 detections, 1 could not be read" in shown.err


def test_a_hook_of_the_users(
    student: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "my_hook.py").write_text(
        "def seen(frame, found):\n"
        "    with open('seen.txt', 'a') as file:\n"
        "        print(frame.name, *[d.class_name for d in found], file=file)\n"
    )
    monkeypatch.chdir(tmp_path)
    flags = ["--source", str(images), "--student", str(student), "--hook", "my_hook:seen"]
    assert run(["run", *flags, "--frames", "2"]) == 0
    assert Path("seen.txt").read_text() == "0.png dog\n1.png dog\n"
    assert capsys.readouterr().out == ""
    for wrong in ("my_hook:sen", "nowhere:seen", "my_hook"):
        with pytest.raises(NotFound, match="give it as package"):
            load_hook(wrong)


def test_once_shows_what_a_student_finds(
    student: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(images / "1.png"), "--student", str(student)]
    assert run(["once", *arguments]) == 0
    shown = capsys.readouterr().out
    head, found, *_ = shown.splitlines()
    assert head.startswith("1.png: 1 found in")
    assert found.split()[0] == "dog" and found.endswith("32 0 64 32")
    assert run(["once", *arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["detections"][0]["class"] == "dog"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run"], "--source"),
        (["run", "--source", "."], "--student FOLDER"),
        (["run", "--source", "nowhere", "--student", "STUDENT"], "'nowhere' cannot be read"),
        (["run", "--source", ".", "--student", "."], "not the folder of a student"),
        (["run", "--source", ".", "--student", "STUDENT"], "no image in"),
        (["run", "--source", ".", "--server", "localhost:1", "--model", "m"], "no model to begin"),
        (["once", "nowhere.jpg", "--student", "STUDENT"], "'nowhere.jpg' cannot be read"),
        (["run", "--ontology", "x.yaml", "-c", "dog"], "not both"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    told: str,
    student: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setattr("secondlook.edge.app.RETRY", RetryPolicy(unavailable_s=0))
    assert run([str(student) if word == "STUDENT" else word for word in arguments]) == 2
    shown = capsys.readouterr().err
    assert told in shown and "Traceback" not in shown


def test_check_says_what_is_missing(
    student: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--source", str(images), "--student", str(student)]
    assert run(["check", *flags]) == 0
    assert capsys.readouterr().out.split() == ["ok", "packages", "ok", "source", "ok", "student"]
    flags += ["--server", "127.0.0.1:1", "--spool", str(tmp_path / "spool")]
    assert run(["check", *flags, "--hook", "nowhere:f"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "ok", "ok", "FAILED", "FAILED", "ok"]
    assert "no secondlook server answers" in lines[4]


def test_every_setting_is_a_flag_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "--help"]) == 0
    shown = capsys.readouterr().out
    shown = shown.replace("--[no-]", "--")
    assert all(f"--{name.replace('_', '-')}" in shown for name in EdgeSettings.specs())
    assert EdgeSettings().selection.budget == 60


def test_the_agent_runs_without_the_packages_of_the_service(student: Path, images: Path) -> None:
    heavy = "('torch', 'transformers', 'sqlalchemy', 'scipy', 'onnx', 'alembic', 'av')"
    code = (
        "import sys\n"
        f"for name in {heavy}: sys.modules[name] = None\n"
        "from secondlook.edge.cli import run\n"
        "import secondlook.edge.sources\n"
        f"code = run(['run', '--source', {str(images)!r}, '--student', {str(student)!r}])\n"
        f"loaded = [n for n in {heavy} if sys.modules.get(n)]\n"
        "ours = [n for n in sys.modules if n.startswith(('secondlook.store', 'secondlook.models', "
        "'secondlook.server', 'secondlook.training', 'secondlook.cli'))]\n"
        "sys.exit(str(loaded + ours) if loaded or ours else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4


def test_sigterm_ends_it_in_order(student: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    PILImage.fromarray(image((0, 1))).save(tmp_path / "in" / "0.png")
    flags = ["--source", tmp_path / "in", "--follow", "--student", student]
    flags += ["--health-file", tmp_path / "health.json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "secondlook.edge.cli", "run", *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    killer = threading.Timer(30, process.kill)
    killer.start()
    process.stdout.readline()
    process.terminate()
    _, said = process.communicate()
    killer.cancel()
    assert process.returncode == 0, said
    assert "1 frames, 1 detections" in said
    assert json.loads((tmp_path / "health.json").read_text())["frames"] == 1


def test_of_a_contrast_one_class_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PILImage.fromarray(image((0, 0))).save(tmp_path / "red.png")
    kinds = {
        "no groups": {},
        "groups": {"groups": ("a", "a"), "group_calibration": ((1.0, -5.0), (1.0, 0.0))},
    }
    shown = {}
    for name, fields in kinds.items():
        write_student(tmp_path / name, reactions=UNDECIDED, **fields)
        flags = ["--student", str(tmp_path / name), "--json"]
        assert run(["once", str(tmp_path / "red.png"), *flags]) == 0
        found = json.loads(capsys.readouterr().out)["detections"]
        shown[name] = [one["class"] for one in found]
    assert shown == {"no groups": ["person", "dog"], "groups": ["dog"]}
