import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.evaluation.precision_tests import (
    allowed_errors,
    answers_with_errors,
    answers_without_error,
    binomial_bound,
    binomial_tail,
    boxes_bound,
    boxes_p_value,
    crowding_factor,
)


def test_figures_that_every_table_has() -> None:
    assert answers_without_error(0.95, 0.95) == 59
    assert answers_without_error(0.99, 0.95) == 299
    assert [allowed_errors(n, 0.05, 0.05) for n in (58, 59, 92, 93, 124, 153, 181, 208)] == [
        *(-1, 0, 0, 1, 2, 3, 4, 5)
    ]
    assert [answers_with_errors(k, 0.05, 0.05, 1000) for k in range(4)] == [59, 93, 124, 153]
    assert answers_with_errors(3, 0.05, 0.05, 100) == 101
    assert binomial_tail(1, 10, 0.3) == pytest.approx(0.7**10 + 10 * 0.3 * 0.7**9)
    assert binomial_bound(0, 59, 0.05) == pytest.approx(0.05 ** (1 / 59))


def test_boxes_that_are_all_asked_about_are_known() -> None:
    assert boxes_p_value(3, 50, 1, 4) == 0.0
    assert boxes_p_value(4, 50, 1, 4) == 1.0
    assert boxes_bound(3, 50, 1, 50, 0.05) == pytest.approx(0.94)


@given(st.integers(1, 60), st.integers(1, 30), st.integers(0, 6), st.data())
def test_few_errors_are_likeliest_when_the_wrong_boxes_are_spread_evenly(
    slices: int, size: int, wrong: int, data: st.DataObject
) -> None:
    of_each = np.array(
        data.draw(st.lists(st.integers(0, size), min_size=slices, max_size=slices)), dtype=float
    )
    distribution = np.ones(1)
    for share in of_each / size:
        distribution = np.convolve(distribution, [1 - share, share])
    exact = distribution[: wrong + 1].sum()
    assert exact <= boxes_p_value(wrong, slices, size, int(of_each.sum())) + 1e-9


@given(st.integers(20, 300), st.integers(1, 40), st.integers(0, 5), st.integers(1, 100))
def test_p_value_of_boxes_falls_with_wrong_boxes_and_grows_with_errors(
    slices: int, size: int, wrong: int, wrong_boxes: int
) -> None:
    wrong_boxes = min(wrong_boxes, slices * size - 1)
    p = boxes_p_value(wrong, slices, size, wrong_boxes)
    assert 0 <= p <= 1
    assert boxes_p_value(wrong, slices, size, wrong_boxes + 1) <= p + 1e-9
    assert boxes_p_value(wrong + 1, slices, size, wrong_boxes) >= p - 1e-9


@given(st.integers(30, 300), st.integers(2, 40), st.integers(0, 8))
def test_a_bound_is_where_the_p_value_crosses_the_level(slices: int, size: int, wrong: int) -> None:
    boxes = slices * size
    bound = boxes_bound(wrong, slices, size, boxes, 0.05)
    excluded = round((1 - bound) * boxes) + 1
    assert boxes_p_value(wrong, slices, size, excluded) <= 0.05
    assert boxes_p_value(wrong, slices, size, excluded - 1) > 0.05


@given(
    st.lists(st.integers(1, 12), min_size=5, max_size=60),
    st.floats(0.05, 1),
    st.floats(0, 1),
    st.data(),
)
def test_the_share_of_wrong_answers_is_not_below_what_crowding_allows(
    sizes: list[int], asked: float, power: float, data: st.DataObject
) -> None:
    boxes = np.array(sizes)
    chances = 1 - (1 - asked) ** boxes
    factor = crowding_factor(boxes, boxes, chances)
    assert 0 < factor <= 1
    base = data.draw(st.floats(0.001, 0.08))
    wrong = base * boxes**power  # m times as many boxes, at most m times as likely to be wrong
    of_boxes = (boxes * wrong).sum() / boxes.sum()
    of_answers = (chances * wrong).sum() / chances.sum()
    assert of_answers >= of_boxes * factor - 1e-12


def test_crowding_costs_nothing_where_few_scenes_are_asked_in_proportion() -> None:
    boxes = np.array([1, 2, 3, 10])
    assert crowding_factor(boxes, boxes, boxes / 100) == pytest.approx(1)
    kish = boxes.sum() ** 2 / (boxes**2).sum() / len(boxes)
    assert crowding_factor(boxes, boxes, np.ones(4)) == pytest.approx(kish)
