"""Masks and polygons, each made of the other without loss where the format allows it.

``mask_polygons`` walks along the borders of the pixels, so its corners are whole numbers, and
whoever fills the polygon by the even-odd rule gets the very same mask back. A polygon has no holes:
each is joined to the line around it by a slit, which is walked there and back and has no width.
``mask_from_polygons`` fills polygons as the COCO API does, to the pixel.

Programs that paint the corners too (OpenCV's ``fillPoly``) make an object one pixel larger on its
right and lower sides; no choice of corners could help that.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook_client.errors import InvalidInput
from secondlook_client.masks import Mask

Polygon = NDArray[np.int64]
"""(N, 2) x and y of the corners, pixels of the image: (0, 0) is the upper left corner of the first
pixel. The last corner is joined to the first."""

MAX_CORNERS = 200_000
"""Of all polygons of one mask: only noise has more."""
MAX_STEPS = 2_000_000
"""Fifths of a pixel along the lines of one polygon; bounds the memory to some 200 MB."""
_FIFTHS = 5
"""The COCO API fills polygons on a grid of fifths of a pixel."""
_MIDDLE = 2
"""The fifth at which a pixel's own centre is."""


def mask_polygons(mask: Mask) -> list[Polygon]:
    """A polygon for each part of the mask (pixels that share a side), its holes joined by slits.

    Each begins at its second corner: an upright rectangle begins at its upper right one, so that it
    can be told from the outline of a box. None for an empty mask. Raises ``InvalidInput`` for a
    mask with more than ``MAX_CORNERS`` corners, and for one that is damaged.
    """
    border = _Border.of(mask)
    return [border.polygon(start) for start in border.parts]


def mask_polygon(mask: Mask) -> Polygon:
    """The whole mask as one polygon, its parts joined by slits too; (0, 2) for an empty mask.

    Raises as ``mask_polygons`` does.
    """
    parts = mask_polygons(mask)
    if len(parts) < 2:
        return parts[0] if parts else np.empty((0, 2), np.int64)
    closed = [np.concatenate([part, part[:1]]) for part in parts]
    back = [part[:1] for part in parts[-2::-1]]
    return np.concatenate([*closed, *back])


def mask_rings(mask: Mask) -> list[Polygon]:
    """Every closed line of the mask's border, holes by themselves; for drawing, even-odd.

    Raises as ``mask_polygons`` does.
    """
    border = _Border.of(mask)
    return [border.ring(start) for start in (*border.parts, *border.holes)]


def mask_from_polygons(polygons: Sequence[Any], width: int, height: int) -> Mask:
    """What lies in at least one of the polygons, to the pixel as the COCO API has it.

    ``polygons``: (N, 2) x and y each, pixels of the image of that size. Raises ``InvalidInput`` for
    fewer than three corners and too many of them, for what is no finite number, and for corners
    further outside of the image than it is large.
    """
    corners = [_checked(polygon, width, height) for polygon in polygons]
    if sum(map(len, corners)) > MAX_CORNERS:
        raise InvalidInput(f"the polygons of a mask have more than {MAX_CORNERS:,} corners")
    size = width * height
    changes = [_filled(polygon, width, height) for polygon in corners]
    found = changes[0] if len(changes) == 1 else _united(changes, size)
    # Runs begin with the background, of which there is none where the first pixel is inside.
    first = [0, 0] if len(found) and not found[0] else [0]
    inner = found[(found > 0) & (found < size)]
    runs = np.diff(np.concatenate([np.array(first, np.int64), inner, np.array([size])]))
    return Mask.from_runs(width, height, runs.tolist())


def plain_mask(width: int, height: int, runs: Sequence[int]) -> Mask:
    """The mask of runs that may be of no length, as others write them; equal masks are equal here.

    Raises ``InvalidInput`` for runs that do not fill the image.
    """
    mask = Mask.from_runs(width, height, runs)
    if all(runs[1:]):
        return mask
    firsts, ends = _object_runs(mask)
    edges = np.stack([firsts, ends], axis=1).ravel()
    last = [] if len(edges) and edges[-1] == width * height else [width * height]
    return Mask.from_runs(width, height, np.diff([0, *edges.tolist(), *last]).tolist())


