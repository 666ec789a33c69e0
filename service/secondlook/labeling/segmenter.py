"""Stage three: boxes and clicks in, masks out.

A segmenter encodes an image once; each prompt after that is cheap. It knows no classes: what a
mask is of, the box or the clicks say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from secondlook.core.types import Image

Point = tuple[float, float]
"""x and y, pixels of the upright image."""


@dataclass(frozen=True, eq=False)
class ImageEncoding:
    """What a segmenter keeps of an image, to answer prompts with."""

    size: tuple[int, int]
    """Width and height of the image, pixels."""
    features: object
    """The model's own."""
    nbytes: int
    """That ``features`` take, for caches that are bounded in bytes."""


@dataclass(frozen=True, eq=False)
class SegmentationPrompt:
    """What is known of one object: a box, clicks, a mask to start from; at least one of them."""

    box: tuple[float, float, float, float] | None = None
    """Around the object, pixel xyxy."""
    inside: Sequence[Point] = ()
    """Clicks on the object."""
    outside: Sequence[Point] = ()
    """Clicks on what is not the object."""
    previous: NDArray[np.bool_] | None = None
    """(H, W) of the image: the mask that the clicks shall mend."""


@dataclass(frozen=True, eq=False)
class MaskCandidate:
    """One mask that a prompt may have meant."""

    pixels: NDArray[np.bool_]
    """(H, W) of the image."""
    quality: float
    """The IoU with the object that the model predicts, [0, 1]."""
    stability: float
    """IoU of the mask at a higher and at a lower limit, [0, 1]."""


@runtime_checkable
class Segmenter(Protocol):
    """A model that outlines objects. Implement this to plug one in.

    Both methods are called from several threads at once; a model that cannot bear that has a lock
    of its own.
    """

    name: str
    """Short name for people, e.g. ``sam``."""
    digest: str
    """Hash or version of the weights; part of every mask."""

    def encode(self, images: Sequence[Image]) -> list[ImageEncoding]:
        """Encode images, in order."""
        ...

    def segment(
        self, encoding: ImageEncoding, prompts: Sequence[SegmentationPrompt]
    ) -> list[tuple[MaskCandidate, ...]]:
        """One to three candidates of each prompt, the best predicted quality first.

        Of several, one may be the whole object, others its parts. Raises ``InvalidInput`` for a
        prompt that the model cannot take, such as one without a click where it needs one.
        """
        ...
