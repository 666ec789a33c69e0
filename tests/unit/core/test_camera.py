"""Recordings of cameras."""

import errno
import io
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from network_camera import motion_jpeg

from secondlook.config.settings import ImageSettings
from secondlook.core import camera
from secondlook.core.camera import record
from secondlook.core.video import VideoFile
from secondlook_client.errors import (
    ImageTooLarge,
    InvalidInput,
    OutputExists,
    StorageFull,
    Unavailable,
)


def test_a_recording_has_the_frames_at_the_times_at_which_they_came(tmp_path: Path) -> None:
    out = tmp_path / "a.mkv"
    with motion_jpeg(0.02) as (address, _):
        found = record(address, out, 1.5)
    with VideoFile(out) as video:
        ms = video.index.ms.tolist()
        shades = [round(float(video.read(at).mean()) / 10) for at in ms]
    assert found.complete and 1.5 <= found.seconds < 6
    assert len(ms) == found.frames >= 5 and 750 < ms[-1] < 6000
    assert shades == [(shades[0] + number) % 25 for number in range(len(shades))]


def test_it_ends_when_it_is_told_to_or_the_camera_ends_and_what_came_is_kept(
    tmp_path: Path,
) -> None:
    asked = count()
    with motion_jpeg(0.01) as (address, _):
        stopped = record(address, tmp_path / "a.mkv", 3600, lambda: next(asked) == 6)
    with motion_jpeg(0.01, frames=12) as (address, _):
        ended = record(address, tmp_path / "b.mkv", 3600)
    assert (stopped.complete, ended.complete) == (True, False)
    for name, found in (("a.mkv", stopped), ("b.mkv", ended)):
        with VideoFile(tmp_path / name) as video:
            assert len(video.index) == found.frames >= 5


def test_what_cannot_be_recorded_is_told_and_leaves_no_file(tmp_path: Path) -> None:
    out = tmp_path / "a.mkv"
    with motion_jpeg(0.0, frames=0) as (address, _), pytest.raises(Unavailable, match="camera"):
        record(address, out, 1)
    with pytest.raises(Unavailable, match="the camera cannot be opened"):
        record("http://user:secret@127.0.0.1:1/camera.mjpeg", out, 1)
    with pytest.raises(Unavailable, match="the camera cannot be opened"):
        record("/dev/no-camera", out, 1)
    with motion_jpeg(0.01) as (address, _):
        with pytest.raises(ImageTooLarge, match="64×48"):
            record(address, out, 1, limits=ImageSettings(max_image_side=50))
        with pytest.raises(InvalidInput, match="cannot be written"):
            record(address, tmp_path / "none" / "a.mkv", 1)
        with pytest.raises(InvalidInput, match="are Matroska files"):
            record(address, tmp_path / "a.mp4", 1)
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(OutputExists, match="exists already"):
        record("/dev/video0", out, 1)
    assert out.read_text() == "mine"


def test_a_full_disk_is_told_and_the_file_ends_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() > 4000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(camera, "_new_file", lambda _: FullDisk())
    with motion_jpeg(0.0) as (address, _), pytest.raises(StorageFull, match="the disk is full"):
        record(address, tmp_path / "a.mkv", 30)
