import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from secondlook.core.sequential_test import SequentialTest


@given(
    mean=st.floats(0.05, 0.95),
    numbers=st.lists(st.floats(0, 1), min_size=1, max_size=60),
    above=st.booleans(),
)
def test_evidence_never_grows_on_average_while_the_claim_holds(
    mean: float, numbers: list[float], above: bool
) -> None:
    test = SequentialTest(mean, claim="at most" if above else "at least")
    for number in numbers:
        test.update(number)
    assert test.count == len(numbers)
    assert test.evidence >= 0
    untouched = SequentialTest(mean, claim="at most" if above else "at least")
    gain = 0.0
    for outcome, weight in ((1.0, mean), (0.0, 1 - mean)):  # the mean is the claim's bound
        one = SequentialTest(mean, claim="at most" if above else "at least")
        one.update(outcome)
        gain += weight * (one.evidence - untouched.evidence)
    assert gain <= 1e-9


def test_false_trust_at_the_bound_is_as_rare_as_promised() -> None:
    waited = []
    for seed in range(60):
        draws, test = np.random.default_rng(seed), SequentialTest(0.9, claim="at most")
        while test.evidence < 20 and test.count < 3000:
            test.update(float(draws.random() < 0.9))
        waited.append(test.count)
    assert np.mean(waited) >= 20


def test_a_small_stake_notices_a_small_change() -> None:
    draws = np.random.default_rng(0)
    numbers = (draws.random(1500) < 0.9).astype(float).tolist()
    small, great = (SequentialTest(0.95, claim="at least", stakes=[stake]) for stake in (0.05, 1.0))
    for number in numbers:
        small.update(number)
        great.update(number)
    assert small.evidence > 1000
    assert great.evidence < 100


def test_a_test_goes_on_from_its_state() -> None:
    first, whole = (SequentialTest(0.9, claim="at least") for _ in range(2))
    for number in (1.0, 0.0, 0.5):
        first.update(number)
        whole.update(number)
    second = SequentialTest(0.9, claim="at least", evidence=first.state)
    for number in (0.0, 1.0):
        second.update(number)
        whole.update(number)
    assert second.state == whole.state
