"""Small objects in large images: any proposer shown the whole image and overlapping tiles of it.

A proposer shrinks an image to the size that it was trained on, and what has a few pixels left is
not seen. A tile is shrunk less, or not at all. The idea and the word are those of slicing aided
hyper inference (SAHI, Akyon et al., 2022, arXiv 2202.06934). The image as a whole comes first, as
objects larger than a tile show there only.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from secondlook.config.settings import ModelSettings
from secondlook.core import boxes as box_ops
from secondlook.core.types import Boxes, Image, Proposals
from secondlook.labeling.proposer import Proposer
from secondlook.labeling.vocabulary import ChecksPhrases

MAX_TILES = 256
"""Of one image, such as 8000 × 8000 pixels in tiles of 640 that share a fifth; of a larger one the
tiles are larger than was asked for."""
TILES_AT_ONCE = 32
"""Tiles that the proposer is given in one call."""
EDGE = 0.01
"""A box touches an edge of its tile that is nearer than this share of the tile's side: a model
outlines what is cut to within a few pixels."""
SAME_OBJECT = 0.5
"""IoU above which two boxes of different passes mark one object."""
PART_OF = 0.7
"""A cut box with this share of its area inside a whole one of its class is a part of that one."""
SMALL_SIDE = 0.5
"""Of a tile's side: what has no longer side is small. On sparse rendered images recall was 0.43
with the overlap (0.2) as the limit and 0.91, that of all tiles, with 0.35 and with this."""
HINT = 0.5
"""Something small shows where to look from this share of the floor on: on dense rendered images
recall was 0.77 without it and 0.92 with it."""
MAX_MERGED = 2000
"""Boxes of all passes over an image that are merged, the best ones: their pairs are compared."""
SMALL = "small"
"""The choice of ``tile_where`` that looks only where a pass found something small: on the whole
image, and then on tiles that were looked at, as something small comes seldom alone."""

Windows = NDArray[np.int64]
"""(T, 4) whole-pixel xyxy of tiles in their image."""


def tile_windows(width: int, height: int, side: int, overlap: float) -> Windows:
    """Square tiles of ``side`` pixels that cover the image, row by row; none where it is no larger.

    Neighbours share ``overlap``, [0, 0.75] of the side, or more, so what is no larger lies whole in
    one of them. A side of the image that is shorter than ``side`` is the tile's. There are
    at most ``MAX_TILES``.
    """
    while True:
        shared = int(side * overlap)
        xs, ys = _starts(width, side, shared), _starts(height, side, shared)
        if len(xs) * len(ys) <= MAX_TILES:
            break
        side = side * 9 // 8 + 1
    if len(xs) * len(ys) == 1:
        return np.zeros((0, 4), np.int64)
    sides = min(side, width), min(side, height)
    return np.array([(x, y, x + sides[0], y + sides[1]) for y in ys for x in xs])


def _starts(length: int, side: int, shared: int) -> list[int]:
    if length <= side:
        return [0]
    count = -(-(length - shared) // (side - shared))
    return [place * (length - side) // (count - 1) for place in range(count)]


class TiledProposer:
    """A ``Proposer`` that shows another one the whole image and its tiles, and merges the boxes."""

    def __init__(self, model: Proposer, side: int, overlap: float, where: str) -> None:
        """See the settings ``tile``, ``tile_overlap`` and ``tile_where`` of ``ModelSettings``."""
        self.name = model.name
        self.digest = f"{model.digest}-tiles-{side}-{overlap:g}-{where}"
        """Labels with tiles are others than those without, so all that goes by a digest knows."""
        self._model = model
        self._side, self._overlap, self._where = side, overlap, where

    def check_phrases(self, phrases: Sequence[str]) -> None:
        """See ``labeling.vocabulary.ChecksPhrases``: what the model says."""
        if isinstance(self._model, ChecksPhrases):
            self._model.check_phrases(phrases)

    def propose(
        self, images: Sequence[Image], phrases: Sequence[str], floor: float
    ) -> list[Proposals]:
        """See ``labeling.proposer.Proposer``."""
        hints = floor * HINT if self._where == SMALL else floor
        wholes = self._model.propose(images, phrases, hints)
        looks = [self._look(*one) for one in zip(images, wholes, strict=True)]
        while wanted := [(look, place) for look in looks for place in look.wanted()]:
            for start in range(0, len(wanted), TILES_AT_ONCE):
                some = wanted[start : start + TILES_AT_ONCE]
                tiles = [look.tile(place) for look, place in some]
                found = self._model.propose(tiles, phrases, hints)
                for (look, place), boxes in zip(some, found, strict=True):
                    look.add(place, boxes)
        return [look.merged(floor) for look in looks]

    def _look(self, image: Image, whole: Proposals) -> "_TiledImage":
        windows = tile_windows(image.width, image.height, self._side, self._overlap)
        return _TiledImage(image, windows, whole, everywhere=self._where != SMALL)


class _TiledImage:
    """One image, the tiles of it that were looked at, and what was found."""

    def __init__(self, image: Image, windows: Windows, whole: Proposals, everywhere: bool) -> None:
        self._image, self._windows, self._whole = image, windows, whole
        self._places = set(range(len(windows)) if everywhere else self._near(whole))
        self._found: dict[int, Proposals] = {}
        """By the tile's place among the windows, in pixels of the image."""

    def _near(self, found: Proposals) -> list[int]:
        return tiles_of_small(self._windows, found.boxes)

    def wanted(self) -> list[int]:
        """The tiles to look at next, ascending."""
        return sorted(self._places - self._found.keys())

    def tile(self, place: int) -> Image:
        """Its pixels; its hash is made of the image's."""
        left, top, right, bottom = window = self._windows[place].tolist()
        own = hashlib.sha256(f"{self._image.sha256} {window}".encode()).hexdigest()
        return Image(self._image.pixels[top:bottom, left:right], own, self._image.name)

    def add(self, place: int, found: Proposals) -> None:
        """What was ``found`` on a tile, in its pixels."""
        move = np.tile(self._windows[place, :2], 2).astype(np.float32)
        self._found[place] = Proposals(found.boxes + move, found.scores)
        self._places.update(self._near(self._found[place]))

    def merged(self, floor: float) -> Proposals:
        """All of it as one, from the ``floor`` on."""
        places = sorted(self._found)
        tiles = [_above(self._found[place], floor) for place in places]
        size = self._image.width, self._image.height
        return merged(_above(self._whole, floor), tiles, self._windows[places], size)


