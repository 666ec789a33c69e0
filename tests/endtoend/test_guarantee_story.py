"""A precision that is named, guaranteed from a truth file's answers, and frozen: a user's story."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from installed import Run, run_secondlook

from secondlook.demo.world import write_world
from secondlook.evaluation.coco_files import join
from secondlook.evaluation.matching import evaluate

ASKED = ("--precision", "0.8", "--confidence", "0.8", "--promise", "run", "--budget", "120")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``world``, 24 scenes with truth, and their ``labels`` by the demo models."""
    here = tmp_path_factory.mktemp("story")
    write_world(here / "world", seed=777, count=24, size=320)
    ontology = ("--ontology", "world/ontology.yaml")
    run_secondlook("label", "world/images", "--out", "labels", *ontology, cwd=here)
    return here


def guarantee(here: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return run_secondlook("guarantee", *arguments, cwd=here)


def test_from_labels_to_a_guaranteed_dataset(
    labelled: Path, secondlook: Run, tmp_path: Path
) -> None:
    here = tmp_path
    shutil.copytree(labelled, here, dirs_exist_ok=True)
    made = guarantee(here, "create", "labels", *ASKED, "--oracle", "world/truth.json")
    assert "it holds" in made.stdout and "Missed objects" in made.stdout
    shown = guarantee(here, "show", "labels-0.8", "labels", "--page", "page.html", "--json", "-")
    certificate = json.loads(shown.stdout)
    (result,) = certificate["results"]
    assert result["bound"] >= 0.8 and result["threshold"] is not None
    page = (here / "page.html").read_text(encoding="utf-8")
    assert "What is not guaranteed" in page and certificate["sample"] in page
    applied = guarantee(here, "apply", "labels-0.8", "labels")
    assert "24 images decided again as 'labels-0.8'" in applied.stdout
    data = ("--data", "labels/.store")
    secondlook("snapshot", "create", "s", "--guarantee", "labels-0.8", *data, cwd=here)
    secondlook("snapshot", "export", "s", "--out", "out", "--format", "coco", *data, cwd=here)
    card = (here / "out" / "README.md").read_text(encoding="utf-8")
    assert "## Guaranteed precision" in card and "Not guaranteed: Missed objects" in card
    frozen = json.loads((here / "out" / "certificate.json").read_text(encoding="utf-8"))
    assert frozen["sample"] == certificate["sample"]
    again = secondlook("check", *data, cwd=here)
    assert "no problem" in again.stdout
    assert precision_of(here) >= 0.8


def precision_of(here: Path) -> float:
    """Of the labels of the export, by file name without the hash that it adds."""
    truth = json.loads((here / "world" / "truth.json").read_text(encoding="utf-8"))
    names = {Path(image["file_name"]).stem: image["file_name"] for image in truth["images"]}
    for path in (here / "out" / "coco" / "annotations").glob("*.json"):
        coco = json.loads(path.read_text(encoding="utf-8"))
        for image in coco["images"]:
            image["file_name"] = names[Path(image["file_name"]).stem.rsplit("-", 1)[0]]
        path.write_text(json.dumps(coco), encoding="utf-8")
    joined = join(here / "out" / "coco", here / "world" / "truth.json")
    precision = evaluate(joined.images.values(), joined.classes).total().precision
    assert precision is not None
    return precision


@pytest.mark.parametrize("answers", [0, 40])
def test_killed_in_the_middle_it_ends_with_the_same_certificate(
    labelled: Path, tmp_path: Path, answers: int
) -> None:
    arguments = ("create", "labels", *ASKED, "--oracle", "world/truth.json")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for here in (whole, killed):
        shutil.copytree(labelled, here)
    guarantee(whole, *arguments)
    command = [sys.executable, "-m", "secondlook", "guarantee", *arguments]
    process = subprocess.Popen(command, cwd=killed, stdout=subprocess.DEVNULL)
    ends = time.monotonic() + 120
    while _answers(killed) < answers and process.poll() is None and time.monotonic() < ends:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = _answers(killed)
    guarantee(killed, *arguments)
    assert _certificate(killed) == _certificate(whole)
    assert _answers(killed) == _answers(whole) >= before, "an answer was lost or given twice"


def _answers(here: Path) -> int:
    from sqlalchemy import text

    from secondlook.store.database import Database

    database = Database.read_only(here / "labels" / ".store" / "store.db")
    try:
        with database.reading() as connection:
            return int(connection.execute(text("SELECT count(*) FROM reviews")).scalar_one())
    except Exception:  # no such table before the migration
        return 0
    finally:
        database.close()


def _certificate(here: Path) -> dict[str, object]:
    shown = guarantee(here, "show", "labels-0.8", "labels", "--json", "-")
    told = json.loads(shown.stdout)
    return {name: told[name] for name in ("results", "sample", "answers", "terms", "boxes")}
