"""Commands with ``--ray`` on a small cluster of this machine: what comes out is what a run without
Ray gives, and a worker that dies costs nothing but time."""

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from killed_cluster import OwnCluster
from label_command import (
    COCO,
    START,
    arguments,
    environment,
    folder_of,
    image,
    label,
    lines,
    names_done,
)
from s3 import client

from secondlook.cli import run
from secondlook.store import open_store

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.timeout(300)  # a cluster starts, and its workers start again

IDS = re.compile(rb'"label_id": "[^"]*"|"date_created": "[^"]*"|"job": "[^"]*"')
"""What differs between any two runs: the order in which images were done numbers their results."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",  # a busy machine would let workers of niceness 15 starve
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": "us-east-1",
}
ON_RAY = ("--ray", "auto", "--ray-actors", "1", "--ray-cpus", "0.5", "--propose-batch", "4")
LIKENESS = ("--embedder", "scripted_models:mean_colour", "--by-boxes", "--strategy", "diversity")


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster of two CPUs, and the file where its models note what they look at."""
    log = tmp_path_factory.mktemp("ray") / "looked-at"
    with mock.patch.dict(os.environ, {**ENVIRONMENT, "SCRIPTED_LOG": str(log)}):
        ray.init(
            "local",
            num_cpus=2,
            object_store_memory=100 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
        )
        log.touch()
        yield log
        ray.shutdown()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images in two folders, one that is none and one that is never read."""
    folder = folder_of(tmp_path / "photos", 9)
    image(folder / "more" / "deep.png", 77)
    (folder / "broken.jpg").write_bytes(b"not an image")
    (folder / "phone.heic").write_bytes(b"HEIC")
    return folder


def test_a_cluster_gives_what_this_process_gives(
    photos: Path, tmp_path: Path, looked_at: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    assert label(photos, here, "--format", "coco,yolo").returncode == 0
    looks = len(looked_at.read_text().splitlines())
    ended = label(photos, there, "--format", "coco,yolo", *ON_RAY)
    assert ended.returncode == 0, ended.stderr
    assert "2 images failed" in ended.stdout
    assert outputs(there) == outputs(here)
    assert evidence(there / ".store") == evidence(here / ".store")
    before = len(looked_at.read_text().splitlines())
    assert before == looks + 10  # each image once

    image(photos / "new.png", 99)
    assert label(photos, here, *ON_RAY).returncode == 0  # goes on with a run that began here
    assert len(looked_at.read_text().splitlines()) == before + 1
    assert names_done(here)["new.png"] == 1
    assert "finished before" in label(photos, here, *ON_RAY).stdout


def test_an_image_that_ends_its_worker_fails_alone(
    photos: Path, tmp_path: Path, looked_at: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secondlook.jobs.ray_labeling.LOST_ALONE", 1)
    image(photos / "0000.png", 5, size=(120, 30))  # among the first
    out, deadly = tmp_path / "out", ("--proposer", "scripted_models:deadly:0")
    ended = label(photos, out, *ON_RAY, *deadly)
    assert ended.returncode == 0, ended.stderr
    failed = {one["name"]: one["message"] for one in lines(out / "failed.jsonl")}
    assert set(failed) == {"broken.jpg", "phone.heic", "0000.png"}  # and none beside it
    assert "ended its worker" in failed["0000.png"]
    assert set(names_done(out).values()) == {1}
    assert len(names_done(out)) == 10


def test_images_and_labels_in_a_bucket(
    photos: Path,
    tmp_path: Path,
    looked_at: Path,
    s3_endpoint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bucket = client(s3_endpoint)
    bucket.create_bucket(Bucket="on-ray")
    for file in sorted(photos.rglob("*.*")):
        key = f"in/{file.relative_to(photos).as_posix()}"
        bucket.put_object(Bucket="on-ray", Key=key, Body=file.read_bytes())
    here, data = tmp_path / "here", tmp_path / "data"
    assert label(photos, here).returncode == 0
    images, out = (f"s3://on-ray/{name}?endpoint={s3_endpoint}" for name in ("in", "out"))
    words = arguments(Path("in"), Path("out"))[len(START) :]
    words[words.index("in")], words[words.index("out")] = images, out
    assert run(words) == 2  # without a cluster
    assert run([*words, *ON_RAY]) == 2
    assert "give --data" in capsys.readouterr().err

    words += [*ON_RAY, "--data", str(data)]
    assert run(words) == 0, capsys.readouterr().err
    assert "s3://on-ray/out/coco" in capsys.readouterr().out
    found = bucket.get_object(Bucket="on-ray", Key=f"out/{COCO.as_posix()}")["Body"].read()
    assert IDS.sub(b"", found) == IDS.sub(b"", (here / COCO).read_bytes())
    assert evidence(data) == evidence(here / ".store")
    looks = len(looked_at.read_text().splitlines())
    assert run(words) == 0, capsys.readouterr().err
    assert len(looked_at.read_text().splitlines()) == looks


def test_images_are_embedded_on_a_cluster_as_here(
    photos: Path, tmp_path: Path, looked_at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    assert label(photos, here).returncode == 0
    assert run(["select", str(here), *LIKENESS]) == 0
    image(photos / "wide.png", 5, size=(120, 30))  # which ends its worker
    assert label(photos, there).returncode == 0
    capsys.readouterr()
    assert run(["select", str(there), *LIKENESS, "--count", "3", "--json", *ON_RAY[:-2]]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 3
    assert "wide.png: looking at it ended its worker 3 times" in said.err
    assert len(vectors(here)) == 20  # of ten images a whole and a box
    assert vectors(there) == vectors(here)


def vectors(out: Path) -> dict[tuple[str, Any], bytes]:
    """What a store has of images and boxes."""
    with open_store(out / ".store") as store:
        (job,) = store.queue.list_jobs()
        names = {one.image_id: one.labelled.name for one in store.results.page(job.run_id)}
        of_images = store.embeddings.of_images
        found = {**of_images("colour@1", [*names]), **of_images("colour@1", [*names], boxes=True)}
    return {(names[one.image_id], one.box): vector.tobytes() for one, vector in found.items()}


def test_uncertainties_are_measured_on_a_cluster_as_here(
    photos: Path, tmp_path: Path, looked_at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert label(photos, out).returncode == 0
    models = ["--proposer", "scripted_models:bright_half:0"]
    models += ["--verifier", "scripted_models:agreeable:dog"]
    command = ["uncertainty", str(out), "--method", "monte-carlo", *models, "--gallery", "0"]
    found = []
    for way in ((), ON_RAY[:-2]):
        before = len(looked_at.read_text().splitlines())
        assert run([*command, "--again", "--json", *way]) == 0
        found.append(sorted(capsys.readouterr().out.splitlines()))
        assert len(looked_at.read_text().splitlines()) > before
    assert found[0] == found[1]
    assert len(found[0]) == 10


def test_a_driver_outside_the_cluster_is_a_client_of_ray(photos: Path, tmp_path: Path) -> None:
    cluster, here, there = OwnCluster(tmp_path), tmp_path / "here", tmp_path / "there"
    cluster.start()
    try:
        way = ("--ray", f"ray://127.0.0.1:{cluster.client_port}", *ON_RAY[2:])
        for command in (
            arguments(photos, there, *way),
            [*START, "select", str(there), *LIKENESS, *way[:-2]],
        ):
            subprocess.run(command, env=environment(RAY_AUTH_MODE="disabled"), check=True)
    finally:
        cluster.kill()
    assert label(photos, here).returncode == 0
    assert outputs(there) == outputs(here)
    assert len(vectors(there)) == 20


def outputs(out: Path) -> dict[str, bytes]:
    """Every file that a run wrote for others, without what differs between any two runs."""
    files = (path for path in out.rglob("*") if path.is_file())
    named = {path.relative_to(out).as_posix(): path for path in files}
    return {
        name: IDS.sub(b"", path.read_bytes())
        for name, path in named.items()
        if not name.startswith(".") and name not in ("run.json", "gallery.html")
    }


def evidence(data: Path) -> dict[str, Any]:
    """What a store knows of each image, save for times."""
    with open_store(data) as store:
        (job,) = store.queue.list_jobs()
        found = store.results.page(job.run_id, limit=1000)
    known = {}
    for labelled in (result.labelled for result in found):
        seen = labelled.evidence
        verdicts = {key: replace(one, ms=0.0) for key, one in seen.verdicts.items()}
        numbers = seen.proposals.boxes.tobytes(), seen.proposals.scores.tobytes()
        decided = [(one.class_name, one.box, one.decision) for one in labelled.judgements]
        models = seen.proposer, seen.verifier
        known[labelled.name] = (labelled.sha256, *numbers, verdicts, models, decided)
    return known
