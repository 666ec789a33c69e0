"""Simulated streams of frames with 5 boxes each; a person answers every check at once."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondlook.evaluation.precision_monitor import (
    DRIFT_RAISED,
    RAISED,
    RATE,
    Check,
    PrecisionMonitor,
)
from secondlook_client.errors import InvalidInput

BOXES = 5


def stream(
    monitor: PrecisionMonitor, rng: random.Random, frames: range, precision: float
) -> int | None:
    """The frame at which the monitor says that the guarantee no longer holds."""
    for frame in frames:
        check = monitor.draw(frame, BOXES)
        if check and not monitor.observe(check, rng.random() < precision):
            return frame
    return None


def test_few_false_alarms_even_at_the_target_and_hardly_any_above_it() -> None:
    alarms = {}
    for precision in (0.95, 0.97):
        alarms[precision] = sum(
            stream(PrecisionMonitor(0.95, seed=str(n)), random.Random(n), range(5000), precision)
            is not None
            for n in range(12)
        )
    assert alarms[0.95] <= 4  # 1 expected
    assert alarms[0.97] <= 1


@pytest.mark.parametrize("precision", [0.9, 0.8])
def test_a_fall_is_told_before_three_points_are_lost(precision: float) -> None:
    soon = 0
    for n in range(12):
        monitor, rng = PrecisionMonitor(0.95, seed=str(n)), random.Random(n)
        good = rng.randrange(1000, 4500)
        if stream(monitor, rng, range(good), 0.97) is not None:
            continue
        end = stream(monitor, rng, range(good, 5000), precision) or 5000
        soon += (0.97 - precision) * (end - good) / end < 0.03
    assert soon >= 10


def test_the_trickle_is_thin_while_all_is_well_and_thick_under_suspicion() -> None:
    monitor = PrecisionMonitor(0.95)
    assert monitor.rate == RATE
    for _ in range(3):
        monitor.observe(Check(0, RATE), right=False)
    assert monitor.rate == RATE * RAISED
    for _ in range(100):
        monitor.observe(Check(0, RATE), right=True)
    assert monitor.rate == RATE


def test_drift_raises_the_trickle_for_a_while() -> None:
    monitor = PrecisionMonitor(0.95)
    monitor.raise_trickle(3)
    frames = iter(range(1000))
    while monitor.drawn < 3:
        assert monitor.is_raised and monitor.rate == RATE * DRIFT_RAISED
        monitor.draw(next(frames), BOXES)
    assert not monitor.is_raised and monitor.rate == RATE
    monitor.raise_trickle(3)
    for _ in range(3):
        monitor.observe(Check(0, RATE), right=False)
    assert monitor.rate == RATE * RAISED


def test_a_share_that_follows_the_past_makes_no_false_alarms_by_the_check() -> None:
    """Raised after each error, the worst that the past can do: alarms stay as rare as proven."""
    alarms = checks = 0
    for n in range(5):
        monitor, rng = PrecisionMonitor(0.95, seed=str(n)), random.Random(n)
        for frame in range(4000):
            check = monitor.draw(frame, BOXES)
            if check is None:
                continue
            right = rng.random() < 0.95
            if not right:
                monitor.raise_trickle(50)
            if not monitor.observe(check, right):
                alarms += 1
                break
        checks += monitor.checked
    assert checks > 5 * 1000  # at the usual share it would be about a third of that
    assert alarms <= checks / 500


def test_every_box_has_the_chance_that_a_check_tells() -> None:
    monitor = PrecisionMonitor(0.95, rate=0.1)
    drawn = [monitor.draw(frame, 4) for frame in range(20_000)]
    places = [check.box for check in drawn if check]
    assert all(check.chance == pytest.approx(0.1) for check in drawn if check)
    assert [places.count(box) / 20_000 for box in range(4)] == pytest.approx([0.1] * 4, abs=0.01)
    assert (monitor.drawn, monitor.checked) == (len(places), 0)
    assert monitor.draw("crowded", 1000) is not None
    assert monitor.draw("empty", 0) is None


def test_the_estimate_weighs_answers_by_the_boxes_that_they_stand_for() -> None:
    monitor = PrecisionMonitor(0.9)
    assert monitor.precision is None
    monitor.observe(Check(0, 0.01), right=True)
    monitor.observe(Check(0, 0.1), right=False)
    assert monitor.precision == pytest.approx(100 / 110)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 300))
def test_a_killed_job_goes_on_where_it_was(seed: int, killed: int) -> None:
    whole = PrecisionMonitor(0.9, rate=0.3, seed=str(seed))
    parts = PrecisionMonitor(0.9, rate=0.3, seed=str(seed))
    for frame in range(300):
        if frame == killed:
            parts = PrecisionMonitor.from_json(parts.to_json())
        check = whole.draw(frame, 3)
        assert parts.draw(frame, 3) == check
        if check:
            right = (frame * 7 + seed) % 5 > 0
            assert whole.observe(check, right) == parts.observe(check, right)
    assert whole.to_json() == parts.to_json()


def test_a_broken_guarantee_stays_broken() -> None:
    monitor = PrecisionMonitor(0.95)
    while monitor.holds:
        monitor.observe(Check(0, 0.1), right=False)
    for _ in range(1000):
        monitor.observe(Check(0, 0.1), right=True)
    assert not monitor.holds
    assert not PrecisionMonitor.from_json(monitor.to_json()).holds


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[1]", '{"format": 1}', "[" * 100_000, '{"format": 1, "target": NaN}'),
        PrecisionMonitor(0.9).to_json().replace("0.9", "1.5"),
        PrecisionMonitor(0.9).to_json().replace('"checked": 0', '"checked": -1'),
        PrecisionMonitor(0.9).to_json().replace('"checked": 0', '"checked": 0.5'),
        PrecisionMonitor(0.9).to_json().replace('"weight": 0.0', '"weight": NaN'),
        PrecisionMonitor(0.9).to_json().replace("[1.0, ", "["),
        PrecisionMonitor(0.9).to_json().replace("false", '"no"'),
    ],
)
def test_other_text_is_not_a_state(text: str) -> None:
    with pytest.raises(InvalidInput):
        PrecisionMonitor.from_json(text)


@pytest.mark.parametrize(("target", "rate"), [(0.0, 0.1), (1.0, 0.1), (0.9, 0.0), (0.9, 1.1)])
def test_monitor_bounds_that_make_no_sense_are_refused(target: float, rate: float) -> None:
    with pytest.raises(InvalidInput, match="expected a"):
        PrecisionMonitor(target, rate=rate)
