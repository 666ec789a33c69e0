"""A frame's name: its video and time, there and back."""

from hypothesis import given
from hypothesis import strategies as st

from secondlook.core.frame_names import (
    MAX_MS,
    FrameAddress,
    frame_address,
    sequence_of,
    time_text,
)

clips = st.text(min_size=1, max_size=40)
times = st.integers(0, MAX_MS - 1)


@given(clips, times)
def test_a_frame_is_found_again_by_its_name(clip: str, ms: int) -> None:
    address = FrameAddress(clip, ms)
    assert frame_address(address.name) == address
    assert sequence_of(address.name) == clip


@given(times, times)
def test_names_of_one_video_sort_by_time(first: int, second: int) -> None:
    one, two = FrameAddress("a.mp4", first), FrameAddress("a.mp4", second)
    if max(first, second) < 100 * 3_600_000:  # two digits of hours
        assert (one.name < two.name) == (first < second)


@given(st.text(max_size=60))
def test_any_other_name_is_no_frame_s_or_is_written_the_same(name: str) -> None:
    found = frame_address(name)
    assert found is None or found.name == name


def test_what_is_nearly_a_frame_is_an_image() -> None:
    assert FrameAddress("a/clip.mp4", 3_723_045).name == "a/clip.mp4@01-02-03.045.jpg"
    for name in ("a@00-00-60.000.jpg", "a@00-60-00.000.jpg", "@00-00-00.000.jpg", "a@0-0-0.0.jpg"):
        assert frame_address(name) is None
    assert frame_address("a@00-00-00.000.png") is None
    assert frame_address("a@001-00-00.000.jpg") is None, "another name of the same frame"


def test_images_of_a_folder_are_a_sequence() -> None:
    assert sequence_of("street/001.png") == "street/" != sequence_of("001.png")
    assert time_text(61_005) == "00:01:01.005"
