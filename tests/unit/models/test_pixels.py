"""Images into tensors: the values and shapes of transformers' own image processor."""

import grounding_dino_models as models
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from transformers.models.grounding_dino import image_processing_grounding_dino as theirs

from secondlook.models.grounding_dino import PixelSettings, preprocess, read_pixel_settings
from secondlook_client.errors import BadSetting

CPU = torch.device("cpu")
sides = st.integers(1, 4000)


def shape_settings(shortest: int = 800, longest: int = 1333, **more: object) -> PixelSettings:
    """Settings that matter for shapes only."""
    return PixelSettings(shortest, longest, (0.0,) * 3, (1.0,) * 3, **more)  # type: ignore[arg-type]


@given(sides, sides, st.sampled_from([(800, 1333), (320, 320), (96, 160), (640, 640)]))
@settings(max_examples=500)
def test_resized_shapes_are_transformers(height: int, width: int, size: tuple[int, int]) -> None:
    expected = theirs.get_size_with_aspect_ratio((height, width), *size)
    ours = shape_settings(*size).resized(height, width)
    assert ours == tuple(max(1, side) for side in expected)


@given(sides, sides, st.sampled_from([1, 32, 64]))
def test_a_canvas_holds_the_image_and_enough_cells(height: int, width: int, multiple: int) -> None:
    rules = shape_settings(multiple=multiple, least_cells=900, cell=8)
    resized = rules.resized(height, width)
    canvas = rules.canvas(resized)
    assert all(side >= inner for side, inner in zip(canvas, resized, strict=True))
    assert (canvas[0] // 8) * (canvas[1] // 8) >= 900


@pytest.mark.parametrize("size", [(200, 150), (96, 96), (50, 61), (1000, 300)])
@pytest.mark.parametrize("resample", [2, 3])
def test_values_are_transformers(size: tuple[int, int], resample: int) -> None:
    processor = models.processor().image_processor
    processor.resample = resample
    image = models.image(*size)
    expected = processor(images=PILImage.fromarray(image.pixels), return_tensors="pt")
    pixels, mask = preprocess([image], read_pixel_settings(processor), CPU)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(pixels, expected["pixel_values"].contiguous(), atol=1e-5, rtol=0)
    assert torch.equal(mask, expected["pixel_mask"])


def test_a_fixed_canvas_is_padded_as_transformers_pads_it() -> None:
    processor = models.processor().image_processor
    processor.pad_size = theirs.SizeDict(height=160, width=192)
    images = [models.image(120, 90), models.image(90, 120, seed=1)]
    shown = [PILImage.fromarray(image.pixels) for image in images]
    expected = processor(images=shown, return_tensors="pt")
    pixels, mask = preprocess(images, read_pixel_settings(processor), CPU)
    torch.testing.assert_close(pixels, expected["pixel_values"].contiguous(), atol=1e-5, rtol=0)
    assert torch.equal(mask, expected["pixel_mask"])
    assert (pixels.permute(0, 2, 3, 1)[mask == 0] == 0).all()


def test_pixels_of_the_caller_stay_as_they_were() -> None:
    image = models.image(96, 96)
    before = image.pixels.copy()
    preprocess([image], read_pixel_settings(models.processor().image_processor), CPU)
    np.testing.assert_array_equal(image.pixels, before)


def test_a_way_of_resizing_that_is_not_grounding_dinos_is_refused() -> None:
    processor = models.processor().image_processor
    processor.size = {"height": 100, "width": 100}
    with pytest.raises(BadSetting, match="shortest_edge"):
        read_pixel_settings(processor)
