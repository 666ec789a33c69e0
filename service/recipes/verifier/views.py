"""What the embedded verifier learns from: views of the demo world, with their truth.

Boxes are shaken as a detector's errors are, or are those of a proposer; others hold nothing, a part
of something, or the place where glasses or a helmet would be on a person who wears none.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from recipes.verifier.proposals import proposed
from recipes.verifier.questions import Facts
from secondlook.core.boxes import Xyxy, iou
from secondlook.core.types import Image
from secondlook.demo import world
from secondlook.demo.world import NOUNS, Scene, Thing, classes_of
from secondlook.labeling.proposer import Proposer
from secondlook.labeling.verifier import CONTEXT_MARGIN, CROP_MARGIN, render_view
from secondlook_client.values import View

SIDE = 96
"""Pixels of a side of what the model sees; views are stretched to a square."""
CELLS = 12
"""Cells along a side of the layout that helps the training of the image encoder."""
LAYERS = (*NOUNS, "the thing itself", "glasses on the eyes", "glasses on the head", "worn helmet")
"""Bits of a layout's cell."""
SAME_THING = 0.6
NOTHING = 0.33
"""IoU from which a box holds a thing, and up to which it holds nothing; between, nobody asks."""


@dataclass(frozen=True, eq=False)
class ViewSample:
    """One view as the model sees it.

    Attributes:
        pixels: (SIDE, SIDE, 3) uint8 RGB.
        layout: (CELLS, CELLS) uint16, bits of LAYERS.
    """

    pixels: NDArray[np.uint8]
    facts: Facts
    layout: NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class _Image:
    """A scene with what its views are cut from; ``worn`` is a name of LAYERS by place."""

    image: Image
    things: tuple[Thing, ...]
    boxes: NDArray[np.float32]
    worn: dict[int, str]


def samples_of(seed: int, index: int, proposer: Proposer | None = None) -> list[ViewSample]:
    """The views of scene ``index`` of world ``seed``; the same arguments give the same views.

    With a ``proposer`` also crops of the boxes that it gives.
    """
    rng = np.random.default_rng([seed, index, 7])
    scene = world.scene(seed, index)
    image = _Image(
        Image(_jpeg(scene.image, int(rng.integers(78, 96))), ""),
        scene.things,
        np.array([t.box for t in scene.things], dtype=np.float32).reshape(-1, 4),
        worn_by(scene.things),
    )
    made = []
    for box in _boxes(rng, scene):
        judged = judge(box, image.things, image.boxes)
        if judged is not None:
            view = View.CONTEXT if rng.random() < 0.22 else View.CROP
            made.append(_of_box(rng, image, box, view, judged[0]))
    if rng.random() < 0.35:
        made.append(_of_all(image))
    for box in proposed(rng, proposer, image.image) if proposer else ():
        judged = judge(box, image.things, image.boxes)
        if judged is not None:
            made.append(_of_box(rng, image, box, View.CROP, judged[0]))
    return made


def judge(
    box: Xyxy, things: tuple[Thing, ...], boxes: NDArray[np.float32]
) -> tuple[Thing | None] | None:
    """The thing that a box holds, (None,) for nothing, or None where nobody could say.

    ``boxes`` are those of ``things``, (N, 4) pixel xyxy.
    """
    if not things:
        return (None,)
    overlaps = iou(np.array([box], dtype=np.float32), boxes)[0]
    order = np.argsort(-overlaps, kind="stable")
    best = float(overlaps[order[0]])
    if best < NOTHING:
        return (None,)
    second = float(overlaps[order[1]]) if len(order) > 1 else 0.0
    if best < SAME_THING or second > best - 0.15:
        return None
    return (things[order[0]],)


def worn_by(things: tuple[Thing, ...]) -> dict[int, str]:
    """By their place among ``things``: how glasses and helmets are worn, as a name of LAYERS."""
    worn: dict[int, str] = {}
    for row, thing in enumerate(things):
        for person in things:
            if person.noun == "person" and _at_head(thing.box, person.box):
                how = _worn_as(thing.noun, person.traits)
                if how:
                    worn[row] = how
    return worn


def _worn_as(noun: str, traits: frozenset[str]) -> str:
    if noun == "helmet" and "helmet" in traits:
        return "worn helmet"
    if noun == "glasses" and "glasses" in traits:
        return "glasses on the eyes"
    if noun == "glasses" and "glasses on head" in traits:
        return "glasses on the head"
    return ""


def _at_head(box: Xyxy, person: Xyxy) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    inside = person[0] <= x <= person[2] and person[1] <= y
    return inside and y <= person[1] + 0.33 * (person[3] - person[1])


def _boxes(rng: np.random.Generator, scene: Scene) -> Iterator[Xyxy]:
    """Boxes to be shown: things as a detector finds them, and places that hold none."""
    size = (scene.image.shape[1], scene.image.shape[0])
    for thing in scene.things:
        for _ in range(_repeats(rng, thing)):
            yield shaken(rng, thing.box, *size)
        if thing.noun == "person":
            for place in _bare_places(rng, thing):
                yield shaken(rng, place, *size)
        if rng.random() < 0.3:
            yield _part(rng, thing.box)
    for _ in range(2):
        yield _anywhere(rng, *size)
    if len(scene.things) > 1 and rng.random() < 0.6:
        first, second = (scene.things[i].box for i in rng.choice(len(scene.things), 2, False))
        low, high = np.minimum(first, second), np.maximum(first, second)
        yield float(low[0]), float(low[1]), float(high[2]), float(high[3])


