"""``SegmentationClass`` and ``SegmentationObject`` of Pascal VOC: masks as palette images.

A pixel is the number of its class (by its place in ``labelmap.txt``, 0 is the background) or of its
object (by its place in the annotation, from 1), in VOC's colours. 255 is void, which evaluation and
trainers skip: the masks of unsure labels, and what lies in the box of a label without a mask and in
no mask. Where masks overlap the smaller one is seen; an image of pixels has no place for both. So
is an object or class above the 254th void: a byte holds no more.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image as PILImage

from secondlook.core.masks import box_mask, cropped
from secondlook_client.values import Judgement, LabelResult, Outcome

CLASS_FOLDER, OBJECT_FOLDER = "SegmentationClass", "SegmentationObject"
VOID = 255


def object_images(
    result: LabelResult, classes: Sequence[str]
) -> tuple[PILImage.Image, PILImage.Image]:
    """The classes and the objects of an image's labels, in that order."""
    shape = result.height, result.width
    of_class, of_object = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    kept = [j for j in result.judgements if j.outcome is not Outcome.REJECT]
    sizes = [judgement.mask.area if judgement.mask else -1 for judgement in kept]
    # Boxes without a mask first, which everything covers; then the largest masks.
    ordered = sorted(range(len(kept)), key=lambda at: (sizes[at] >= 0, -sizes[at]))
    for at in ordered:
        judgement = kept[at]
        pixels, left, top = cropped(
            judgement.mask or box_mask(judgement.box, result.width, result.height)
        )
        place = slice(top, top + pixels.shape[0]), slice(left, left + pixels.shape[1])
        class_number, number = classes.index(judgement.class_name) + 1, at + 1
        void = _is_void(judgement) or max(class_number, number) >= VOID
        of_class[place][pixels] = VOID if void else class_number
        of_object[place][pixels] = VOID if void else number
    return _coloured(of_class), _coloured(of_object)


def _is_void(judgement: Judgement) -> bool:
    return judgement.mask is None or judgement.outcome is Outcome.UNSURE


def _coloured(numbers: np.ndarray) -> PILImage.Image:
    image = PILImage.fromarray(numbers)
    image.putpalette(_PALETTE)  # makes it one of palette numbers
    return image


def _palette() -> list[int]:
    """VOC's colours: the bits of a number spread over the high bits of red, green and blue."""
    colours = []
    for number in range(256):
        for channel in range(3):
            bits = (number >> (3 * place + channel) & 1 for place in range(3))
            colours.append(sum(bit << (7 - place) for place, bit in enumerate(bits)))
    return colours


_PALETTE = _palette()
