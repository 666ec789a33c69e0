"""Sessions of the click robot over images with outlined objects, as the mask suites tell them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook.config.settings import ModelSettings
from secondlook.core.boxes import Xyxy
from secondlook.core.types import Image
from secondlook.evaluation.click_robot import ClickScores, RobotSession, segment_by_clicks
from secondlook.labeling.segmenter import ImageEncoding, SegmentationPrompt, Segmenter
from secondlook.models.registry import load_segmenter

SEED = 15_001
MOVED = 0.05
"""Standard deviation by which each side of an inexact box is off, in the box's own sides."""
EARLIER = 0.1
"""How far a mask to start from is off, in the object's own sides: one of an earlier frame."""
HEAD = (
    "| | objects | NoC@85 | NoC@90 | over 20 clicks | IoU before, after 1, 3, 5 clicks "
    "| clicks that lower IoU, by > 0.01 |\n|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True, eq=False)
class OutlinedImage:
    """An image with the objects that are known on it, encoded once."""

    image: Image
    kinds: tuple[str, ...]
    masks: NDArray[np.bool_]
    """(N, H, W)."""
    encoding: ImageEncoding


@dataclass(frozen=True)
class KindSession:
    """What came of one object."""

    kind: str
    session: RobotSession


Start = Callable[[NDArray[np.bool_], np.random.Generator], SegmentationPrompt | None]
"""What is there before the first click, of an object's mask (H, W)."""


def chosen_segmenter(default: str) -> Segmenter:
    """The segmenter that SECONDLOOK_BENCH_SEGMENTER names, or ``default``, on one thread."""
    spec = os.environ.get("SECONDLOOK_BENCH_SEGMENTER", default)
    segmenter = load_segmenter(spec, ModelSettings(threads=1))
    if segmenter is None:
        raise SystemExit(f"SECONDLOOK_BENCH_SEGMENTER={spec} is no segmenter")
    return segmenter


def run_sessions(
    segmenter: Segmenter,
    images: Sequence[OutlinedImage],
    start: Start | None = None,
    shaky: bool = False,
) -> list[KindSession]:
    """A session for each object. ``shaky``: the clicks are a person's and miss the middle."""
    found = []
    for number, one in enumerate(images):
        rng = np.random.default_rng([SEED, number])
        starts = [start(mask, rng) if start else None for mask in one.masks]
        jitter = rng if shaky else None
        sessions = segment_by_clicks(segmenter, one.encoding, one.masks, starts, jitter)
        found += [KindSession(*pair) for pair in zip(one.kinds, sessions, strict=True)]
    return found


def tight_box(mask: NDArray[np.bool_]) -> Xyxy:
    """Around a mask (H, W) with at least one pixel, pixel xyxy."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def from_box(mask: NDArray[np.bool_], rng: np.random.Generator) -> SegmentationPrompt:
    """The tight box."""
    return SegmentationPrompt(box=tight_box(mask))


def from_moved_box(mask: NDArray[np.bool_], rng: np.random.Generator) -> SegmentationPrompt:
    """A box of which each side is a little off, as a detector's are."""
    left, top, right, bottom = tight_box(mask)
    width, height = right - left, bottom - top
    off = np.clip(rng.normal(0, MOVED, 4), -2 * MOVED, 2 * MOVED) * (width, height, width, height)
    moved = np.array((left, top, right, bottom)) + off
    x1, y1, x2, y2 = np.clip(moved, 0, (*mask.shape[::-1], *mask.shape[::-1])).tolist()
    return SegmentationPrompt(box=(x1, y1, x2, y2))


def from_earlier_mask(mask: NDArray[np.bool_], rng: np.random.Generator) -> SegmentationPrompt:
    """The object's own mask, moved: what is known of it from an earlier frame."""
    left, top, right, bottom = tight_box(mask)
    angle = rng.uniform(0, 2 * np.pi)
    dx = round(EARLIER * (right - left) * np.cos(angle))
    dy = round(EARLIER * (bottom - top) * np.sin(angle))
    moved = np.roll(mask, (dy, dx), axis=(0, 1))
    return SegmentationPrompt(previous=moved)


MODES: dict[str, tuple[Start | None, bool]] = {
    "clicks": (None, False),
    "clicks of a person": (None, True),
    "the exact box first": (from_box, False),
    "a box 5 % off first": (from_moved_box, False),
    "a mask 10 % off first": (from_earlier_mask, False),
}
"""What comes first, and whether the clicks miss the middle."""


def row(name: str, scores: ClickScores) -> str:
    """A row under ``HEAD``."""
    start = "–" if scores.start is None else f"{scores.start:.3f}"
    after = ", ".join(f"{value:.3f}" for value in (scores.after1, scores.after3, scores.after5))
    return (
        f"| {name} | {scores.objects:,} | {scores.noc85:.2f} | {scores.noc90:.2f} "
        f"| {scores.missed90:.1%} | {start}, {after} "
        f"| {scores.declines:.1%}, {scores.harmful:.1%} |"
    )