def box_mask(box: Sequence[float], width: int, height: int) -> Mask:
    """The pixels of an image of that size that a box, pixel xyxy, touches; at least one."""
    left = min(max(math.floor(box[0]), 0), width - 1)
    top = min(max(math.floor(box[1]), 0), height - 1)
    right = min(max(math.ceil(box[2]), left + 1), width)
    lower = min(max(math.ceil(box[3]), top + 1), height)
    inside, columns = lower - top, right - left
    if inside == height:  # whole columns are one run
        runs = [left * height, columns * height]
    else:
        between = [inside, height - inside] * (columns - 1)
        runs = [left * height + top, *between, inside]
    after = (width - right) * height + height - lower
    return Mask.from_runs(width, height, [*runs, after] if after else runs)


def cropped(mask: Mask) -> tuple[NDArray[np.bool_], int, int]:
    """The mask inside of its tight box, (h, w) bool, and that box's left and upper edge.

    (0, 0) for an empty mask. Takes memory of the object's size, not of the image's. Raises
    ``InvalidInput`` for a damaged mask.
    """
    columns, tops, bottoms = _by_column(mask)
    if not len(columns):
        return np.zeros((0, 0), np.bool_), 0, 0
    left, top = int(columns[0]), int(tops.min())
    height, width = int(bottoms.max()) - top, int(columns[-1]) - left + 1
    steps = np.zeros(width * height + 1, np.int8)
    begin = (columns - left) * height - top
    np.add.at(steps, begin + tops, 1)
    np.add.at(steps, begin + bottoms, -1)
    pixels = np.cumsum(steps[:-1], dtype=np.int8).view(np.bool_)
    return pixels.reshape((height, width), order="F"), left, top


