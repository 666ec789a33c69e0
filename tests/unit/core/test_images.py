import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from encoded_images import FORMATS, encoded, gradient, png
from PIL import Image as PILImage

from secondlook.config.settings import ImageSettings
from secondlook.core.images import decode, upright_size
from secondlook_client.errors import BadImage, ImageTooLarge

# Pillow warns about damaged metadata and reads on; so do we.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize(("form", "options"), FORMATS)
def test_each_format_gives_the_image(form: str, options: dict) -> None:
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
        (b"hello", "are not an image; supported formats: JPEG"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\x00\x00\x00\x18ftypheic\x00", "HEIC; convert"),
        (b"\x00\x00\x00\x18ftypmp42\x00", "extract the frames"),
        (b"\n<!DOCTYPE html><html>", "HTML"),
        (b"%PDF-1.7", "PDF"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "not an image"),
        (b"\xff\xd8\xff", "truncated"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
    ],
)
def test_bytes_that_are_no_image(data: bytes, said: str) -> None:
    with pytest.raises(BadImage, match=said):
        decode(data)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_several_frames_are_refused_with_the_way_out(form: str) -> None:
    frames = [PILImage.new("RGB", (20, 20), shade) for shade in ("red", "green", "blue")]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    with pytest.raises(BadImage, match="extract the frames"):
        decode(data)


def test_a_jpeg_with_previews_behind_it_is_its_first_image() -> None:
    data = encoded(gradient(), "MPO", save_all=True, append_images=[gradient(10, 10)])
    assert decode(data).width == 53


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(form: str, orientation: int) -> None:
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    turned = decode(encoded(gradient(), form, exif=exif)).pixels.astype(int)
    upright = np.asarray(gradient()).astype(int)
    # By the standard's table: where row 0 and column 0 of the stored image are to be shown.
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


@pytest.mark.parametrize(("form", "options"), FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_upright_size_is_that_of_decoding(
    tmp_path: Path, form: str, options: dict[str, object], orientation: int
) -> None:
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    given = {} if form in ("GIF", "BMP") else {"exif": exif}
    data = encoded(gradient(), form, **options, **given)
    (tmp_path / "a").write_bytes(data)
    image = decode(data)
    assert upright_size(data) == upright_size(tmp_path / "a") == (image.width, image.height)
    assert (image.width < image.height) == (orientation > 4 and bool(given))


def test_the_upright_size_of_what_is_no_image(tmp_path: Path) -> None:
    for content in (b"", b"II*\0", b"II*\0\x08\0\0\0\0\0\0\0", b"\x89PNG\r\n\x1a\n", b"<html>"):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(BadImage):
            upright_size(tmp_path / "a")
    with pytest.raises(ImageTooLarge, match="a side may have at most 40"):
        upright_size(encoded(gradient(), "PNG"), ImageSettings(max_image_side=40))
    with pytest.raises(OSError, match="No such file"):
        upright_size(tmp_path / "gone")


def test_damaged_exif_does_not_cost_the_image() -> None:
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


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_images_are_refused_with_the_way_out(mode: str) -> None:
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
    image = PILImage.new("RGBA", (20, 10), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 10, 10))
    options = {"lossless": True} if form == "WEBP" else {}
    pixels = decode(encoded(image.convert(mode), form, **options)).pixels
    assert pixels[:, :9].max() <= 2
    assert pixels[:, 11:].min() >= 253


def test_a_palette_with_a_transparent_entry_shows_white() -> None:
    image = PILImage.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((0, 0), 0)
    pixels = decode(encoded(image, "PNG", transparency=0)).pixels
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey(mode: str) -> None:
    pixels = decode(encoded(PILImage.new(mode, (3, 2), 255), "PNG")).pixels
    assert pixels.shape == (2, 3, 3)
    assert pixels.min() == 255
