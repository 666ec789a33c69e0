"""Frames from folders, video files and cameras, and what is wrong with some of them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from network_camera import motion_jpeg
from serving import png

from secondlook.config.settings import ImageSettings
from secondlook.core.image_folder import tag_output
from secondlook.detector.frames import SkippedFrame, SourceFrame
from secondlook.edge import sources
from secondlook.edge.sources import FpsLimiter, FrameSource, _timestamp_name, open_source
from secondlook_client.errors import InvalidInput, NotFound


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders are looked at again, and cameras opened again, after a tenth of the usual time."""
    monkeypatch.setattr(sources, "RESCAN_S", sources.RESCAN_S / 10)
    monkeypatch.setattr(sources, "FIRST_RETRY_S", sources.FIRST_RETRY_S / 10)


def everything(source: FrameSource) -> list[SourceFrame | SkippedFrame]:
    found = []
    while not source.ended:
        if (frame := source.read(1.0)) is not None:
            found.append(frame)
    source.close()
    return found


def names(found: list[SourceFrame | SkippedFrame]) -> list[str]:
    return [frame.name for frame in found]


def shade(frame: SourceFrame | SkippedFrame | None) -> int:
    assert isinstance(frame, SourceFrame), frame
    return round(float(frame.pixels.mean()))


def test_images_of_a_folder_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.png", "a.PNG", ".hidden.png", "notes.txt", "c.jpg"):
        (tmp_path / name).write_bytes(png())
    (tmp_path / "d.png").mkdir()
    found = everything(open_source(str(tmp_path)))
    assert names(found) == ["a.PNG", "b.png", "c.jpg"]
    first = found[0]
    assert isinstance(first, SourceFrame)
    assert first.pixels.shape == (30, 40, 3)
    assert first.encoded == png()
    assert abs(first.wall - time.time()) < 60


def test_a_damaged_image_is_skipped_with_its_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png()[:50])
    (tmp_path / "2.png").write_bytes(b"")
    (tmp_path / "3.png").write_bytes(png(width=3000))
    (tmp_path / "4.png").write_bytes(bytes(20_000))
    (tmp_path / "5.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "6.png").write_bytes(png())
    source = open_source(
        str(tmp_path), limits=ImageSettings(max_image_bytes=10_000, max_image_side=2000)
    )
    found = everything(source)
    assert names(found) == ["1.png", "2.png", "3.png", "4.png", "6.png"]
    reasons = [frame.reason for frame in found if isinstance(frame, SkippedFrame)]
    for word, reason in zip(("truncated", "empty", "3000×30", "bytes"), reasons, strict=True):
        assert word in reason


def test_a_file_that_vanishes_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png())
    (tmp_path / "2.png").write_bytes(png())
    source = open_source(str(tmp_path))
    (tmp_path / "1.png").unlink()
    found = everything(source)
    assert isinstance(found[0], SkippedFrame) and isinstance(found[1], SourceFrame)


