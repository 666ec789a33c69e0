"""Decode encoded images, which may come from anybody, to upright 8-bit RGB.

Read are JPEG, PNG, WebP, BMP, TIFF and still GIF. Images are rotated by their EXIF orientation;
palettes, grey, CMYK and 16 bits become 8-bit RGB; transparent pixels are laid on white. Colour
profiles are not applied, as they were not to the data that the models were trained on.
"""

import hashlib
import io
import math
import re
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageChops, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from secondlook.config.settings import ImageSettings
from secondlook.core import sandbox
from secondlook.core.types import Image, Pixels
from secondlook_client.errors import BadImage, Busy, ImageTooLarge, InvalidInput

READABLE = "JPEG, PNG, WebP, BMP, TIFF and still GIF"
BACKGROUND = (255, 255, 255, 255)
"""What shows through transparent pixels: white, as on the pages such images are made for."""
MAX_SCANS = 100
"""Of a JPEG: a progressive one has about ten. Each costs a pass over the whole image, and an empty
one takes ten bytes, baseline or not: a megabyte of them would keep a decoder busy for an hour."""
MAX_PARTS = 50_000
"""Segments before the pixels of a JPEG, chunks of a PNG. Pillow reads each by itself in Python; a
file of 64 MB could have millions. PNGs that large have about 8,000."""
MAX_UNPACKED = 64
"""Parts of one image whose content is decompressed or put together: EXIF data, texts, profiles."""
MAX_TAGS = 4096
"""Of a TIFF, which has about twenty."""
MAX_METADATA_BYTES = 4 * 2**20
"""Of a GIF, besides its pixels, which take at most two bytes each. Read block by block."""
MAX_RLE_BYTES = 2**20
"""Of a run-length encoded BMP, which Pillow decodes in Python."""

BYTES_PER_PIXEL = 8
"""Memory that decoding may take: at most 4 for the image as it is stored, 3 for its pixels, and
something for the decoder. WebP takes twice as much, so it may have half as many pixels."""
UNASKED_BYTES = 8 * 2**20
"""Memory that a small image, of about a megapixel, takes without asking."""
STRIP_PIXELS = 2**18
"""Converted at a time, of an image that is not small."""

# Pillow warns of odd metadata in words taken from the file: a stream of such images would fill
# the log, and Python's list of warnings already given. What matters becomes an error below;
# `catch_warnings` is no choice here, as it is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")

