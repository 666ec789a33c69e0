import hashlib
import io
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from secondlook.errors import BadImage, ImageTooLarge, InvalidInput
from secondlook.images import ImageLimits, decode

# Pillow warns about damaged metadata and reads on; so do we.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

FORMATS: list[tuple[str, dict]] = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("PNG", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("GIF", {}),
]


def gradient(width: int = 53, height: int = 37) -> PILImage.Image:
    """Dark to light from left to right in red, from top to bottom in green."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return PILImage.fromarray(np.stack([across, down, 0 * down], axis=2).astype(np.uint8))


def encoded(picture: PILImage.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("form", "options"), FORMATS)
def test_each_format_gives_the_picture(form: str, options: dict) -> None:
    data = encoded(gradient(), form, **options)
    image = decode(data, "photo")
    assert (image.width, image.height, image.name) == (53, 37, "photo")
    assert image.pixels.dtype == np.uint8
    assert image.sha256 == hashlib.sha256(data).hexdigest()
    # A GIF has 256 colours for all of it.
    assert np.abs(image.pixels.astype(int) - np.asarray(gradient())).mean() < 12


@pytest.mark.parametrize(("form", "options"), FORMATS)
def test_one_pixel(form: str, options: dict) -> None:
    image = decode(encoded(PILImage.new("RGB", (1, 1), (200, 200, 200)), form, **options))
    assert image.pixels.shape == (1, 1, 3)
    assert np.abs(image.pixels.astype(int) - 200).max() <= 3


@pytest.mark.parametrize(("form", "options"), FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.96])
def test_truncated(form: str, options: dict, share: float) -> None:
    data = encoded(gradient(300, 200), form, **options)
    with pytest.raises(BadImage, match="truncated"):
        decode(data[: max(12, int(len(data) * share))])


def test_a_png_without_its_last_mark_has_lost_no_pixel() -> None:
    data = encoded(gradient(), "PNG")
    np.testing.assert_array_equal(decode(data[:-12]).pixels, decode(data).pixels)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"hello", "are no picture; read are JPEG"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\x00\x00\x00\x18ftypheic\x00", "HEIC; convert"),
        (b"\x00\x00\x00\x18ftypmp42\x00", "extract the frames"),
        (b"\n<!DOCTYPE html><html>", "HTML"),
        (b"%PDF-1.7", "PDF"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "no picture"),
        (b"\xff\xd8\xff", "truncated"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
    ],
)
def test_bytes_that_are_no_picture(data: bytes, said: str) -> None:
    with pytest.raises(BadImage, match=said):
        decode(data)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_several_frames_are_refused_with_the_way_out(form: str) -> None:
    frames = [PILImage.new("RGB", (20, 20), shade) for shade in ("red", "green", "blue")]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    with pytest.raises(BadImage, match="extract the frames"):
        decode(data)


def test_a_jpeg_with_previews_behind_it_is_its_first_picture() -> None:
    data = encoded(gradient(), "MPO", save_all=True, append_images=[gradient(10, 10)])
    assert decode(data).width == 53


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(form: str, orientation: int) -> None:
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    turned = decode(encoded(gradient(), form, exif=exif)).pixels.astype(int)
    upright = np.asarray(gradient()).astype(int)
    # By the standard's table: where row 0 and column 0 of the stored picture are to be shown.
    shown = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[:, ::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[::-1],
    }[orientation]
    assert turned.shape == shown.shape
    assert np.abs(turned - shown).mean() < 6


def test_damaged_exif_does_not_cost_the_picture() -> None:
    assert decode(encoded(gradient(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff")).width == 53


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_shades(form: str) -> None:
    grey = np.linspace(0, 65_535, 37 * 53).reshape(37, 53).astype(np.uint16)
    pixels = decode(encoded(PILImage.fromarray(grey), form)).pixels
    assert np.abs(pixels[..., 1] - grey / 257).max() < 1


def test_16_bit_colour_keeps_its_shades() -> None:
    # Pillow writes no 16-bit colour, so the file is put together here.
    wide = (np.asarray(gradient()).astype(np.uint16) * 257).astype(">u2")
    rows = b"".join(b"\x00" + row.tobytes() for row in wide)
    data = png(struct.pack(">IIBBBBB", 53, 37, 16, 2, 0, 0, 0), zlib.compress(rows))
    assert np.abs(decode(data).pixels.astype(int) - np.asarray(gradient())).max() <= 1


def png(header: bytes, body: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", body), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_pictures_are_refused_with_the_way_out(mode: str) -> None:
    with pytest.raises(BadImage, match="8 or 16 bits"):
        decode(encoded(PILImage.new(mode, (9, 9), 5), "TIFF"))


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk(form: str) -> None:
    pixels = decode(encoded(PILImage.new("CMYK", (16, 16), (0, 255, 255, 0)), form)).pixels
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 4


def test_cmyk_jpeg_without_the_adobe_mark_is_not_upside_down() -> None:
    # 10 % ink of each colour and no Adobe marker: what is stored is the ink itself.
    data = encoded(PILImage.new("CMYK", (16, 16), (229, 229, 229, 255)), "JPEG")
    start = data.index(b"\xff\xee")
    length = struct.unpack(">H", data[start + 2 : start + 4])[0]
    plain = data[:start] + data[start + 2 + length :]
    assert b"Adobe" not in plain
    assert decode(plain).pixels.min() > 200


@pytest.mark.parametrize(
    ("mode", "form"),
    [("RGBA", "PNG"), ("RGBA", "WEBP"), ("LA", "PNG"), ("RGBA", "TIFF"), ("P", "PNG")],
)
def test_transparency_shows_white(mode: str, form: str) -> None:
    picture = PILImage.new("RGBA", (20, 10), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 10, 10))
    options = {"lossless": True} if form == "WEBP" else {}
    pixels = decode(encoded(picture.convert(mode), form, **options)).pixels
    assert pixels[:, :9].max() <= 2
    assert pixels[:, 11:].min() >= 253


def test_a_palette_with_a_transparent_entry_shows_white() -> None:
    picture = PILImage.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.putpixel((0, 0), 0)
    pixels = decode(encoded(picture, "PNG", transparency=0)).pixels
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey(mode: str) -> None:
    pixels = decode(encoded(PILImage.new(mode, (3, 2), 255), "PNG")).pixels
    assert pixels.shape == (2, 3, 3)
    assert pixels.min() == 255


def test_limits() -> None:
    data = encoded(PILImage.new("RGB", (100, 10)), "PNG")
    assert decode(data, limits=ImageLimits(len(data), 1000, 100)).width == 100
    for limits, said in (
        (ImageLimits(len(data) - 1, 1000, 100), "max_image_bytes"),
        (ImageLimits(len(data), 999, 100), "max_image_pixels"),
        (ImageLimits(len(data), 1000, 99), "max_image_side"),
    ):
        with pytest.raises(ImageTooLarge, match=said):
            decode(data, limits=limits)


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000)])
def test_a_very_wide_picture_is_refused(size: tuple[int, int]) -> None:
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
    code = f"from secondlook.images import decode\nprint(decode({odd!r}).width)"
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


SMALL = ImageLimits(max_pixels=1_000_000, max_side=5000)


@settings(max_examples=1500, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_damaged_files_are_a_picture_or_an_input_error(data: bytes) -> None:
    try:
        image = decode(data, limits=SMALL)
    except InvalidInput as refused:
        assert len(str(refused)) > 20
        return
    assert image.pixels.ndim == 3
    assert image.pixels.shape[2] == 3
    assert 1 <= image.width * image.height <= SMALL.max_pixels


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_politely(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode(data)


def pictures_in(folder: Path) -> Iterator[Path]:
    endings = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in endings)


def test_real_pictures(data_dir: Path) -> None:
    paths = [path for path in pictures_in(data_dir) if path.is_file()][::17][:60]
    if not paths:
        pytest.skip(f"no pictures in {data_dir}")
    for path in paths:
        image = decode(path.read_bytes(), path.name)
        assert min(image.width, image.height) > 1
