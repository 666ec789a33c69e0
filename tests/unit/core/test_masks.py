"""Masks and polygons: each way exact, as the COCO API has it, and bounded."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from masks import arrays_of_masks, disc
from pycocotools import mask as coco_masks

from secondlook.core.masks import (
    MAX_CORNERS,
    box_mask,
    cropped,
    mask_from_polygons,
    mask_polygon,
    mask_polygons,
    mask_rings,
    plain_mask,
    simplified,
)
from secondlook_client.errors import InvalidInput
from secondlook_client.masks import Mask


def filled_by_coco(polygons, width, height):
    """The code of what the COCO API makes of polygons."""
    flat = [np.asarray(polygon, float).ravel().tolist() for polygon in polygons]
    merged = coco_masks.merge(coco_masks.frPyObjects(flat, height, width))
    return merged["counts"].decode()


@given(arrays_of_masks())
def test_polygons_are_the_same_mask_for_us_and_for_the_coco_api(pixels):
    mask = Mask.from_array(pixels)
    polygons = mask_polygons(mask)
    assert mask_from_polygons(polygons, mask.width, mask.height) == mask
    if polygons:
        whole = mask_polygon(mask)
        assert mask_from_polygons([whole], mask.width, mask.height) == mask
        for found in (polygons, [whole]):
            assert filled_by_coco(found, mask.width, mask.height) == mask.counts


@given(arrays_of_masks())
def test_the_crop_and_the_rings_are_the_mask(pixels):
    mask = Mask.from_array(pixels)
    found, left, top = cropped(mask)
    again = np.zeros_like(pixels)
    again[top : top + found.shape[0], left : left + found.shape[1]] = found
    assert (again == pixels).all()
    # Even-odd: a pixel is inside when it is in an odd number of rings.
    rings = [mask_from_polygons([ring], mask.width, mask.height) for ring in mask_rings(mask)]
    covered = sum((ring.to_array().astype(int) for ring in rings), np.zeros(pixels.shape, int))
    assert (covered % 2 == pixels).all()


corners = st.tuples(st.floats(-6, 24), st.floats(-6, 24))
whole_corners = st.tuples(st.integers(-6, 24), st.integers(-6, 24))
outlines = st.lists(corners, min_size=3, max_size=7) | st.lists(
    whole_corners, min_size=3, max_size=7
)


@given(st.lists(outlines, min_size=1, max_size=3))
def test_any_polygon_is_filled_as_by_the_coco_api(polygons):
    assert mask_from_polygons(polygons, 18, 15).counts == filled_by_coco(polygons, 18, 15)


def test_a_hole_hangs_from_the_line_around_it_and_parts_are_apart():
    pixels = disc(60, 50, (5, 5, 45, 40))
    ring, corner = mask_polygons(Mask.from_array(pixels))
    assert corner.tolist() == [[45, 38], [45, 40], [43, 40], [43, 38]]  # from the second corner on
    _, counts = np.unique(ring, axis=0, return_counts=True)
    assert (counts > 1).sum() == 2  # both ends of the slit
    assert len(mask_rings(Mask.from_array(pixels))) == 3


@pytest.mark.parametrize("turned", [False, True])
def test_pixels_that_touch_by_a_corner_alone_are_two_parts(turned):
    pixels = np.eye(2, dtype=bool)[:, ::-1] if turned else np.eye(2, dtype=bool)
    found = mask_polygons(Mask.from_array(pixels))
    assert [len(polygon) for polygon in found] == [4, 4]
    assert len(mask_rings(Mask.from_array(pixels))) == 2


@given(arrays_of_masks(), st.lists(st.integers(0, 20), max_size=3))
def test_runs_of_no_length_make_no_other_mask(pixels, places):
    mask = Mask.from_array(pixels)
    runs = mask.runs.tolist()
    for place in places:
        at = place % len(runs)
        cut = runs[at] // 2
        runs[at : at + 1] = [cut, 0, runs[at] - cut]
    assert plain_mask(mask.width, mask.height, runs) == mask


@pytest.mark.parametrize(
    ("box", "shown"),
    [
        ((2.0, 1.0, 5.0, 3.0), (2, 1, 5, 3)),
        ((2.6, 1.2, 4.1, 2.9), (2, 1, 5, 3)),
        ((-4.0, -4.0, 30.0, 30.0), (0, 0, 9, 7)),
        ((3.0, 2.0, 3.0, 2.0), (3, 2, 4, 3)),
    ],
)
def test_the_pixels_of_a_box(box, shown):
    x1, y1, x2, y2 = shown
    expected = np.zeros((7, 9), bool)
    expected[y1:y2, x1:x2] = True
    assert box_mask(box, 9, 7) == Mask.from_array(expected)


def test_a_simplified_ring_stays_near():
    (ring,) = mask_rings(Mask.from_array(disc(400, 300, (20, 20, 380, 280)) | box_pixels()))
    few = simplified(ring, 1.5)
    assert len(few) < len(ring) / 4
    mask = mask_from_polygons([few], 400, 300).to_array()
    whole = mask_from_polygons([ring], 400, 300).to_array()
    assert (mask & whole).sum() / (mask | whole).sum() > 0.98
    assert len(simplified(ring, 1e6)) == 3


def box_pixels():
    """All that disc leaves in its middle and at its corner."""
    pixels = np.zeros((300, 400), bool)
    pixels[60:240, 80:320] = True
    pixels[150:280, 200:380] = True
    return pixels


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([(0, 0), (5, 0), (float("nan"), 5)], "no numbers"),
        ([(0, 0), (float("inf"), 0), (5, 5)], "no numbers"),
        ([(0, 0), (1e9, 0), (5, 5)], "far outside"),
        ([(0, 0), (5, 0)], "3 corners and more"),
        ([1, 2, 3, 4], "3 corners and more"),
        ("polygon", "a list of x and y"),
        ([(0, 0)] * (MAX_CORNERS + 1), "more than 200,000 corners"),
        ([(0, 0), (19, 19)] * 50_000, "too many and too long lines"),
    ],
)
def test_hostile_polygons_cost_a_sentence(polygon, message):
    started = time.process_time()
    with pytest.raises(InvalidInput, match=message):
        mask_from_polygons([polygon], 20, 20)
    assert time.process_time() - started < 2


def test_noise_has_no_outline():
    pixels = np.random.default_rng(1).random((700, 700)) < 0.5
    with pytest.raises(InvalidInput, match="noise rather than an object"):
        mask_polygons(Mask.from_array(pixels))


def test_an_empty_mask_has_no_polygon():
    empty = Mask.from_array(np.zeros((4, 5), bool))
    assert mask_polygons(empty) == [] and mask_rings(empty) == []
    assert mask_polygon(empty).shape == (0, 2) and cropped(empty)[0].size == 0
    assert mask_from_polygons([], 5, 4) == empty


def test_a_damaged_code_is_refused():
    with pytest.raises(InvalidInput, match="does not fill its image"):
        mask_polygons(Mask(5, 4, "4"))
