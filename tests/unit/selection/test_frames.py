"""Which frames are sent: the reasons, the budget, and clocks that jump."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondlook.detector.frames import Detection
from secondlook.selection.frames import (
    BUDGET_FILE,
    FrameSelector,
    SelectionReason,
    SelectionSettings,
    TokenBucket,
    read_budget,
    write_budget,
)
from secondlook_client.errors import BadSetting

FREE = {"budget": math.inf}
SAME = 0x0F0F_3C3C_5A5A_9669


def detections(*pairs: tuple[str, float]) -> list[Detection]:
    return [Detection(name, p, p, (0, 0, 9, 9)) for name, p in pairs]


def unlike(number: int) -> int:
    """A hash unlike that of any other number."""
    return random.Random(number).getrandbits(64)


def test_probabilities_in_the_band_are_uncertain_and_others_are_not() -> None:
    settings = SelectionSettings(novel_bits=64, near_bits=0, random_share=0, **FREE)
    selector = FrameSelector(settings)
    selector.select([], unlike(0), 0.0)  # whatever comes first is novel
    cases = [
        (0.29, None),
        (0.3, SelectionReason.UNCERTAIN),
        (0.7, SelectionReason.UNCERTAIN),
        (0.71, None),
    ]
    for number, (probability, reason) in enumerate(cases, 1):
        assert selector.select(detections(("dog", probability)), unlike(number), 0.0) is reason


def test_a_frame_unlike_those_sent_is_novel_and_the_same_again_is_not_sent() -> None:
    selector = FrameSelector(SelectionSettings(random_share=0, **FREE))
    assert selector.select([], SAME, 0.0) is SelectionReason.NOVEL
    assert selector.select([], SAME, 1.0) is None
    assert selector.select(detections(("dog", 0.5)), SAME ^ 0b111, 1.0) is None, "a near duplicate"
    assert selector.select([], ~SAME, 2.0) is SelectionReason.NOVEL
    between = SAME ^ 0xFFF  # 12 bits: neither the same nor new
    assert selector.select([], between, 3.0) is None
    assert selector.select(detections(("dog", 0.5)), between, 3.0) is SelectionReason.UNCERTAIN


def test_only_the_last_frames_sent_are_compared_with() -> None:
    selector = FrameSelector(SelectionSettings(recent_frames=2, random_share=0, **FREE))
    assert [selector.select([], unlike(n), 0.0) for n in (1, 2, 1, 3, 1)] == [
        SelectionReason.NOVEL,
        SelectionReason.NOVEL,
        None,
        SelectionReason.NOVEL,
        SelectionReason.NOVEL,
    ]


def test_a_class_seldom_seen_recently_is_rare_until_it_is_not() -> None:
    settings = SelectionSettings(novel_bits=64, random_share=0, rare_share=0.05, **FREE)
    selector = FrameSelector(settings)
    for number in range(100):
        selector.select(detections(("car", 0.9)), unlike(number), 0.0)
    reasons = [selector.select(detections(("fox", 0.9)), unlike(1000 + n), 0.0) for n in range(12)]
    assert reasons[0] is SelectionReason.RARE
    assert reasons[-1] is None, "seen every time, a fox is not rare any more"
    unlikely = selector.select(detections(("bear", 0.4)), unlike(5000), 0.0)
    assert unlikely is SelectionReason.UNCERTAIN, "what may not be there is no sighting"


def test_nothing_is_rare_before_anything_is_known() -> None:
    selector = FrameSelector(SelectionSettings(novel_bits=64, random_share=0, **FREE))
    selector.select([], unlike(0), 0.0)
    assert selector.select(detections(("dog", 0.9)), unlike(1), 0.0) is None


def test_random_frames_are_a_share_of_all_and_do_not_depend_on_what_is_seen() -> None:
    settings = SelectionSettings(random_share=0.1, **FREE)
    empty, busy = FrameSelector(settings, seed=7), FrameSelector(settings, seed=7)
    first = [empty.select([], SAME, 0.0) for _ in range(3000)]
    second = [busy.select(detections(("dog", 0.5)), unlike(n), 0.0) for n in range(3000)]
    at = [n for n, reason in enumerate(first) if reason is SelectionReason.RANDOM]
    assert at == [n for n, reason in enumerate(second) if reason is SelectionReason.RANDOM]
    assert 240 < len(at) < 360
    other = FrameSelector(settings, seed=8)
    assert [n for n in range(3000) if other.select([], SAME, 0.0) is SelectionReason.RANDOM] != at


def test_a_flood_of_uncertain_frames_leaves_room_for_rare_and_random_ones() -> None:
    settings = SelectionSettings(budget=36, random_share=0.02, random_reserve=0.5)
    selector = FrameSelector(settings, seed=1)
    for number in range(60):  # sightings of cars, spread over a day of its own
        selector.select(detections(("car", 0.9)), unlike(number), number * 3600.0)
    now, counts = 60 * 3600.0, dict.fromkeys(SelectionReason, 0)
    for number in range(36_000):  # an hour at ten frames a second, all doubtful and much alike
        found = detections(("car", 0.5)) if number % 6000 else detections(("fox", 0.9))
        alike = unlike(0) ^ (0x1FF << (number % 50))
        hashed = alike if number % 6000 else unlike(1_000_000 + number)
        reason = selector.select(found, hashed, now + number / 10)
        if reason is not None:
            counts[reason] += 1
    assert counts[SelectionReason.RANDOM] >= 18
    assert counts[SelectionReason.RARE] == 6, "all of the foxes"
    assert sum(counts.values()) <= 36 * (1 + 1 / 3) + 1


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.floats(-1e9, 1e9, allow_nan=False), max_size=60),
    per_hour=st.floats(0.1, 1e5),
    capacity=st.floats(1, 50),
)
def test_no_jump_of_a_clock_gives_a_burst(
    steps: list[float], per_hour: float, capacity: float
) -> None:
    bucket = TokenBucket(per_hour, capacity)
    now, forward, taken = 0.0, 0.0, 0
    bucket.take(now, reserve=math.inf)
    for step in steps:
        now += step
        at_once = 0
        while bucket.take(now):
            at_once += 1
        assert at_once <= capacity + 1e-6
        taken += at_once
        forward += max(step, 0.0)
        assert 0 <= bucket.tokens <= capacity
    assert taken <= capacity + forward * per_hour / 3600 + 1e-3


@given(jump=st.floats(-1e12, 1e12, allow_nan=False))
def test_no_jump_of_a_clock_starves_it(jump: float) -> None:
    bucket = TokenBucket(3600, 1, tokens=0)
    bucket.take(1000.0)
    bucket.take(1000.0 + jump)
    assert bucket.take(1000.0 + jump + 1.01) or abs(jump) > 1e11, "a second later there is one"


def test_a_budget_of_nothing_sends_nothing_and_none_sends_all() -> None:
    nothing = FrameSelector(SelectionSettings(budget=0, random_share=1))
    assert {nothing.select([], unlike(n), 1e6 * n) for n in range(50)} == {None}
    everything = FrameSelector(SelectionSettings(budget=math.inf, random_share=0))
    assert {everything.select([], unlike(n), 0.0) for n in range(50)} == {SelectionReason.NOVEL}


def test_restarts_do_not_refill_the_budget(tmp_path) -> None:
    settings = SelectionSettings(budget=10, random_share=0)
    sent, left = 0, {}
    for process in range(20):
        selector = FrameSelector(settings, tokens=left)
        for number in range(20):
            sent += selector.select([], unlike(100 * process + number), 5.0 * number) is not None
            write_budget(tmp_path, selector.tokens)
        left = read_budget(tmp_path)
    assert sent <= 10 * (1 / 3 + 2000 / 3600) + 1


@pytest.mark.parametrize("text", ["", "nonsense", "[1]", '{"chosen": "x"}', '{"chosen": null}'])
def test_a_budget_that_a_power_cut_left_in_pieces_is_a_new_one(tmp_path, text: str) -> None:
    (tmp_path / BUDGET_FILE).write_text(text)
    assert read_budget(tmp_path) == {}
    assert read_budget(tmp_path / "nowhere") == {}
    assert FrameSelector(SelectionSettings(), tokens={"chosen": math.nan}).tokens["chosen"] >= 1


def test_memory_does_not_grow_with_frames_or_classes() -> None:
    selector = FrameSelector(SelectionSettings(recent_frames=8, **FREE))
    for number in range(30_000):
        selector.select(detections((f"class {number}", 0.9)), SAME, 0.0)
        if number < 20:
            selector.select([], unlike(number), 0.0)
    assert len(selector._sent) == 8
    assert len(selector._sightings) < 20_000, "a sighting that has decayed is forgotten"


@pytest.mark.parametrize(
    "wrong",
    [
        {"uncertain_low": 0.8, "uncertain_high": 0.2},
        {"budget": -1},
        {"random_share": 2},
        {"near_bits": 30},
    ],
)
def test_policies_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadSetting):
        SelectionSettings(**wrong)