_ORIENTATION = 0x0112
_TURNS = {
    2: PILImage.Transpose.FLIP_LEFT_RIGHT,
    3: PILImage.Transpose.ROTATE_180,
    4: PILImage.Transpose.FLIP_TOP_BOTTOM,
    5: PILImage.Transpose.TRANSPOSE,
    6: PILImage.Transpose.ROTATE_270,
    7: PILImage.Transpose.TRANSVERSE,
    8: PILImage.Transpose.ROTATE_90,
}
_SIDEWAYS = range(5, 9)
"""Orientations that swap width and height."""
_WIDTH, _HEIGHT = 256, 257
"""Tags of a TIFF: of the image as it is stored."""
_HEAD = 4096
"""Bytes from which the format is known."""
_FROM_THE_END = (3, 4, 6, 7)
"""Orientations of which the first row becomes the last row or column."""
_CODEC_BYTES = {"WEBP": 12, "TIFF": 4}
"""Bytes a pixel that a decoder takes besides the image."""
_Opener = Callable[[IO[bytes]], ImageFile.ImageFile]
_FORMATS: tuple[tuple[bytes, int, _Opener], ...] = (
    (b"\xff\xd8\xff", 0, JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", 0, PngImageFile),
    (b"WEBP", 8, WebPImageFile),
    (b"GIF8", 0, GifImageFile),
    (b"BM", 0, BmpImageFile),
    (b"II*\x00", 0, TiffImageFile),
    (b"MM\x00*", 0, TiffImageFile),
    (b"II+\x00", 0, TiffImageFile),
    (b"MM\x00+", 0, TiffImageFile),
)
"""Signature, where it stands, and the one decoder tried. Opening by class, not by trial, keeps the
forty other decoders of Pillow (some of which start programs) away from strangers' bytes; it also
reads the first image of a phone's multi-image JPEG and leaves the previews behind it alone."""
_SOS = 0xDA
_SCAN = b"\xff\xda"
_MARKER = re.compile(rb"\xff([^\xff\x00\xd0-\xd7])")
"""Inside compressed data 0xFF is followed by 0x00 or one of the restart markers."""
_STRIPS, _TILES, _TILE_WIDTH, _TILE_HEIGHT = 273, 324, 322, 323
"""Tags of a TIFF."""
_SUFFIXES: dict[_Opener, str] = {
    JpegImageFile: "jpg",
    PngImageFile: "png",
    WebPImageFile: "webp",
    GifImageFile: "gif",
    BmpImageFile: "bmp",
    TiffImageFile: "tif",
}
_OTHER_FORMATS: tuple[tuple[bytes, int, str], ...] = (
    (b"version https://git-lfs", 0, "a Git LFS pointer; fetch the image with `git lfs pull`"),
    (b"ftyphei", 4, "HEIC; convert it to JPEG"),
    (b"ftypmif", 4, "HEIF; convert it to JPEG"),
    (b"ftypavif", 4, "AVIF; convert it to JPEG"),
    (b"ftyp", 4, "a video; extract the frames"),
    (b"%PDF", 0, "a PDF; export its pages as images"),
    (b"<svg", 0, "SVG; render it to PNG"),
    (b"<", 0, "a text in HTML, XML or SVG, perhaps the error page of a download"),
    (b"PK\x03\x04", 0, "an archive; unpack it"),
)


DEFAULT_LIMITS = ImageSettings()


def decode(data: bytes, name: str = "", limits: ImageSettings = DEFAULT_LIMITS) -> Image:
    """Decode one image. Thread-safe; most of the time is spent outside Python's lock.

    Returns pixels (H, W, 3) uint8 RGB, upright, with the SHA-256 of ``data``. Raises
    ``ImageTooLarge`` for one over ``limits`` and ``BadImage`` for bytes that are empty,
    truncated, animated or not an image; never anything else, whatever the bytes.
    """
    check_bytes(data, limits)
    return Image(decode_pixels(data, limits), hashlib.sha256(data).hexdigest(), name)


def check_bytes(data: bytes, limits: ImageSettings) -> None:
    """Raise ``BadImage`` for no bytes at all, and ``ImageTooLarge`` for too many."""
    if not data:
        raise _empty()
    if len(data) > limits.max_image_bytes:
        raise ImageTooLarge(
            f"the image has {len(data):,} bytes; at most {limits.max_image_bytes:,} are allowed. "
            "Save it smaller or raise --max-image-bytes"
        )


def decode_pixels(data: bytes, limits: ImageSettings) -> Pixels:
    """The pixels that ``decode`` returns; ``ImageDecoder`` calls it in a child process.

    There it asks for the memory before it takes it, and raises ``Busy`` where that is refused.
    """
    try:
        return _upright_rgb(_open(data), data, limits)
    except (InvalidInput, Busy):
        raise
    except (MemoryError, PILImage.DecompressionBombError) as cause:
        raise ImageTooLarge("the image needs too much memory; save it smaller") from cause
    except Exception as cause:  # a decoder fed with hostile bytes may raise anything
        raise _damaged(cause) from cause


def upright_size(source: bytes | Path, limits: ImageSettings = DEFAULT_LIMITS) -> tuple[int, int]:
    """(width, height) in pixels that ``decode`` gives of an image, from its header alone.

    ``source`` is the encoded image or the path of its file. Raises ``BadImage`` and
    ``ImageTooLarge`` as ``decode`` does for what a header shows, and ``OSError`` for a file that
    cannot be opened.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        try:
            head = file.read(_HEAD)
            if not head:
                raise _empty()
            file.seek(0)
            image = _open(head, file)
            width, height = image.size
            orientation = _orientation(image)
            if isinstance(image, TiffImageFile):
                # Its `size` is turned already or not yet, by Pillow's version and what was loaded.
                width, height = image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]
        except InvalidInput:
            raise
        except Exception as cause:  # a decoder fed with hostile bytes may raise anything
            if isinstance(cause, OSError) and cause.errno is not None:  # of the file system
                raise
            raise _damaged(cause) from cause
    _check_size(width, height, limits)
    return (height, width) if orientation in _SIDEWAYS else (width, height)


def _empty() -> BadImage:
    return BadImage("the image is empty (0 bytes); it may not have been written yet")


def suffix_of(data: bytes) -> str:
    """The usual suffix of files like this one, by its first bytes: jpg, png, ...; else ``bin``."""
    for signature, place, opener in _FORMATS:
        if data[place : place + len(signature)] == signature:
            return _SUFFIXES[opener]
    return "bin"


def _open(data: bytes, file: IO[bytes] | None = None) -> ImageFile.ImageFile:
    """Read the header only. ``data`` may be the beginning of ``file``, where that is given."""
    for signature, place, opener in _FORMATS:
        if data.startswith(signature, place):
            _check_header(opener, data)
            return opener(file or io.BytesIO(data))
    for signature, place, what in _OTHER_FORMATS:
        if data.lstrip()[: place + len(signature)].lower().endswith(signature.lower()):
            raise BadImage(f"this is {what}. Supported formats: {READABLE}")
    raise BadImage(f"these {len(data):,} bytes are not an image; supported formats: {READABLE}")


def _upright_rgb(image: ImageFile.ImageFile, data: bytes, limits: ImageSettings) -> Pixels:
    _check_size(*image.size, limits)
    _check_work(image, data)
    if getattr(image, "is_animated", False):
        raise BadImage(
            f"the {image.format} has several frames or pages, and a label belongs to one; "
            "extract the frames and send each as an image of its own"
        )
    needed = _memory_needed(image, data)
    if needed > decoding_memory(limits):
        raise ImageTooLarge(
            f"decoding this {image.format} of {image.width}×{image.height} pixels takes "
            f"{needed:,} bytes of memory; at most {decoding_memory(limits):,} are allowed. Save it "
            "smaller or as a baseline JPEG or a PNG, or raise --max-image-pixels"
        )
    if needed > UNASKED_BYTES and not sandbox.request_memory(needed):
        raise Busy("the images being worked on take too much memory; try again in a moment")
    image.load()
    _check_size(*image.size, limits)
    return _converted(image)


def decoding_memory(limits: ImageSettings) -> int:
    """Bytes that decoding one image may take: enough for the most pixels in usual formats."""
    return BYTES_PER_PIXEL * limits.max_image_pixels


def _memory_needed(image: ImageFile.ImageFile, data: bytes) -> int:
    """Bytes that decoding takes at its peak, the result included; by the header."""
    stored = 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4
    codec: float = _CODEC_BYTES.get(image.format or "", 0)
    if isinstance(image, JpegImageFile) and _scans(data) > 1:
        codec = _coefficient_bytes(image)
    needed = round(image.width * image.height * (stored + max(codec, 3)))
    if isinstance(image, TiffImageFile):  # a tile may be larger than the image
        sides = [image.tag_v2.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_HEIGHT)]
        needed += 4 * math.prod(side for side in sides if isinstance(side, int))
    return needed


def _coefficient_bytes(image: JpegImageFile) -> float:
    """A pixel: where there are several scans, the coefficients of all are kept between them."""
    sampling = [(across, down) for _, across, down, _ in image.layer]
    most = max(across for across, _ in sampling) * max(down for _, down in sampling)
    return 2 * sum(across * down for across, down in sampling) / max(most, 1)


def _converted(image: ImageFile.ImageFile) -> Pixels:
    """Upright RGB; strip by strip, so that the image is not in memory a third time."""
    width, height = image.size
    orientation = _orientation(image)
    sideways = orientation in _SIDEWAYS
    shape = (width, height, 3) if sideways else (height, width, 3)
    result: Pixels = sandbox.empty_result(shape, np.uint8)
    rows = height if result.nbytes < UNASKED_BYTES // 2 else max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = image if rows >= height else image.crop((0, top, width, bottom))
        first = height - bottom if orientation in _FROM_THE_END else top
        place = slice(first, first + bottom - top)
        turned = _turned(_rgb(strip, image), orientation)
        result[(slice(None), place) if sideways else place] = np.asarray(turned)
    return result


def _check_size(width: int, height: int, limits: ImageSettings) -> None:
    if width < 1 or height < 1:
        raise BadImage(f"the image is {width}×{height} pixels, so it is empty")
    if max(width, height) > limits.max_image_side:
        raise ImageTooLarge(
            f"the image is {width}×{height} pixels; a side may have at most "
            f"{limits.max_image_side:,}. Cut it into tiles, or raise --max-image-side"
        )
    if width * height > limits.max_image_pixels:
        raise ImageTooLarge(
            f"the image is {width}×{height}, {width * height:,} pixels; at most "
            f"{limits.max_image_pixels:,} are allowed. Save it smaller, or raise --max-image-pixels"
        )


def _jpeg_segments(data: bytes) -> Iterator[int]:
    """The markers before the pixels; those that fill are counted too."""
    place = 2
    while len(data) > place + 3 and data[place] == 0xFF and (kind := data[place + 1]) != _SOS:
        yield kind
        standalone = kind in (0x00, 0x01, 0xFF) or 0xD0 <= kind <= 0xD9
        place += 1 if kind == 0xFF else 2
        if not standalone:
            place += int.from_bytes(data[place : place + 2])


def _png_chunks(data: bytes) -> Iterator[bytes]:
    """Their kinds."""
    place = 8
    while len(data) > place + 8:
        yield data[place + 4 : place + 8]
        place += int.from_bytes(data[place : place + 4]) + 12


def _check_header(opener: _Opener, data: bytes) -> None:
    """Refuse what would take long to read even before its size is known."""
    if opener is JpegImageFile:
        _check_parts(_jpeg_segments(data), data.count(b"Exif\0\0"))
    elif opener is PngImageFile:
        packed = sum(data.count(kind) for kind in (b"iCCP", b"zTXt", b"iTXt"))
        _check_parts(_png_chunks(data), packed)
    elif opener is TiffImageFile and _tags(data) > MAX_TAGS:
        raise BadImage(f"the TIFF has over {MAX_TAGS:,} tags; save it again")
    elif opener is GifImageFile:
        width, height = (int.from_bytes(data[place : place + 2], "little") for place in (6, 8))
        if len(data) > 2 * width * height + MAX_METADATA_BYTES:
            raise BadImage(
                f"the GIF has {len(data):,} bytes, more than one image of {width}×{height} can "
                "take; if it has several frames, extract them and send each as an image"
            )


def _check_parts(parts: Iterator[object], unpacked: int) -> None:
    if next(islice(parts, MAX_PARTS, None), None) is not None:
        raise BadImage(f"the image has over {MAX_PARTS:,} parts; save it again")
    if unpacked > MAX_UNPACKED:
        raise BadImage(f"the image has over {MAX_UNPACKED} parts of metadata; save it again")


def _tags(data: bytes) -> int:
    """Tags of the first page of a TIFF."""
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    first, of_place, of_count = (8, 8, 8) if data[2:4] in (b"+\0", b"\0+") else (4, 4, 2)
    place = int.from_bytes(data[first : first + of_place], order)
    return int.from_bytes(data[place : place + of_count], order)


def _scans(data: bytes) -> int:
    """Scans of the first image of a JPEG; phones append previews, and videos."""
    if data.count(_SCAN) <= 1:  # nearly always; fast
        return 1
    place, scans = 2, 0
    while (found := _MARKER.search(data, place)) and (kind := found[1][0]) != 0xD9:
        scans += kind == _SOS
        place = found.end()
        if kind not in (0x01, 0xD8):
            place += int.from_bytes(data[place : place + 2])
        if scans > MAX_SCANS:
            break
    return scans


def _check_work(image: ImageFile.ImageFile, data: bytes) -> None:
    """Refuse what would take long to decode for the size that it has."""
    scans = _scans(data) if image.format == "JPEG" else 0
    if isinstance(image, TiffImageFile) and image.info.get("compression") == "jpeg":
        # One image for each strip or tile, of one scan or one for each colour.
        parts = image.tag_v2.get(_STRIPS) or image.tag_v2.get(_TILES) or ()
        scans = data.count(_SCAN) - 4 * len(parts)
    if scans > MAX_SCANS:
        raise BadImage(f"the {image.format} has more than {MAX_SCANS} scans; save it again")
    if image.format == "BMP" and image.info.get("compression") and len(data) > MAX_RLE_BYTES:
        raise BadImage("the BMP is compressed and large; save it as PNG")


def _rgb(part: PILImage.Image, image: ImageFile.ImageFile) -> PILImage.Image:
    """A part of an image of any mode as 8-bit RGB."""
    if part.mode in ("I", "F") and image.format != "PNG":
        raise BadImage(
            "the image has 32 bits per channel, and the range of their values is not known; "
            "save it with 8 or 16 bits"
        )
    if part.mode == "I" or part.mode.startswith("I;16"):
        return PILImage.fromarray(_to_8_bits(np.asarray(part))).convert("RGB")
    if part.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Only Adobe writes CMYK upside down; Pillow takes every CMYK JPEG for one of theirs.
        return ImageChops.invert(part).convert("RGB")
    if part.has_transparency_data:
        over = part.convert("RGBA")
        under = PILImage.new("RGBA", over.size, BACKGROUND)
        return PILImage.alpha_composite(under, over).convert("RGB")
    return part if part.mode == "RGB" else part.convert("RGB")


def _to_8_bits(grey: NDArray[np.integer]) -> NDArray[np.uint8]:
    """16-bit grey over its whole range; clipping at 255 would turn nearly all of it white."""
    return ((grey.astype(np.uint32) * 255 + 32_767) // 65_535).astype(np.uint8)


def _orientation(image: ImageFile.ImageFile) -> int:
    """EXIF orientation, 1 to 8; 1 (upright) where the EXIF data is absent or damaged."""
    try:
        orientation = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata is no reason to refuse sound pixels
        return 1
    return orientation if orientation in _TURNS else 1


def _turned(image: PILImage.Image, orientation: int) -> PILImage.Image:
    turn = _TURNS.get(orientation)
    return image.transpose(turn) if turn is not None else image


def _damaged(cause: Exception) -> BadImage:
    words = str(cause).lower()
    if isinstance(cause, EOFError) or "truncated" in words or "broken" in words:
        return BadImage("the image is truncated: its end is missing. Copy or download it again")
    return BadImage("the image is damaged or truncated and cannot be decoded; save it again")
