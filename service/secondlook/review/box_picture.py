"""A picture that asks a person about one box: near, and in its image."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from secondlook.core.boxes import Xyxy, padded_window
from secondlook.core.drawing import GAP, GROUND, INK, outline, tint
from secondlook.core.files import replacing
from secondlook.core.types import Pixels
from secondlook_client.masks import Mask

HEIGHT = 640
"""Of both views, pixels."""
WIDEST = 960
"""Of one view, pixels."""
MARGIN = 0.6
"""Around the box, a share of its sides: enough to see whether an outline is loose."""
TITLE = 34
COLOUR = (255, 64, 112)
"""Of the box: what people find at once on most images."""
OTHER, OTHER_DASH = (255, 225, 77), (6, 5)
"""Of other boxes of the class, which may mark the same object."""


def write_box_picture(
    path: Path,
    pixels: Pixels,
    box: Xyxy,
    title: str,
    others: Sequence[Xyxy] = (),
    mask: Mask | None = None,
) -> None:
    """Write the PNG ``path``: on the left the box with its surroundings, on the right the image.

    ``pixels``: (h, w, 3) uint8 RGB; ``box`` and ``others``, which are drawn dashed: pixel xyxy in
    them; ``mask``: that of the object, of the same size. Raises ``StorageFull`` and
    ``InvalidInput`` where it cannot be written.
    """
    height, width = pixels.shape[:2]
    near = _view(pixels, padded_window(box, MARGIN, width, height), box, others, mask)
    whole = _view(pixels, (0, 0, width, height), box, others, mask)
    sheet = PILImage.new("RGB", (near.width + whole.width + 3 * GAP, HEIGHT + TITLE + GAP), GROUND)
    font = ImageFont.load_default(size=18)
    ImageDraw.Draw(sheet).text((GAP, TITLE / 2), title, fill=INK, font=font, anchor="lm")
    for left, view in ((GAP, near), (near.width + 2 * GAP, whole)):
        sheet.paste(view, (left, TITLE + (HEIGHT - view.height) // 2))
    with replacing(path) as part:
        sheet.save(part, "PNG")


def _view(
    pixels: Pixels,
    window: tuple[int, int, int, int],
    box: Xyxy,
    others: Sequence[Xyxy],
    mask: Mask | None,
) -> PILImage.Image:
    """A window of the image with the boxes, scaled to ``HEIGHT``, but not wider than ``WIDEST``."""
    left, top, right, bottom = window
    factor = min(HEIGHT / (bottom - top), WIDEST / (right - left))
    size = (max(1, round((right - left) * factor)), max(1, round((bottom - top) * factor)))
    cut = PILImage.fromarray(pixels[top:bottom, left:right])
    view = cut.resize(size, PILImage.Resampling.BICUBIC)
    if mask:
        tint(view, mask, COLOUR, window)
    canvas = ImageDraw.Draw(view)
    for other in others:
        outline(canvas, _shown(other, window, factor, size), OTHER, OTHER_DASH)
    outline(canvas, _shown(box, window, factor, size), COLOUR)
    return view


def _shown(
    box: Xyxy, window: tuple[int, int, int, int], factor: float, size: tuple[int, int]
) -> Xyxy:
    """A box in a view, and inside of it: one at the border of the image would lose that side."""
    left, top, _, _ = window
    x1, y1 = (box[0] - left) * factor, (box[1] - top) * factor
    x2, y2 = (box[2] - left) * factor, (box[3] - top) * factor
    return max(x1, 1.0), max(y1, 1.0), min(x2, size[0] - 2.0), min(y2, size[1] - 2.0)
