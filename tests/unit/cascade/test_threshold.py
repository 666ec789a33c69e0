import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.cascade.threshold import LEAST, LEAST_ABOVE, MARGIN, POOREST, REMEMBERED, Certainty

SHARE = st.floats(0, 1)


def taught(pairs: list[tuple[float, float]], wanted: float = 0.9) -> Certainty:
    certainty = Certainty(wanted)
    for expected, agreement in pairs:
        certainty.hear(expected, agreement)
    return certainty


def test_nothing_is_certain_before_it_was_seen_to_agree() -> None:
    certainty = taught([(1.0, 1.0)] * (LEAST - 1))
    assert certainty.bound is None
    assert not certainty.holds(1.0)
    certainty.hear(1.0, 1.0)
    assert certainty.holds(1.0)
    assert not certainty.holds(0.99)


@pytest.mark.parametrize("too_sure", [-0.15, 0.0, 0.15])
def test_the_bound_is_where_the_mean_agreement_is_as_wanted(too_sure: float) -> None:
    """Whether a student expects too much or too little: only the order counts."""
    draws = np.random.default_rng(1)
    agreement = draws.uniform(0.6, 1.0, REMEMBERED)
    certainty = taught([(float(a + too_sure), float(a)) for a in agreement], wanted=0.8)
    above = [float(a) for a in agreement if certainty.holds(float(a + too_sure))]
    assert np.mean(above) == pytest.approx(0.8 + MARGIN, abs=0.005)
    assert len(above) > REMEMBERED * 0.8


def test_good_images_do_not_pay_for_hopeless_ones() -> None:
    certainty = taught([(0.97, 1.0)] * 100 + [(0.3, 0.2)] * 5)
    assert certainty.bound == 0.97
    poor = 0.9 + MARGIN - POOREST
    assert taught([(0.97, 1.0)] * 100 + [(0.3, poor + 0.01)] * 5).bound == 0.3


def test_a_few_lucky_ones_are_no_bound() -> None:
    lucky = [(0.9, 1.0)] * (LEAST_ABOVE - 1)
    assert taught(lucky + [(0.5, 0.5)] * 100).bound is None
    assert taught(lucky + [(0.9, 1.0)] + [(0.5, 0.5)] * 100).bound == 0.9


def test_a_sample_stands_for_those_left_out() -> None:
    certainty = taught([(0.5, 0.8)] * 10 + [(0.9, 1.0)] * 25)
    assert certainty.bound == 0.5
    certainty = Certainty(0.9)
    for expected, agreement, weight in [(0.5, 0.8, 10.0)] * 10 + [(0.9, 1.0, 1.0)] * 25:
        certainty.hear(expected, agreement, weight)
    assert certainty.bound == 0.9


def test_what_was_long_ago_is_forgotten() -> None:
    certainty = taught([(0.9, 1.0)] * 1000)
    assert certainty.bound == 0.9
    for _ in range(REMEMBERED):
        certainty.hear(0.9, 0.5)
    assert certainty.bound is None


@given(pairs=st.lists(st.tuples(SHARE, SHARE), max_size=80), wanted=st.floats(0.05, 0.99))
def test_whatever_is_above_the_bound_agreed_as_wanted(
    pairs: list[tuple[float, float]], wanted: float
) -> None:
    certainty = taught(pairs, wanted)
    above = [agreement for expected, agreement in pairs if certainty.holds(expected)]
    assert bool(above) == (certainty.bound is not None)
    if above:
        assert len(above) >= LEAST_ABOVE
        assert np.mean(above) >= wanted - 1e-9
        assert certainty.bound in [expected for expected, _ in pairs]
