"""``secondlook label`` when images are bad, the disk is full or the server goes away."""

import json
import os
import resource
import socket
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from label_command import (
    COCO,
    SCRIPTED,
    START,
    arguments,
    environment,
    folder_of,
    image,
    label,
    lines,
    names_done,
    wait_for_results,
)


def test_a_hostile_folder_costs_only_its_bad_images(tmp_path):
    folder, out = folder_of(tmp_path / "in", 2), tmp_path / "out"
    whole = (folder / "000.png").read_bytes()
    bad = {
        "truncated.png": whole[: len(whole) // 2],
        "empty.jpg": b"",
        "text.jpg": b"hello, this is no image",
        "bomb.png": _huge_png(),
    }
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "socket.jpg"))
    (folder / "broken.jpg").symlink_to("nowhere.jpg")
    (folder / "outside.jpg").symlink_to(image(tmp_path / "outside.png"))
    (folder / "notes.txt").write_text("not looked at")
    good = ["000.png", "001.png", "new\nline.png", "q'\"<&>.png", "ночь 😀.png"]
    good.append(os.fsdecode(b"\xff.png"))
    for name in good[2:]:
        image(folder / name)

    done = label(folder, out, "--format", "coco,yolo,voc")

    assert done.returncode == 0, done.stderr
    assert sorted(names_done(out)) == sorted(good)
    failed = {line["name"]: line for line in lines(out / "failed.jsonl")}
    expected = {*bad, "pipe.jpg", "socket.jpg", "broken.jpg", "outside.jpg"}
    assert set(failed) == expected
    assert all(line["message"] and line["reason"] for line in failed.values())
    assert failed["bomb.png"]["reason"] == "image_too_large"
    assert failed["truncated.png"]["reason"] == "bad_image"
    assert "8 images failed" in done.stdout


def _huge_png() -> bytes:
    """A header that promises 60,000 × 60,000 pixels."""
    import struct
    import zlib

    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT\0\0\0\0"


def test_failed_images_are_tried_again_only_when_asked_or_changed(tmp_path):
    folder, out, log = folder_of(tmp_path / "in", 1), tmp_path / "out", tmp_path / "log"
    (folder / "bad.png").write_bytes(b"bad")
    label(folder, out)
    label(folder, out, log=log)
    assert not log.exists() and len(lines(out / "failed.jsonl")) == 1
    assert label(folder, out, "--retry-failed", log=log).returncode == 0
    assert len(lines(out / "failed.jsonl")) == 1
    image(folder / "bad.png")
    label(folder, out, log=log)
    assert lines(out / "failed.jsonl") == [] and len(names_done(out)) == 2


def test_a_folder_without_any_good_image_is_a_failure(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.jpg").write_bytes(b"bad")
    done = label(tmp_path / "in", tmp_path / "out")
    assert done.returncode == 1 and "1 image failed" in done.stdout


@pytest.mark.parametrize("room", [4096, 600_000])  # for no database, and for all but one image
def test_a_full_disk_is_told_and_the_run_goes_on_later(tmp_path, room):
    folder, out = folder_of(tmp_path / "in", 7), tmp_path / "out"
    image(folder / "007.png", size=(600, 500))
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


def test_a_server_that_restarts_costs_nothing(tmp_path):
    folder, out, data = folder_of(tmp_path / "in", 40), tmp_path / "out", tmp_path / "data"
    server, address = _serve("0", data)
    try:
        labelling = subprocess.Popen(
            [*START, "label", str(folder), "--out", str(out), "-c", "dog", "--server", address],
            env=environment(),
        )
        wait_for_results(data, 5, labelling)
        server.kill()
        server.wait()
        server, again = _serve(address.rpartition(":")[2], data)
        assert again == address
        assert labelling.wait(60) == 0
        assert names_done(out, data) == Counter(f"{n:03}.png" for n in range(40))
        assert len(json.loads((out / COCO).read_text())["images"]) == 40
        assert lines(out / "failed.jsonl") == [] and not (out / ".store").exists()
    finally:
        server.kill()
        server.wait()


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
        [*START, "serve", "--port", port, *keeping, *models],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout
    return server, server.stdout.readline().split()[-1]
