"""Embeddings: an image, or the crop of a box, as one unit vector; alike images are near.

An embedder is another model than the ones that label. It knows no classes, so what is alike is
for it to say; ``selection`` chooses images by it.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from secondlook.core.boxes import Xyxy, padded_window
from secondlook.core.types import Image
from secondlook_client.errors import BadSetting

Vectors = NDArray[np.float32]
"""(N, D) float32, each of length 1."""

BOX_MARGIN = 0.1
"""Around a box, a share of its sides: as the verifier sees its crop."""
LEAST_LENGTH = 1e-6
"""A shorter vector has no direction."""


@runtime_checkable
class Embedder(Protocol):
    """A model that turns images into vectors. Implement this to plug one in."""

    name: str
    """Short name for people, e.g. ``dinov2-small``."""
    digest: str
    """Hash or version of the weights; vectors of two digests are never compared."""
    dimensions: int
    """Length D of its vectors."""

    def embed(self, images: Sequence[Image]) -> Vectors:
        """(N, D) float32 unit vectors, in the order of the images.

        The vector of an image does not depend on the others of the call.
        """
        ...


def model_of(embedder: Embedder) -> str:
    """What its vectors are kept under: ``name@digest``."""
    return f"{embedder.name}@{embedder.digest}"


def embed_checked(embedder: Embedder, images: Sequence[Image]) -> Vectors:
    """The vectors of images, checked: (N, D) float32 of length 1.

    Raises ``BadSetting`` for an embedder that gives another shape, numbers that are not finite, or
    vectors without a length.
    """
    if not images:
        return np.zeros((0, embedder.dimensions), np.float32)
    found = np.asarray(embedder.embed(images))
    expected = (len(images), embedder.dimensions)
    if found.shape != expected:
        raise BadSetting(
            f"embedder '{embedder.name}' gave vectors of shape {found.shape}, expected {expected}"
        )
    return unit_vectors(found, f"embedder '{embedder.name}'")


def unit_vectors(vectors: NDArray[np.floating], source: str) -> Vectors:
    """(N, D) vectors brought to length 1, as float32.

    Raises ``BadSetting``, which names ``source``, for numbers that are not finite and for vectors
    without a length.
    """
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    if not (np.isfinite(lengths).all() and (lengths > LEAST_LENGTH).all()):
        raise BadSetting(
            f"{source} gave a vector that is zero or not finite; give --dtype float32, or another "
            "embedder"
        )
    return (wide / lengths[:, None]).astype(np.float32)


def box_crops(image: Image, boxes: Sequence[Xyxy]) -> Iterator[Image]:
    """The crop of each box with ``BOX_MARGIN`` around it, cut to the image."""
    for box in boxes:
        left, top, right, bottom = padded_window(box, BOX_MARGIN, image.width, image.height)
        pixels = np.ascontiguousarray(image.pixels[top:bottom, left:right])
        yield Image(pixels, image.sha256, image.name)
