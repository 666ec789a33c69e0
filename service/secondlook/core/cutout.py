"""Objects cut out of an image, and masks as images."""

from PIL import Image as PILImage

from secondlook.core.masks import cropped
from secondlook.core.types import Pixels
from secondlook_client.errors import InvalidInput
from secondlook_client.masks import Mask


def cut_out(pixels: Pixels, mask: Mask) -> PILImage.Image:
    """The object in its tight box, RGBA: what is not the object is transparent.

    ``pixels`` are those of the upright image. Raises ``InvalidInput`` for an empty mask, and for
    one of another size.
    """
    height, width = pixels.shape[:2]
    if (mask.width, mask.height) != (width, height):
        raise InvalidInput(
            f"the mask has {mask.width}×{mask.height} pixels and the image {width}×{height}"
        )
    shape, left, top = cropped(mask)
    if not shape.size:
        raise InvalidInput("the mask is empty, so there is nothing to cut out")
    high, wide = shape.shape
    cut = PILImage.fromarray(pixels[top : top + high, left : left + wide]).convert("RGBA")
    cut.putalpha(PILImage.fromarray(shape).convert("L"))
    return cut


def mask_image(mask: Mask) -> PILImage.Image:
    """The mask as a grey image of its image's size: 255 is the object, 0 is not."""
    return PILImage.fromarray(mask.to_array()).convert("L")
