"""Every command under every installation that the README lists: one line names what is missing.

The packages of the other extras are hidden in a process for each installation.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image
from students import image, write_student

from secondlook.cli import COMMANDS
from secondlook.config.extras import EXTRAS

INSTALLATIONS = {
    "base": (),
    "evaluate": ("evaluate",),
    "edge": ("edge",),
    "serve": ("serve",),
    "serve,ollama": ("serve", "ollama"),
    "serve,distill": ("serve", "distill"),
}
NEED_NOTHING = {"completion", "job", "world"}
"""Commands of the client and of the demo world."""
LABEL = ("label", "photos", "-c", "dog", "--out", "labels")
EDGE = ("edge", "run", "--student", "student", "--source")
STORED = (
    ("explain", "1.0"),
    ("compare", "a", "b"),
    ("redecide", "a", "b"),
    ("review", "list"),
    ("guarantee", "list"),
    ("decoys", "a"),
    ("uncertainty", "a"),
    ("select", "a"),
    ("snapshot", "list"),
    ("models", "list"),
    ("token", "list"),
    ("check",),
    ("backup", "copy"),
    ("restore", "copy"),
    ("forget", "--orphans"),
)
NEEDED: dict[tuple[str, ...], tuple[str, ...]] = {
    ("demo", "--out", "demo"): ("serve",),
    ("demo", "--distill", "--out", "demo"): ("serve", "distill"),
    ("try", "photos", "-c", "dog"): ("serve",),
    LABEL: ("serve",),
    (*LABEL, "--verifier", "ollama:m"): ("serve", "ollama"),
    (*LABEL, "--student", "student"): ("serve", "edge"),
    (*LABEL, "clip.mp4"): ("serve", "video"),
    (*LABEL, "--track"): ("serve", "tracks"),
    (*LABEL, "--ray", "auto"): ("serve", "ray"),
    ("verify", "photos/truth.json", "--out", "verified"): ("serve",),
    ("segment", "photos/a.png", "--inside", "1,1"): ("serve",),
    ("record", "/dev/video0"): ("video",),
    ("serve", "--port", "0"): ("serve",),
    ("ui", "--data", "data"): ("serve",),
    ("label-studio", "--data", "data"): ("serve",),
    ("health",): ("serve",),
    ("serve", "--verifier", "moondream:"): ("serve", "moondream"),
    ("evaluate", "photos/truth.json", "photos/truth.json"): ("evaluate",),
    ("distill", "photos", "--out", "trained"): ("serve", "distill"),
    ("micro", "train", "--clip=photos", "--labels=a.json", "--out=m"): ("serve", "distill"),
    ("loop", "start", "photos", "--name", "street", "-c", "dog"): ("serve", "distill"),
    **{(*words, "--data", "data"): ("serve",) for words in STORED},
    (*EDGE, "photos"): ("edge",),
    (*EDGE, "clip.mp4"): ("edge", "video"),
    ("edge", "once", "photos/a.png", "--student", "student"): ("edge",),
}
"""The extras that a command line needs."""
RUN = """
import contextlib, io, json, sys
hidden, lines = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys(hidden))
from secondlook.cli import run
from secondlook.edge.cli import run as run_edge
told = []
for line in lines:
    with contextlib.redirect_stderr(io.StringIO()) as shown:
        code = run_edge(line[1:]) if line[0] == "edge" else run(line)
    told.append((code, shown.getvalue()))
json.dump(told, sys.stdout)
"""


class Told(NamedTuple):
    """What a command line came to."""

    code: int
    stderr: str


def modules_of(extras: Sequence[str]) -> set[str]:
    return {module for extra in extras for module in EXTRAS[extra]}


def lacking(line: tuple[str, ...], installation: str) -> list[str]:
    """The extras that a command line needs and an installation lacks."""
    there = modules_of(INSTALLATIONS[installation])
    if "serve" in INSTALLATIONS[installation]:
        there.add("httpx")  # transformers brings it
    return [extra for extra in NEEDED[line] if not there.issuperset(EXTRAS[extra])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with annotations, and a student."""
    made = tmp_path_factory.mktemp("installation")
    (made / "photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(image((0, 0))).save(made / "photos" / name)
    truth: dict[str, Any] = {
        "images": [{"id": n, "file_name": f"{c}.png"} for n, c in enumerate("ab")],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [0, 0, 20, 20]} for n in (0, 1)
        ],
    }
    (made / "photos" / "truth.json").write_text(json.dumps(truth))
    (made / "clip.mp4").write_bytes(b"a video")
    write_student(made / "student")
    return made


@pytest.mark.parametrize("installation", INSTALLATIONS)
def test_what_is_missing_is_named_in_one_line(installation: str, folder: Path) -> None:
    there = modules_of(INSTALLATIONS[installation])
    hidden = sorted(modules_of([*EXTRAS]) - there - ({"httpx"} if "torch" in there else set()))
    refused = [line for line in NEEDED if lacking(line, installation)]
    given = json.dumps([hidden, refused])
    done = subprocess.run(
        [sys.executable, "-c", RUN, given], capture_output=True, text=True, cwd=folder, timeout=110
    )
    assert done.returncode == 0, done.stderr
    for line, told in zip(refused, json.loads(done.stdout), strict=True):
        code, stderr = Told(*told)
        *notes, last = stderr.splitlines()
        extras = ",".join(lacking(line, installation))
        assert code == 1 and f'pip install "secondlook[{extras}]"' in last, (line, stderr)
        assert not [note for note in notes if not note.startswith("note: ")], (line, stderr)
    made = {path.name for path in folder.iterdir()}
    assert made == {"photos", "clip.mp4", "student"}, "nothing was begun"


def test_every_command_is_tried() -> None:
    assert {line[0] for line in NEEDED} - {"edge"} == set(COMMANDS) - NEED_NOTHING


@pytest.mark.parametrize("installation", ["evaluate", "serve", "serve,distill"])
def test_predictions_are_evaluated_with(installation: str, folder: Path) -> None:
    hidden = sorted(modules_of([*EXTRAS]) - modules_of(INSTALLATIONS[installation]))
    given = json.dumps([hidden, [["evaluate", "photos/truth.json", "photos/truth.json"]]])
    done = subprocess.run(
        [sys.executable, "-c", RUN, given], capture_output=True, text=True, cwd=folder, timeout=110
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[0, ""]], done.stdout
