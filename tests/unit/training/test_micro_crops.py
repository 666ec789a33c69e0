"""Crops that a micro-model learns from: where they are cut, and the target in other colours."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from secondlook.training.micro_crops import (
    OTHER_COLOUR,
    SAME_COLOUR,
    CropSampler,
    LabelledFrame,
    crop_places,
    moved,
    recoloured,
    target_colours,
)
from secondlook.training.micro_labels import FrameLabels

RED, GREEN, BLUE, GREY = (200, 30, 30), (30, 180, 40), (30, 40, 200), (120, 120, 120)


def crop(top, bottom, side=20):
    pixels = np.zeros((side, side, 3), np.float32)
    pixels[: side // 2], pixels[side // 2 :] = top, bottom
    return pixels


def boxes(*rows):
    return np.array(rows, np.float32).reshape(-1, 4)


def frame(complete=True):
    pixels = np.full((80, 120, 3), GREY, np.uint8)
    pixels[10:60, 10:40], pixels[10:60, 60:90] = RED, BLUE
    labels = FrameLabels("f", boxes((10, 10, 40, 60)), boxes(), complete, (120, 80))
    return LabelledFrame(
        pixels, labels, boxes((11, 10, 40, 60), (60, 10, 90, 60), (10, 10, 40, 31))
    )


def test_the_colours_of_the_target_are_those_that_it_always_has():
    target = [crop(RED, GREEN), crop(RED, BLUE), crop(RED, GREY)]
    colours = target_colours(target, [crop(GREY, BLUE), crop(GREY, GREEN)])
    assert [[tuple(c.astype(int)) for c in of] for of in colours] == [[RED]] * 3
    assert target_colours(target, target) == [[], [], []]  # what all have says nothing


def test_a_recoloured_crop_differs_there_and_nowhere_else():
    before = crop(RED, GREEN)
    after = recoloured(before, [np.array(RED, np.float32)], np.random.default_rng(0))
    assert (after[10:] == before[10:]).all()
    assert np.abs(after[:10] - before[:10]).max() >= OTHER_COLOUR > SAME_COLOUR


def test_the_finders_other_boxes_are_not_it_only_where_the_frame_is_complete():
    places = crop_places([frame()], np.random.default_rng(0))
    assert places.target == [(0, (10, 10, 40, 60)), (0, (11, 10, 40, 60))]
    assert (0, (60, 10, 90, 60)) in places.others
    assert (0, (10, 10, 40, 31)) in places.loose and len(places.loose) > 1
    partial = crop_places([frame(complete=False)], np.random.default_rng(0))
    assert partial.others == [] and partial.target == places.target


def test_a_batch_is_half_of_the_target_and_a_function_of_its_seed():
    one, other = (CropSampler([frame()], 32, seed=3).batch(8) for _ in range(2))
    assert one[1].tolist() == [0, 1] * 4
    assert one[0].shape == (8, 32, 32, 3) and one[0].min() >= 0 and one[0].max() <= 255
    assert (one[0] == other[0]).all()


@given(
    st.tuples(st.floats(0, 90), st.floats(0, 60)),
    st.tuples(st.floats(4, 60), st.floats(4, 60)),
    st.floats(0, 0.5),
    st.integers(0, 1000),
)
def test_a_moved_box_lies_in_its_frame(corner, sides, reach, seed):
    (x, y), (wide, tall) = corner, sides
    box = (x, y, min(x + wide, 100.0), min(y + tall, 70.0))
    x0, y0, x1, y1 = moved(box, reach, (100, 70), np.random.default_rng(seed))
    assert 0 <= x0 < x1 <= 100 and 0 <= y0 < y1 <= 70
