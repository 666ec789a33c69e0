"""Images of a dataset on this disk: their size without decoding, and their checked pixels."""

import os
from collections.abc import Callable
from pathlib import Path

from PIL import Image as PILImage

from secondlook.core.errors import BadImage, Damaged, InvalidInput, NotFound
from secondlook.core.images import DEFAULT_LIMITS, ImageLimits, decode
from secondlook.core.types import Pixels
from secondlook.datasets.samples import Sample

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""Of files that a folder of images is searched for, in small letters."""
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_ORIENTATION = 0x0112
_LYING = range(5, 9)
"""EXIF orientations that swap width and height."""


def size_of(path: Path, limits: ImageLimits = DEFAULT_LIMITS) -> tuple[int, int]:
    """(width, height) in pixels of the image when upright, from its header alone.

    Raises ``BadImage``, which names the file, for one that is no image or over ``limits``.
    """
    try:
        with PILImage.open(path, formats=_FORMATS) as image:
            width, height = image.size
            lying = image.getexif().get(_ORIENTATION, 1) in _LYING
    except Exception as cause:  # a decoder fed with hostile bytes may raise anything
        raise BadImage(f"{path} is no image that can be read; remove it or its entry") from cause
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise BadImage(
            f"{path} is {width}×{height} pixels; at most {limits.max_pixels:,} are taken: "
            "save it smaller"
        )
    return (height, width) if lying else (width, height)


def read_pixels(sample: Sample, limits: ImageLimits = DEFAULT_LIMITS) -> Pixels:
    """(H, W, 3) uint8 RGB of a sample, upright.

    Raises ``NotFound`` when the file has gone, ``Damaged`` when it is not what was opened, and
    ``InvalidInput`` when it cannot be decoded; each names the image.
    """
    try:
        with sample.path.open("rb") as file:
            content = file.read(limits.max_bytes + 1)
    except OSError as cause:
        raise NotFound(
            f"image '{sample.name}' is not at {sample.path} any more "
            f"({os.strerror(cause.errno or 0)}); put it back, or run the command again to fetch it "
            "or leave it out"
        ) from cause
    try:
        image = decode(content, sample.name, limits)
    except InvalidInput as cause:
        raise type(cause)(f"image '{sample.name}' ({sample.path}): {cause}") from cause
    changed = (image.width, image.height) != (sample.width, sample.height)
    if changed or (sample.sha256 and image.sha256 != sample.sha256):
        raise Damaged(
            f"image '{sample.name}' at {sample.path} has changed since the training began; "
            "put the old file back, or begin anew with another --out"
        )
    return image.pixels


class PixelCache:
    """The first images asked for, by key, up to ``most`` bytes.

    None makes room for another: all are wanted once in each round, so whatever was dropped for the
    newest would be the one that is wanted next.
    """

    def __init__(self, most: int) -> None:
        self._room = most
        self._kept: dict[int, Pixels] = {}

    def get(self, key: int, make: Callable[[], Pixels]) -> Pixels:
        """The pixels of ``key``, made where they are not kept; not to be written to."""
        pixels = self._kept.get(key)
        if pixels is None:
            pixels = make()
            if pixels.nbytes <= self._room:
                self._kept[key] = pixels
                self._room -= pixels.nbytes
        return pixels