def _repeats(rng: np.random.Generator, thing: Thing) -> int:
    """Persons are asked about most, and those whose glasses are on the head are the hardest."""
    if thing.noun == "person":
        return 3 if "glasses on head" in thing.traits else 2
    return int(rng.random() < (0.5 if thing.noun == "tree" else 0.8))


def shaken(rng: np.random.Generator, box: Xyxy, width: int, height: int) -> Xyxy:
    """A box as a detector would give it: centre and sides off by some per cent, 12 at most."""
    x0, y0, x1, y1 = box
    wide, tall = x1 - x0, y1 - y0
    dx, dy, dw, dh = np.clip(rng.normal(0, 0.045, 4), -0.12, 0.12)
    x, y = (x0 + x1) / 2 + dx * wide, (y0 + y1) / 2 + dy * tall
    wide, tall = wide * (1 + dw), tall * (1 + dh)
    return (
        float(max(x - wide / 2, 0)),
        float(max(y - tall / 2, 0)),
        float(min(x + wide / 2, width)),
        float(min(y + tall / 2, height)),
    )


def _bare_places(rng: np.random.Generator, person: Thing) -> Iterator[Xyxy]:
    """Where glasses or a helmet would be, on persons who wear none there."""
    x0, y0, x1, y1 = person.box
    x, tall = (x0 + x1) / 2, y1 - y0
    if "glasses" not in person.traits and rng.random() < 0.4:
        y = y0 + tall * rng.uniform(0.14, 0.2)
        yield x - 0.13 * tall, y - 0.05 * tall, x + 0.13 * tall, y + 0.05 * tall
    if "helmet" not in person.traits and rng.random() < (0.6 if "hat" in person.traits else 0.2):
        yield x - 0.16 * tall, y0, x + 0.16 * tall, y0 + 0.17 * tall


def _part(rng: np.random.Generator, box: Xyxy) -> Xyxy:
    """A piece of a thing, too small to be taken for it."""
    x0, y0, x1, y1 = box
    wide, tall = (x1 - x0) * rng.uniform(0.25, 0.8), (y1 - y0) * rng.uniform(0.25, 0.8)
    x, y = rng.uniform(x0, x1 - wide), rng.uniform(y0, y1 - tall)
    return float(x), float(y), float(x + wide), float(y + tall)


def _anywhere(rng: np.random.Generator, width: int, height: int) -> Xyxy:
    """A box of any place, size and shape, larger than 8 pixels."""
    size = np.exp(rng.uniform(np.log(12), np.log(0.7 * min(width, height))))
    ratio = np.exp(rng.uniform(-0.45, 0.45))
    wide, tall = min(size * ratio, width - 1), min(size / ratio, height - 1)
    x, y = rng.uniform(0, width - wide), rng.uniform(0, height - tall)
    return float(x), float(y), float(x + wide), float(y + tall)


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """The pixels after being written as JPEG, as images to be labelled are."""
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(PILImage.open(buffer).convert("RGB"))


def to_side(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Stretched to SIDE x SIDE, as the processor does it."""
    square = PILImage.fromarray(pixels).resize((SIDE, SIDE), PILImage.Resampling.BILINEAR)
    return np.asarray(square)


def _of_box(
    rng: np.random.Generator, image: _Image, box: Xyxy, view: View, thing: Thing | None
) -> ViewSample:
    # An adapter may enlarge small crops before the processor sees them; both are learnt.
    pixels = to_side(render_view(image.image, box, view, int(rng.choice((1, 32, 64)))))
    facts = Facts(view)
    if thing is not None:
        facts = Facts(view, thing.noun, thing.colour or "", thing.traits)
    margin = CROP_MARGIN if view is View.CROP else CONTEXT_MARGIN
    dx, dy = (box[2] - box[0]) * margin, (box[3] - box[1]) * margin
    window = (
        max(box[0] - dx, 0.0),
        max(box[1] - dy, 0.0),
        min(box[2] + dx, float(image.image.width)),
        min(box[3] + dy, float(image.image.height)),
    )
    return ViewSample(pixels, facts, _layout(window, thing, image))


def _of_all(image: _Image) -> ViewSample:
    present = frozenset(name for thing in image.things for name in classes_of(thing))
    whole = (0.0, 0.0, float(image.image.width), float(image.image.height))
    pixels = to_side(render_view(image.image, whole, View.IMAGE, 1))
    return ViewSample(pixels, Facts(View.IMAGE, present=present), _layout(whole, None, image))


def _layout(window: Xyxy, main: Thing | None, image: _Image) -> NDArray[np.uint16]:
    """Which cells of a view lie in the boxes of things, as bits of LAYERS."""
    cells = np.zeros((CELLS, CELLS), dtype=np.uint16)
    wide, tall = max(window[2] - window[0], 1e-3), max(window[3] - window[1], 1e-3)
    for row, thing in enumerate(image.things):
        x0, y0, x1, y1 = thing.box
        xs = _span((x0 - window[0]) / wide * CELLS, (x1 - window[0]) / wide * CELLS)
        ys = _span((y0 - window[1]) / tall * CELLS, (y1 - window[1]) / tall * CELLS)
        names = {thing.noun} | ({"the thing itself"} if thing is main else set())
        names |= {image.worn[row]} if row in image.worn else set()
        cells[ys, xs] |= np.uint16(sum(1 << LAYERS.index(name) for name in names))
    return cells


def _span(low: float, high: float) -> slice:
    """Cells whose centre lies between, and at least the one in the middle."""
    start, stop = int(np.ceil(low - 0.5)), int(np.floor(high - 0.5)) + 1
    if stop <= start:
        start = int(np.floor((low + high) / 2))
        stop = start + 1
    return slice(min(max(start, 0), CELLS), min(max(stop, 0), CELLS))
