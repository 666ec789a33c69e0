"""Images as a caller has them: a file's path, encoded bytes, a numpy array, or a Pillow image.

Files and bytes are sent as they are. Arrays and Pillow images are sent as JPEG of quality 95 with
the colours in full resolution: a frame of 1920×1080 takes about 17 ms and half a megabyte so, and
180 ms and two megabytes as PNG. Where every bit counts, send ``encode_image(image, "png")``.

Arrays are RGB; OpenCV's are BGR, so give those by name: ``client.label(bgr(frame))``. Neither
numpy nor Pillow is loaded before such an image comes.
"""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from secondlook_client.errors import BadImage, UnreadableFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image as PILImage

ImageInput: TypeAlias = (
    "bytes | bytearray | memoryview | str | os.PathLike[str] | NDArray[np.uint8] | PILImage.Image"
)
"""An encoded image, the path of its file, uint8 pixels, or a Pillow image; see ``image_bytes``."""

JPEG_QUALITY = 95
MAX_JPEG_SIDE = 65_535
"""A larger image is sent as PNG."""
READABLE = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Formats that images may have, as Pillow calls them: those that the service decodes."""
_EXPECTED = (
    "expected encoded bytes, the path of a file, a numpy array of shape (height, width, 3) and "
    "type uint8, or a Pillow image"
)


def image_bytes(image: ImageInput) -> bytes:
    """The encoded image, as it is sent.

    An array is (H, W, 3) uint8 RGB, (H, W) or (H, W, 1) grey, or (H, W, 4) RGBA, whose
    transparent pixels are laid on white. A Pillow image is turned upright by its EXIF orientation,
    as files are; boxes are pixels of the upright image. Raises ``UnreadableFile``, and
    ``BadImage`` for anything else, with what was expected.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        try:
            return Path(image).read_bytes()
        except OSError as cause:
            raise UnreadableFile(f"{os.fspath(image)}: {cause.strerror or cause}") from cause
    return encode_image(image)


def taken_image(image: ImageInput) -> "bytes | PILImage.Image":
    """The image as it is now, to be encoded later if it is needed: ``image_bytes`` takes it.

    The caller may change the array, or the file, afterwards. Raises what ``image_bytes`` raises.
    """
    if isinstance(image, bytes | bytearray | memoryview | str | os.PathLike):
        return image_bytes(image)
    return _pillow(image)


def encode_image(image: "NDArray[np.uint8] | PILImage.Image", form: str = "jpeg") -> bytes:
    """An array or Pillow image as ``jpeg``, or without loss as ``png`` or ``bmp``.

    See ``image_bytes``, which raises the same.
    """
    upright = _pillow(image)
    if form == "jpeg" and max(upright.size) > MAX_JPEG_SIDE:
        form = "png"
    options: dict[str, Any] = {
        "jpeg": {"quality": JPEG_QUALITY, "subsampling": 0},
        "png": {"compress_level": 1},
    }.get(form, {})
    written = io.BytesIO()
    upright.save(written, form.upper(), **options)
    return written.getvalue()


def bgr(frame: "NDArray[np.uint8]") -> "NDArray[np.uint8]":
    """A frame of OpenCV as RGB: (H, W, 3) BGR, which is not copied, or (H, W, 4) BGRA.

        client.label(bgr(cv2.imread("photo.jpg")), classes=["dog"])

    Raises ``BadImage``.
    """
    if getattr(frame, "ndim", 0) != 3 or frame.shape[2] not in (3, 4):
        raise BadImage(
            f"expected a BGR array of shape (height, width, 3), got {_described(frame)}; "
            "cv2.imread gives None for a file that it cannot read"
        )
    return frame[..., (2, 1, 0, 3)] if frame.shape[2] == 4 else frame[..., ::-1]


