"""From a segmenter's logits to masks of the image, and back from a mask to logits.

A segmenter sees an image resized into the upper left corner of a square input, and answers with
logits on a coarse grid over that input. SAM's authors enlarge the grid to the input, cut off the
padding and enlarge the rest to the image, both bilinearly. Both steps together make each pixel a
sum of at most four cells a side; here it is summed only where a mask can be. What comes out is the
same, and a small mask on a large photo costs next to nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from secondlook.labeling.segmenter import MaskCandidate
from secondlook.models.segmentation_prompts import CheckedPrompt
from secondlook_client.errors import Damaged

Logits = NDArray[np.float32]
"""(masks, h, w) over the whole input; above 0 is the object."""

STABILITY_OFFSET = 1.0
"""Above and below 0: the limits whose masks are compared, as in SAM's mask generator."""
PROMPT_LOGIT = 10.0
"""What a mask of yes and no enters a model as, where earlier logits are expected: plus and minus
this. SAM 2 itself gives masks of people so (``_use_mask_as_output``)."""
CLICK_RADIUS = 6.0
"""Of the disc that stands for a click, pixels of the input: a cell and a half of the embedded
segmenter's logits."""
_PIXELS_PER_BLOCK = 2**16
"""Of a mask that is enlarged: what fits a processor's cache."""


@dataclass(frozen=True)
class InputFrame:
    """Where an image lies in the input of a model."""

    image: tuple[int, int]
    """Width and height of the image, pixels."""
    resized: tuple[int, int]
    """Width and height to which it is resized; it stands in the upper left corner."""
    side: int
    """Of the square input, pixels."""
    enlarged_once: bool = False
    """Logits are enlarged to the image at once, as SAM 2 does, and not to the input first."""

    def to_input(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """Points (..., 2) in pixels of the image, as pixels of the input."""
        factors = [new / old for new, old in zip(self.resized, self.image, strict=True)]
        return (points * np.array(factors)).astype(np.float32)


def longest_side_frame(width: int, height: int, side: int) -> InputFrame:
    """Of an image whose longer side is brought to ``side``, rounded as SAM's authors round."""
    scale = side / max(width, height)
    resized = (max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5)))
    return InputFrame((width, height), resized, side)