def simplified(ring: Polygon, tolerance: float) -> Polygon:
    """The corners that keep every other one within ``tolerance`` pixels of the line; at least 3.

    By Douglas and Peucker (Cartographica 10, 1973).
    """
    if len(ring) <= 3:
        return ring
    far = int(((ring - ring[0]) ** 2).sum(axis=1).argmax())
    kept = {0, far}
    closed = np.concatenate([ring, ring[:1]])
    waiting = [(0, far), (far, len(ring))]
    while waiting:
        first, last = waiting.pop()
        if last - first < 2:
            continue
        (x, y), (dx, dy) = closed[first], closed[last] - closed[first]
        inner = closed[first + 1 : last]
        across = np.abs((inner[:, 0] - x) * dy - (inner[:, 1] - y) * dx)
        at = int(across.argmax())
        if across[at] > tolerance * math.hypot(dx, dy):
            kept.add(first + 1 + at)
            waiting += [(first, first + 1 + at), (first + 1 + at, last)]
    return ring[sorted(kept)] if len(kept) > 2 else ring[[0, len(ring) // 3, 2 * len(ring) // 3]]


@dataclass(frozen=True, eq=False)
class _Border:
    """The corners of a mask's outline in the order of reading, and the lines that join them.

    On each row they are joined in pairs, the first with the second, so the partner of corner n is
    n ^ 1. Where two pixels touch by a corner alone, that corner is there twice.
    """

    corners: Polygon
    xs: list[int]
    ys: list[int]
    vertical: list[int]
    """The corner at the other end of each corner's vertical line."""
    parts: list[list[int]]
    """Every second corner, in order, of the line around each part; the partners are between them.
    The first one is the first in the order of reading."""
    holes: list[list[int]]
    slits: dict[int, list[int]]
    """By the left corner of a horizontal line: the first corners of the holes that hang from it,
    from left to right."""

    @classmethod
    def of(cls, mask: Mask) -> "_Border":
        """Raises ``InvalidInput`` for a damaged mask, and for one with too many corners."""
        columns, tops, bottoms = _by_column(mask)
        if not len(columns):
            return cls(np.empty((0, 2), np.int64), [], [], [], [], [], {})
        x, y, hollow, vertical = _corners(columns, tops, bottoms, mask.width, mask.height)
        if len(x) > MAX_CORNERS:
            raise InvalidInput(
                f"the outline of a mask has {len(x):,} corners; at most {MAX_CORNERS:,}: it is "
                "noise rather than an object, and only run-length codes can hold it"
            )
        xs, ys, below = x.tolist(), y.tolist(), vertical.tolist()
        parts: list[list[int]] = []
        holes: list[list[int]] = []
        seen = bytearray(len(xs))
        for start in range(0, len(xs), 2):
            if not seen[start]:
                line, one = [], start
                while not seen[one]:
                    line.append(one)
                    seen[one] = seen[one ^ 1] = 1
                    one = below[one ^ 1]
                (holes if hollow[start] else parts).append(line)
        slits: dict[int, list[int]] = {}
        if holes:
            rows = (y * (mask.width + 1) + x).tolist()
            lower = (columns * (mask.height + 1) + bottoms).tolist()
            for hole, *_ in holes:
                # Straight up from the hole's first corner, to the upper end of that column's run.
                run = bisect_left(lower, xs[hole] * (mask.height + 1) + ys[hole])
                above = int(tops[run]) * (mask.width + 1) + xs[hole]
                slits.setdefault((bisect_right(rows, above) - 1) & ~1, []).append(hole)
            for hanging in slits.values():
                hanging.sort(key=xs.__getitem__)
        return cls(np.stack([x, y], axis=1), xs, ys, below, parts, holes, slits)

    def ring(self, line: list[int]) -> Polygon:
        """One closed line from its second corner on, without the holes in it."""
        first = np.array(line)
        places = np.empty(2 * len(first), np.int64)
        places[0::2] = first ^ 1
        places[1:-1:2], places[-1] = first[1:], first[0]
        return self.corners[places]

    def polygon(self, line: list[int]) -> Polygon:
        """The line around a part, from its second corner on, with the holes in it."""
        if not self.slits:
            return self.ring(line)
        found: list[tuple[int, int]] = []
        lines = [self._line(line[0])]
        while lines:
            for x, y, hole in lines[-1]:
                if not found or found[-1] != (x, y):
                    found.append((x, y))
                if hole >= 0:
                    lines.append(self._line(hole))
                    break
            else:
                lines.pop()
        # The first corner stands at the end, where the line was closed.
        return np.array(found[1:], np.int64)

    def _line(self, start: int) -> Iterator[tuple[int, int, int]]:
        """The corners of a closed line, the first one again at its end, and where a hole hangs
        the place and that hole's first corner (-1 elsewhere)."""
        xs, ys, slits = self.xs, self.ys, self.slits
        one = start
        while True:
            other = one ^ 1
            yield xs[one], ys[one], -1
            hanging = slits.get(min(one, other), ())
            for hole in hanging if one < other else reversed(hanging):
                yield xs[hole], ys[one], hole
                yield xs[hole], ys[one], -1
            yield xs[other], ys[other], -1
            one = self.vertical[other]
            if one == start:
                yield xs[one], ys[one], -1
                return


def _object_runs(mask: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each run of the object begins and ends (exclusive), counted column by column."""
    runs = mask.runs
    ends = runs.cumsum()[1::2]
    lengths = runs[1::2]
    firsts = ends - lengths
    if not lengths.all():
        firsts, ends = firsts[lengths > 0], ends[lengths > 0]
    apart = firsts[1:] > ends[:-1]
    if not apart.all():  # a background of no length between them
        firsts = firsts[np.concatenate([[True], apart])]
        ends = ends[np.concatenate([apart, [True]])]
    return firsts, ends


def _by_column(
    mask: Mask,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Column, upper and lower end (exclusive) of each run, those over several columns divided."""
    firsts, ends = _object_runs(mask)
    height = mask.height
    columns, lasts = firsts // height, (ends - 1) // height
    tops, bottoms = firsts % height, (ends - 1) % height + 1
    if (columns != lasts).any():
        counts = lasts - columns + 1
        places = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        tops = np.where(places == 0, np.repeat(tops, counts), 0)
        ending = places == np.repeat(counts, counts) - 1
        bottoms = np.where(ending, np.repeat(bottoms, counts), height)
        columns = np.repeat(columns, counts) + places
    return columns, tops, bottoms


def _corners(
    columns: NDArray[np.int64],
    tops: NDArray[np.int64],
    bottoms: NDArray[np.int64],
    width: int,
    height: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """x and y of the corners in the order of reading, whether the pixel to the lower right of each
    is outside, and the corner at the other end of each vertical line.

    Each run has a line above and one below it, each with a left and a right end. Where a right end
    meets a left end, the line goes on if both are upper or both are lower ends of runs; else two
    pixels touch by that corner, and it is a corner of both.
    """
    stride = height + 1
    upper, lower = columns * stride + tops, columns * stride + bottoms
    # A key and what it is in one number: 0 and 1 the left ends of an upper and a lower line, 2 and
    # 3 the right ends.
    ends = (upper * 4, lower * 4 + 1, (upper + stride) * 4 + 2, (lower + stride) * 4 + 3)
    packed = np.concatenate(ends)
    packed.sort()
    keys, kind = packed >> 2, packed & 3
    twice = keys[1:] == keys[:-1]
    straight = twice & ((kind[1:] ^ kind[:-1]) & 1 == 0)
    kept = np.ones(len(keys), np.bool_)
    kept[1:] ^= straight
    kept[:-1] ^= straight
    second = np.zeros(len(keys), np.bool_)
    second[1:] = twice
    keys, kind, second = keys[kept], kind[kept], second[kept]
    hollow = (kind == 1) | (kind == 2)
    x, y = np.divmod(keys, stride)
    # Of a corner that is there twice the first one has the line upwards; which of the lines to the
    # left and right it has follows from where the two pixels are.
    by_row = np.argsort((y * (width + 1) + x) * 2 + (second ^ hollow))
    place = np.empty_like(by_row)
    place[by_row] = np.arange(len(by_row))
    vertical = np.empty_like(by_row)
    vertical[place[0::2]], vertical[place[1::2]] = place[1::2], place[0::2]
    return x[by_row], y[by_row], hollow[by_row], vertical


def _checked(polygon: Any, width: int, height: int) -> NDArray[np.float64]:
    try:
        corners = np.asarray(polygon, np.float64)
    except (ValueError, TypeError, OverflowError):
        raise InvalidInput("expected a polygon as a list of x and y in pixels") from None
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise InvalidInput(
            f"expected a polygon of 3 corners and more, each x and y, got {corners.shape}"
        )
    size = np.array([width, height])
    if not ((corners >= -size) & (corners <= 2 * size)).all():  # false for NaN too
        raise InvalidInput(
            f"a polygon has corners far outside of its image of {width}×{height} pixels, or such "
            "as are no numbers"
        )
    return corners


def _filled(polygon: NDArray[np.float64], width: int, height: int) -> NDArray[np.int64]:
    """Where the pixels, counted column by column, change between outside and inside, ascending.

    The same as ``rleFrPoly`` of the COCO API (maskApi.c), whose lines are points a fifth of a pixel
    apart, for all points at once.
    """
    grid = np.trunc(polygon * _FIFTHS + 0.5).astype(np.int64)
    start, end = grid, np.roll(grid, -1, axis=0)
    length = np.abs(end - start)
    flat = length[:, 0] >= length[:, 1]
    turned = np.where(flat, start[:, 0] > end[:, 0], start[:, 1] > end[:, 1])
    low = np.where(turned[:, None], end, start)
    across = np.where(turned[:, None], start, end) - low
    steps = length.max(axis=1)
    if steps.sum() > MAX_STEPS:
        raise InvalidInput("a polygon has too many and too long lines for an outline")
    slope = np.where(flat, across[:, 1], across[:, 0]) / np.maximum(steps, 1)
    points = steps + 1
    line = np.repeat(np.arange(len(grid)), points)
    at = np.arange(len(line)) - np.repeat(points.cumsum() - points, points)
    at = np.where(turned[line], steps[line] - at, at)
    along = np.where(flat, low[:, 0], low[:, 1])[line] + at
    beside = np.where(flat, low[:, 1], low[:, 0])[line] + slope[line] * at
    beside = np.trunc(beside + 0.5).astype(np.int64)
    u, v = np.where(flat[line], along, beside), np.where(flat[line], beside, along)
    left = np.minimum(u[1:], u[:-1]) - _MIDDLE
    column = left // _FIFTHS
    crossing = (u[1:] != u[:-1]) & (left % _FIFTHS == 0) & (column >= 0) & (column < width)
    upper = np.minimum(v[1:], v[:-1])[crossing] - _MIDDLE
    row = np.clip(-(-upper // _FIFTHS), 0, height)
    places, counts = np.unique(column[crossing] * height + row, return_counts=True)
    found: NDArray[np.int64] = places[counts % 2 == 1]
    return found


def _united(changes: Sequence[NDArray[np.int64]], size: int) -> NDArray[np.int64]:
    """The changes of what is inside by any of the ``changes``."""
    whole = [np.append(one, size) if len(one) % 2 else one for one in changes]
    every = np.concatenate([np.empty(0, np.int64), *whole])
    ends = np.concatenate([np.empty(0, np.int64), *(np.arange(len(one)) % 2 for one in whole)])
    order = np.argsort(every * 2 + ends, kind="stable")
    every, ends = every[order], ends[order]
    covered = np.cumsum(1 - 2 * ends)
    before = np.append(0, covered[:-1])[: len(covered)]
    found: NDArray[np.int64] = every[(before == 0) | (covered == 0)]
    return found
