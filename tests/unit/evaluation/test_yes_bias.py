import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, fisher_exact

from secondlook.core.types import DecoyKind, DecoyReply
from secondlook.evaluation.yes_bias import LEVEL, YesBias, compare, exact_interval

BACK, OTHER = DecoyKind.BACKGROUND, DecoyKind.OTHER_CLASS


@given(st.integers(0, 3000), st.floats(0, 1))
def test_intervals_are_those_of_clopper_and_pearson(trials: int, part: float) -> None:
    hits = round(trials * part)
    low = beta.ppf(0.025, hits, trials - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, trials - hits) if hits < trials else 1.0
    assert exact_interval(hits, trials, 0.95) == pytest.approx((low, high), abs=1e-9)


@given(*[st.integers(1, 60)] * 2, *[st.floats(0, 1)] * 2)
def test_one_stratum_is_the_exact_test_of_fisher(earlier, later, part, other) -> None:
    before, after = round(earlier * part), round(later * other)
    change = compare({(BACK, "dog"): (earlier, before)}, {(BACK, "dog"): (later, after)})
    table = [[after, later - after], [before, earlier - before]]
    assert change.p_value == pytest.approx(fisher_exact(table, alternative="greater")[1], abs=1e-9)
    assert change.answered == (earlier, later)
    assert change.difference == pytest.approx(after / later - before / earlier)


def test_another_mix_of_kinds_is_no_rise() -> None:
    easy, hard = (BACK, "dog"), (DecoyKind.OFF_CENTRE, "dog")
    before = {easy: (300, 0), hard: (100, 40)}
    after = {easy: (100, 0), hard: (300, 120)}
    change = compare(before, after)
    assert change.before == change.after == pytest.approx(0.3)
    assert not change.risen and change.p_value > 0.4
    assert compare(before, {easy: (100, 10), hard: (300, 150)}).risen


def test_only_what_both_sides_asked_is_compared() -> None:
    change = compare({(BACK, "dog"): (50, 1)}, {(OTHER, "dog"): (50, 50), (BACK, "cat"): (9, 9)})
    assert (change.strata, change.answered, change.p_value) == (0, (0, 0), 1.0)
    assert not change.risen
    change = compare({(BACK, "dog"): (50, 1), (OTHER, "dog"): (0, 0)}, {(BACK, "dog"): (20, 9)})
    assert (change.strata, change.answered) == (1, (50, 20))


def test_false_alarms_stay_at_the_level_and_ten_points_are_found() -> None:
    """Shares as different as those of real kinds, and 400 decoys on both sides."""
    drawn = np.random.default_rng(7)
    shares = np.array([0.0, 0.01, 0.02, 0.05, 0.1, 0.1, 0.3, 0.45])

    def alarms(bias: float) -> float:
        found = 0
        for _ in range(400):
            sides = []
            for p in (shares, shares + bias * (1 - shares)):
                asked = drawn.multinomial(400, np.full(8, 1 / 8))
                yes = drawn.binomial(asked, p)
                keys = [(BACK, str(place)) for place in range(8)]
                pairs = zip(asked.tolist(), yes.tolist(), strict=True)
                sides.append(dict(zip(keys, pairs, strict=True)))
            found += compare(*sides).risen
        return found / 400

    assert alarms(0.0) <= LEVEL + 0.03  # three standard deviations of 400 runs
    assert alarms(0.1) >= 0.95


def test_shares_by_kind_and_class_leave_out_what_was_not_answered() -> None:
    counts = {
        (BACK, "dog", DecoyReply.YES): 2,
        (BACK, "dog", DecoyReply.NO): 6,
        (OTHER, "dog", DecoyReply.ABSTAINED): 3,
        (OTHER, "cat", DecoyReply.NO): 4,
        (OTHER, "cat", DecoyReply.FAILED): 1,
    }
    bias = YesBias.of(counts)
    assert (bias.total.yes, bias.total.answered, bias.total.asked) == (2, 12, 16)
    assert bias.kinds[BACK].share == 0.25
    assert (bias.kinds[OTHER].abstained, bias.kinds[OTHER].failed) == (3, 1)
    assert list(bias.kinds) == [BACK, OTHER] and list(bias.classes) == ["cat", "dog"]
    assert bias.classes["cat"].share == 0.0
    assert bias.strata == {(BACK, "dog"): (8, 2), (OTHER, "cat"): (4, 0)}
    low, high = bias.total.interval
    assert low < 2 / 12 < high
    nothing = YesBias.of({})
    assert nothing.total.share is None and nothing.total.interval == (0.0, 1.0)
