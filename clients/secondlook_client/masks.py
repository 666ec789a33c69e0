"""Masks of objects: COCO's compressed run-length code, and what needs no more than numpy.

A mask travels, is stored and is exported as that code, so most programs never expand it. The code
is that of the COCO API (``pycocotools.mask``): lengths of runs column by column, background first,
each from the third on less the one two before it, in groups of five bits. numpy is loaded by the
first function that needs it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from secondlook_client.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_PIXELS = 2**28
"""Of an image that a mask may belong to."""
MAX_COUNTS = 2**20
"""Characters of a code: more runs than that no outline of an object has."""
_FIRST, _LAST = 48, 111
"""Characters of the code: six bits each, of which the highest says that another follows."""
_MAX_GROUPS = 7
"""Characters of one number: 35 bits."""


@dataclass(frozen=True)
class Mask:
    """The pixels of one object in the upright image.

    Raises ``InvalidInput`` for sizes and codes out of bounds. That the runs fill the image exactly
    is checked where they are read: by ``runs``, and by all that needs them.
    """

    width: int
    height: int
    """Pixels of the image, after rotation by EXIF."""
    counts: str
    """COCO's compressed run-length code, ASCII."""

    def __post_init__(self) -> None:
        for side in (self.width, self.height):
            if not isinstance(side, int) or side < 1:
                raise InvalidInput(f"a mask needs sides of at least one pixel, got {side!r:.40}")
        if self.width * self.height > MAX_PIXELS:
            raise InvalidInput(
                f"a mask of {self.width} × {self.height} pixels; at most {MAX_PIXELS:,}"
            )
        if not isinstance(self.counts, str) or not self.counts.isascii():
            raise InvalidInput("the run-length code of a mask is not ASCII text")
        if len(self.counts) > MAX_COUNTS:
            raise InvalidInput(
                f"the run-length code of a mask has {len(self.counts):,} characters; at most "
                f"{MAX_COUNTS:,}"
            )

    @classmethod
    def from_array(cls, pixels: Any) -> "Mask":
        """The code of ``pixels`` (H, W), of which everything but zero is the object."""
        import numpy as np

        array = np.asarray(pixels)
        if array.ndim != 2 or not array.size:
            raise InvalidInput(f"expected a mask of shape (height, width), got {array.shape}")
        height, width = array.shape
        columns = np.flatnonzero(array.any(axis=0))
        if not columns.size:
            return cls(width, height, _encode(np.array([array.size])))
        # Between the first and the last column of the object only: it may be small on a photo.
        first, behind = int(columns[0]), int(columns[-1]) + 1
        flat = (array[:, first:behind] != 0).ravel(order="F")
        changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        ends = [0] if flat[0] else [], changes, [flat.size] if flat[-1] else []
        edges = np.concatenate([[0], np.concatenate(ends) + first * height, [array.size]])
        runs = np.diff(edges).astype(np.int64)
        return cls(width, height, _encode(runs if runs[-1] else runs[:-1]))

    @classmethod
    def from_runs(cls, width: int, height: int, runs: Iterable[int]) -> "Mask":
        """The code of lengths of runs, column by column, background first (0 where there is
        none); COCO's uncompressed ``counts``."""
        import numpy as np

        lengths = np.array([*runs])
        if lengths.size and lengths.dtype.kind not in "iu":
            raise InvalidInput("expected whole numbers of pixels as the lengths of runs")
        _check_runs(lengths, width * height)
        return cls(width, height, _encode(lengths.astype(np.int64)))

    @cached_property
    def runs(self) -> "NDArray[np.int64]":
        """Lengths of the runs, column by column, background first; read-only. Raises
        ``InvalidInput`` for a code that is damaged or of another size."""
        lengths = _decode(self.counts)
        _check_runs(lengths, self.width * self.height)
        lengths.flags.writeable = False
        return lengths

    def to_array(self) -> "NDArray[np.bool_]":
        """(H, W) bool; True is the object. Raises as ``runs`` does."""
        import numpy as np

        runs = self.runs
        inside = np.arange(len(runs)) % 2 == 1
        return np.repeat(inside, runs).reshape((self.height, self.width), order="F")

    def check(self) -> None:
        """Raises ``InvalidInput`` for a code that is damaged or of another size."""
        _check_runs(_decode(self.counts), self.width * self.height)

    @property
    def area(self) -> int:
        """Pixels of the object. Raises as ``runs`` does."""
        return int(self.runs[1::2].sum())

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """The tight box, pixel xyxy; None for an empty mask. Raises as ``runs`` does."""
        runs = self.runs
        ends = runs.cumsum()
        first, last = (ends - runs)[1::2][runs[1::2] > 0], ends[1::2][runs[1::2] > 0] - 1
        if not len(first):
            return None
        left, right = first // self.height, last // self.height
        top, bottom = first % self.height, last % self.height
        whole = left != right  # such a run reaches the lower end of one column and the next one
        low = 0 if whole.any() else int(top.min())
        high = self.height - 1 if whole.any() else int(bottom.max())
        return float(left.min()), float(low), float(right.max() + 1), float(high + 1)

    def to_coco(self) -> dict[str, Any]:
        """COCO's object: ``size`` [height, width] and ``counts``."""
        return {"size": [self.height, self.width], "counts": self.counts}


