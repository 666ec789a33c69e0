"""Decode encoded images, which may come from anybody, to upright 8-bit RGB.

Read are JPEG, PNG, WebP, BMP, TIFF and still GIF. Images are rotated by their EXIF orientation;
palettes, grey, CMYK and 16 bits become 8-bit RGB; transparent pixels are laid on white. Colour
profiles are not applied, as they were not to the data that the models were trained on.
"""

import hashlib
import io
import warnings
from collections.abc import Callable

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
from secondlook.core.types import Image, Pixels
from secondlook_client.errors import BadImage, ImageTooLarge, InvalidInput

READABLE = "JPEG, PNG, WebP, BMP, TIFF and still GIF"
BACKGROUND = (255, 255, 255, 255)
"""What shows through transparent pixels: white, as on the pages such images are made for."""
MAX_SCANS = 100
"""Of a progressive JPEG, which has about ten. Each costs a pass over the whole image, and an
empty one takes ten bytes: a few megabytes of them would keep a decoder busy for hours."""

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
_Opener = Callable[[io.BytesIO], ImageFile.ImageFile]
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
    if not data:
        raise BadImage("the image is empty (0 bytes); it may not have been written yet")
    if len(data) > limits.max_image_bytes:
        raise ImageTooLarge(
            f"the image has {len(data):,} bytes; at most {limits.max_image_bytes:,} are allowed. "
            "Save it smaller or raise --max-image-bytes"
        )
    try:
        pixels = _upright_rgb(_open(data), data, limits)
    except InvalidInput:
        raise
    except (MemoryError, PILImage.DecompressionBombError) as cause:
        raise ImageTooLarge("the image needs too much memory; save it smaller") from cause
    except Exception as cause:  # a decoder fed with hostile bytes may raise anything
        raise _damaged(cause) from cause
    return Image(pixels, hashlib.sha256(data).hexdigest(), name)


def suffix_of(data: bytes) -> str:
    """The usual suffix of files like this one, by its first bytes: jpg, png, ...; else ``bin``."""
    for signature, place, opener in _FORMATS:
        if data[place : place + len(signature)] == signature:
            return _SUFFIXES[opener]
    return "bin"


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read the header only."""
    for signature, place, opener in _FORMATS:
        if data.startswith(signature, place):
            return opener(io.BytesIO(data))
    for signature, place, what in _OTHER_FORMATS:
        if data.lstrip()[: place + len(signature)].lower().endswith(signature.lower()):
            raise BadImage(f"this is {what}. Supported formats: {READABLE}")
    raise BadImage(f"these {len(data):,} bytes are not an image; supported formats: {READABLE}")


def _upright_rgb(image: ImageFile.ImageFile, data: bytes, limits: ImageSettings) -> Pixels:
    _check_size(*image.size, limits)
    _check_scans(image, data)
    if getattr(image, "is_animated", False):
        raise BadImage(
            f"the {image.format} has several frames or pages, and a label belongs to one; "
            "extract the frames and send each as an image of its own"
        )
    image.load()
    _check_size(*image.size, limits)
    return np.array(_turned(_rgb(image), _orientation(image)))


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


def _check_scans(image: ImageFile.ImageFile, data: bytes) -> None:
    # Inside compressed data 0xFF is followed by 0x00, so this counts scan headers (and a chance
    # pair or two in the metadata).
    if image.info.get("progressive") and data.count(b"\xff\xda") > MAX_SCANS:
        raise BadImage(f"the JPEG has more than {MAX_SCANS} scans; save it again")


def _rgb(image: ImageFile.ImageFile) -> PILImage.Image:
    """Any mode that an image may have as 8-bit RGB."""
    if image.mode in ("I", "F") and image.format != "PNG":
        raise BadImage(
            "the image has 32 bits per channel, and the range of their values is not known; "
            "save it with 8 or 16 bits"
        )
    if image.mode == "I" or image.mode.startswith("I;16"):
        return PILImage.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Only Adobe writes CMYK upside down; Pillow takes every CMYK JPEG for one of theirs.
        return ImageChops.invert(image).convert("RGB")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        under = PILImage.new("RGBA", over.size, BACKGROUND)
        return PILImage.alpha_composite(under, over).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(grey: NDArray[np.integer]) -> NDArray[np.uint8]:
    """16-bit grey over its whole range; clipping at 255 would turn nearly all of it white."""
    return ((grey.astype(np.uint32) * 255 + 32_767) // 65_535).astype(np.uint8)


def _orientation(image: ImageFile.ImageFile) -> int:
    """EXIF orientation, 1 to 8; 1 (upright) where the EXIF data is absent or damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata is no reason to refuse sound pixels
        return 1


def _turned(image: PILImage.Image, orientation: int) -> PILImage.Image:
    turn = _TURNS.get(orientation)
    return image.transpose(turn) if turn is not None else image


def _damaged(cause: Exception) -> BadImage:
    words = str(cause).lower()
    if isinstance(cause, EOFError) or "truncated" in words or "broken" in words:
        return BadImage("the image is truncated: its end is missing. Copy or download it again")
    return BadImage("the image is damaged or truncated and cannot be decoded; save it again")
