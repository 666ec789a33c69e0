"""Small objects in large images: recall and passes of the proposer without tiles, with all of them,
and with those where something small shows.

Scenes of the demo world, and photos, lie side by side on a large image that the proposer
shrinks to the size of one of them; the tiles have their size. On sparse images most places are
empty. No verifier is asked: precision is that of its questions. The time is that of the processor.
SECONDLOOK_TEST_DATA names the folder of the photos.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from bench.paired_timing import Figure
from secondlook.config.settings import ModelSettings, PipelineSettings
from secondlook.core.boxes import area, nms
from secondlook.core.types import Boxes, Image, Pixels, Proposals
from secondlook.demo.world import NOUNS, scene
from secondlook.evaluation.matching import match_boxes
from secondlook.labeling.proposer import Proposer
from secondlook.labeling.tiling import TiledProposer
from secondlook.models.registry import load_proposer

SEED = 9100
"""Never used in training."""
ACROSS = 4
"""Scenes or photos side by side, each way."""
IMAGES = int(os.environ.get("SECONDLOOK_IMAGES", "2"))
SCORE = 0.3
FLOOR = PipelineSettings.score_floor
SMALL_AREA = 32**2
"""COCO's limit of a small object, square pixels."""
OVERLAPS = (0.2, 0.3)
HEAD = (
    "| images | tiles | recall | of small ones | precision | passes an image | s an image |\n"
    "|---|---|---|---|---|---|---|"
)

Part = tuple[Pixels, Boxes, np.ndarray]
"""A scene or photo, its true boxes, and their classes."""


@dataclass(frozen=True, eq=False)
class _Large:
    """A large image and what is on it."""

    image: Image
    boxes: Boxes
    classes: np.ndarray


class _Counted:
    """A proposer whose passes are counted."""

    def __init__(self, model: Proposer) -> None:
        self.name, self.digest = model.name, model.digest
        self.passes, self._model = 0, model

    def propose(
        self, images: Sequence[Image], phrases: Sequence[str], floor: float
    ) -> list[Proposals]:
        """As the model does."""
        self.passes += len(images)
        return self._model.propose(images, phrases, floor)


def run() -> list[Figure | str]:
    """One table, without bars."""
    rows = [HEAD]
    demo = load_proposer("demo", ModelSettings())
    for name, filled in (("rendered", ACROSS**2), ("rendered, sparse", 3)):
        made = [_large(320, filled, _scene, SEED + place) for place in range(IMAGES)]
        rows += _rows(name, demo, made, NOUNS, 320)
    data = Path(os.environ.get("SECONDLOOK_TEST_DATA", "../shared/data"))
    weights, photos = data / "weights" / "yolox_nano.onnx", data / "coco_val128"
    if not (weights.exists() and photos.exists()):
        return ["\n".join(rows), "Photos were not measured: the weights or images are absent."]
    detector = load_proposer(f"onnx:{weights.resolve()}", ModelSettings())
    known, names = _photos(photos)
    together = [
        _large(416, ACROSS**2, lambda _, place: known[place], start)
        for start in range(0, min(IMAGES, len(known) // ACROSS**2) * ACROSS**2, ACROSS**2)
    ]
    rows += _rows("photos side by side", detector, together, names, 416)
    alone = [_Large(Image(p, f"{at:064d}"), b, c) for at, (p, b, c) in enumerate(known)]
    rows += _rows("photos as they are", detector, alone[: 16 * IMAGES], names, 320)
    return ["\n".join(rows)]


def _rows(
    name: str, model: Proposer, images: Sequence[_Large], names: Sequence[str], side: int
) -> Iterator[str]:
    yield _row(f"{name} ({len(images)}) | none", _Counted(model), None, images, names)
    for where in ("all", "small"):
        for overlap in OVERLAPS:
            counted = _Counted(model)
            tiled = TiledProposer(counted, side, overlap, where)
            yield _row(f"{name} | {where}, overlap {overlap}", counted, tiled, images, names)


def _row(
    name: str,
    counted: _Counted,
    tiled: TiledProposer | None,
    images: Sequence[_Large],
    names: Sequence[str],
) -> str:
    found = np.zeros(4, np.int64)
    started = time.process_time()
    proposed = (tiled or counted).propose([one.image for one in images], names, FLOOR)
    seconds = time.process_time() - started
    for one, boxes in zip(images, proposed, strict=True):
        found += _counts(one, boxes)
    right, said, small, all_small = found.tolist()
    true = sum(len(one.boxes) for one in images)
    row = (
        f"| {name} | {right / true:.3f} of {true} | {small / max(all_small, 1):.3f} of {all_small} "
        f"| {right / max(said, 1):.3f} | {counted.passes / len(images):.1f} "
        f"| {seconds / len(images):.2f} |"
    )
    print(row, file=sys.stderr, flush=True)
    return row


def _counts(one: _Large, found: Proposals) -> np.ndarray:
    """Right detections and all, small true boxes that were found and all."""
    classes = found.scores.argmax(axis=1)
    best = found.scores.max(axis=1)
    kept = nms(found.boxes, best, PipelineSettings.nms_iou, classes)
    kept = kept[best[kept] >= SCORE]
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    matched = match_boxes(
        (found.boxes[kept], classes[kept]), best[kept], (one.boxes, one.classes), none
    )
    reached = matched.found(len(one.boxes), np.ones(len(kept), bool))
    small = area(one.boxes) < SMALL_AREA
    return np.array([reached.sum(), len(kept), (reached & small).sum(), small.sum()])


def _large(side: int, filled: int, part: Callable[[int, int], Part], seed: int) -> _Large:
    """``filled`` parts at random places of a square of ``ACROSS`` by ``ACROSS``, the rest grey."""
    rng = np.random.default_rng(seed)
    canvas = rng.normal(128, 4, (side * ACROSS, side * ACROSS, 3)).astype(np.uint8)
    boxes, classes = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.int64)]
    places = sorted(rng.permutation(ACROSS**2)[:filled].tolist())
    for number, place in enumerate(places):
        pixels, own, kinds = part(seed, seed + number)
        scale = side / max(pixels.shape[:2])
        size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
        left, top = place % ACROSS * side, place // ACROSS * side
        shrunk = np.asarray(PILImage.fromarray(pixels).resize(size))
        canvas[top : top + size[1], left : left + size[0]] = shrunk
        boxes.append(own * np.float32(scale) + np.array([left, top] * 2, np.float32))
        classes.append(kinds)
    return _Large(Image(canvas, f"{seed:064d}"), np.concatenate(boxes), np.concatenate(classes))


def _scene(seed: int, index: int) -> Part:
    rendered = scene(seed, index)
    boxes = np.array([thing.box for thing in rendered.things], np.float32).reshape(-1, 4)
    kinds = np.array([NOUNS.index(thing.noun) for thing in rendered.things], np.int64)
    return rendered.image, boxes, kinds


def _photos(folder: Path) -> tuple[list[Part], list[str]]:
    told = json.loads((folder / "annotations.json").read_text())
    names = [one["name"] for one in told["categories"]]
    places = {one["id"]: place for place, one in enumerate(told["categories"])}
    parts = []
    for image in told["images"]:
        own = [one for one in told["annotations"] if one["image_id"] == image["id"]]
        corners = np.array([one["bbox"] for one in own], np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        kinds = np.array([places[one["category_id"]] for one in own], np.int64)
        pixels = np.asarray(PILImage.open(folder / "images" / image["file_name"]).convert("RGB"))
        parts.append((pixels, corners, kinds))
    return parts, names
