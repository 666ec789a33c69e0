"""Images too large, damaged on purpose or made to do harm: refused in words."""

import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from encoded_images import FORMATS, encoded, gradient, png
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from secondlook.config.settings import ImageSettings
from secondlook.core.images import decode
from secondlook_client.errors import BadImage, ImageTooLarge, InvalidInput

# Pillow warns about damaged metadata and reads on; so do we.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_limits() -> None:
    data = encoded(PILImage.new("RGB", (100, 10)), "PNG")
    assert decode(data, limits=ImageSettings(len(data), 1000, 100)).width == 100
    for limits, said in (
        (ImageSettings(len(data) - 1, 1000, 100), "--max-image-bytes"),
        (ImageSettings(len(data), 999, 100), "--max-image-pixels"),
        (ImageSettings(len(data), 1000, 99), "--max-image-side"),
    ):
        with pytest.raises(ImageTooLarge, match=said):
            decode(data, limits=limits)


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000)])
def test_a_very_wide_image_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooLarge, match="60000"):
        decode(encoded(PILImage.new("RGB", size), "PNG"))


def test_a_bomb_is_refused_from_its_header() -> None:
    # 20,000 × 20,000 in a file of 200 bytes whose body is never looked at.
    data = png(struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0), b"not even compressed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageTooLarge, match="400,000,000 pixels"):
            decode(data)


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded() -> None:
    data = encoded(gradient(), "JPEG", progressive=True)
    place = data.index(b"\xff\xda")
    (length,) = struct.unpack(">H", data[place + 2 : place + 4])
    scan = data[place : place + 2 + length]
    assert decode(data[:place] + scan * 20 + data[place:]).width == 53
    with pytest.raises(BadImage, match="100 scans"):
        decode(data[:place] + scan * 200 + data[place:])


def test_odd_metadata_makes_no_noise() -> None:
    """In a process of its own, because pytest replaces the filters that the module sets."""
    exif = PILImage.Exif()
    exif[0x010F] = "a camera's maker"
    data = encoded(gradient(), "JPEG", exif=exif)
    entry = data.index(b"\x01\x0f\x00\x02")  # tag, type, then the length of the text
    odd = data[: entry + 4] + b"\xff\xff\xff\xff" + data[entry + 8 :]
    code = f"from secondlook.core.images import decode\nprint(decode({odd!r}).width)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("53\n", "")


def test_many_threads_decode_alike() -> None:
    files = [encoded(gradient(), form, **options) for form, options in FORMATS] * 8
    alone = [decode(data).pixels for data in files]
    with ThreadPoolExecutor(8) as pool:
        for image, expected in zip(pool.map(decode, files), alone, strict=True):
            np.testing.assert_array_equal(image.pixels, expected)


SEEDS = [encoded(gradient(24, 18), form, **options) for form, options in FORMATS] + [
    encoded(PILImage.new("CMYK", (9, 9)), "JPEG"),
    encoded(PILImage.new("P", (9, 9)), "PNG", transparency=0),
    encoded(PILImage.new("RGBA", (9, 9)), "WEBP"),
    encoded(PILImage.new("LA", (9, 9)), "PNG"),
    encoded(PILImage.fromarray(np.zeros((9, 9), np.uint16)), "TIFF"),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid file with bytes changed, cut out, doubled or put in, mostly near its header."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        if not data:
            break
        last = len(data) - 1
        place = draw(st.one_of(st.integers(0, min(64, last)), st.integers(0, last)))
        match draw(st.sampled_from(["set", "set", "set", "cut", "double", "insert"])):
            case "set":
                data[place] = draw(
                    st.sampled_from([0, 1, 127, 128, 255, draw(st.integers(0, 255))])
                )
            case "cut":
                del data[place : place + draw(st.integers(1, 40))]
            case "double":
                data[place:place] = data[place : place + draw(st.integers(1, 40))]
            case "insert":
                data[place:place] = draw(st.binary(max_size=8))
    return bytes(data)


SMALL = ImageSettings(max_image_pixels=1_000_000, max_image_side=5000)


@settings(max_examples=600, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_damaged_files_are_a_image_or_an_input_error(data: bytes) -> None:
    try:
        image = decode(data, limits=SMALL)
    except InvalidInput as refused:
        assert len(str(refused)) > 20
        return
    assert image.pixels.ndim == 3
    assert image.pixels.shape[2] == 3
    assert 1 <= image.width * image.height <= SMALL.max_image_pixels


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_politely(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode(data)


def images_in(folder: Path) -> Iterator[Path]:
    endings = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in endings)


def test_real_images(data_dir: Path) -> None:
    paths = [path for path in images_in(data_dir) if path.is_file()][::17][:60]
    if not paths:
        pytest.skip(f"no images in {data_dir}")
    for path in paths:
        image = decode(path.read_bytes(), path.name)
        assert min(image.width, image.height) > 1
