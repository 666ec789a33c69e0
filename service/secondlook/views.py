"""What a verifier is shown of a box: the crop, the crop in its context, or the whole picture."""

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw

from secondlook.boxes import padded_window
from secondlook.labels import Image, Pixels, View

CROP_MARGIN = 0.1
CONTEXT_MARGIN = 0.5
"""On each side, so that a context view is twice as wide and high as its box."""
OUTLINE = (255, 0, 0)
MAX_SIDE = 2048
"""A view is never enlarged beyond this, however thin its box."""


def render(
    image: Image, box: tuple[float, float, float, float], view: View, min_side: int
) -> Pixels:
    """The pixels that a verifier sees, (h, w, 3) uint8 RGB.

    Enlarged (bicubic, aspect kept) until the shorter side has ``min_side`` pixels: several
    vision models fail on, or see nothing in, pictures of fewer than about 32 pixels.
    """
    if view is View.IMAGE:
        return _enlarge(image.pixels, min_side)
    margin = CROP_MARGIN if view is View.CROP else CONTEXT_MARGIN
    left, top, right, bottom = padded_window(box, margin, image.width, image.height)
    window = image.pixels[top:bottom, left:right]
    if view is View.CONTEXT:
        window = _outline(window, (box[0] - left, box[1] - top, box[2] - left, box[3] - top))
    return _enlarge(np.ascontiguousarray(window), min_side)


def _outline(window: Pixels, box: tuple[float, float, float, float]) -> Pixels:
    drawn = PILImage.fromarray(window)
    width = max(1, round(min(window.shape[:2]) / 100))
    # Whole pixels inside the window: a box at the picture's border would lose that side.
    left, top = min(round(box[0]), drawn.width - 1), min(round(box[1]), drawn.height - 1)
    right = max(left, min(round(box[2]), drawn.width) - 1)
    bottom = max(top, min(round(box[3]), drawn.height) - 1)
    ImageDraw.Draw(drawn).rectangle((left, top, right, bottom), outline=OUTLINE, width=width)
    return np.asarray(drawn)


def _enlarge(pixels: Pixels, min_side: int) -> Pixels:
    height, width = pixels.shape[:2]
    factor = min(min_side / min(height, width), MAX_SIDE / max(height, width))
    if factor <= 1:
        return pixels
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(PILImage.fromarray(pixels).resize(size, PILImage.Resampling.BICUBIC))