def pixels_of(content: bytes) -> "NDArray[np.uint8]":
    """The pixels of an encoded image: (H, W, 3) uint8 RGB, upright, as the service sees them.

    Raises ``BadImage``.
    """
    import numpy as np
    from PIL import Image as PILImage

    try:
        with PILImage.open(io.BytesIO(content), formats=READABLE) as image:
            return np.asarray(_rgb(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, PILImage.DecompressionBombError) as cause:
        raise BadImage(f"the image cannot be decoded: {cause}") from cause


def _pillow(image: Any) -> "PILImage.Image":
    """An array or Pillow image as 8-bit grey or RGB. Raises ``BadImage``."""
    import numpy as np
    from PIL import Image as PILImage

    if isinstance(image, PILImage.Image):
        if not image.width or not image.height:
            raise BadImage(f"the image is {image.width}×{image.height} pixels, so it is empty")
        return _rgb(image)
    if not isinstance(image, np.ndarray):
        raise BadImage(f"{_EXPECTED}; got {_described(image)}")
    _check_array(image)
    grey = image.ndim == 3 and image.shape[2] == 1
    return _rgb(PILImage.fromarray(image[..., 0] if grey else image))


def _check_array(array: Any) -> None:
    shape = array.shape
    if str(array.dtype) != "uint8":
        shares = array.dtype.kind == "f" and array.size and array.max() <= 1
        way_out = "; give (image * 255).round().astype('uint8')" if shares else ""
        raise BadImage(f"expected uint8 pixels, 0 to 255; got {_described(array)}{way_out}")
    if len(shape) == 4:
        raise BadImage(f"expected one image, got {_described(array)}; give its images one by one")
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        way_out = ""
        if len(shape) == 3 and shape[0] in (1, 3, 4):
            way_out = "; the channels come last: give image.transpose(1, 2, 0)"
        raise BadImage(
            "expected an array of shape (height, width, 3) in RGB, (height, width, 4) in RGBA or "
            f"(height, width) in grey, got {_described(array)}{way_out}"
        )
    if not array.size:
        raise BadImage(f"the image is empty: {_described(array)}")


def _described(value: Any) -> str:
    """For an error: its type, and of an array the shape and type of its elements."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {tuple(value.shape)} and type {value.dtype}"
    return "None" if value is None else f"{type(value).__module__}.{type(value).__qualname__}"


def _rgb(image: "PILImage.Image") -> "PILImage.Image":
    """Upright 8-bit grey or RGB, of any mode, as the service decodes files."""
    from PIL import Image as PILImage
    from PIL import ImageChops

    form, marks = image.format, image.info
    upright = _upright(image)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        return _narrowed(upright, form)
    if upright.mode == "CMYK" and form == "JPEG" and "adobe" not in marks:
        # Only Adobe writes CMYK upside down; Pillow takes every CMYK JPEG for one of theirs.
        return ImageChops.invert(upright).convert("RGB")
    if upright.has_transparency_data:
        over = upright.convert("RGBA")
        under = PILImage.new("RGBA", over.size, "white")
        return PILImage.alpha_composite(under, over).convert("RGB")
    return upright if upright.mode in ("RGB", "L") else upright.convert("RGB")


def _upright(image: "PILImage.Image") -> "PILImage.Image":
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata is no reason to refuse sound pixels
        return image


def _narrowed(image: "PILImage.Image", form: str | None) -> "PILImage.Image":
    """16-bit grey over its whole range; clipping at 255 would turn nearly all of it white."""
    import numpy as np
    from PIL import Image as PILImage

    if image.mode == "F" or (image.mode == "I" and form != "PNG"):
        raise BadImage(
            f"the image has 32 bits a pixel (mode {image.mode}), and the range of their values is "
            "not known; convert it to 8 or 16 bits"
        )
    grey = (np.asarray(image).astype(np.uint32) * 255 + 32_767) // 65_535
    return PILImage.fromarray(grey.astype(np.uint8))


def image_name(image: ImageInput, name: str) -> str:
    """``name``, or else the file's."""
    if not name and isinstance(image, str | os.PathLike):
        name = Path(image).name
    return sendable(name)


def key_name(key: object) -> str:
    """The name that goes with an image of many: its key, where that is a text or path."""
    return os.fspath(key) if isinstance(key, str | os.PathLike) else ""


def sendable(name: str) -> str:
    """``name`` as the wire can carry it: a file's name may hold bytes that are not text."""
    return name.encode("utf-8", "replace").decode()
