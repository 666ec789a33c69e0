"""The picture of a box: both views show it, whatever its size and place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from secondlook.review.box_picture import COLOUR, HEIGHT, OTHER, WIDEST, write_box_picture
from secondlook_client.masks import Mask


def coloured(sheet: PILImage.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """(N, 2) places y, x of that colour."""
    return np.argwhere((np.asarray(sheet) == colour).all(axis=2))


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 900), st.integers(1, 900)),
    st.tuples(*[st.floats(-0.2, 1.2)] * 4),
)
def test_any_box_of_any_image_is_drawn(tmp_path_factory, size, edges) -> None:
    width, height = size
    x1, x2 = sorted((edges[0] * width, edges[2] * width))
    y1, y2 = sorted((edges[1] * height, edges[3] * height))
    path = tmp_path_factory.mktemp("p") / "box.png"
    pixels = np.zeros((height, width, 3), np.uint8)
    write_box_picture(path, pixels, (x1, y1, x2 + 1, y2 + 1), "dog?")
    sheet = PILImage.open(path)
    assert sheet.height > HEIGHT and sheet.width <= 2 * WIDEST + 100
    assert not list(path.parent.glob("*.part"))


def test_both_views_have_the_box_and_other_boxes_are_dashed(tmp_path) -> None:
    pixels = np.full((300, 400, 3), 90, np.uint8)
    path = tmp_path / "box.png"
    write_box_picture(path, pixels, (200, 100, 260, 180), "dog?", [(230, 120, 300, 200)])
    sheet = PILImage.open(path)
    box, other = coloured(sheet, COLOUR), coloured(sheet, OTHER)
    half = sheet.width - round(400 * HEIGHT / 300) - 8
    for found in (box, other):
        assert (found[:, 1] < half).any() and (found[:, 1] > half).any()
    whole = box[box[:, 1] > half]
    scale = HEIGHT / 300
    assert np.ptp(whole[:, 0]) == pytest.approx(80 * scale, abs=5)
    assert np.ptp(whole[:, 1]) == pytest.approx(60 * scale, abs=5)


def test_both_views_show_the_mask(tmp_path) -> None:
    pixels = np.full((300, 400, 3), 90, np.uint8)
    path, inside = tmp_path / "box.png", np.zeros((300, 400), bool)
    inside[120:160, 210:250] = True
    for mask in (Mask.from_array(inside), Mask.from_array(~inside & False)):
        write_box_picture(path, pixels, (200, 100, 260, 180), "dog?", mask=mask)
        sheet = np.asarray(PILImage.open(path)).astype(int)
        red = (sheet[..., 0] - sheet[..., 1] > 20) & (sheet[..., 0] < COLOUR[0])
        half = sheet.shape[1] - round(400 * HEIGHT / 300) - 8
        scale = HEIGHT / 300
        assert (red[:, half:].sum() > 0.9 * (40 * scale) ** 2) == bool(mask.area)
        assert (red[:, :half].sum() > 1000) == bool(mask.area)


def test_a_place_that_cannot_be_written_is_told(tmp_path) -> None:
    from secondlook_client.errors import InvalidInput

    pixels = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_box_picture(tmp_path / "absent" / "box.png", pixels, (0, 0, 2, 2), "x")
