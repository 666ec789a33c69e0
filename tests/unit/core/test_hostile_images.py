"""Images too large, damaged on purpose or made to do harm: refused in words."""

import struct
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
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


@pytest.mark.parametrize("progressive", [True, False])
def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded(progressive: bool) -> None:
    data = encoded(gradient(), "JPEG", progressive=progressive, subsampling=0)
    place = data.index(b"\xff\xda")
    (length,) = struct.unpack(">H", data[place + 2 : place + 4])
    scan = data[place : place + 2 + length]
    if progressive:
        assert decode(data[:place] + scan * 20 + data[place:]).width == 53
    with pytest.raises(BadImage, match="100 scans"):
        decode(data[:place] + scan * 200 + data[place:])


def test_what_follows_a_jpeg_is_no_scan_of_it() -> None:
    """Phones append a video to a photo, in which anything may stand."""
    data = encoded(gradient(), "JPEG")
    assert decode(data + b"\xff\xda\x00\x02" * 1000).width == 53
    comment = b"\xff\xfe" + struct.pack(">H", 2002) + b"\xff\xda" * 1000
    assert decode(data[:2] + comment + data[2:]).width == 53


def _jpeg_with(inserted: bytes) -> bytes:
    data = encoded(gradient(), "JPEG")
    return data[:2] + inserted + data[2:]


def _png_with(inserted: bytes) -> bytes:
    data = encoded(gradient(), "PNG")
    return data[:33] + inserted + data[33:]


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _gif_with_comment(size: int) -> bytes:
    data = encoded(gradient().convert("L"), "GIF")
    return data[:781] + b"!\xfe" + b"\1a" * (size // 2) + b"\0" + data[781:]


def _run_length_encoded(size: int) -> bytes:
    palette = bytes(range(256)) * 4
    header = struct.pack("<IiiHHIIiiII", 40, 8000, 8000, 1, 8, 1, size, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + size, 0, 0, 1078) + header + palette + bytes(size)


def _tiff(tags: list[tuple[int, int, int]], body: bytes, first: int) -> bytes:
    """Grey; ``body`` begins at the sum of the other sizes. ``first`` is its tag's number."""
    entries = sorted([*tags, (first, 4, 10 + 12 * (len(tags) + 1) + 4)])
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4) + body


def _tile(side: int, compression: int, body: bytes) -> bytes:
    """16 × 16 pixels in a tile that is larger."""
    tags = [(256, 4, 16), (257, 4, 16), (258, 3, 8), (259, 3, compression), (262, 3, 1)]
    tags += [(277, 3, 1), (322, 4, side), (323, 4, side), (325, 4, len(body))]
    return _tiff(tags, body, 324)


_SCANS = encoded(gradient(), "JPEG").replace(b"\xff\xda", b"\xff\xda\x00\x02" * 200 + b"\xff\xda")

COSTLY: dict[str, tuple[Callable[[], bytes], str]] = {
    "segments": (lambda: _jpeg_with(b"\xff\xfe\x00\x02" * 10**6), "parts"),
    "fill bytes": (lambda: _jpeg_with(b"\xff" * 10**7), "parts"),
    "EXIF data in pieces": (
        lambda: _jpeg_with(
            (b"\xff\xe1" + struct.pack(">H", 60_000) + b"Exif\0\0" + bytes(59_992)) * 300
        ),
        "parts of metadata",
    ),
    "chunks": (lambda: _png_with(_png_chunk(b"abCd", b"") * 10**6), "parts"),
    "profiles": (
        lambda: _png_with(_png_chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(10**6))) * 5000),
        "parts of metadata",
    ),
    "empty image data": (lambda: _png_with(_png_chunk(b"IDAT", b"") * 10**6), "parts"),
    "a long comment": (lambda: _gif_with_comment(10**7), "more than one image"),
    "run lengths": (lambda: _run_length_encoded(2 * 10**6), "save it as PNG"),
    "tags": (lambda: _tiff([(tag, 1, 0) for tag in range(300, 9000)], b"", 273), "4,096 tags"),
    "a large tile": (lambda: _tile(30_000, 8, zlib.compress(b"")), "3,600,001,"),
    "scans of a strip": (lambda: _tile(64, 7, _SCANS), "100 scans"),
}
"""Files that are cheap to make and dear to decode, and what is said of them."""


@pytest.mark.parametrize("which", COSTLY)
def test_what_would_cost_too_much_is_refused_at_once(which: str) -> None:
    make, said = COSTLY[which]
    data = make()
    began = time.process_time()
    with pytest.raises((BadImage, ImageTooLarge), match=said):
        decode(data)
    assert time.process_time() - began < 1.5


def test_a_format_that_takes_more_memory_may_have_fewer_pixels() -> None:
    limits = ImageSettings(max_image_pixels=1_000_000)
    image = PILImage.new("RGB", (900, 900))
    assert decode(encoded(image, "PNG"), limits=limits).width == 900
    with pytest.raises(ImageTooLarge, match="12,960,000 bytes of memory; at most 8,000,000"):
        decode(encoded(image, "WEBP"), limits=limits)


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
