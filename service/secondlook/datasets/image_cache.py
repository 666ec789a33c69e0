"""Images of a dataset on this disk: their size without decoding, their pixels, and a cache."""

import os
from collections.abc import Callable
from pathlib import Path

from secondlook.config.settings import ImageSettings
from secondlook.core.images import DEFAULT_LIMITS, decode, upright_size
from secondlook.core.types import Pixels
from secondlook.datasets.samples import Sample
from secondlook_client.errors import BadImage, Damaged, InvalidInput, NotFound, SecondlookError


def size_of(path: Path, limits: ImageSettings = DEFAULT_LIMITS) -> tuple[int, int]:
    """(width, height) in pixels of the image when upright, from its header alone.

    Raises ``NotFound`` and ``BadImage``, which do not name the file.
    """
    try:
        if not path.is_file():  # a named pipe would block whoever opens it
            raise NotFound("it is missing")
        return upright_size(path, limits)
    except (OSError, ValueError) as cause:
        reason = getattr(cause, "strerror", None) or "its name is not valid"
        raise BadImage(f"it cannot be read: {reason}") from cause


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


def reason_of(failure: SecondlookError) -> str:
    """Why ``read_pixels`` failed, without the name of the image."""
    cause = failure.__cause__
    if isinstance(cause, SecondlookError):
        return str(cause)
    if isinstance(cause, OSError):
        return f"it cannot be read: {os.strerror(cause.errno or 0)}"
    return str(failure)


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
