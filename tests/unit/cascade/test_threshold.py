import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.cascade.threshold import (
    MARGIN,
    MAX_SHORTFALL,
    MIN_ABOVE,
    MIN_COMPARISONS,
    WINDOW,
    AdaptiveThreshold,
)

SHARE = st.floats(0, 1)


def threshold_after(pairs: list[tuple[float, float]], target: float = 0.9) -> AdaptiveThreshold:
    threshold = AdaptiveThreshold(target)
    for expected, agreement in pairs:
        threshold.update(expected, agreement)
    return threshold


def test_there_is_no_threshold_before_enough_comparisons() -> None:
    threshold = threshold_after([(1.0, 1.0)] * (MIN_COMPARISONS - 1))
    assert threshold.value is None
    assert not threshold.accepts(1.0)
    threshold.update(1.0, 1.0)
    assert threshold.accepts(1.0)
    assert not threshold.accepts(0.99)


@pytest.mark.parametrize("bias", [-0.15, 0.0, 0.15])
def test_the_mean_agreement_above_the_threshold_is_the_target(bias: float) -> None:
    """Whether a student expects too much or too little: only the order counts."""
    draws = np.random.default_rng(1)
    agreement = draws.uniform(0.6, 1.0, WINDOW)
    threshold = threshold_after([(float(a + bias), float(a)) for a in agreement], target=0.8)
    above = [float(a) for a in agreement if threshold.accepts(float(a + bias))]
    assert np.mean(above) == pytest.approx(0.8 + MARGIN, abs=0.005)
    assert len(above) > WINDOW * 0.8


def test_good_images_do_not_compensate_for_hopeless_ones() -> None:
    threshold = threshold_after([(0.97, 1.0)] * 100 + [(0.3, 0.2)] * 5)
    assert threshold.value == 0.97
    poor = 0.9 + MARGIN - MAX_SHORTFALL
    assert threshold_after([(0.97, 1.0)] * 100 + [(0.3, poor + 0.01)] * 5).value == 0.3


def test_a_few_lucky_ones_make_no_threshold() -> None:
    lucky = [(0.9, 1.0)] * (MIN_ABOVE - 1)
    assert threshold_after(lucky + [(0.5, 0.5)] * 100).value is None
    assert threshold_after(lucky + [(0.9, 1.0)] + [(0.5, 0.5)] * 100).value == 0.9


def test_a_sample_is_weighted_by_those_left_out() -> None:
    threshold = threshold_after([(0.5, 0.8)] * 10 + [(0.9, 1.0)] * 25)
    assert threshold.value == 0.5
    threshold = AdaptiveThreshold(0.9)
    for expected, agreement, weight in [(0.5, 0.8, 10.0)] * 10 + [(0.9, 1.0, 1.0)] * 25:
        threshold.update(expected, agreement, weight)
    assert threshold.value == 0.9


def test_old_comparisons_are_forgotten() -> None:
    threshold = threshold_after([(0.9, 1.0)] * 1000)
    assert threshold.value == 0.9
    for _ in range(WINDOW):
        threshold.update(0.9, 0.5)
    assert threshold.value is None


@given(pairs=st.lists(st.tuples(SHARE, SHARE), max_size=80), target=st.floats(0.05, 0.99))
def test_whatever_is_above_the_threshold_reached_the_target(
    pairs: list[tuple[float, float]], target: float
) -> None:
    threshold = threshold_after(pairs, target)
    above = [agreement for expected, agreement in pairs if threshold.accepts(expected)]
    assert bool(above) == (threshold.value is not None)
    if above:
        assert len(above) >= MIN_ABOVE
        assert np.mean(above) >= target - 1e-9
        assert threshold.value in [expected for expected, _ in pairs]
