"""What every segmenter of SAM's kind does with prompts: check them, tell which are ambiguous."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.labeling.segmenter import Point, SegmentationPrompt
from secondlook_client.errors import InvalidInput

MAX_CLICKS = 64
"""Of one prompt; more say nothing new, and each costs time."""
OUTSIDE, INSIDE = 0, 1
"""Labels of clicks, in every SAM."""


@dataclass(frozen=True, eq=False)
class CheckedPrompt:
    """A prompt within its image."""

    box: tuple[float, float, float, float] | None
    """Pixel xyxy, clipped to the image, with an area."""
    points: NDArray[np.float32]
    """(P, 2) clicks, pixels of the image."""
    labels: NDArray[np.int64]
    """(P,) ``INSIDE`` or ``OUTSIDE``."""
    previous: NDArray[np.bool_] | None

    @property
    def ambiguous(self) -> bool:
        """Whether it may mean an object or a part of one: a lone click, as SAM's authors advise."""
        return self.box is None and self.previous is None and len(self.points) == 1


def check_prompts(
    prompts: Sequence[SegmentationPrompt], size: tuple[int, int]
) -> list[CheckedPrompt]:
    """The prompts for an image of ``size`` (width, height).

    Raises ``InvalidInput`` for one that names no object, lies outside of the image, has more than
    ``MAX_CLICKS`` clicks, or brings a mask of another size.
    """
    return [_checked(prompt, size) for prompt in prompts]


def _checked(prompt: SegmentationPrompt, size: tuple[int, int]) -> CheckedPrompt:
    clicks = [*prompt.inside, *prompt.outside]
    if prompt.box is None and prompt.previous is None and not len(prompt.inside):
        raise InvalidInput("a prompt needs a box, a click on the object, or a mask to start from")
    if len(clicks) > MAX_CLICKS:
        raise InvalidInput(f"a prompt has {len(clicks)} clicks; at most {MAX_CLICKS} are read")
    for click in clicks:
        _check_click(click, size)
    labels = [INSIDE] * len(prompt.inside) + [OUTSIDE] * len(prompt.outside)
    previous = prompt.previous
    if previous is not None and previous.shape != (size[1], size[0]):
        raise InvalidInput(
            f"the mask to start from is {previous.shape[::-1]}, its image {size}; expected a mask "
            "of the image's size"
        )
    return CheckedPrompt(
        None if prompt.box is None else _clipped(prompt.box, size),
        np.array(clicks, np.float32).reshape(-1, 2),
        np.array(labels, np.int64),
        None if previous is None else previous.astype(np.bool_),
    )


def _check_click(click: Point, size: tuple[int, int]) -> None:
    if not (len(click) == 2 and 0 <= click[0] <= size[0] and 0 <= click[1] <= size[1]):
        raise InvalidInput(
            f"the click {tuple(click)!s:.60} lies outside of the image of {size[0]} × {size[1]}"
        )


def _clipped(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        raise InvalidInput(f"expected a box of four finite numbers, got {tuple(box)!s:.80}")
    left, right = (min(max(float(x), 0.0), size[0]) for x in (box[0], box[2]))
    top, bottom = (min(max(float(y), 0.0), size[1]) for y in (box[1], box[3]))
    if right <= left or bottom <= top:
        raise InvalidInput(
            f"the box {tuple(box)!s:.80} has no area in the image of {size[0]} × {size[1]}"
        )
    return left, top, right, bottom
