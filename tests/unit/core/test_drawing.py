"""The strip that shows what two models see on the same frames."""

import numpy as np
import pytest
from scored_samples import BOX

from secondlook.core.drawing import (
    BAR,
    GAP,
    STRIP_COLOURS,
    STRIP_WIDTH,
    TALLEST,
    StripRow,
    comparison_strip,
)
from secondlook.datasets.samples import boxes_array

WIDE = np.full((120, 160, 3), 60, dtype=np.uint8)
TALL = np.full((160, 90, 3), 60, dtype=np.uint8)
NOTHING = (boxes_array([]), [])
SEEN = (boxes_array([BOX]), ["dog"])


def has(image, colour):
    return bool((np.asarray(image) == colour).all(axis=2).any())


def halves(image):
    """The two rows of a strip, without the pixels between."""
    pixels = np.asarray(image)
    return pixels[: image.height // 2], pixels[image.height // 2 :]


def test_rows_have_the_same_frames_side_by_side():
    image = comparison_strip(
        [WIDE, TALL, WIDE], [StripRow("teachers", [NOTHING] * 3), StripRow("pico", [NOTHING] * 3)]
    )
    assert image.width == STRIP_WIDTH
    above, below = halves(image)
    frames = [(half == 60).all(axis=2).any(axis=0) for half in (above, below)]
    assert (frames[0] == frames[1]).all()
    edges = np.flatnonzero(np.diff(frames[0].astype(int)))
    assert len(edges) == 6 and edges[-1] > STRIP_WIDTH * 0.6


def test_many_frames_share_the_width_and_few_are_not_blown_up():
    many = comparison_strip([WIDE] * 8, [StripRow("a", [NOTHING] * 8)])
    assert many.size[0] == STRIP_WIDTH and many.height < 220
    assert comparison_strip([WIDE], [StripRow("a", [NOTHING])]).height == TALLEST + BAR + 2 * GAP


def test_a_class_has_one_colour_in_all_rows():
    both = (boxes_array([BOX, (60, 60, 110, 110)]), ["cat", "dog"])
    image = comparison_strip([WIDE], [StripRow("teachers", [both]), StripRow("pico", [SEEN])])
    above, below = halves(image)
    assert has(above, STRIP_COLOURS[0]) and has(above, STRIP_COLOURS[1])
    assert has(below, STRIP_COLOURS[1]) and not has(below, STRIP_COLOURS[0])


def test_boxes_stand_where_they_are():
    image = np.asarray(comparison_strip([WIDE], [StripRow("a", [SEEN])]))
    rows, columns = np.nonzero((image == STRIP_COLOURS[0]).all(axis=2))
    factor = TALLEST / 120
    assert abs(columns.min() - (GAP + BOX[0] * factor)) <= 3
    assert abs(rows.max() - (GAP + BAR + BOX[3] * factor)) <= 3


def test_one_box_of_two_classes_is_drawn_once():
    twice = (boxes_array([BOX, BOX]), ["person", "person wearing glasses"])
    image = comparison_strip([WIDE], [StripRow("a", [twice])])
    assert has(image, STRIP_COLOURS[1]) and not has(image, STRIP_COLOURS[0])


def test_times_are_written():
    bare = comparison_strip([WIDE], [StripRow("a", [NOTHING])])
    timed = comparison_strip([WIDE], [StripRow("a", [NOTHING], [412.3])])
    other = comparison_strip([WIDE], [StripRow("a", [NOTHING], [7.04])])
    assert not np.array_equal(bare, timed) and not np.array_equal(timed, other)


@pytest.mark.parametrize(
    ("images", "row"),
    [
        ([], StripRow("a", [])),
        ([WIDE], StripRow("a", [])),
        ([WIDE], StripRow("a", [NOTHING], [1.0, 2.0])),
    ],
)
def test_rows_about_other_images_are_refused(images, row):
    with pytest.raises(ValueError, match="expected"):
        comparison_strip(images, [row])


def test_image_of_one_pixel_and_of_one_row():
    assert (
        comparison_strip(
            [WIDE[:1, :1], WIDE[:1], WIDE[:, :1]], [StripRow("a", [NOTHING] * 3)]
        ).width
        == STRIP_WIDTH
    )
