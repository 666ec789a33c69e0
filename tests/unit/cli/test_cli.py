"""The command line around the commands: help, errors, exit codes, progress."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from PIL import Image

import secondlook.cli
from secondlook.cli import COMMANDS, group, run
from secondlook.cli.output import RateMeter, bar, duration
from secondlook.config.settings import Settings


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name, capsys):
    assert run([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: secondlook {name}")
    command = group.get_command(click.Context(group), name)
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, parameter


def test_the_list_of_commands_imports_none_of_them():
    code = (
        "import sys; from secondlook.cli import run; run(['--help']); "
        "print([m for m in ('torch', 'numpy', 'rich', 'grpc', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(name in done.stdout for name in COMMANDS)


SERVE_EXTRA = ("torch", "transformers", "sqlalchemy", "alembic", "prometheus_client")
HEAVY = (*SERVE_EXTRA, "onnxruntime", "pycocotools", "scipy")
COMMAND_MODULES = sorted(
    path.stem
    for path in Path(secondlook.cli.__file__).parent.glob("*.py")
    if path.stem != "local_service"  # imported by a command once it starts a service
)


def in_new_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("module", COMMAND_MODULES)
def test_a_module_of_commands_imports_nothing_heavy(module):
    name = "secondlook.cli" if module == "__init__" else f"secondlook.cli.{module}"
    done = in_new_process(f"import {name}, sys; print([m for m in {HEAVY} if m in sys.modules])")
    assert done.stdout == "[]\n", done.stderr


def test_serve_takes_every_setting():
    command = group.get_command(click.Context(group), "serve")
    taken = {parameter.name for parameter in command.params}
    assert set(Settings.specs()) <= taken


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["labell"], 2, "No such command 'labell'"),
        (["world", "--count", "0"], 2, "--count"),
        (["evaluate", "nowhere.json", "nowhere.json"], 2, "error: nowhere.json does not exist"),
        (["label"], 2, "IMAGES"),
        (["label", "nowhere", "-c", "dog"], 2, "error: nowhere does not exist"),
        (["try", "."], 2, "no image"),
        (["world", "--out", "/dev/null/world"], 2, "cannot be written (Not a directory)"),
        (["label", "/dev/null", "-c", "x", "--server", "host"], 2, "HOST:PORT, got 'host'"),
    ],
)
def test_errors_are_one_line(arguments, code, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == code
    shown = capsys.readouterr().err
    assert told in shown and "Traceback" not in shown


def test_a_bug_is_one_line_and_a_traceback_with_debug(monkeypatch, capsys, tmp_path):
    def broken(*_):
        raise KeyError("secret")

    monkeypatch.setattr("secondlook.cli.evaluate.join", broken)
    assert run(["evaluate", "a", "b"]) == 1
    assert "--debug" in capsys.readouterr().err
    with pytest.raises(KeyError):
        run(["--debug", "evaluate", "a", "b"])


def test_ctrl_c_exits_130_with_what_was_kept(monkeypatch, capsys):
    def stopped(*_):
        raise KeyboardInterrupt("stopped: 3 of 5 images are kept")

    monkeypatch.setattr("secondlook.cli.evaluate.join", stopped)
    assert run(["evaluate", "a", "b"]) == 130
    assert "3 of 5 images are kept" in capsys.readouterr().err


def test_world_writes_images_and_keeps_what_is_there(tmp_path, capsys):
    out = tmp_path / "w"
    arguments = ["world", "--count", "2", "--size", "96", "--out", str(out)]
    assert run(arguments) == 0
    assert len(json.loads((out / "truth.json").read_text())["images"]) == 2
    assert max(Image.open(out / "images/000001.jpg").size) == 96
    assert run(arguments) == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_evaluate_prints_a_table_or_json(tmp_path, capsys):
    box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}
    truth = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "dog [bold]"}, {"id": 2, "name": "cat"}],
        "annotations": [{"id": 1, **box}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps([{**box, "score": 0.5}]))
    paths = [str(tmp_path / "found.json"), str(tmp_path / "truth.json")]
    assert run(["evaluate", "--json", *paths]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["precision"], report["recall"], round(report["ap"], 6)) == (1, 1, 1)
    assert report["classes"]["cat"]["precision"] is None
    assert run(["evaluate", *paths]) == 0
    shown = capsys.readouterr().out
    assert "1.000" in shown and "dog [bold]" in shown


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr("secondlook.cli.output.PLAIN_EVERY_S", 0)
    with bar("labelling", 4, done=1) as step:
        step(2, 4)
    assert "labelling: 2/4" in capsys.readouterr().err


def test_the_rate_counts_only_what_is_new_and_follows_a_change():
    now = [0.0]
    meter = RateMeter(100, lambda: now[0])
    assert meter.rate(100) == 0
    for done in range(101, 111):
        now[0] += 0.5
        assert meter.rate(done) == pytest.approx(2)
    for done in range(111, 211):
        now[0] += 2
        rate = meter.rate(done)
    assert rate == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (150, "2 min"), (9000, "2.5 h")]
)
def test_durations_for_people(seconds, text):
    assert duration(seconds) == text
