"""Images as callers have them become bytes that decode to the same pixels, or a clear sentence."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as PILImage

from secondlook.core.images import decode
from secondlook_client import bgr, encode_image
from secondlook_client.errors import BadImage, UnreadableFile
from secondlook_client.images import image_bytes, pixels_of, taken_image

SMOOTH = np.stack(
    [*np.meshgrid(np.arange(0, 240, 3), np.arange(0, 180, 3)), np.full((60, 80), 90)], axis=-1
).astype(np.uint8)
"""(60, 80, 3), with a blue that differs from the red."""


def pillow_bytes(image: PILImage.Image, form: str, **options: object) -> bytes:
    written = io.BytesIO()
    image.save(written, form, **options)
    return written.getvalue()


def close(sent: bytes, pixels: np.ndarray) -> bool:
    got = decode(sent).pixels
    return got.shape == pixels.shape and int(np.abs(got.astype(int) - pixels).max()) <= 12


def test_bytes_and_files_are_sent_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"as it is")
    for image in (b"as it is", bytearray(b"as it is"), tmp_path / "a.jpg", str(tmp_path / "a.jpg")):
        assert image_bytes(image) == b"as it is"
    with pytest.raises(UnreadableFile, match="No such file"):
        image_bytes(tmp_path / "b.jpg")


def test_an_array_is_rgb_and_one_of_opencv_says_so() -> None:
    assert close(image_bytes(SMOOTH), SMOOTH)
    as_opencv_has_it = np.ascontiguousarray(SMOOTH[..., ::-1])
    assert close(image_bytes(bgr(as_opencv_has_it)), SMOOTH)
    assert not close(image_bytes(as_opencv_has_it), SMOOTH)
    with_alpha = np.dstack([as_opencv_has_it, np.full(SMOOTH.shape[:2], 255, np.uint8)])
    assert close(image_bytes(bgr(with_alpha)), SMOOTH)


def test_grey_and_transparent_arrays_look_as_such_files_do() -> None:
    grey = SMOOTH[..., 0]
    for given_grey in (grey, grey[..., None]):
        assert close(image_bytes(given_grey), np.dstack([grey] * 3))
    see_through = np.dstack([SMOOTH, np.zeros(SMOOTH.shape[:2], np.uint8)])
    assert close(image_bytes(see_through), np.full_like(SMOOTH, 255))


@pytest.mark.parametrize("view", [lambda a: a[::2, ::-1], np.asfortranarray, lambda a: a[5:, 7:]])
def test_views_of_an_array_are_what_they_show(view) -> None:
    assert np.array_equal(decode(encode_image(view(SMOOTH), "png")).pixels, view(SMOOTH))


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))),
    st.sampled_from(["png", "bmp"]),
)
def test_png_and_bmp_lose_nothing(pixels: np.ndarray, form: str) -> None:
    assert np.array_equal(decode(encode_image(pixels, form)).pixels, pixels)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (SMOOTH / 255, r"uint8 pixels.*float64; give \(image \* 255\)"),
        (SMOOTH.astype(np.int32), "uint8 pixels.*int32$"),
        (SMOOTH.transpose(2, 0, 1), r"\(3, 60, 80\).*channels come last: give image.transpose"),
        (SMOOTH[None], "expected one image.*one by one"),
        (SMOOTH[..., :2], r"\(height, width, 3\) in RGB.*\(60, 80, 2\)"),
        (SMOOTH[:0], r"empty: an array of shape \(0, 80, 3\)"),
        (np.uint8(3), r"got an array of shape \(\)"),
        (None, "a numpy array of shape.*got None"),
        (3.5, "got builtins.float"),
        ([1, 2], "got builtins.list"),
        (PILImage.new("RGB", (0, 4)), "0×4 pixels"),
        (PILImage.new("F", (4, 4)), "32 bits a pixel"),
    ],
)
def test_anything_else_is_refused_with_what_was_expected(image: object, said: str) -> None:
    with pytest.raises(BadImage, match=said):
        image_bytes(image)


def test_a_frame_that_opencv_could_not_read_is_explained() -> None:
    with pytest.raises(BadImage, match=r"got None; cv2.imread gives None"):
        bgr(None)


def test_a_pillow_image_is_sent_upright_as_its_file_would_be() -> None:
    turned = PILImage.Exif()
    turned[0x0112] = 6
    file = pillow_bytes(PILImage.fromarray(SMOOTH), "JPEG", exif=turned, quality=95)
    upright = decode(file).pixels
    assert upright.shape == (80, 60, 3)
    assert close(image_bytes(PILImage.open(io.BytesIO(file))), upright)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "I;16", "YCbCr"])
def test_pillow_images_of_every_mode_look_as_their_files_do(mode: str) -> None:
    if mode == "I;16":
        image = PILImage.fromarray(SMOOTH[..., 0].astype(np.uint16) * 256)
    else:
        image = PILImage.fromarray(SMOOTH).convert(mode)
    form = {"CMYK": "TIFF", "YCbCr": "TIFF"}.get(mode, "PNG")
    assert np.array_equal(
        decode(encode_image(image, "png")).pixels, decode(pillow_bytes(image, form)).pixels
    )


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "I;16"])
def test_the_pixels_of_a_dataset_are_those_that_the_service_saw(mode: str) -> None:
    if mode == "I;16":
        image = PILImage.fromarray(SMOOTH[..., 0].astype(np.uint16) * 256)
    else:
        image = PILImage.fromarray(SMOOTH).convert(mode)
    file = pillow_bytes(image, "JPEG" if mode == "CMYK" else "PNG")
    assert np.array_equal(pixels_of(file), decode(file).pixels)


@pytest.mark.parametrize(
    "content", [b"", b"no image", pillow_bytes(PILImage.new("L", (9, 9)), "PNG")[:40]]
)
def test_bytes_that_are_no_image_are_refused(content: bytes) -> None:
    with pytest.raises(BadImage, match="cannot be decoded"):
        pixels_of(content)


@pytest.mark.parametrize("kind", ["grey", "rgb", "rgba", "pillow"])
def test_a_taken_image_is_what_it_was_when_it_was_taken(kind: str) -> None:
    """A camera writes the next frame into the array of the last one."""
    alpha = np.full(SMOOTH.shape[:2], 255, np.uint8)
    buffer = {"grey": SMOOTH[..., 0], "rgba": np.dstack([SMOOTH, alpha])}.get(kind, SMOOTH).copy()
    image = PILImage.fromarray(buffer) if kind == "pillow" else buffer
    before, taken = image_bytes(image), taken_image(image)
    if isinstance(image, PILImage.Image):
        image.paste(0, (0, 0, *image.size))
    else:
        image[:] = 0
    assert image_bytes(taken) == before != image_bytes(image)
