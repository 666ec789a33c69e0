"""Videos among the images that a run is about."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from videos import number_of, write_video

from secondlook.config.settings import ImageSettings
from secondlook.core.clips import ClipFrames, clips_in
from secondlook.core.image_folder import ImageSelection, LeftOut, select_images
from secondlook_client.errors import BadImage, ImageTooLarge

LIMITS = ImageSettings()


def selected(*paths: Path, fps: float = 5) -> ImageSelection:
    return select_images(paths, clips=clips_in(paths, LIMITS, fps))


def test_a_video_that_is_named_is_its_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    selection = selected(path, tmp_path / "b.png")
    found = list(selection.walk())
    assert [one.name for one in found[:3]] == [
        "a.mp4@00-00-00.000.jpg",
        "a.mp4@00-00-00.200.jpg",
        "a.mp4@00-00-00.400.jpg",
    ]
    assert len(found) == 11 and found[-1].name == "b.png"
    assert len({one.key for one in found}) == 11
    pixels = np.asarray(Image.open(BytesIO(selection.read(found[2], 10**6))))
    assert pixels.shape == (48, 64, 3) and number_of(pixels) == 4
    assert selection.read(found[-1], 10**6) == (tmp_path / "b.png").read_bytes()
    assert len(list(selected(path, fps=0).walk())) == 20


def test_frames_stay_the_same_images_until_the_video_changes(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=4)
    first, again = (list(selected(path, fps=0).walk()) for _ in range(2))
    assert [one.key for one in first] == [one.key for one in again]
    selection = selected(path, fps=0)
    frames = list(selection.walk())
    os.utime(path, (1, 1))
    with pytest.raises(BadImage, match="has changed"):
        selection.read(frames[0], 10**6)
    path.unlink()
    with pytest.raises(BadImage, match="is gone"):
        selection.read(frames[0], 10**6)
    assert frames[0].key not in {one.key for one in again[1:]}


def test_in_a_folder_videos_are_left_out_and_told(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames=1)
    left_out = LeftOut()
    assert list(selected(tmp_path).walk(left_out)) == []
    assert str(left_out) == "1 video (such as a.mp4)"
    assert clips_in([tmp_path], LIMITS) is None


def test_a_video_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    (only,) = selected(tmp_path / "a.mp4").walk()
    assert only.name == "a.mp4" and "not a video" in only.refusal


def test_a_frame_may_be_too_large_as_an_image(tmp_path: Path) -> None:
    selection = selected(write_video(tmp_path / "a.mp4", frames=1))
    (frame,) = selection.walk()
    with pytest.raises(ImageTooLarge, match="--max-image-bytes"):
        selection.read(frame, 100)


def test_a_frame_is_found_by_its_name_once_its_video_is_listed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=2)
    clips = ClipFrames(LIMITS, 0)
    assert clips.named("a.mp4@00-00-00.100.jpg") is None
    selection = ImageSelection(tmp_path, (path,), clips=clips)
    frames = list(selection.walk())
    assert clips.named("a.mp4@00-00-00.100.jpg") == frames[1]
    assert clips.named("a.mp4") is None
    clips.close()
