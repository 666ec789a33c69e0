"""A robot that segments objects with clicks as a person would, to measure how many a model needs.

The protocol of the field (RITM, arXiv 2102.06583): the first click is in the middle of the object,
each further one in the middle of the largest wrong region, on the object where a part of it is
missing and beside it where the mask goes too far. NoC@90 is the number of clicks to an IoU of 0.9;
an object that is not there after ``MAX_CLICKS`` counts as that many. People do not click exactly
there (RClicks, arXiv 2410.11722), so the robot can also miss the middle.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secondlook.config.extras import check_extras
from secondlook.labeling.segmenter import ImageEncoding, Point, SegmentationPrompt, Segmenter

MAX_CLICKS = 20
"""After which the robot gives up."""
AT_LEAST = 5
"""Clicks that it makes even so, to know the IoU after each of them."""
ENOUGH = 0.9
"""The IoU at which it makes no more than ``AT_LEAST``."""
DECLINE = 0.01
"""Loss of IoU from which a click has done harm that a person would see."""
SPREAD, HAND = 0.4, 1.5
"""Standard deviation of a person's clicks around the middle, in radii of the region's largest
inner circle, and pixels that a hand adds to it."""

Masks = NDArray[np.bool_]


@dataclass(frozen=True)
class RobotSession:
    """One object: the IoU of its mask after each click."""

    ious: tuple[float, ...]
    """After the first click, after the second, and so on; a mask that is exact ends the session."""
    clicks: tuple[tuple[Point, bool], ...]
    """x and y in pixels, and whether it was on the object."""
    start: float | None = None
    """Before the first click, from a box or a mask; None without one."""

    def clicks_to(self, iou: float) -> int:
        """Clicks until the mask had at least this IoU; ``MAX_CLICKS`` where it never had."""
        if self.start is not None and self.start >= iou:
            return 0
        reached = (count for count, value in enumerate(self.ious, 1) if value >= iou)
        return next(reached, MAX_CLICKS)

    def iou_after(self, clicks: int) -> float:
        """The IoU after so many clicks; the last one where the session was over before.

        Raises ``ValueError`` for no click where a session did not start with a mask.
        """
        known = self.ious[:clicks]
        if known:
            return known[-1]
        if self.start is None:
            raise ValueError("a session that starts with a click has no mask before it")
        return self.start

    def changes(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """What each click beyond the first mask added to the IoU, and whether it was needed: the
        IoU was below ``ENOUGH`` before it."""
        known = self.ious if self.start is None else (self.start, *self.ious)
        values = np.array(known, np.float64)
        return np.diff(values), values[:-1] < ENOUGH


@dataclass(frozen=True)
class ClickScores:
    """Figures of many sessions."""

    objects: int
    noc85: float
    """Mean clicks to an IoU of 0.85."""
    noc90: float
    missed90: float
    """Share of the objects that did not reach 0.9 in ``MAX_CLICKS``."""
    start: float | None
    """Mean IoU before the first click."""
    after1: float
    """Mean IoU after one click."""
    after3: float
    after5: float
    declines: float
    """Share of the further clicks that were needed and lowered the IoU."""
    harmful: float
    """Share of those that lowered it by more than ``DECLINE``."""
    harmful_after: float
    """Share of the clicks at a mask that was good enough that lowered it by as much."""


def score_sessions(sessions: Sequence[RobotSession]) -> ClickScores:
    """Means over the objects. Raises ``ValueError`` without any."""
    if not sessions:
        raise ValueError("no session to score")
    parts = [one.changes() for one in sessions]
    changes, needed = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    starts = [one.start for one in sessions if one.start is not None]
    missed = [max((one.start or 0.0, *one.ious)) < ENOUGH for one in sessions]

    def mean(values: Sequence[float] | NDArray[np.bool_]) -> float:
        return float(np.mean(values)) if len(values) else 0.0

    return ClickScores(
        len(sessions),
        noc85=mean([one.clicks_to(0.85) for one in sessions]),
        noc90=mean([one.clicks_to(ENOUGH) for one in sessions]),
        missed90=mean(missed),
        start=mean(starts) if starts else None,
        after1=mean([one.iou_after(1) for one in sessions]),
        after3=mean([one.iou_after(3) for one in sessions]),
        after5=mean([one.iou_after(5) for one in sessions]),
        declines=mean(changes[needed] < 0),
        harmful=mean(changes[needed] < -DECLINE),
        harmful_after=mean(changes[~needed] < -DECLINE),
    )


def segment_by_clicks(
    segmenter: Segmenter,
    encoding: ImageEncoding,
    truths: Masks,
    starts: Sequence[SegmentationPrompt | None] = (),
    jitter: np.random.Generator | None = None,
) -> list[RobotSession]:
    """A session for each object of one image, all at once, so that the model answers in batches.

    ``truths``: (N, H, W), each with at least one pixel. ``starts``: for each object a box or a mask
    that is there before the first click; none means a click comes first. A mask starts as it is,
    with a box the model is asked first. ``jitter`` is where a person's inaccuracy comes from;
    without it the clicks are exactly in the middle. Each prompt has all clicks so far, the box and
    the mask that they shall mend; of several candidates the best predicted one is taken.

    Raises ``MissingExtra`` without scipy, and ``ValueError`` for a truth without a pixel.
    """
    check_extras("the click robot", "distill", only=("scipy",))
    given = list(starts) or [None] * len(truths)
    objects = [_Object(truth, start, jitter) for truth, start in zip(truths, given, strict=True)]
    boxed = [one for one in objects if one.prompt.box is not None and one.mask is None]
    _ask(segmenter, encoding, boxed)
    while waiting := [one for one in objects if one.click()]:
        _ask(segmenter, encoding, waiting)
    return [one.session() for one in objects]


def _ask(segmenter: Segmenter, encoding: ImageEncoding, objects: Sequence["_Object"]) -> None:
    found = segmenter.segment(encoding, [one.prompt for one in objects]) if objects else []
    for one, candidates in zip(objects, found, strict=True):
        one.answered(candidates[0].pixels)


class _Object:
    """One object while it is clicked at."""

    def __init__(
        self, truth: Masks, start: SegmentationPrompt | None, jitter: np.random.Generator | None
    ) -> None:
        if not truth.any():
            raise ValueError("an object without a pixel cannot be clicked at")
        self.prompt = start or SegmentationPrompt()
        self.mask = self.prompt.previous
        self._truth = truth
        self._jitter = jitter
        self._clicks: list[tuple[Point, bool]] = []
        self._ious: list[float] = []
        self._start = None if self.mask is None else mask_iou(self.mask, truth)

    def click(self) -> bool:
        """Make the next click; False where the session is over."""
        done = len(self._clicks)
        good = self._ious and self._ious[-1] >= ENOUGH
        if done >= (AT_LEAST if good else MAX_CLICKS):
            return False
        pixels = [(int(y), int(x)) for (x, y), _ in self._clicks]
        found = next_click(self._truth, self.mask, pixels, self._jitter)
        if found is None:
            return False
        self._clicks.append(found)
        on, beside = (
            tuple(place for place, same in self._clicks if same is side) for side in (True, False)
        )
        self.prompt = replace(self.prompt, inside=on, outside=beside, previous=self.mask)
        return True

    def answered(self, pixels: Masks) -> None:
        """The model's mask for the last prompt."""
        self.mask = pixels
        reached = mask_iou(pixels, self._truth)
        if self._clicks:
            self._ious.append(reached)
        else:
            self._start = reached

    def session(self) -> RobotSession:
        """What was recorded."""
        return RobotSession(tuple(self._ious), tuple(self._clicks), self._start)


