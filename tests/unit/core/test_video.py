"""Frames of videos by their time, and what is wrong with some files."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from videos import number_of, turned, write_sound, write_video

from secondlook.config.settings import ImageSettings
from secondlook.core import video
from secondlook.core.frame_names import MAX_MS
from secondlook.core.video import FrameSampler, VideoFile
from secondlook_client.errors import BadImage, ImageTooLarge, InvalidInput


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "mpeg4"), ("a.mkv", "libx264"), ("a.ts", "mpeg2video"), ("a.webm", "libvpx-vp9")],
)
def test_every_frame_is_read_by_its_time_in_any_order(
    tmp_path: Path, name: str, codec: str
) -> None:
    path = write_video(tmp_path / name, codec=codec, times=None)
    with VideoFile(path) as clip:
        assert clip.index.ms.tolist() == list(range(0, 2000, 100))
        assert len(clip.index.keys) >= 2
        for place in (*range(20), 15, 3, 19, 0, 7):
            assert number_of(clip.read(100 * place)) == place


def test_a_jump_decodes_from_a_keyframe_and_a_step_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.mkv", frames=150, size=(32, 32))
    seeks, decoded = [], []
    restart, upto = VideoFile._restart, VideoFile._until
    monkeypatch.setattr(
        VideoFile, "_restart", lambda self, at: (seeks.append(at), restart(self, at))[1]
    )

    def counted(self: VideoFile, wanted: int) -> object:
        frames = self._frames
        self._frames = (decoded.append(1) or one for one in frames)  # type: ignore[func-returns-value]
        return upto(self, wanted)

    monkeypatch.setattr(VideoFile, "_until", counted)
    with VideoFile(path) as clip:
        clip.index  # noqa: B018 (opens it anew once)
        seeks.clear()
        clip.read(14_000)
        assert len(seeks) == 1 and 130 < seeks[0] <= 140 and len(decoded) <= 8
        for ms in range(14_100, 14_900, 100):
            clip.read(ms)
        assert len(seeks) == 1


def test_a_variable_rate_keeps_the_times_of_its_frames(tmp_path: Path) -> None:
    times = [0, 40, 50, 700, 705, 3000]
    path = write_video(tmp_path / "a.mkv", frames=6, codec="libx264", times=times)
    with VideoFile(path) as clip:
        assert clip.index.ms.tolist() == times
        assert clip.index.sampled(2).tolist() == [0, 700, 3000]
        assert [number_of(clip.read(ms)) for ms in times] == list(range(6))


def test_a_turned_video_is_upright(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=2)
    with VideoFile(path) as flat, VideoFile(turned(path, tmp_path / "b.mp4")) as upright:
        lying, standing = flat.read(0), upright.read(0)
    assert lying.shape == (48, 64, 3) and standing.shape == (64, 48, 3)
    # What was left is above now: clockwise.
    assert standing[:20].mean() > standing[40:].mean() + 30
    assert np.abs(np.rot90(lying, -1).astype(int) - standing).max() < 3


def test_a_video_cut_short_gives_what_there_is(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", codec="libx264", frames=40, size=(320, 240))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with VideoFile(path) as clip:
        times = clip.index.ms.tolist()
        assert 5 < len(times) < 40
        assert number_of(clip.read(times[2])) == 2
    mp4 = write_video(tmp_path / "a.mp4")
    mp4.write_bytes(mp4.read_bytes()[:2000])  # its table of frames is at the end
    with pytest.raises(InvalidInput, match="cut short"):
        VideoFile(mp4)


def test_a_damaged_frame_is_told_and_the_next_one_is_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", codec="mjpeg")
    content = bytearray(path.read_bytes())
    marks = [at for at in range(len(content)) if content[at : at + 4] == b"00dc"]
    size = int.from_bytes(content[marks[8] + 4 : marks[8] + 8], "little")
    content[marks[8] + 8 : marks[8] + 8 + size] = bytes(size)
    path.write_bytes(bytes(content))
    with VideoFile(path) as clip:
        times = clip.index.ms.tolist()
        damaged = [ms for ms in times if _is_damaged(clip, ms)]
        assert len(times) == 20 and len(damaged) == 1
        assert number_of(clip.read(times[times.index(damaged[0]) + 1])) > 1


def test_a_long_damaged_part_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from its keyframe again for each of its frames."""
    path = write_video(tmp_path / "a.avi", frames=30, codec="mjpeg")
    content = bytearray(path.read_bytes())
    marks = [at for at in range(len(content)) if content[at : at + 4] == b"00dc"][1:31]
    for mark in (*marks[5:15], *marks[20:]):
        size = int.from_bytes(content[mark + 4 : mark + 8], "little")
        content[mark + 8 : mark + 8 + size] = bytes(size)
    path.write_bytes(bytes(content))
    restarts, restart = [], VideoFile._restart
    monkeypatch.setattr(
        VideoFile, "_restart", lambda self, at: (restarts.append(at), restart(self, at))[1]
    )
    with VideoFile(path) as clip:
        times = clip.index.ms.tolist()
        restarts.clear()
        found = [_is_damaged(clip, ms) for ms in times]
        assert sum(found) == 20 and found[-10:] == [True] * 10 and not restarts
        assert number_of(clip.read(times[0])) == 0 and len(restarts) == 1
        assert _is_damaged(clip, times[-1]) and not _is_damaged(clip, times[found.index(True) - 1])