class MaskUpsampler:
    """Enlarges the logits of one image."""

    def __init__(self, frame: InputFrame, grid: int) -> None:
        """``grid``: cells a side of the logits."""
        self._size = frame.image
        sides = zip(frame.resized, frame.image, strict=True)
        self._across, self._down = (
            _enlargement(grid, resized, pixels, frame) for resized, pixels in sides
        )

    def candidates(
        self, logits: Logits, qualities: NDArray[np.floating]
    ) -> tuple[MaskCandidate, ...]:
        """Masks of the image, the best of the predicted ``qualities`` (masks,) first.

        Stability is the IoU of the masks at ``STABILITY_OFFSET`` above and below the limit (arXiv
        2304.02643, section 5); 0 for an empty mask. Raises ``Damaged`` for numbers that are not
        finite.
        """
        if not (np.isfinite(logits).all() and np.isfinite(qualities).all()):
            raise Damaged("the segmenter gives numbers that are not finite; use another checkpoint")
        order = np.argsort(-qualities, kind="stable")
        return tuple(self._candidate(logits[row], float(qualities[row])) for row in order)

    def _candidate(self, logits: NDArray[np.float32], quality: float) -> MaskCandidate:
        width, height = self._size
        pixels = np.zeros((height, width), np.bool_)  # untouched parts take no memory
        # A pixel is a mean of cells, so it lies above a limit only where one of its cells does.
        some = logits > -STABILITY_OFFSET
        rows, columns = np.flatnonzero(some.any(axis=1)), np.flatnonzero(some.any(axis=0))
        certain = possible = 0
        if len(rows):
            high = self._down.outputs_of(int(rows[0]), int(rows[-1]))
            wide = self._across.outputs_of(int(columns[0]), int(columns[-1]))
            for part, values in self._enlarged(logits, high, wide):
                pixels[part, wide] = values > 0
                certain += int(np.count_nonzero(values > STABILITY_OFFSET))
                possible += int(np.count_nonzero(values > -STABILITY_OFFSET))
        stability = certain / possible if possible else 0.0
        return MaskCandidate(pixels, min(1.0, max(0.0, quality)), stability)

    def _enlarged(
        self, logits: NDArray[np.float32], high: slice, wide: slice
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Rows of the image and their values in the columns ``wide``, block by block."""
        if high.start >= high.stop or wide.start >= wide.stop:
            return
        first, last = self._down.first[high.start], self._down.last[high.stop - 1]
        widened = self._across.part(wide).rows(logits[first : last + 1].T).T
        widened = np.ascontiguousarray(widened)
        step = max(1, _PIXELS_PER_BLOCK // (wide.stop - wide.start))
        for start in range(high.start, high.stop, step):
            part = slice(start, min(start + step, high.stop))
            yield part, self._down.part(part).rows(widened, offset=int(first))


@dataclass(frozen=True, eq=False)
class _Taps:
    """Linear resizing along one axis: each of ``n`` outputs is a weighted sum of few inputs."""

    places: NDArray[np.intp]
    """(n, taps) inputs."""
    weights: NDArray[np.float32]
    """(n, taps), not negative, with a sum of 1."""

    first: NDArray[np.intp]
    """(n,): the first input that each output takes from; it never falls."""
    last: NDArray[np.intp]
    """(n,): the last one."""

    def outputs_of(self, first: int, last: int) -> slice:
        """The outputs that take from any of the inputs ``first`` to ``last``."""
        start = np.searchsorted(self.last, first, "left")
        return slice(int(start), int(np.searchsorted(self.first, last, "right")))

    def part(self, outputs: slice) -> "_Taps":
        """The same of some outputs."""
        return _taps(self.places[outputs], self.weights[outputs])

    def rows(self, values: NDArray[np.float32], offset: int = 0) -> NDArray[np.float32]:
        """(n, …) of (inputs, …), which begin at input ``offset``.

        Not as a product of matrices: BLAS would start threads for it, which take longer than the
        sum where the cores are busy.
        """
        places = self.places - offset
        total = values[places[:, 0]] * self.weights[:, :1]
        for tap in range(1, places.shape[1]):
            term = values[places[:, tap]]
            term *= self.weights[:, tap : tap + 1]
            total += term
        return total


def _taps(places: NDArray[np.intp], weights: NDArray[np.float32]) -> _Taps:
    return _Taps(places, weights, places.min(axis=1), places.max(axis=1))


def _enlargement(cells: int, resized: int, pixels: int, frame: InputFrame) -> _Taps:
    """Along one axis, from cells of the grid to pixels of the image."""
    if frame.enlarged_once:
        return _taps(*_bilinear(cells, pixels))
    to_input, of_input = _bilinear(cells, frame.side)
    to_image, of_image = _bilinear(resized, pixels)
    places = to_input[to_image].reshape(pixels, 4)
    weights = (of_image[..., None] * of_input[to_image]).reshape(pixels, 4)
    used = weights.any(axis=0)
    return _taps(places[:, used], weights[:, used])


def _bilinear(cells: int, pixels: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Places and weights (pixels, 2) of bilinear resizing without antialiasing, edges repeated.

    As ``torch.nn.functional.interpolate(align_corners=False)``.
    """
    where = ((np.arange(pixels) + 0.5) * (cells / pixels) - 0.5).clip(0)
    first = where.astype(np.intp).clip(max=cells - 1)
    share = (where - first).astype(np.float32)
    places = np.stack([first, (first + 1).clip(max=cells - 1)], axis=1)
    return places, np.stack([1 - share, share], axis=1)


def logits_of(mask: NDArray[np.bool_], frame: InputFrame, grid: int) -> NDArray[np.float32]:
    """(grid, grid) logits that stand for ``mask`` (H, W), for a model that mends an earlier one.

    A cell that the mask covers in part lies between ``PROMPT_LOGIT`` and its negative; the padding
    is no object.
    """
    canvas = PILImage.fromarray(mask.astype(np.uint8) * 255)
    sized = np.asarray(canvas.resize(frame.resized, PILImage.Resampling.BOX), np.float32) / 255
    down = _coverage(frame.resized[1], frame.side, grid)
    across = _coverage(frame.resized[0], frame.side, grid)
    share = down @ sized @ across.T
    return ((2 * share - 1) * PROMPT_LOGIT).astype(np.float32)


def prompt_as_logits(prompt: CheckedPrompt, frame: InputFrame, grid: int) -> NDArray[np.float32]:
    """(grid, grid) logits that stand for a whole prompt: its mask, else its filled box, with a disc
    at each click.

    For a model that learnt prompts so, beside its tokens: networks that segment by clicks are told
    of them by discs (RITM, arXiv 2102.06583), from which small ones learn much faster than from
    codes of places.
    """
    if prompt.previous is not None:
        logits = logits_of(prompt.previous, frame, grid)
    elif prompt.box is not None:
        corners = frame.to_input(np.array(prompt.box).reshape(2, 2))
        left, top, right, bottom = corners.ravel().tolist()
        down, across = (_share(*span, frame, grid) for span in ((top, bottom), (left, right)))
        logits = ((2 * np.outer(down, across) - 1) * PROMPT_LOGIT).astype(np.float32)
    else:
        logits = np.full((grid, grid), -PROMPT_LOGIT, np.float32)
    middles = (np.arange(grid, dtype=np.float32) + 0.5) * (frame.side / grid)
    for (x, y), inside in zip(frame.to_input(prompt.points), prompt.labels, strict=True):
        near = (middles[None] - x) ** 2 + (middles[:, None] - y) ** 2 <= CLICK_RADIUS**2
        logits[near] = PROMPT_LOGIT if inside else -PROMPT_LOGIT
    return logits


def _share(low: float, high: float, frame: InputFrame, grid: int) -> NDArray[np.float32]:
    """(grid,): the share of each cell along one axis that lies between two places."""
    size = frame.side / grid
    edges = np.arange(grid + 1, dtype=np.float32) * size
    return (np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)).clip(0) / size


def _coverage(pixels: int, side: int, cells: int) -> NDArray[np.float32]:
    """(cells, pixels): the share of each cell, of ``side / cells`` pixels, that a pixel covers."""
    edges = np.arange(cells + 1)[:, None] * (side / cells)
    left = np.arange(pixels)[None]
    covered = np.minimum(edges[1:], left + 1) - np.maximum(edges[:-1], left)
    return (covered.clip(0) * (cells / side)).astype(np.float32)
