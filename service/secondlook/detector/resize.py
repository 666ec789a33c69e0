"""From a picture of any size to the pixels that a student sees."""

import numpy as np
from PIL import Image as PILImage

from secondlook.labels import Pixels


def stretch(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """The picture stretched to ``size`` (width, height), (H, W, 3) uint8, contiguous.

    The one way in which pictures reach a student: training's evaluation, the parity check and the
    device share it, since another filter costs a point of mAP. Far larger pictures are first
    averaged down by whole factors (``reducing_gap``), which is several times faster than filtering
    every pixel and hard to tell from it.
    """
    width, height = size
    if pixels.shape[:2] == (height, width):
        return np.ascontiguousarray(pixels)
    picture = PILImage.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(picture.resize(size, PILImage.Resampling.BILINEAR, reducing_gap=2.0))