def mask_iou(one: Masks, other: Masks) -> float:
    """IoU of two masks of a shape; 0 for two empty ones."""
    union = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / union) if union else 0.0


def next_click(
    truth: Masks,
    mask: Masks | None,
    clicked: Sequence[tuple[int, int]] = (),
    jitter: np.random.Generator | None = None,
) -> tuple[Point, bool] | None:
    """The next click on an image, x and y, and whether it is on the object; None where no wrong
    pixel is left to click at.

    It is in the middle of the missing or of the superfluous region, whichever has the larger inner
    circle. ``clicked``: (row, column) of earlier clicks, which are never repeated.
    """
    missing = truth if mask is None else truth & ~mask
    extra = np.zeros_like(truth) if mask is None else mask & ~truth
    best, inside = max(
        ((_middle(region, clicked), on) for region, on in ((missing, True), (extra, False))),
        key=lambda found: found[0][0],
    )
    radius, row, column = best
    if radius <= 0:
        return None
    if jitter is not None:
        region = missing if inside else extra
        row, column = _missed_middle(region, (row, column), radius, clicked, jitter)
    return (column + 0.5, row + 0.5), inside


def _middle(region: Masks, clicked: Sequence[tuple[int, int]]) -> tuple[float, int, int]:
    """Radius, row and column of the pixel farthest from the border of the region; the border of the
    image is one. A radius of 0 where the region is empty."""
    from scipy.ndimage import distance_transform_edt

    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    if not len(rows):
        return 0.0, 0, 0
    top, left = int(rows[0]), int(columns[0])
    part = region[top : rows[-1] + 1, left : columns[-1] + 1]
    distances = distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    for row, column in clicked:
        if 0 <= row - top < part.shape[0] and 0 <= column - left < part.shape[1]:
            distances[row - top, column - left] = 0
    place = int(distances.argmax())
    row, column = divmod(place, part.shape[1])
    return float(distances[row, column]), row + top, column + left


def _missed_middle(
    region: Masks,
    middle: tuple[int, int],
    radius: float,
    clicked: Sequence[tuple[int, int]],
    jitter: np.random.Generator,
) -> tuple[int, int]:
    """A pixel of the region around its middle, (row, column), normally distributed.

    A person sees whether they are on the region, so what misses it is tried again; in a region that
    is thinner than a hand is steady, the middle is taken in the end.
    """
    spread = math.hypot(SPREAD * radius, HAND)
    for row, column in np.rint(jitter.normal(middle, spread, (32, 2))).astype(int):
        within = 0 <= row < region.shape[0] and 0 <= column < region.shape[1]
        if within and region[row, column] and (row, column) not in clicked:
            return int(row), int(column)
    return middle
