"""``secondlook job`` against a server in this process: what it prints, and how it ends."""

import json
from pathlib import Path

import pytest
from fakes import ScriptedProposer
from job_images import try_again_soon
from serving import png, server_settings, serving
from videos import write_video

from secondlook.cli import run
from secondlook.cli.jobs import job_command
from secondlook.store import open_store
from secondlook_client import Client


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    try_again_soon(monkeypatch)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two good images and a bad one."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.png").write_bytes(png(shade=number))
    (folder / "bad.png").write_bytes(b"bad")
    return folder


@pytest.fixture
def address(tmp_path):
    """Of a server that keeps things and may read ``tmp_path``."""
    options = server_settings(image_roots=str(tmp_path))
    with (
        open_store(tmp_path / "data", serving=True) as store,
        serving(store=store, options=options) as s,
    ):
        yield s.address


def job(address, *words):
    return run(["job", words[0], "--server", address, *map(str, words[1:])])


@pytest.mark.parametrize("name", job_command.commands)
def test_every_job_command_explains_itself(name, capsys):
    assert run(["job", name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: secondlook job {name}") and "Options:" in shown


def test_images_are_sent_watched_and_read(address, images, capsys):
    assert job(address, "create", "faces", images, "-c", "dog", "--watch") == 0
    shown = capsys.readouterr()
    assert "faces: done, 2 labelled, 1 failed" in shown.out
    assert "failed: bad.png: " in shown.err
    assert job(address, "results", "faces") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(line["name"] for line in lines) == ["0.png", "1.png"]
    (judgement,) = lines[0]["judgements"]
    assert judgement["label"] == f"{lines[0]['cursor']}.0" and judgement["outcome"] == "accept"
    assert job(address, "results", "faces", "--after", lines[0]["cursor"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_same_command_sends_the_rest(address, images, capsys):
    assert job(address, "create", "faces", images, "-c", "dog", "--watch") == 0
    (images / "2.png").write_bytes(png(shade=9))
    assert job(address, "create", "faces", images, "-c", "dog", "--watch") == 0
    assert "faces: done, 3 labelled, 1 failed" in capsys.readouterr().out
    assert job(address, "create", "faces", images, "-c", "cat") == 1
    assert "faces" in capsys.readouterr().err


def test_of_a_video_the_frames_are_sent(address, tmp_path, capsys):
    clip = write_video(tmp_path / "clip.mp4")
    assert job(address, "create", "clip", clip, "-c", "dog", "--fps", "2", "--watch") == 0
    assert "clip: done, 4 labelled, 0 failed" in capsys.readouterr().out
    assert job(address, "results", "clip") == 0
    sent = sorted(json.loads(line)["name"] for line in capsys.readouterr().out.splitlines())
    assert sent[1] == "clip.mp4@00-00-00.500.jpg"


def test_a_job_that_only_waits_for_images_is_not_called_running(address, images, capsys):
    with Client(address) as client:
        client.jobs.create("open", classes=["dog"])
    assert job(address, "list") == 0
    listed = capsys.readouterr().out
    assert "idle" in listed and "running" not in listed
    assert job(address, "show", "open") == 0
    assert "idle: every image that came is done, and more may come" in capsys.readouterr().out
    assert job(address, "create", "sent", images, "-c", "dog", "--watch") == 0
    assert job(address, "create", "sent", images, "-c", "dog") == 0
    assert "job 'sent' is done" in capsys.readouterr().out


def test_a_folder_of_the_server_is_listed_and_shown(address, images, capsys):
    assert job(address, "create", "folder", "--folder", images, "--watch") == 0
    capsys.readouterr()
    assert job(address, "list") == 0
    assert "folder" in (listed := capsys.readouterr().out) and "done" in listed
    assert job(address, "show", "folder") == 0
    shown = capsys.readouterr().out
    for part in (str(images), "dog", "bad.png", "bad_image"):
        assert part in shown
    assert job(address, "retry", "folder") == 0
    assert "1 image queued again" in capsys.readouterr().out
    assert job(address, "watch", "folder") == 0
    assert job(address, "cancel", "folder") == 0
    assert "folder: done" in capsys.readouterr().out


def test_a_cancelled_job_ends_its_watcher_with_1(tmp_path, images, capsys):
    with (
        open_store(tmp_path / "data", serving=True) as store,
        serving(ScriptedProposer(delay_s=0.2), store=store) as s,
    ):
        assert job(s.address, "create", "long", images) == 0
        assert "`secondlook job watch` shows" in capsys.readouterr().out
        assert job(s.address, "pause", "long") == 0
        assert "long: paused" in capsys.readouterr().out
        assert job(s.address, "show", "long") == 0
        assert "paused" in capsys.readouterr().out
        assert job(s.address, "resume", "long") == 0
        assert "job 'long' is running" in capsys.readouterr().out
        assert job(s.address, "cancel", "long") == 0
        assert job(s.address, "watch", "long") == 1
        assert "long: cancelled" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("create", "x"), 2, "either IMAGES to send, or --folder"),
        (("create", "x", "nowhere"), 2, "nowhere does not exist"),
        (("create", "x", "--folder", "/etc"), 1, "--image-roots"),
        (("show", "nobody"), 1, "there is no job 'nobody'"),
        (("results", "nobody"), 1, "nobody"),
        (("watch", "nobody"), 1, "nobody"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(address, capsys, words, code, message):
    assert job(address, *words) == code
    shown = capsys.readouterr().err
    assert message in shown and "Traceback" not in shown


def test_a_server_that_keeps_nothing_is_reported(capsys):
    with serving() as s:
        assert job(s.address, "list") == 1
    assert "--data FOLDER" in capsys.readouterr().err


def test_no_job_yet(address, capsys):
    assert job(address, "list") == 0
    assert "secondlook job create" in capsys.readouterr().out