def tiled(model: Proposer, options: ModelSettings) -> Proposer:
    """``model``, shown tiles too where the settings say so."""
    if not options.tile:
        return model
    return TiledProposer(model, options.tile, options.tile_overlap, options.tile_where)


def _above(found: Proposals, floor: float) -> Proposals:
    return found.take(np.flatnonzero(found.scores.max(axis=1, initial=0) >= floor))


def tiles_of_small(windows: Windows, boxes: Boxes) -> list[int]:
    """Places of the tiles to look at because of the small ones among ``boxes`` (N, 4): for each of
    these the tile whose centre is nearest."""
    if not len(windows):
        return []
    limit = SMALL_SIDE * (windows[0, 2:] - windows[0, :2]).max()
    small = boxes[(boxes[:, 2:] - boxes[:, :2]).max(axis=1) <= limit]
    centres = (windows[:, :2] + windows[:, 2:]) / 2
    own = (small[:, :2] + small[:, 2:]) / 2
    nearest = np.square(own[:, None] - centres).sum(axis=2).argmin(axis=1)
    return list(set(nearest.tolist()))


def merged(
    whole: Proposals, of_tiles: Sequence[Proposals], windows: Windows, size: tuple[int, int]
) -> Proposals:
    """One list of boxes of an image of ``size`` (width, height), best first.

    ``whole`` are those of the image, ``of_tiles`` those of each of the ``windows`` (T, 4), all in
    pixels of the image. A box that touches an edge of its tile inside the image is cut. It is
    dropped where it lies in another tile and touches none of that one's edges, and where it is a
    part of a whole box of the same class. Of boxes of different passes that mark one object the
    best stays; within a pass nothing is merged.
    """
    if not len(windows):
        return whole
    found = [whole, *of_tiles]
    boxes = np.concatenate([one.boxes for one in found])
    scores = np.concatenate([one.scores for one in found])
    passes = np.repeat(np.arange(len(found)), [len(one) for one in found])
    best = scores.max(axis=1, initial=0)
    rows = np.argsort(-best, kind="stable")[:MAX_MERGED]
    boxes, scores, passes = boxes[rows], scores[rows], passes[rows]
    classes = scores.argmax(axis=1)
    cut, elsewhere = _cut(boxes, passes, windows, size)
    kept = np.flatnonzero(~(elsewhere | _parts(boxes, classes, cut)))
    # What is whole outranks what is cut.
    rank = best[rows][kept] - cut[kept]
    kept = kept[box_ops.nms(boxes[kept], rank, SAME_OBJECT, classes[kept], passes[kept])]
    kept.sort()
    return Proposals(boxes[kept], scores[kept])


def _cut(
    boxes: Boxes, passes: NDArray[np.int64], windows: Windows, size: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(N,) which boxes their tile cuts, and (N,) which of these lie in another one untouched.

    ``passes`` (N,) are 0 for the whole image, and 1 for the first tile.
    """
    edge = EDGE * (windows[:, 2:] - windows[:, :2])
    low = np.where(windows[:, :2] > 0, windows[:, :2] + edge, -np.inf)
    high = np.where(windows[:, 2:] < size, windows[:, 2:] - edge, np.inf)
    after, before = boxes[:, None, :2] > low, boxes[:, None, 2:] < high
    inside: NDArray[np.bool_] = np.all(after & before, axis=2)
    own = inside[np.arange(len(boxes)), np.maximum(passes - 1, 0)]
    cut = (passes > 0) & ~own
    return cut, cut & inside.any(axis=1)


def _parts(boxes: Boxes, classes: NDArray[np.int64], cut: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N,) which of the ``cut`` boxes are parts of one that is not, of the same of ``classes``."""
    parts = np.zeros(len(boxes), bool)
    shares = box_ops.share_inside(boxes[cut], boxes[~cut])
    shares[classes[cut][:, None] != classes[~cut]] = 0
    parts[cut] = shares.max(axis=1, initial=0) >= PART_OF
    return parts
