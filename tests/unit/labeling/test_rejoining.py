"""Tracks that jumped are cut, and those of an object that was hidden are joined."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secondlook.labeling.appearance import BINS, alike, appearances
from secondlook.labeling.rejoining import TrackMender, TrackNumbers

FPS = 5
RED, BLUE, GREEN = np.eye(3, dtype=np.float32)
Sightings = list[tuple[int, float, NDArray[np.float32]]]
"""Frame, left edge and look."""


def walk(first: int, count: int, x: float, look: NDArray[np.float32]) -> Sightings:
    """Two pixels a frame to the right."""
    return [(first + n, x + 2 * n, look) for n in range(count)]


def mended(*tracks: Sightings, until: int = 100) -> list[list[int]]:
    """The final number of each sighting of tracks whose numbers are 1, 2, ...; new ones follow."""
    numbers = TrackNumbers()
    mender, new = TrackMender(numbers), len(tracks) + 1
    called = dict(enumerate(tracks, start=1))
    now = {number: number for number in called}
    given: dict[int, list[tuple[int, float]]] = {number: [] for number in called}
    for frame in range(until):
        for number, seen in called.items():
            for _, x, look in (one for one in seen if one[0] == frame):
                track = now[number]
                if mender.see(frame / FPS, track, (x, 0, x + 20, 40), look):
                    mender.cut(track, new)
                    track, new = new, new + 1
                    now[number] = track
                given[number].append((track, frame / FPS))
        last = {number: max(one[0] for one in seen) for number, seen in called.items()}
        mender.end_frame(frame / FPS, {now[n] for n in called if frame <= last[n] + FPS})
    return [[numbers.final(*one) for one in some] for some in given.values()]


def test_an_object_that_comes_back_where_it_was_going_is_the_same() -> None:
    before, after = walk(0, 10, 0, RED), walk(30, 10, 60, RED)
    assert mended(before, after) == [[1] * 10, [1] * 10]


def test_what_looks_otherwise_is_elsewhere_or_comes_too_late_is_another_object() -> None:
    before = walk(0, 10, 0, RED)
    for other in (walk(30, 10, 60, BLUE), walk(30, 10, 300, RED), walk(90, 8, 180, RED)):
        assert mended(before, other, until=120) == [[1] * 10, [2] * len(other)]


def test_of_two_that_were_hidden_each_goes_on_with_its_own() -> None:
    parts = [walk(0, 10, 0, RED), walk(0, 10, 0, BLUE), walk(30, 10, 60, BLUE),
             walk(31, 10, 62, RED)]  # fmt: skip
    assert [track[0] for track in mended(*parts)] == [1, 2, 2, 1]


def test_a_track_that_jumped_is_cut_there_and_both_parts_find_their_objects() -> None:
    jumped = walk(0, 20, 0, RED) + walk(20, 20, 40, BLUE)
    goes_on = walk(20, 20, 40, RED)
    first, second = mended(jumped, goes_on)
    assert first[:20] == [1] * 20 and len({*first[20:]}) == 1 and first[20] != 1
    assert second == [1] * 20, "what the tracker lost is the first object"


def test_a_light_that_changes_all_the_time_cuts_nothing() -> None:
    rng = np.random.default_rng(1)
    looks = rng.dirichlet(np.full(3, 0.1), 40).astype(np.float32)
    assert mended([(n, 2.0 * n, looks[n]) for n in range(40)]) == [[1] * 40]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 15), st.integers(0, 100),
                          st.sampled_from([0, 1, 2])), min_size=1, max_size=5))  # fmt: skip
def test_whatever_is_cut_and_joined_no_number_is_twice_in_a_frame(
    given_tracks: list[tuple[int, int, int, int]],
) -> None:
    looks = (RED, BLUE, GREEN)
    tracks = [walk(first, count, x, looks[of]) for first, count, x, of in given_tracks]
    seen = [
        (frame, number)
        for track, numbers in zip(tracks, mended(*tracks), strict=True)
        for (frame, _, _), number in zip(track, numbers, strict=True)
    ]
    assert len(seen) == len({*seen})


def test_colours_of_a_box_tell_objects_apart_whatever_is_around_them() -> None:
    pixels = np.full((100, 200, 3), 90, np.uint8)
    pixels[20:80, 20:50], pixels[20:80, 120:150] = (200, 0, 0), (0, 0, 200)
    pixels[50:80, 20:50] = pixels[50:80, 120:150] = (10, 10, 10)
    boxes = np.array([(20, 20, 50, 80), (22, 21, 51, 82), (120, 20, 150, 80), (300, 0, 310, 9)])
    red, again, blue, outside = appearances(pixels, boxes.astype(np.float32))
    assert red.shape == (BINS,) and alike(red, red) > 0.999
    assert alike(red, again) > 0.9 and alike(red, blue) < 0.7
    assert alike(red, outside) == 0


def test_a_large_box_is_thinned_out_and_looks_the_same() -> None:
    small = np.zeros((64, 64, 3), np.uint8)
    small[:32] = 255
    large = small.repeat(12, axis=0).repeat(12, axis=1)
    looks = [
        appearances(pixels, np.array([(0, 0, side, side)], np.float32))[0]
        for pixels, side in ((small, 64), (large, 768))
    ]
    assert alike(*looks) > 0.98
