"""Drawn images: a colour a class everywhere, scores on the boxes, models side by side."""

import itertools

import numpy as np
import pytest
from labelled import judged, result
from masks import disc, with_mask
from scored_samples import BOX

from secondlook.core.drawing import (
    BAR,
    CLASS_COLOURS,
    GAP,
    STRIP_WIDTH,
    TALLEST,
    StripRow,
    class_colours,
    comparison_strip,
    draw_result,
    score_text,
)
from secondlook.datasets.samples import boxes_array
from secondlook_client.values import Outcome

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
    assert has(above, CLASS_COLOURS[0]) and has(above, CLASS_COLOURS[1])
    assert has(below, CLASS_COLOURS[1]) and not has(below, CLASS_COLOURS[0])


def test_boxes_stand_where_they_are():
    image = np.asarray(comparison_strip([WIDE], [StripRow("a", [SEEN])]))
    rows, columns = np.nonzero((image == CLASS_COLOURS[0]).all(axis=2))
    factor = TALLEST / 120
    assert abs(columns.min() - (GAP + BOX[0] * factor)) <= 3
    assert abs(rows.max() - (GAP + BAR + BOX[3] * factor)) <= 3


def test_one_box_of_two_classes_is_drawn_once():
    twice = (boxes_array([BOX, BOX]), ["person", "person wearing glasses"])
    image = comparison_strip([WIDE], [StripRow("a", [twice])])
    assert has(image, CLASS_COLOURS[1]) and not has(image, CLASS_COLOURS[0])


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


def lab(colour):
    """CIE Lab of an sRGB colour, D65."""
    value = np.asarray(colour) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ linear / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_colours_can_be_told_apart_and_carry_black_letters():
    assert len(set(CLASS_COLOURS)) == 20
    for one, other in itertools.combinations(CLASS_COLOURS, 2):
        assert np.linalg.norm(lab(one) - lab(other)) > 25, (one, other)
    assert min(lab(colour)[0] for colour in CLASS_COLOURS) > 55


def test_a_colour_belongs_to_the_place_in_the_ontology():
    names = [f"class {number}" for number in range(45)]
    colours = class_colours(names)
    assert [colours[name] for name in names[:20]] == list(CLASS_COLOURS)
    assert colours["class 41"] == CLASS_COLOURS[1]
    twice = class_colours(["dog", "cat", "dog"])
    assert twice == {"dog": CLASS_COLOURS[0], "cat": CLASS_COLOURS[1]}


def test_the_classes_of_a_strip_can_be_given():
    image = comparison_strip([WIDE], [StripRow("a", [SEEN])], ["cat", "bird", "dog"])
    assert has(image, CLASS_COLOURS[2]) and not has(image, CLASS_COLOURS[0])


def test_a_drawn_result_has_the_colours_of_its_classes_and_tells_scores():
    shown = result(judged("cat", (2, 2, 60, 60)), judged("dog", (80, 30, 150, 110)), width=160)
    pixels = np.full((240, 160, 3), 60, np.uint8)
    colours = class_colours(["dog", "cat"])
    plain, told = (draw_result(pixels, shown, colours, height=480, scores=s) for s in (False, True))
    assert plain.size == told.size == (320, 480)
    assert has(plain, CLASS_COLOURS[0]) and has(plain, CLASS_COLOURS[1])
    assert not np.array_equal(plain, told)


def test_lines_tell_the_outcome():
    drawn = [
        np.asarray(
            draw_result(
                WIDE,
                result(judged("dog", (20, 40, 140, 100), outcome), width=160, height=120),
                class_colours(["dog"]),
                height=120,
            )
        )
        for outcome in (Outcome.ACCEPT, Outcome.UNSURE, Outcome.REJECT)
    ]
    bottom = [(pixels[100, 20:140] == CLASS_COLOURS[0]).all(axis=1) for pixels in drawn]
    changes = [int(np.abs(np.diff(row.astype(int))).sum()) for row in bottom]
    assert changes[0] < changes[1] < changes[2]


def test_scores_of_both_stages():
    assert score_text(judged("dog", score=0.615)) == "0.61 / 0.97"
    assert score_text(judged("dog", error="timeout")) == "0.50 / ?"


def test_a_mask_is_tinted_inside_and_strong_at_its_edge():
    pixels = disc(160, 120, (20, 20, 120, 100))
    shown = with_mask(judged("dog", (20, 20, 120, 100)), pixels)
    colours = class_colours(["dog"])
    ground = np.full((120, 160, 3), 60, np.uint8)
    drawn = np.asarray(
        draw_result(ground, result(shown, width=160, height=120), colours, height=120)
    ).astype(int)
    assert (drawn[60, 70] == 60).all()  # the hole
    unlike = np.abs(drawn[60] - colours["dog"]).sum(axis=1)
    inside, edge = unlike[30], unlike[44:50].min()  # of the hole
    assert edge < inside < np.abs(60 - np.array(colours["dog"])).sum()
    rejected = with_mask(judged("dog", (20, 20, 120, 100), Outcome.REJECT), pixels)
    plain = draw_result(ground, result(rejected, width=160, height=120), colours, height=120)
    assert (np.asarray(plain)[60, 30] == 60).all()
