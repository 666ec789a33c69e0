"""Images as a caller gives them: encoded bytes, or the path of a file."""

import os
from pathlib import Path

from secondlook_client.errors import UnreadableFile

ImageInput = bytes | bytearray | memoryview | str | os.PathLike[str]
"""An encoded image, or the path of its file."""


def image_bytes(image: ImageInput) -> bytes:
    """The encoded image. Raises ``UnreadableFile``."""
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    try:
        return Path(image).read_bytes()
    except OSError as cause:
        raise UnreadableFile(f"{os.fspath(image)}: {cause.strerror or cause}") from cause


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
