"""Images of a dataset on this disk: their size without decoding, their pixels, and a cache."""

import os
from collections.abc import Callable
from pathlib import Path

from PIL import Image as PILImage

from secondlook.config.settings import ImageSettings
from secondlook.core.images import DEFAULT_LIMITS, decode
from secondlook.core.types import Pixels
from secondlook.datasets.samples import Sample
from secondlook_client.errors import BadImage, Damaged, InvalidInput, NotFound

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""Suffixes that a folder is searched for, in lower case."""
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_ORIENTATION = 0x0112
_SIDEWAYS = range(5, 9)
"""EXIF orientations that swap width and height."""


def size_of(path: Path, limits: ImageSettings = DEFAULT_LIMITS) -> tuple[int, int]:
    """(width, height) in pixels of the image when upright, from its header alone.

    Raises ``BadImage``, which names the file, when it is not an image or over ``limits``.
    """
    try:
        with PILImage.open(path, formats=_FORMATS) as image:
            width, height = image.size
            sideways = image.getexif().get(_ORIENTATION, 1) in _SIDEWAYS
    except Exception as cause:  # a decoder fed with hostile bytes may raise anything
        raise BadImage(f"{path} cannot be read as an image; remove it or its entry") from cause
    if width * height > limits.max_image_pixels or max(width, height) > limits.max_image_side:
        raise BadImage(
            f"{path} has {width}×{height} pixels, more than {limits.max_image_pixels:,}; save it "
            "smaller"
        )
    return (height, width) if sideways else (width, height)


def read_pixels(sample: Sample, limits: ImageSettings = DEFAULT_LIMITS) -> Pixels:
    """(H, W, 3) uint8 RGB of a sample, upright.

    Raises ``NotFound`` when the file is gone, ``Damaged`` when its content has changed, and
    ``InvalidInput`` when it cannot be decoded; each names the image.
    """
    try:
        with sample.path.open("rb") as file:
            content = file.read(limits.max_image_bytes + 1)
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
            "put the old file back, or start a new training with another --out"
        )
    return image.pixels


class PixelCache:
    """Keeps the first images asked for, by key, up to ``max_bytes``.

    Nothing is evicted: every image is read once an epoch, so an image evicted for a newer one would
    be read again before the newer one is.
    """

    def __init__(self, max_bytes: int) -> None:
        self._room = max_bytes
        self._kept: dict[int, Pixels] = {}

    def get(self, key: int, make: Callable[[], Pixels]) -> Pixels:
        """The pixels of ``key``, from ``make`` where they are not kept; not to be written to."""
        pixels = self._kept.get(key)
        if pixels is None:
            pixels = make()
            if pixels.nbytes <= self._room:
                self._kept[key] = pixels
                self._room -= pixels.nbytes
        return pixels
