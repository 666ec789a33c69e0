"""``secondlook label`` as it is used: killed, resumed and fed with anything.

Only the models are scripted; server, client and files are the real ones. What a process of its own
adds (signals, limits, what else is said on stderr) is seen in some tests; in the others the
command runs in this process, which takes a tenth of the time.
"""

import contextlib
import io
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from secondlook.cli import run
from secondlook.runs.names import from_text
from secondlook.store import open_store

TESTS = Path(__file__).parent.parent
SCRIPTED = ("--proposer", "scripted_models:bright_half:{pause}", "--verifier",
            "scripted_models:agreeable:dog")  # fmt: skip


_START = [sys.executable, "-c", "from secondlook.cli import main; main()"]


def arguments(folder, out, *more, pause=0.0, classes=("dog", "cat")):
    models = [part.format(pause=pause) for part in SCRIPTED]
    wanted = [part for name in classes for part in ("-c", name)]
    return [*_START, "label", str(folder), "--out", str(out), *wanted, *models, *more]


def environment(**more):
    paths = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **more}


def label(folder, out, *more, log=None, **how):
    """Run the command in this process."""
    extra = {"SCRIPTED_LOG": str(log)} if log else {}
    words = arguments(folder, out, *more, **how)[len(_START) :]
    said, told = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(Path(out).parent),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(told),
        mock.patch.dict(os.environ, extra),
    ):
        code = run(words)
    return subprocess.CompletedProcess(words, code, said.getvalue(), told.getvalue())


def label_apart(folder, out, *more, **how):
    """Run the command in a process of its own."""
    return subprocess.run(
        arguments(folder, out, *more, **how),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(out).parent,
    )


