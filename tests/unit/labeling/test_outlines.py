from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.labeling.outlines import (
    MAX_OUTSIDE,
    MIN_FILL,
    NOT_SEGMENTED,
    find_outline,
    keeps_proposed_box,
    mask_features,
)
from secondlook_client.masks import Mask, Segmentation
from secondlook_client.ontology import ClassSpec

BOX = (10.0, 10.0, 30.0, 20.0)
DOG, TIGHT = ClassSpec("dog"), ClassSpec("dog", box="mask")


def segmented(
    left: int, top: int, right: int, bottom: int, quality: float = 0.9, stability: float = 0.9
) -> Segmentation:
    """A rectangle of an image of 40×30 pixels."""
    pixels = np.zeros((30, 40), dtype=bool)
    pixels[top:bottom, left:right] = True
    return Segmentation(Mask.from_array(pixels), quality, stability, "s@1")


@given(st.data(), st.integers(1, 12), st.integers(1, 12))
def test_features_are_those_of_the_pixels(data: st.DataObject, width: int, height: int) -> None:
    bits = st.lists(st.booleans(), min_size=width * height, max_size=width * height)
    pixels = np.array(data.draw(bits)).reshape(height, width)
    low = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    high = data.draw(st.integers(low[0] + 1, 14)), data.draw(st.integers(low[1] + 1, 14))
    box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    found = mask_features(box, Segmentation(Mask.from_array(pixels), 0.5, 0.25, "s@1"))
    inside = pixels[low[1] : high[1], low[0] : high[0]].sum()
    assert found.fill == pytest.approx(inside / ((high[0] - low[0]) * (high[1] - low[1])))
    assert found.outside == pytest.approx(1 - inside / pixels.sum() if pixels.any() else 1)
    assert (found.quality, found.stability) == (0.5, 0.25)
    if not pixels.any():
        assert found.iou == 0


def test_the_box_of_a_sound_mask_is_taken() -> None:
    mask = segmented(11, 10, 29, 20)
    found = find_outline(TIGHT, BOX, True, mask, "")
    assert (found.box, found.segmentation) == ((11, 10, 29, 20), mask)
    assert found.told == "the box is the mask's (IoU 0.90)"
    assert find_outline(DOG, BOX, True, mask, "").box == BOX
    assert find_outline(DOG, BOX, True, mask, "").told == ""


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (segmented(8, 10, 12, 20), "50% of the mask lie outside of its box"),
        (segmented(10, 10, 12, 20), "the mask fills 10% of its box"),
        (segmented(10, 10, 30, 20, quality=0.4), "the mask's predicted quality is 0.40"),
        (segmented(10, 10, 30, 20, stability=0.3), "the mask's stability is 0.30"),
        (segmented(10, 10, 20, 20), "the mask's box and the proposal have an IoU of 0.50"),
    ],
)
def test_the_proposed_box_stays_where_something_speaks_against_the_mask(
    mask: Segmentation, reason: str
) -> None:
    features = mask_features(BOX, mask)
    assert keeps_proposed_box(features) == reason
    found = find_outline(TIGHT, BOX, True, mask, "")
    assert (found.box, found.segmentation) == (BOX, mask)
    doubtful = features.outside > MAX_OUTSIDE or features.fill < MIN_FILL
    before = "outline doubtful: " if doubtful else "the mask's box was not taken: "
    assert found.told == before + reason
    assert find_outline(DOG, BOX, True, mask, "").told == (found.told if doubtful else "")


def test_only_a_label_is_told_why_it_has_no_mask() -> None:
    assert find_outline(DOG, BOX, True, None, "it failed").told == "no mask: it failed"
    assert find_outline(DOG, BOX, True, None, "").told == f"no mask: {NOT_SEGMENTED}"
    assert find_outline(DOG, BOX, False, None, "it failed").told == ""
    assert find_outline(TIGHT, BOX, False, segmented(10, 10, 12, 20), "").told == ""
    assert find_outline(TIGHT, BOX, False, segmented(11, 10, 29, 20), "").box == (11, 10, 29, 20)
    without = find_outline(replace(DOG, mask=False), BOX, True, segmented(8, 10, 12, 20), "")
    assert (without.box, without.segmentation, without.told) == (BOX, None, "")
