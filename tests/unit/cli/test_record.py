"""``secondlook record``."""

from pathlib import Path

import pytest
from network_camera import motion_jpeg

from secondlook.cli import run
from secondlook.core.video import VideoFile


def test_a_camera_becomes_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.mkv"
    with motion_jpeg(0.01) as (address, _):
        assert run(["record", address, "--seconds", "0.3", "--out", str(out)]) == 0
    with VideoFile(out) as video:
        assert f"{len(video.index)} frames of 0 seconds in {out}" in capsys.readouterr().out


def test_of_a_camera_that_ends_before_the_time_the_beginning_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.mkv"
    with motion_jpeg(0.01, frames=12) as (address, _):
        assert run(["record", address, "--out", str(out)]) == 1
    assert "before the time was over" in capsys.readouterr().err
    with VideoFile(out) as video:
        assert len(video.index) > 5


def test_a_password_in_an_address_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = "rtsp://user:secret@127.0.0.1:1/stream"
    assert run(["record", address, "--out", str(tmp_path / "a.mkv")]) == 1
    told = capsys.readouterr().err
    assert "the camera cannot be opened" in told and "secret" not in told
    assert not (tmp_path / "a.mkv").exists()