def picture(path: Path, seed: int = 0, size=(40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 99, (size[1], size[0], 3), dtype=np.uint8)
    pixels[:, : size[0] // 2] += 100
    Image.fromarray(pixels).save(path)
    return path


def folder_of(path: Path, count: int) -> Path:
    for place in range(count):
        picture(path / f"{place:03}.png", place)
    return path


def lines(path: Path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def names_done(out: Path, data: Path | None = None):
    """How many results each picture has, by name, as the store has it on the disk."""
    place = data or out / ".store"
    with open_store(place) as store:
        (job,) = store.queue.list_jobs()
        found = store.records.results(job.run_id, limit=10_000)
    return Counter(from_text(result.labelled.name) for result in found)


def test_a_folder_becomes_labels_in_every_format(tmp_path):
    folder, out = folder_of(tmp_path / "in", 5), tmp_path / "out"
    done = label_apart(folder, out, "--format", "coco,yolo,voc")
    assert done.returncode == 0, done.stderr
    assert "5 pictures: 5 boxes accepted, 5 rejected, 0 unsure" in done.stdout
    coco = json.loads((out / "coco.json").read_text())
    assert [i["file_name"] for i in coco["images"]] == [f"{n:03}.png" for n in range(5)]
    assert {tuple(a["bbox"]) for a in coco["annotations"]} == {(0, 0, 20, 30)}
    assert {a["category_id"] for a in coco["annotations"]} == {1}
    assert (out / "yolo/labels/000.txt").read_text() == "0 0.250000 0.500000 0.500000 1.000000\n"
    assert (out / "voc/Annotations/004.xml").exists() and (out / "gallery.html").exists()
    assert (out / "failed.jsonl").read_text() == ""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_goes_on_without_redoing_a_picture(tmp_path, how):
    folder, out, log = folder_of(tmp_path / "in", 60), tmp_path / "out", tmp_path / "log"
    first = subprocess.Popen(
        arguments(folder, out, pause=0.05),
        env=environment(SCRIPTED_LOG=str(log)),
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_for_results(out / ".store", 10, first)
    first.send_signal(how)
    _, told = first.communicate(timeout=30)
    kept = names_done(out)
    assert 10 <= len(kept) < 60 and not (out / "coco.json").exists()
    if how is not signal.SIGKILL:
        assert first.returncode == 130 and "the same command goes on from there" in told
        assert f"{len(kept)} of 60" in told
    log.unlink()
    second = label(folder, out, log=log)
    assert second.returncode == 0, second.stderr
    assert names_done(out) == Counter(f"{n:03}.png" for n in range(60))
    assert len(log.read_text().splitlines()) == 60 - len(kept)
    assert len(json.loads((out / "coco.json").read_text())["images"]) == 60


def _wait_for_results(data: Path, count: int, process: "subprocess.Popen[str]") -> None:
    query = "SELECT count(*) FROM decisions"
    for _ in range(1000):
        with contextlib.suppress(sqlite3.OperationalError):  # not made yet
            uri = f"file:{data / 'store.db'}?mode=ro"
            with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
                if database.execute(query).fetchone()[0] >= count:
                    return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("the run made no progress")


def test_a_finished_run_is_not_done_again(tmp_path):
    folder, out, log = folder_of(tmp_path / "in", 3), tmp_path / "out", tmp_path / "log"
    label(folder, out)
    before = (out / "coco.json").read_bytes()
    again = label(folder, out, log=log)
    assert again.returncode == 0 and not log.exists()
    assert (out / "coco.json").read_bytes() == before


def test_a_replaced_picture_is_labelled_again_and_a_removed_one_leaves(tmp_path):
    folder, out, log = folder_of(tmp_path / "in", 3), tmp_path / "out", tmp_path / "log"
    label(folder, out)
    picture(folder / "001.png", 99, size=(80, 30))
    (folder / "002.png").unlink()
    label(folder, out, log=log)
    assert len(log.read_text().splitlines()) == 1
    images = json.loads((out / "coco.json").read_text())["images"]
    assert [(i["file_name"], i["width"]) for i in images] == [("000.png", 40), ("001.png", 80)]


def test_another_ontology_is_refused_until_fresh(tmp_path):
    folder, out = folder_of(tmp_path / "in", 2), tmp_path / "out"
    label(folder, out)
    refused = label_apart(folder, out, classes=("dog",))
    assert refused.returncode == 2
    assert 'different classes (["dog", "cat"], now ["dog"])' in refused.stderr
    assert "--fresh" in refused.stderr and refused.stderr.count("\n") == 1
    assert label(folder, out, "--fresh", classes=("dog",)).returncode == 0
    assert len(json.loads((out / "coco.json").read_text())["categories"]) == 1


def test_a_hostile_folder_costs_only_its_bad_pictures(tmp_path):
    folder, out = folder_of(tmp_path / "in", 2), tmp_path / "out"
    whole = (folder / "000.png").read_bytes()
    bad = {
        "truncated.png": whole[: len(whole) // 2],
        "empty.jpg": b"",
        "text.jpg": b"hello, this is no picture",
        "bomb.png": _huge_png(),
    }
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "socket.jpg"))
    (folder / "broken.jpg").symlink_to("nowhere.jpg")
    (folder / "outside.jpg").symlink_to(picture(tmp_path / "outside.png"))
    (folder / "notes.txt").write_text("not looked at")
    good = ["000.png", "001.png", "new\nline.png", "q'\"<&>.png", "ночь 😀.png"]
    good.append(os.fsdecode(b"\xff.png"))
    for name in good[2:]:
        picture(folder / name)

    done = label(folder, out, "--format", "coco,yolo,voc")

    assert done.returncode == 0, done.stderr
    assert sorted(names_done(out)) == sorted(good)
    failed = {line["name"]: line for line in lines(out / "failed.jsonl")}
    expected = {*bad, "pipe.jpg", "socket.jpg", "broken.jpg", "outside.jpg"}
    assert set(failed) == expected
    assert all(line["message"] and line["reason"] for line in failed.values())
    assert failed["bomb.png"]["reason"] == "image_too_large"
    assert failed["truncated.png"]["reason"] == "bad_image"
    assert "8 pictures failed" in done.stdout


def _huge_png() -> bytes:
    """A header that promises 60,000 × 60,000 pixels."""
    import struct
    import zlib

    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT\0\0\0\0"


def test_failed_pictures_are_tried_again_only_when_asked_or_changed(tmp_path):
    folder, out, log = folder_of(tmp_path / "in", 1), tmp_path / "out", tmp_path / "log"
    (folder / "bad.png").write_bytes(b"bad")
    label(folder, out)
    label(folder, out, log=log)
    assert not log.exists() and len(lines(out / "failed.jsonl")) == 1
    assert label(folder, out, "--retry-failed", log=log).returncode == 0
    assert len(lines(out / "failed.jsonl")) == 1
    picture(folder / "bad.png")
    label(folder, out, log=log)
    assert lines(out / "failed.jsonl") == [] and len(names_done(out)) == 2


def test_a_folder_without_any_good_picture_is_a_failure(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.jpg").write_bytes(b"bad")
    done = label(tmp_path / "in", tmp_path / "out")
    assert done.returncode == 1 and "1 picture failed" in done.stdout


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        (("--server", "127.0.0.1:1"), "127.0.0.1:1"),
        (("--format", "coco,tfrecord"), "'tfrecord' is none of coco, yolo, voc"),
        (("--proposer", "nonsense"), "nonsense"),
        (("--floor", "7"), "--floor: expected a number from 0 to 1, got '7'"),
        (("--ontology", "classes.yaml"), "not both"),
        (("-c", "dog. cat"), "dog. cat"),
    ],
)
def test_wrong_usage_is_told_in_a_line(tmp_path, more, cause, monkeypatch):
    monkeypatch.setattr("secondlook.cli.session.CONNECT_S", 0.5)
    done = label(folder_of(tmp_path / "in", 1), tmp_path / "out", *more)
    assert done.returncode in (1, 2), done.stderr
    assert cause in done.stderr and "Traceback" not in done.stderr


def test_an_empty_folder_is_told(tmp_path):
    (tmp_path / "in").mkdir()
    done = label(tmp_path / "in", tmp_path / "out")
    assert done.returncode == 2 and "there is no picture in" in done.stderr


@pytest.mark.parametrize("room", [4096, 600_000])  # for no database, and for all but one picture
def test_a_full_disk_is_told_and_the_run_goes_on_later(tmp_path, room):
    folder, out = folder_of(tmp_path / "in", 7), tmp_path / "out"
    picture(folder / "007.png", size=(600, 500))
    assert (folder / "007.png").stat().st_size > 600_000

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))

    full = subprocess.run(
        arguments(folder, out),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=no_room,
    )
    assert full.returncode == 1 and "Traceback" not in full.stderr, full.stderr
    told = full.stderr.splitlines()[-1]
    assert told.startswith("error: ") and "disk" in told
    assert label(folder, out).returncode == 0
    assert names_done(out) == Counter(f"{n:03}.png" for n in range(8))


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    folder, out = folder_of(tmp_path / "in", 40), tmp_path / "out"
    first = subprocess.Popen(arguments(folder, out, pause=1), env=environment())
    try:
        _wait_for_results(out / ".store", 1, first)
        second = label(folder, out)
        assert second.returncode == 2 and "in use by another run" in second.stderr
    finally:
        first.kill()
        first.wait()


