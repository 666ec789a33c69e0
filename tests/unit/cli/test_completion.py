"""Shell completion, as bash asks for it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from secondlook.cli import COMMANDS, run

BASH = shutil.which("bash") or "/bin/bash"
COMPLETE = """
source {script}
COMP_WORDS=({line}); COMP_CWORD={place}; COMPREPLY=()
_secondlook_completion secondlook
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completed(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What bash offers for the last word of ``line``; it is empty after a blank."""
    assert run(["completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    words = line.split(" ")
    shell = COMPLETE.format(
        script=script, line=" ".join(f"'{w}'" for w in words), place=len(words) - 1
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [BASH, "-c", shell], cwd=tmp_path, env={**os.environ, "PATH": path},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("secondlook la", {"label", "label-studio"}),
        ("secondlook label --score", {"--score-floor"}),
        ("secondlook label --models dem", {"demo"}),
        ("secondlook serve --proposer gro", {"groundingdino-py"}),
        ("secondlook label --format coco,y", {"coco,yolo", "coco,yolo-seg"}),
        ("secondlook serve --dtype bf", {"bfloat16"}),
        ("secondlook job c", {"create", "cancel"}),
        ("secondlook distill --size ", {"pico", "nano", "small"}),
    ],
)
def test_bash_completes(line, offered, tmp_path, capsys) -> None:
    assert set(completed(line, tmp_path, capsys)) == offered


def test_commands_are_completed_without_importing_them(tmp_path) -> None:
    code = (
        "import atexit, sys\n"
        "heavy = ('numpy', 'torch', 'grpc', 'rich', 'PIL')\n"
        "atexit.register(lambda: print([m for m in heavy if m in sys.modules]))\n"
        "from secondlook.cli import main; main([])"
    )
    asked = {
        "_SECONDLOOK_COMPLETE": "bash_complete",
        "COMP_WORDS": "secondlook ",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]" and {line.removeprefix("plain,") for line in lines[:-1]} == {*COMMANDS}


def test_models_are_all_that_are_registered(tmp_path, capsys) -> None:
    offered = completed("secondlook try --verifier ", tmp_path, capsys)
    assert {"demo", "transformers", "ollama", "openai", "moondream"} <= {*offered}


def test_where_no_model_matches_bash_offers_files(monkeypatch, capsys) -> None:
    monkeypatch.setenv("_SECONDLOOK_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "secondlook try --verifier my-")
    monkeypatch.setenv("COMP_CWORD", "3")
    with pytest.raises(SystemExit):
        run([])
    assert capsys.readouterr().out == "file,my-\n"


@pytest.mark.parametrize(("shell", "told"), [("zsh", "#compdef"), ("fish", "complete --no-files")])
def test_other_shells_have_scripts(shell, told, capsys) -> None:
    assert run(["completion", shell]) == 0
    assert told in capsys.readouterr().out


def test_the_agent_has_a_script_of_its_own(capsys) -> None:
    assert run(["completion", "bash", "--edge"]) == 0
    shown = capsys.readouterr().out
    assert "_SECONDLOOK_EDGE_COMPLETE" in shown and "secondlook-edge" in shown
