"""Few frames that show everything: greedy, and never much worse than the best choice."""

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from secondlook.selection.keyframes import Moment, choose_keyframes

FRAMES = 6
MOMENTS = st.lists(
    st.dictionaries(st.integers(0, FRAMES - 1), st.sampled_from([0.5, 1.0]), max_size=FRAMES),
    max_size=7,
)


def moments(shown: list[dict[int, float]]) -> list[Moment]:
    return [Moment(number, f"track {number}", frames) for number, frames in enumerate(shown)]


def test_one_frame_that_shows_much_comes_before_two_that_show_little() -> None:
    some = moments([{0: 1.0, 3: 0.9}, {1: 1.0, 3: 0.9}, {2: 1.0}])
    first, second = choose_keyframes(some, 9)
    assert (first.place, first.moments) == (3, (0, 1))
    assert (second.place, second.moments, second.value) == (2, (2,), 1.0)
    assert [one.place for one in choose_keyframes(some, 1)] == [3]
    assert choose_keyframes([], 3) == []


@settings(max_examples=40)
@given(MOMENTS, st.integers(1, FRAMES))
def test_each_moment_is_seen_once_and_by_as_few_as_promised(
    shown: list[dict[int, float]], count: int
) -> None:
    some = moments(shown)
    chosen = choose_keyframes(some, FRAMES)
    seen = [number for one in chosen for number in one.moments]
    assert sorted(seen) == [number for number, frames in enumerate(shown) if frames]
    assert len({one.place for one in chosen}) == len(chosen)

    def covered(places: tuple[int, ...]) -> int:
        return sum(bool({*frames} & {*places}) for frames in shown)

    whole = moments([dict.fromkeys(frames, 1.0) for frames in shown])
    few = tuple(one.place for one in choose_keyframes(whole, count))
    best = max(covered(places) for places in combinations(range(FRAMES), count))
    assert len(few) <= count and covered(few) >= (1 - 1 / 2.718) * best