@pytest.mark.timeout(30)
def test_a_file_that_turns_into_a_pipe_is_skipped_without_waiting(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    source = open_source(str(tmp_path))
    (tmp_path / "a.jpg").unlink()
    os.mkfifo(tmp_path / "a.jpg")
    found = source.read(5.0)
    assert isinstance(found, SkippedFrame) and "no longer a regular file" in found.reason


def test_a_folder_that_is_followed_gives_new_images_and_half_written_ones_again(
    tmp_path: Path,
) -> None:
    (tmp_path / "1.png").write_bytes(png(shade=1))
    source = open_source(str(tmp_path), follow=True)
    assert shade(source.read(2)) == 1
    started = time.monotonic()
    assert source.read(0.2) is None
    assert time.monotonic() - started < 2
    (tmp_path / "2.png").write_bytes(png(shade=2)[:40])
    assert isinstance(source.read(5), SkippedFrame)
    (tmp_path / "2.png").write_bytes(png(shade=2))
    (tmp_path / "1.png").unlink()
    assert shade(source.read(5)) == 2
    for old in tmp_path.iterdir():
        old.unlink()
    assert source.read(0.2) is None
    assert source._changed_ns == {}, "what is gone is forgotten"
    assert not source.ended


def test_a_followed_folder_may_go_away_for_a_while(tmp_path: Path) -> None:
    folder = tmp_path / "usb"
    folder.mkdir()
    source = open_source(str(folder), follow=True)
    folder.rmdir()
    assert source.read(0.2) is None
    folder.mkdir()
    (folder / "1.png").write_bytes(png(shade=9))
    assert shade(source.read(5)) == 9


def test_images_taken_slower_than_they_are_read_have_a_clock_of_their_own(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png())
    found = everything(open_source(str(tmp_path), frame_interval_s=10))
    assert [frame.monotonic for frame in found if isinstance(frame, SourceFrame)] == [10, 20, 30]


def test_frames_are_no_faster_than_asked_for() -> None:
    limiter, started = FpsLimiter(50), time.monotonic()
    assert all(limiter.wait(started + 10) for _ in range(6))
    assert time.monotonic() - started >= 0.098
    assert not limiter.wait(time.monotonic() + 0.001)


@pytest.mark.parametrize("where", ["nowhere", "a\x00b", ""])
def test_a_source_that_is_not_there(where: str) -> None:
    with pytest.raises(NotFound, match="/dev/video0"):
        open_source(where or "/nowhere/at/all")


def test_an_empty_folder_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no image in"):
        open_source(str(tmp_path))


def write_video(path: Path, frames: int = 20, width: int = 64, codec: str = "mpeg4") -> Path:
    """A video of ten frames a second whose n-th is grey of shade 10 n."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height = width, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(frames):
            pixels = np.full((48, width, 3), 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_video_is_read_to_its_end_on_its_own_clock(tmp_path: Path) -> None:
    found = everything(open_source(str(write_video(tmp_path / "a.mp4"))))
    assert len(found) == 20
    times = [frame.monotonic for frame in found if isinstance(frame, SourceFrame)]
    assert times == pytest.approx([n / 10 for n in range(20)], abs=1e-3)
    assert [abs(shade(frame) - 10 * n) < 6 for n, frame in enumerate(found)] == [True] * 20
    assert found[3].name == "a.mp4@00-00-00.300.jpg"


def test_of_a_video_only_so_many_frames_a_second(tmp_path: Path) -> None:
    found = everything(open_source(str(write_video(tmp_path / "a.mp4")), fps=2))
    assert [round(frame.monotonic, 1) for frame in found if isinstance(frame, SourceFrame)] == [
        0.0,
        0.5,
        1.0,
        1.5,
    ]


def test_damage_in_a_video_costs_its_own_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", codec="mjpeg")
    content = bytearray(path.read_bytes())
    marks = [at for at in range(len(content)) if content[at : at + 4] == b"00dc"]
    size = int.from_bytes(content[marks[8] + 4 : marks[8] + 8], "little")
    content[marks[8] + 8 : marks[8] + 8 + size] = bytes(size)
    path.write_bytes(bytes(content))
    found = everything(open_source(str(path)))
    assert [type(frame) for frame in found].count(SourceFrame) == 19
    (skipped,) = [frame for frame in found if isinstance(frame, SkippedFrame)]
    assert skipped.name == "a.avi#packet 7"
    truncated = tmp_path / "b.avi"
    truncated.write_bytes(bytes(content[: marks[10]]))
    assert 5 <= len(everything(open_source(str(truncated)))) < 20


def test_what_is_no_video_or_too_large_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"\x00" * 5000)
    with pytest.raises(InvalidInput, match="not a video that can be read"):
        open_source(str(tmp_path / "a.mp4"))
    large = write_video(tmp_path / "b.mp4", frames=1, width=640)
    with pytest.raises(InvalidInput, match="640×48"):
        open_source(str(large), limits=ImageSettings(max_image_side=500))


def test_of_a_camera_the_newest_frame_wins() -> None:
    with motion_jpeg(0.01) as (address, _):
        source = open_source(address)
        first = source.read(10)
        time.sleep(0.6)  # somebody is slow
        second, third = source.read(10), source.read(10)
        source.close()
    assert (
        isinstance(first, SourceFrame)
        and isinstance(second, SourceFrame)
        and isinstance(third, SourceFrame)
    )
    assert source.superseded >= 3
    assert first.monotonic < second.monotonic < third.monotonic
    assert second.monotonic - first.monotonic > 0.4
    assert second.name.endswith("Z.jpg") and second.encoded == b""


def test_a_camera_that_goes_away_is_opened_again() -> None:
    with motion_jpeg(0.01, frames=12) as (address, calls):
        source = open_source(address)
        kinds, ends = [], time.monotonic() + 20
        while len(calls) < 3 and time.monotonic() < ends:
            kinds.append(type(source.read(0.5)))
        source.close()
    assert len(calls) >= 3
    assert SourceFrame in kinds and SkippedFrame in kinds
    assert not source.ended


def test_frames_have_names_whatever_the_clock_says() -> None:
    assert _timestamp_name(1_795_275_417.1239) == "20261121T153657.123Z.jpg"
    for jumped in (0.0, -5.5, 1e15, -1e15):
        assert _timestamp_name(jumped).endswith(".jpg")


def test_without_pyav_the_message_has_the_command(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"video")
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from secondlook.edge.cli import main\n"
        f"main(['check', '--source', {str(tmp_path / 'a.mp4')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'pip install "secondlook[edge,video]"' in done.stdout
    assert "Traceback" not in done.stderr


def test_a_folder_that_secondlook_wrote_has_no_frames(tmp_path: Path) -> None:
    (tmp_path / "contact_sheet.png").touch()
    (tmp_path / "._a.jpg").touch()
    assert open_source(str(tmp_path)).ended is False
    tag_output(tmp_path)
    with pytest.raises(NotFound, match="no image in"):
        open_source(str(tmp_path))