def test_a_server_that_restarts_costs_nothing(tmp_path):
    folder, out, data = folder_of(tmp_path / "in", 40), tmp_path / "out", tmp_path / "data"
    server, address = _serve("0", data)
    try:
        labelling = subprocess.Popen(
            [*_START, "label", str(folder), "--out", str(out), "-c", "dog", "--server", address],
            env=environment(),
        )
        _wait_for_results(data, 5, labelling)
        server.kill()
        server.wait()
        server, again = _serve(address.rpartition(":")[2], data)
        assert again == address
        assert labelling.wait(60) == 0
        assert names_done(out, data) == Counter(f"{n:03}.png" for n in range(40))
        assert len(json.loads((out / "coco.json").read_text())["images"]) == 40
        assert lines(out / "failed.jsonl") == [] and not (out / ".store").exists()
    finally:
        server.kill()
        server.wait()


def test_with_data_pictures_are_kept_there_and_shared(tmp_path):
    folder, data = folder_of(tmp_path / "in", 3), tmp_path / "data"
    for out in ("one", "two"):
        assert label(folder, tmp_path / out, "--data", str(data)).returncode == 0
        assert not (tmp_path / out / ".store").exists()
    assert label(folder, tmp_path / "two", "--data", str(data), "--fresh").returncode == 0
    with open_store(data) as store:
        jobs = store.queue.list_jobs()
        assert [(job.state, job.done) for job in jobs] == [("done", 3)] * 3
        assert sum(1 for _ in store.blobs.all()) == 3


def test_a_server_that_keeps_nothing_is_told(tmp_path):
    server, address = _serve("0", None)
    try:
        done = label(folder_of(tmp_path / "in", 1), tmp_path / "out", "--server", address)
        assert done.returncode == 1 and "start it with --data FOLDER" in done.stderr
    finally:
        server.kill()
        server.wait()


def _serve(port: str, data: Path | None) -> tuple["subprocess.Popen[str]", str]:
    models = [part.format(pause=0.05) for part in SCRIPTED]
    keeping = ["--data", str(data)] if data else []
    server = subprocess.Popen(
        [*_START, "serve", "--port", port, *keeping, *models],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout
    return server, server.stdout.readline().split()[-1]