@dataclass(frozen=True)
class Segmentation:
    """The mask of a box, with what its model said of it."""

    mask: Mask
    quality: float
    """The IoU with the object that the model predicts, [0, 1]."""
    stability: float
    """IoU of the mask at a higher and at a lower limit, [0, 1]: near one where the edge is
    certain (arXiv 2304.02643, section 5)."""
    model: str
    """Name and digest of the segmenter; ``person:NAME`` where a person outlined it."""


def _check_runs(lengths: "NDArray[Any]", pixels: int) -> None:
    # Each before their sum, which could overflow.
    sound = not lengths.size or (lengths.min() >= 0 and lengths.max() <= pixels)
    if not sound or int(lengths.sum()) != pixels:
        filled = f"{int(lengths.sum())} of " if sound else "not "
        raise InvalidInput(
            f"the run-length code of a mask does not fill its image: {filled}{pixels} "
            "pixels; it is damaged, or of an image of another size"
        )


def _encode(lengths: "NDArray[np.int64]") -> str:
    import numpy as np

    numbers = lengths.copy()
    numbers[3:] -= lengths[1:-2]
    shifts = 5 * np.arange(_MAX_GROUPS)
    bits = (numbers[:, None] >> shifts) & 31
    more = (numbers[:, None] >> (shifts + 5)) != np.where(bits & 16, -1, 0)
    used = np.ones(more.shape, dtype=bool)
    used[:, 1:] = np.logical_and.accumulate(more[:, :-1], axis=1)
    codes = bits + 32 * more + _FIRST
    return codes[used].astype(np.uint8).tobytes().decode("ascii")


def _decode(counts: str) -> "NDArray[np.int64]":
    """Lengths of the runs. In whole arrays: a code of 1 MB takes a plain loop two seconds."""
    import numpy as np

    codes = np.frombuffer(counts.encode("ascii"), dtype=np.uint8)
    if not codes.size:
        return np.zeros(0, dtype=np.int64)
    if codes.min() < _FIRST or codes.max() > _LAST:
        raise InvalidInput("the run-length code of a mask holds characters that none has")
    bits = codes.astype(np.int64) - _FIRST
    ends = np.flatnonzero((bits & 32) == 0)
    if not len(ends) or ends[-1] != len(bits) - 1:
        raise InvalidInput("the run-length code of a mask ends in the middle of a number")
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = np.arange(len(bits)) - np.repeat(starts, ends - starts + 1)
    if places.max() >= _MAX_GROUPS:
        raise InvalidInput("the run-length code of a mask holds a number that is too large")
    lengths = np.add.reduceat((bits & 31) << (5 * places), starts)
    lengths -= np.where(bits[ends] & 16, 1 << (5 * (places[ends] + 1)), 0)
    lengths[1::2] = lengths[1::2].cumsum()  # each is stored less the one two before it
    lengths[2::2] = lengths[2::2].cumsum()
    return lengths
