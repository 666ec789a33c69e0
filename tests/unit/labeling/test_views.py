import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.core.types import Image
from secondlook.labeling.verifier import DIMMED, MAX_SIDE, render_view
from secondlook_client.masks import Mask
from secondlook_client.values import View


def noise(width: int, height: int) -> Image:
    pixels = np.random.default_rng(1).integers(0, 120, (height, width, 3), dtype=np.uint8)
    return Image(pixels, "0" * 64)


IMAGE = noise(60, 40)


def red(pixels: np.ndarray) -> np.ndarray:
    return (pixels == (255, 0, 0)).all(axis=2)


def test_a_crop_is_the_box_with_a_margin() -> None:
    np.testing.assert_array_equal(
        render_view(IMAGE, (10, 10, 30, 20), View.CROP, 8), IMAGE.pixels[9:21, 8:32]
    )


def test_a_context_is_wider_and_shows_the_box() -> None:
    shown = render_view(IMAGE, (20, 10, 40, 30), View.CONTEXT, 8)
    assert shown.shape == (40, 40, 3)
    outline = np.zeros((40, 40), bool)
    outline[10:30, [10, 29]] = outline[[10, 29], 10:30] = True
    np.testing.assert_array_equal(red(shown), outline)
    assert not red(IMAGE.pixels).any()


def test_all_of_the_image() -> None:
    np.testing.assert_array_equal(render_view(IMAGE, (20, 10, 40, 30), View.IMAGE, 8), IMAGE.pixels)


def test_a_mask_leaves_the_object_as_it_is_and_dims_the_rest() -> None:
    inside = np.zeros((40, 60), bool)
    inside[12:18, 14:25] = True
    shown = render_view(IMAGE, (10, 10, 30, 20), View.MASK, 8, Mask.from_array(inside))
    window, seen = IMAGE.pixels[9:21, 8:32], inside[9:21, 8:32]
    np.testing.assert_array_equal(shown[seen], window[seen])
    np.testing.assert_array_equal(shown[~seen], (window[~seen] * DIMMED).astype(np.uint8))
    with pytest.raises(ValueError, match="needs the mask"):
        render_view(IMAGE, (10, 10, 30, 20), View.MASK, 8)


@pytest.mark.parametrize("view", [View.CONTEXT])
def test_a_box_at_the_border_keeps_all_its_sides(view: View) -> None:
    shown = red(render_view(IMAGE, (0, 0, 60, 40), view, 8))
    assert shown[0].all()
    assert shown[-1].all()
    assert shown[:, 0].all()
    assert shown[:, -1].all()


def test_small_crops_are_enlarged_with_their_shape() -> None:
    assert render_view(IMAGE, (10, 10, 20, 15), View.CROP, 64).shape[0] == 64
    thin = render_view(noise(60, 1), (0, 0, 60, 1), View.CROP, 64)
    assert thin.shape == (round(MAX_SIDE / 60), MAX_SIDE, 3)


SHARE = st.floats(-0.2, 1.2)


@given(
    st.tuples(SHARE, SHARE, SHARE, SHARE),
    st.sampled_from(View),
    st.integers(1, 90),
    st.integers(1, 70),
    st.integers(1, 70),
)
def test_every_box_can_be_seen(
    shares: tuple[float, float, float, float], view: View, min_side: int, width: int, height: int
) -> None:
    x1, x2 = sorted([shares[0] * width, shares[2] * width])
    y1, y2 = sorted([shares[1] * height, shares[3] * height])
    mask = Mask.from_array(np.eye(height, width))
    shown = render_view(noise(width, height), (x1, y1, x2, y2), view, min_side, mask)
    assert shown.dtype == np.uint8
    assert shown.shape[2] == 3
    assert max(shown.shape) <= max(MAX_SIDE, width, height)
    assert min(shown.shape[:2]) >= min(min_side, MAX_SIDE // max(width, height)) or min_side <= 1
    assert shown.flags.c_contiguous
