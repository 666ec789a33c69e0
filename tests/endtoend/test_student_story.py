"""What the README shows of students, devices and the cascade, as one user's story."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from installed import Kept, Run, environment, served

from secondlook.cli import run
from secondlook_client import Client
from secondlook_client.values import LabelPath

pytestmark = pytest.mark.timeout(600)  # its setup labels, freezes and trains twice
SNAPSHOT = "street-split"
QUICK = ("--size", "pico", "--steps", 2, "--input-width", 64, "--batch", 2)


class Taught(NamedTuple):
    """A service with a snapshot in two parts."""

    address: str
    folder: Path
    """With the students ``student`` and ``later``."""


@pytest.fixture(scope="module")
def taught(kept: Kept, secondlook: Run, tmp_path_factory: pytest.TempPathFactory) -> Taught:
    folder = tmp_path_factory.mktemp("taught")
    split = ("--split", "train=2", "--split", "val=1")
    freeze = ("snapshot", "create", SNAPSHOT, "--run", "street", *split)
    secondlook(*freeze, "--data", kept.data, cwd=folder)
    distill = ("distill", SNAPSHOT, "--server", kept.address, *QUICK)
    secondlook(*distill, "--out", "student", cwd=folder)
    # The second one in this process, which has loaded torch.
    assert run([*map(str, distill), "--seed", "1", "--out", str(folder / "later")]) == 0
    return Taught(kept.address, folder)


def edge(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """``secondlook-edge`` as a user runs it."""
    command = [sys.executable, "-m", "secondlook.edge.cli", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    return done


def test_a_student_comes_with_report_and_models(taught: Taught) -> None:
    student = taught.folder / "student"
    report = json.loads((student / "report.json").read_text())
    assert {"map", "map50", "map50_per_class", "images_per_second", "snapshot"} <= report.keys()
    assert len(report["snapshot"]) == 64
    assert "<svg" in (student / "report.html").read_text()
    assert (student / "model.onnx").stat().st_size > 100_000


def test_add_promote_roll_back_and_a_device_that_follows(
    taught: Taught, secondlook: Run, world: Path, tmp_path: Path
) -> None:
    at = ("--server", taught.address)
    for number, student in enumerate(("student", "later"), start=1):
        secondlook("models", "add", student, *at, cwd=taught.folder)
        secondlook("models", "promote", SNAPSHOT, number, "--force", *at, cwd=taught.folder)
    secondlook("models", "rollback", SNAPSHOT, *at, cwd=taught.folder)
    with Client(taught.address) as client:
        current = client.models.current(SNAPSHOT)
    assert current is not None
    assert current.version == 1
    source = ("--source", world / "images", "--spool", "spool", "--models", "models")
    looked = edge("run", *at, "--model", SNAPSHOT, *source, "--stream", "yard", cwd=tmp_path)
    lines = [json.loads(line) for line in looked.stdout.splitlines()]
    assert len(lines) == 12
    with Client(taught.address) as client:
        (stream,) = (job for job in client.jobs.list() if job.name.startswith("yard-"))
    assert stream.total == 12, "all are within the budget, and novel to a device that starts"


def test_what_a_device_finds_on_one_image(taught: Taught, world: Path, tmp_path: Path) -> None:
    image = sorted((world / "images").iterdir())[0]
    found = edge("once", image, "--student", taught.folder / "student", cwd=tmp_path)
    assert found.stdout.strip()


def test_a_student_before_the_models(taught: Taught, world: Path) -> None:
    student = ("--student", taught.folder / "student")
    image = sorted((world / "images").iterdir())[0]
    with (
        served("--ontology", world / "ontology.yaml", *student) as (address, _),
        Client(address) as client,
    ):
        assert client.info().student.startswith(f"student:{SNAPSHOT}@")
        assert client.label(image).path is LabelPath.TEACHERS


def test_the_promoted_student_before_the_models(
    taught: Taught, secondlook: Run, world: Path, tmp_path: Path
) -> None:
    kept = ("--data", tmp_path / "data", "--student", f"model:{SNAPSHOT}")
    with (
        served("--ontology", world / "ontology.yaml", *kept) as (address, _),
        Client(address) as client,
    ):
        assert client.info().student == ""
        at = ("--server", address)
        secondlook("models", "add", "student", *at, cwd=taught.folder)
        secondlook("models", "promote", SNAPSHOT, 1, *at, cwd=taught.folder)
        deadline = time.monotonic() + 30
        while not client.info().student and time.monotonic() < deadline:
            time.sleep(0.1)
        assert client.info().student.startswith(f"student:{SNAPSHOT}@")
