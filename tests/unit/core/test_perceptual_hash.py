"""Near duplicates are near, strangers are far, and any shape has a hash."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from secondlook.core.images import decode
from secondlook.core.perceptual_hash import hamming_distance, perceptual_hash


def images(data_dir, folder, count):
    paths = sorted((data_dir / folder).iterdir())[:count]
    return [decode(path.read_bytes()).pixels for path in paths]


def encoded(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def test_the_same_image_encoded_or_scaled_again_is_near(data_dir):
    for pixels in images(data_dir, "coco_val128/images", 24):
        image, own = Image.fromarray(pixels), perceptual_hash(pixels)
        half = image.resize((image.width // 2, image.height // 2))
        assert hamming_distance(own, perceptual_hash(encoded(image, 40))) <= 6
        assert hamming_distance(own, perceptual_hash(np.array(half))) <= 6


def test_strangers_are_far(data_dir):
    hashes = [perceptual_hash(pixels) for pixels in images(data_dir, "coco_val128/images", 64)]
    assert min(hamming_distance(a, b) for a, b in itertools.combinations(hashes, 2)) > 6


def test_bits_say_where_it_gets_lighter():
    ramp = np.repeat(np.arange(0, 252, 2, dtype=np.uint8)[None, :, None], 90, axis=0)
    lighter = np.repeat(ramp, 3, axis=2)
    assert perceptual_hash(lighter) == -1  # every bit set, as a signed number
    assert perceptual_hash(lighter[:, ::-1].copy()) == 0
    assert hamming_distance(-1, 0) == 64


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 255))
def test_a_image_of_any_shape_has_a_signed_64_bit_hash(height, width, shade):
    pixels = np.full((height, width, 3), shade, dtype=np.uint8)
    pixels[: height // 2] //= 2
    assert -(2**63) <= perceptual_hash(pixels) < 2**63


@pytest.mark.parametrize("shape", [(4000, 3000, 3), (131, 257, 3)])
def test_cells_are_means_of_their_part(shape):
    pixels = np.zeros(shape, dtype=np.uint8)
    pixels[:, shape[1] // 2 :] = 200
    # One step from dark to light: one bit set in each of the eight rows.
    assert 8 <= hamming_distance(perceptual_hash(pixels), 0) <= 16
