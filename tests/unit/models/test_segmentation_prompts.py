"""Prompts are what anyone may send: what is sound is read, all else refused in words."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.labeling.segmenter import SegmentationPrompt
from secondlook.models.segmentation_prompts import MAX_CLICKS, CheckedPrompt, check_prompts
from secondlook_client.errors import InvalidInput

SIZE = (40, 30)
ANY = st.floats(allow_nan=True, allow_infinity=True, width=32)


def checked(**prompt: Any) -> CheckedPrompt:
    (found,) = check_prompts([SegmentationPrompt(**prompt)], SIZE)
    return found


@given(
    st.none() | st.tuples(ANY, ANY, ANY, ANY),
    st.lists(st.tuples(ANY, ANY), max_size=3),
    st.lists(st.tuples(ANY, ANY), max_size=3),
)
def test_whatever_is_read_lies_in_the_image(box: Any, inside: Any, outside: Any) -> None:
    try:
        found = checked(box=box, inside=inside, outside=outside)
    except InvalidInput as refused:
        assert str(refused)
        return
    assert ((found.points >= 0) & (found.points <= SIZE)).all()
    assert found.labels.tolist() == [1] * len(inside) + [0] * len(outside)
    if found.box is not None:
        left, top, right, bottom = found.box
        assert 0 <= left < right <= SIZE[0] and 0 <= top < bottom <= SIZE[1]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ({}, "needs a box, a click"),
        ({"outside": [(1, 1)]}, "needs a box, a click"),
        ({"inside": [(41, 1)]}, r"click \(41, 1\) lies outside of the image of 40 × 30"),
        ({"inside": [(1, math.nan)]}, "lies outside"),
        ({"inside": [(1, 2, 3)]}, "lies outside"),
        ({"inside": [(1, 1)] * (MAX_CLICKS + 1)}, "at most 64"),
        ({"box": (5, 5, 5, 9)}, "has no area"),
        ({"box": (50, 5, 60, 9)}, "has no area"),
        ({"box": (0, 0, math.inf, 9)}, "four finite numbers"),
        ({"box": (0, 0, 9)}, "four finite numbers"),
        ({"previous": np.zeros((40, 30), bool)}, r"is \(30, 40\), its image \(40, 30\)"),
    ],
)
def test_what_cannot_be_meant_is_refused(prompt: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        checked(**prompt)


def test_a_box_is_clipped_and_one_lone_click_is_ambiguous() -> None:
    assert checked(box=(-5, 3, 99, 20)).box == (0, 3, 40, 20)
    mask = np.ones((30, 40), np.uint8)
    assert checked(inside=[(1, 1)]).ambiguous
    assert not checked(inside=[(1, 1)], previous=mask).ambiguous
    assert not checked(inside=[(1, 1)], outside=[(9, 9)]).ambiguous
    assert not checked(inside=[(1, 1)], box=(0, 0, 9, 9)).ambiguous
    previous = checked(previous=mask).previous
    assert previous is not None and previous.dtype == np.bool_
