"""Images of every format, put together for tests of decoding."""

import io
import struct
import zlib

import numpy as np
from PIL import Image as PILImage

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
"""Pillow's names and options of all that is read."""


def gradient(width: int = 53, height: int = 37) -> PILImage.Image:
    """Dark to light from left to right in red, from top to bottom in green."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return PILImage.fromarray(np.stack([across, down, 0 * down], axis=2).astype(np.uint8))


def encoded(image: PILImage.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(header: bytes, body: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", body), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
