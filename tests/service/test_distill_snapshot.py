"""From a snapshot of a real service to a student on this disk: the library, the command."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from fakes import Row
from frozen import DOG_BOX, photos, stored
from serving import Serving, serving
from students import swap_classes, truncate
from tiny_trainings import TINY, one_thread

from secondlook.cli import run
from secondlook.config.entrypoint import INTERRUPTED
from secondlook.core.ontology_yaml import ontology_from_yaml
from secondlook.core.types import Image
from secondlook.datasets.image_cache import read_pixels
from secondlook.datasets.open import open_training_set
from secondlook.detector.manifest import read_manifest, verify_files
from secondlook.detector.runtime import OnnxDetector
from secondlook.store import Store, open_store
from secondlook.training import model
from secondlook_client import Client
from secondlook_client.errors import InvalidInput, NotFound, SecondlookError
from secondlook_client.values import SnapshotQuery

CAT_BOX = (41.0, 40.0, 70.0, 60.0)
FLAGS = ("--start", "none", "--input-width", "64", "--batch", "2", "--device", "cpu")


def script(image: Image, phrases: Sequence[str]) -> Sequence[Row]:
    """A dog, and a cat that the verifier rejects."""
    return [
        (DOG_BOX, {"dog": 0.8, "cat": 0.05}),
        (CAT_BOX, {"dog": 0.05, "cat": 0.9}),
    ]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A service with the snapshot ``s``: 20 images, ``train`` and ``val``."""
    data: Path = tmp_path_factory.mktemp("service")
    with open_store(data / "data") as store:
        stored(store, "r", photos(20), script=script, answers={"Dog?": 0.95, "Cat?": 0.02})
        with serving(store=store) as running, Client(running.address) as client:
            query = SnapshotQuery(runs=["r"], split={"train": 3, "val": 1}, hard_negatives=True)
            client.datasets.create("s", query)
            yield running


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setitem(model.SIZES, "pico", TINY)
    monkeypatch.setattr("secondlook.training.export.export.TIMING_S", 0.1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with one_thread():
        yield


def test_every_kind_of_box_is_pulled(served: Serving, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    data = open_training_set(
        "s", server=served.address, cache=tmp_path / "c", progress=lambda *done: told.append(done)
    )
    with Client(served.address) as client:
        snapshot = client.datasets.get("s")
    assert data.classes == ("dog", "cat") and data.split == "val" and data.name == "s"
    assert data.digest == snapshot.manifest
    assert {"train": len(data.train), "val": len(data.held_out)} == dict(snapshot.splits)
    assert told[-1] == (20, 20) and any("cat: no box to learn from" in w for w in data.warnings)
    assert ontology_from_yaml(data.ontology).names == data.classes
    for sample in (*data.train, *data.held_out):
        assert DOG_BOX in [tuple(box) for box in sample.boxes.tolist()]
        assert set(sample.classes.tolist()) == {0}
        negatives = zip(sample.negatives.tolist(), sample.negative_classes.tolist(), strict=True)
        assert (list(CAT_BOX), 1) in [*negatives]
        assert sample.group and len(sample.sha256) == 64
        assert read_pixels(sample).shape == (64, 72, 3)
    groups = {s.group for s in data.train} & {s.group for s in data.held_out}
    assert not groups


def test_what_was_pulled_is_not_pulled_again(served: Serving, tmp_path: Path) -> None:
    first = open_training_set("s", server=served.address, cache=tmp_path / "c")
    places = {sample.path: sample.path.stat().st_mtime_ns for sample in first.train}
    second = open_training_set("s", server=served.address, cache=tmp_path / "c")
    assert {s.path: s.path.stat().st_mtime_ns for s in second.train} == places
    assert [s.name for s in first.train] == [s.name for s in second.train]


def test_what_is_not_there_is_told(served: Serving, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nothing-like-this"):
        open_training_set("nothing-like-this", server=served.address, cache=tmp_path)


def test_images_that_the_service_has_lost_are_told(tmp_path: Path) -> None:
    with open_store(tmp_path / "data") as store:
        stored(store, "r", photos(6))
        with serving(store=store) as running, Client(running.address) as client:
            client.datasets.create("s", SnapshotQuery(runs=["r"]))
            lose_images(store, tmp_path / "data")
            with pytest.raises(SecondlookError, match=r"not in the blob store.*secondlook restore"):
                open_training_set("s", server=running.address, cache=tmp_path / "c")


@pytest.mark.parametrize("weights", [(1.0, 1e-9), (1e-9, 1.0)], ids=["train", "val"])
def test_of_one_camera_the_way_out_is_told(tmp_path: Path, weights: tuple[float, float]) -> None:
    with open_store(tmp_path / "data") as store:
        stored(store, "gate", photos(40), kind="capture")
        with serving(store=store) as running, Client(running.address) as client:
            split = dict(zip(("train", "val"), weights, strict=True))
            client.datasets.create("auto", SnapshotQuery(["gate"], split=split))
            with pytest.raises(InvalidInput, match=r"40 images of 'auto' .* --group-by time`"):
                open_training_set("auto", server=running.address, cache=tmp_path / "c")
            client.datasets.create("time", SnapshotQuery(["gate"], split=split, group_by="time"))
            data = open_training_set("time", server=running.address, cache=tmp_path / "c")
    assert len(data.train) + len(data.held_out) == 40 and data.train and data.held_out


def lose_images(store: Store, data: Path) -> None:
    for content in photos(6).values():
        name = hashlib.sha256(content).hexdigest()
        for path in data.rglob(f"*{name}*"):
            path.unlink()


def test_the_command_from_snapshot_to_student(
    served: Serving, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "student"
    command = ["distill", "s", "--server", served.address, "--out", str(out), *FLAGS]
    command += ["--steps", "3", "--validate-every", "3", "--name", "street dogs"]
    assert run(command) == 0
    shown = capsys.readouterr()
    assert "cat: no box to learn from" in shown.err and "training: " in shown.err
    assert str(out / "report.html") in shown.out

    manifest = read_manifest(out)
    verify_files(out, manifest)
    assert manifest.name == "street dogs" and manifest.classes == ("dog", "cat")
    with Client(served.address) as client:
        assert manifest.snapshot == client.datasets.get("s").manifest
    assert ontology_from_yaml(manifest.ontology).names == manifest.classes
    report = json.loads((out / "report.json").read_text())
    assert {"map", "map50", "map50_per_class", "images_per_second", "snapshot"} <= set(report)
    assert report["snapshot"] == manifest.snapshot and report["warnings"]
    assert report["map50"] == pytest.approx(manifest.metrics["map50"], abs=1e-4)
    assert sorted(path.name for path in (out / "torch").iterdir()) == [
        "config.json",
        "model.safetensors",
        "training.json",
    ]
    assert not (out / "checkpoints").exists()
    lines = [json.loads(line) for line in (out / "progress.jsonl").read_text().splitlines()]
    assert {"train", "export", "report"} == {line["phase"] for line in lines}
    assert (lines[-1]["phase"], lines[-1]["step"], lines[-1]["of"]) == ("report", 1, 1)
    pixels = read_pixels(open_training_set("s", server=served.address).train[0])
    detector = OnnxDetector.open(out)
    assert len(detector.detect([pixels], floor=0.0)[0]) > 0
    detector.close()

    assert run(command) == 0  # done is done
    assert "was finished before" in capsys.readouterr().err
    assert read_manifest(out) == manifest
    weights = (out / "torch" / "model.safetensors").read_bytes()
    for spoil in (
        lambda: truncate(out, "report.html"),
        lambda: swap_classes(out, read_manifest(out)),
    ):
        spoil()
        assert run(command) == 0  # its files are made again, without another training
        assert "was finished before" not in capsys.readouterr().err
        OnnxDetector.open(out, "fp32").close()
    assert (out / "torch" / "model.safetensors").read_bytes() == weights
    assert not (out / "checkpoints").exists()
    other = [*command, "--seed", "5"]
    assert run(other) == 2
    assert "seed 0 instead of 5" in capsys.readouterr().err


@pytest.mark.slow
def test_a_watched_training_ends_softly_and_goes_on(served: Serving, tmp_path: Path) -> None:
    """As the server's own trainings: a child process, its progress in a file, SIGTERM to end it."""
    out = tmp_path / "student"
    command = [sys.executable, "-m", "secondlook", "distill", "s", "--server", served.address]
    command += ["--out", str(out), "--progress", "jsonl", "--cache", str(tmp_path / "c"), *FLAGS]
    command += ["--steps", "100000", "--batch", "1"]
    child = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    until = time.monotonic() + 100
    while not any(line["step"] >= 2 for line in progress(out)) and time.monotonic() < until:
        assert child.poll() is None
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    _, told = child.communicate(timeout=60)
    assert child.returncode == INTERRUPTED
    assert "the same command goes on from there" in told.strip().splitlines()[-1]
    assert (out / "checkpoints" / "last.pt").is_file() and not (out / "manifest.json").exists()


def progress(out: Path) -> list[dict[str, int]]:
    path = out / "progress.jsonl"
    if not path.exists():
        return []
    whole = path.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]