def _is_damaged(clip: VideoFile, ms: int) -> bool:
    try:
        clip.read(ms)
    except BadImage as failure:
        assert "cannot be decoded" in str(failure)
        return True
    return False


def test_a_frame_that_is_not_there_is_told(tmp_path: Path) -> None:
    with (
        VideoFile(write_video(tmp_path / "a.mp4", frames=2)) as clip,
        pytest.raises(BadImage, match=r"no frame at 0\.050 s"),
    ):
        clip.read(50)


def test_what_is_no_video_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no video stream"):
        VideoFile(write_sound(tmp_path / "tone.mp4"))
    (tmp_path / "a.mp4").write_bytes(b"\x00" * 5000)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "empty.mp4").touch()
    for name in ("a.mp4", "folder.mp4", "empty.mp4", "missing.mp4"):
        with pytest.raises(InvalidInput, match=r"not a (video|regular)|cannot be read"):
            VideoFile(tmp_path / name)


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    write_video(tmp_path / "secret.ts", codec="mpeg2video")
    lists = {
        "a.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n",
        "b.mkv": "ffconcat version 1.0\nfile secret.ts\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InvalidInput, match="not a video"):
            VideoFile(tmp_path / name)


def test_absurd_sizes_and_times_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", frames=3, size=(640, 48))
    with pytest.raises(ImageTooLarge, match="640×48"):
        VideoFile(path, ImageSettings(max_image_side=500))
    long = write_video(tmp_path / "b.mkv", frames=3, times=[0, 10, MAX_MS + 10])
    with VideoFile(long) as clip, pytest.raises(InvalidInput, match="lasts 1,000 hours"):
        len(clip.index)
    monkeypatch.setattr(video, "MAX_FRAMES", 2)
    with VideoFile(path) as clip, pytest.raises(InvalidInput, match="more than 2 frames"):
        len(clip.index)


@given(st.integers(1, 60), st.integers(1, 60))
def test_so_many_frames_of_each_second(rate: int, fps: int) -> None:
    sampler = FrameSampler(fps)
    taken = [n for n in range(4 * rate) if sampler.takes(n / rate)]
    assert len(taken) == pytest.approx(4 * min(rate, fps), abs=1)
    gaps = np.diff(taken) / rate
    assert len(gaps) == 0 or gaps.min() > 1 / fps - 1 / rate


def test_every_frame_where_no_rate_is_given_and_after_a_clock_that_jumped() -> None:
    every, some = FrameSampler(0), FrameSampler(1)
    assert all(every.takes(at) for at in (0.0, 0.001, 0.0015))
    assert [some.takes(at) for at in (50.0, 50.5, 3.0, 3.5, 4.0)] == [
        True,
        False,
        True,
        False,
        True,
    ]
