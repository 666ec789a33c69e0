"""What is refused, or known to be done, before a model is loaded.

Where a model would be loaded next, its name is one that cannot be.
"""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from label_command import arguments, environment, folder_of, image, label

from secondlook.cli import run
from secondlook.config.extras import EXTRAS

ABSENT = ("--proposer", "absent", "--verifier", "absent")
FINISHED = "finished before, and nothing has changed since"


def without_extras(words: list[str], cwd: Path) -> "subprocess.CompletedProcess[str]":
    """The command where no extra is installed, neither torch nor what a store needs."""
    hidden = sorted({module for modules in EXTRAS.values() for module in modules})
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden})); "
        "from secondlook.cli import main; main(sys.argv[1:])"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(),
        timeout=60,
    )


def test_a_finished_run_says_so_and_needs_nothing(tmp_path: Path) -> None:
    photos, out = folder_of(tmp_path / "in", 3), tmp_path / "out"
    first = label(photos, out)
    assert first.returncode == 0, first.stderr
    words = arguments(photos, out)[3:]
    again = without_extras(words, tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stderr == ""
    *same, last = again.stdout.splitlines()
    assert same == first.stdout.splitlines()
    assert FINISHED in last


@pytest.mark.parametrize(
    "more",
    [("--format", "coco,yolo"), ("--gallery", "1"), ("--nms-iou", "0.5"), ("--retry-failed",)],
)
def test_a_run_with_something_to_do_is_done(tmp_path: Path, more: tuple[str, ...]) -> None:
    photos, out = folder_of(tmp_path / "in", 2), tmp_path / "out"
    assert label(photos, out).returncode == 0
    again = label(photos, out, *more)
    assert FINISHED not in again.stdout
    assert again.returncode == (2 if "--nms-iou" in more else 0), again.stderr


def test_a_run_whose_images_or_outputs_changed_is_done(tmp_path: Path) -> None:
    photos, out = folder_of(tmp_path / "in", 2), tmp_path / "out"

    def finished() -> bool:
        done = label(photos, out)
        assert done.returncode == 0, done.stderr
        return FINISHED in done.stdout

    assert not finished() and finished()
    image(photos / "more.png", seed=9)
    assert not finished() and finished()
    (out / "coco" / "annotations" / "instances_default.json").unlink()
    assert not finished() and finished()
    (out / "gallery.html").write_text("edited")
    assert not finished() and finished()
    (out / ".finished.json").write_text("{")
    assert not finished() and finished()


def test_an_image_that_may_work_the_next_time_is_tried_again(tmp_path: Path) -> None:
    photos, out = folder_of(tmp_path / "in", 2), tmp_path / "out"
    (photos / "bad.png").write_bytes(b"no image")
    assert label(photos, out).returncode == 0
    assert FINISHED in label(photos, out).stdout, "a bad image stays bad"
    record = out / ".finished.json"
    record.unlink()
    failed = json.loads((out / "failed.jsonl").read_text())
    from secondlook.cli.label import _to_be_tried_again

    assert not _to_be_tried_again(out / "failed.jsonl")
    (out / "failed.jsonl").write_text(json.dumps(failed | {"reason": "verifier_failed"}) + "\n")
    assert _to_be_tried_again(out / "failed.jsonl")


def test_other_classes_than_the_run_has_are_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = folder_of(tmp_path / "in", 1), tmp_path / "out"
    assert label(photos, out).returncode == 0
    monkeypatch.chdir(tmp_path)
    assert run(["label", str(photos), "-c", "horse", "--out", str(out), *ABSENT]) == 2
    assert "has a run with different classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["label", "empty", "-c", "dog"], "there is no image"),
        (["label", "nowhere", "-c", "dog"], "nowhere does not exist"),
        (["label", "in"], "say what to look for"),
        (["label", "in", "--ontology", "broken.yaml"], "broken.yaml"),
        (["label", "in", "-c", "dog", "--out", "broken.yaml"], "cannot be written"),
        (["label", "in", "-c", "dog", "--out", "taken"], "a gallery.html that was not written"),
        (["try", "in", "-c", "dog", "--out", "nowhere/there/try.html"], "absent"),
        (["try", "in", "-c", "dog", "--out", "broken.yaml/try.html"], "cannot be written"),
    ],
)
def test_what_is_wrong_is_told_before_a_model_is_loaded(
    words: list[str],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder_of(tmp_path / "in", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.yaml").write_text("classes: [")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "gallery.html").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert run([*words, *ABSENT]) == 2
    assert told in capsys.readouterr().err


def test_a_job_without_an_image_is_not_created(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["job", "create", "street", str(tmp_path), "--server", "127.0.0.1:1"]) == 2
    assert "there is no image" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--port", "--metrics-port"])
def test_a_port_in_use_is_told_before_a_model_is_loaded(flag: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ["serve", flag, port, *ABSENT, *(["--port", "0"] if flag != "--port" else [])]
        done = subprocess.run(
            [sys.executable, "-m", "secondlook", *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment(),
            timeout=60,
        )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"cannot listen on 127.0.0.1:{port}" in line and "address already in use" in line
