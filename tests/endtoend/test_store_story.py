"""What the README shows of jobs, decisions, datasets and their care, as one user's story."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from installed import Kept, Run

from secondlook.cli import run
from secondlook_client import Client
from secondlook_client.dataset import SnapshotDataset
from secondlook_client.values import Example


def first_label(kept: Kept) -> dict[str, Any]:
    """The first accepted box of the job."""
    judgements = (j for result in kept.results for j in result["judgements"])
    return next(j for j in judgements if j["outcome"] == "accept")


def test_a_job_labels_every_image_once(kept: Kept, secondlook: Run, tmp_path: Path) -> None:
    assert len({result["sha256"] for result in kept.results}) == len(kept.results) == 12
    shown = secondlook("job", "list", "--server", kept.address, cwd=tmp_path)
    assert "street" in shown.stdout
    assert "done" in shown.stdout


def test_explain_a_label(
    kept: Kept,
    secondlook: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    label = first_label(kept)
    told = secondlook("explain", label["label"], "--data", kept.data, cwd=tmp_path)
    assert label["class_name"] in told.stdout
    assert label["question"] in told.stdout
    assert (tmp_path / "explain.html").exists()
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    rerun = ("explain", label["label"], "--rerun", "--models", "demo", "--json")
    assert run([*rerun, "--data", str(kept.data)]) == 0  # here, where torch is loaded already
    assert json.loads(capsys.readouterr().out)["outcome"] == "accept"


def test_decide_again_and_compare(kept: Kept, secondlook: Run, tmp_path: Path) -> None:
    place = ("--data", kept.data)
    secondlook("redecide", "street", "stricter", "--accept", 0.99, *place, cwd=tmp_path)
    told = secondlook("compare", "street", "stricter", "--json", *place, cwd=tmp_path)
    accepted = sum(j["outcome"] == "accept" for r in kept.results for j in r["judgements"])
    sure = sum(
        j["outcome"] == "accept" and j["p_yes"] >= 0.99
        for r in kept.results
        for j in r["judgements"]
    )
    assert 0 < sure < accepted
    changed = json.loads(told.stdout)
    assert changed["gained"] == 0
    assert changed["lost"] >= accepted - sure
    assert (tmp_path / "compare.html").exists()


def test_freeze_export_and_train_on_it(kept: Kept, secondlook: Run, tmp_path: Path) -> None:
    place = ("--data", kept.data)
    secondlook("snapshot", "create", "street-1", "--run", "street", *place, cwd=tmp_path)
    secondlook("snapshot", "create", "street-2", "--run", "street", *place, cwd=tmp_path)
    secondlook("snapshot", "diff", "street-1", "street-2", *place, cwd=tmp_path)
    formats = ("--format", "coco,yolo,voc,parquet", "--out", "street-1")
    secondlook("snapshot", "export", "street-1", *formats, *place, cwd=tmp_path)
    assert sorted(path.suffix for path in (tmp_path / "street-1").rglob("*.parquet"))
    seen: list[str] = []
    for split in ("train", "val"):
        source = SnapshotDataset(
            kept.address, "street-1", split=split, cache=tmp_path / "cache", transform=as_plain
        )
        if len(source):
            loader = torch.utils.data.DataLoader(
                source, batch_size=4, num_workers=2, collate_fn=list
            )
            seen += [name for batch in loader for name in batch]
    assert sorted(seen) == sorted(result["sha256"] for result in kept.results)


def as_plain(example: Example) -> str:
    """What a worker process sends back: the hash of bytes that it has."""
    assert example.content[:2] == b"\xff\xd8"
    return example.sha256


def test_capture(kept: Kept, world: Path, tmp_path: Path) -> None:
    frames = [path.read_bytes() for path in sorted((world / "images").iterdir())[:4]]
    with Client(kept.address) as client:
        with client.capture("gate-3", spool=tmp_path / "spool", classes=["person"]) as capture:
            numbers = [capture.send(frame) for frame in frames]
            capture.flush(timeout_s=60)
            assert capture.state.stored == 4
        found = []
        for result in client.jobs.results("gate-3", follow=True):
            found.append(result.key)
            if len(found) == 4:
                break
    assert sorted(found) == numbers


def test_care(kept: Kept, secondlook: Run, tmp_path: Path) -> None:
    place = ("--data", kept.data)
    secondlook("check", *place, cwd=tmp_path)
    secondlook("backup", "backup", *place, cwd=tmp_path)
    secondlook("restore", "backup", "--data", "new", cwd=tmp_path)
    secondlook("check", "--data", "new", cwd=tmp_path)
    label = first_label(kept)["label"]
    secondlook("explain", label, "--data", "new", cwd=tmp_path)
    would = secondlook("forget", "--run", "street", "--data", "new", cwd=tmp_path)
    assert "--yes" in would.stdout
    victim = next(path for path in (tmp_path / "new").rglob("*") if _is_blob(path))
    victim.write_bytes(b"something else")
    broken = secondlook("check", "--data", "new", cwd=tmp_path, code=1)
    assert victim.name[:8] in broken.stdout
    shutil.rmtree(tmp_path / "new")


def _is_blob(path: Path) -> bool:
    return path.is_file() and len(path.name) == 64
