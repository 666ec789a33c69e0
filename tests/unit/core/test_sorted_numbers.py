"""Numbers of 64 bits, found and kept in little memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from traced_memory import traced_memory

from secondlook.core import sorted_numbers
from secondlook.core.sorted_numbers import NumberSet, find_sorted

NUMBERS = st.integers(-(2**63), 2**63 - 1)


@given(numbers=st.lists(NUMBERS, unique=True, max_size=30), one=NUMBERS)
def test_a_number_is_found_in_sorted_ones(numbers, one):
    found = np.unique(np.array(numbers, dtype=np.int64))
    assert (find_sorted(found, one) is not None) == (one in numbers)
    assert all(found[find_sorted(found, number)] == number for number in numbers)


@given(numbers=st.lists(NUMBERS, max_size=40), others=st.lists(NUMBERS, max_size=10))
def test_it_holds_what_was_added_and_nothing_else(numbers, others):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_numbers, "_MOST_NEW", 3)
        kept, wanted = NumberSet(), set()
        for number in numbers:
            kept.add(number)
            wanted.add(number)
            assert number in kept
        assert all((number in kept) == (number in wanted) for number in [*numbers, *others])


def test_a_number_takes_little_more_than_its_bytes():
    with traced_memory() as memory:
        kept = NumberSet()
        for number in range(0, 50_000 * 2**40, 2**40):
            kept.add(number)
    assert 2**40 in kept
    assert memory.kept < 50_000 * 8 + 700_000  # the newest lie in a set
