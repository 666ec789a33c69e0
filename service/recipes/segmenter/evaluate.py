"""How well the embedded segmenter follows boxes and clicks, on what it has seen and has not.

``python -m recipes.segmenter.evaluate`` measures the weights of the package; see ``Figures`` for
what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import EdgeTamModel

from recipes.segmenter.data import HELD_OUT_KINDS, MaskedScene, normalised, render_unseen, stretched
from recipes.segmenter.model import SIZE, EncodedImages, Prompt, decode, encode, speed_up
from secondlook.evaluation import click_robot
from secondlook.evaluation.click_robot import MAX_CLICKS
from secondlook.models.embedded import EMBEDDED

Masks = np.ndarray
"""(N, H, W) bool."""


@dataclass(frozen=True)
class ObjectResult:
    """IoUs that one object reached: after each click from nothing, and from its box alone and
    after each click that corrected it."""

    kind: str
    pixels: int
    clicks: list[float]
    box: list[float]


def results_of(
    model: EdgeTamModel, scenes: Iterable[MaskedScene], most: int = MAX_CLICKS
) -> Iterator[ObjectResult]:
    """The robot's results for every object of the scenes; at most ``most`` clicks on each.

    It clicks as ``secondlook.evaluation.click_robot`` does, and no click follows an IoU of 0.9; but
    a mask is mended from its logits, which are at hand here, where the product starts from pixels.
    """
    for scene in scenes:
        if not len(scene.masks):
            continue
        with torch.inference_mode():
            encoded = encode(model, normalised(stretched(scene.image)[None]))
            boxes = np.array([_box(mask) for mask in scene.masks], np.float32)
            boxed = torch.from_numpy(boxes * _scale(scene.masks, 2))
            clicked = _reached(model, encoded, scene.masks, None, most)
            corrected = _reached(model, encoded, scene.masks, boxed, most)
        found = zip(scene.kinds, scene.masks, clicked, corrected, strict=True)
        for kind, mask, clicks, box in found:
            yield ObjectResult(kind, int(mask.sum()), clicks, box)


def _reached(
    model: EdgeTamModel, encoded: EncodedImages, truth: Masks, boxes: Tensor | None, most: int
) -> list[list[float]]:
    """The IoUs of each object: with its box, if ``boxes`` are given, and after each click."""
    reached: list[list[float]] = [[] for _ in truth]
    rows, said = np.arange(len(truth)), np.zeros_like(truth)
    prompt, previous = Prompt(boxes), None
    for turn in range(most + (boxes is not None)):
        if turn or boxes is None:
            prompt = prompt.clicked(*_clicks(said, truth[rows]))
        logits = _best(model, encoded, prompt, previous, several=boxes is None and turn == 0)
        said = _full(logits, truth.shape[1:])
        found = iou(said, truth[rows])
        for row, value in zip(rows, found, strict=True):
            reached[row].append(float(value))
        open_ = found < 0.9
        if not open_.any():
            break
        rows, said, previous = rows[open_], said[open_], logits[torch.from_numpy(open_)]
        prompt = _chosen(prompt, torch.from_numpy(open_))
    return reached


def _best(
    model: EdgeTamModel,
    encoded: EncodedImages,
    prompt: Prompt,
    previous: Tensor | None,
    several: bool = False,
) -> Tensor:
    """Logits of the mask that the model thinks best: (M, 1, s, s)."""
    given = prompt.boxes if prompt.points is None else prompt.points
    assert given is not None
    image = torch.zeros(len(given), dtype=torch.long)
    logits, quality = decode(model, encoded, image, prompt, previous, several=several)
    best = quality.argmax(1)[:, None, None, None].expand(-1, 1, *logits.shape[2:])
    return logits.gather(1, best)


def _full(logits: Tensor, size: tuple[int, ...]) -> Masks:
    """Masks of the image's own size."""
    masks = functional.interpolate(logits, tuple(size), mode="bilinear")[:, 0] > 0
    return np.asarray(masks.numpy())


def _chosen(prompt: Prompt, rows: Tensor) -> Prompt:
    parts = (prompt.boxes, prompt.points, prompt.labels)
    return Prompt(*(None if part is None else part[rows] for part in parts))


def _clicks(said: Masks, truth: Masks) -> tuple[Tensor, Tensor]:
    """The next click on each object, in pixels of the square, and its label."""
    found = [next_click(*pair) for pair in zip(said, truth, strict=True)]
    points = np.array([(x, y) for x, y, _ in found], np.float32) * _scale(truth, 1)
    return torch.from_numpy(points), torch.tensor([label for *_, label in found])


def _scale(masks: Masks, times: int) -> np.ndarray:
    height, width = masks.shape[1:]
    return np.array([SIZE / width, SIZE / height] * times, np.float32)


def next_click(said: np.ndarray, truth: np.ndarray) -> tuple[int, int, int]:
    """Column, row and label of the robot's next click; on the object where nothing is wrong."""
    found = click_robot.next_click(truth, said) or click_robot.next_click(truth, None)
    assert found is not None, "an object has at least one pixel"
    (x, y), inside = found
    return int(x), int(y), int(inside)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def iou(said: Masks, truth: Masks) -> np.ndarray:
    """(N,) float64 IoUs of masks that are not all empty."""
    return np.asarray((said & truth).sum((1, 2)) / (said | truth).sum((1, 2)))


Figures = dict[str, float]


def figures(results: Sequence[ObjectResult], most: int = MAX_CLICKS) -> Figures:
    """What the results come to.

    ``noc85``, ``noc90``: mean number of clicks to an IoU of 0.85 and 0.9, ``most`` where it is not
    reached; ``click1``, ``box``: mean IoU of the first click and of the box alone;
    ``box_clicks90``: mean number of clicks from the box to 0.9; ``lowered``: share of further
    clicks after which the IoU is more than 0.01 less.
    """
    steps = [
        later - earlier
        for result in results
        for values in (result.clicks, result.box)
        for earlier, later in pairwise(values)
    ]
    found = {
        "objects": len(results),
        "noc85": _mean([_needed(r.clicks, 0.85, most, 1) for r in results]),
        "noc90": _mean([_needed(r.clicks, 0.9, most, 1) for r in results]),
        "click1": _mean([r.clicks[0] for r in results]),
        "box": _mean([r.box[0] for r in results]),
        "box_clicks90": _mean([_needed(r.box, 0.9, most, 0) for r in results]),
        "lowered": _mean([step < -0.01 for step in steps]),
    }
    return {name: round(value, 4) for name, value in found.items()}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def _needed(values: Sequence[float], wanted: float, most: int, first: int) -> int:
    return next((k + first for k, value in enumerate(values) if value >= wanted), most)


def by_novelty(results: Sequence[ObjectResult], most: int = MAX_CLICKS) -> dict[str, Figures]:
    """Figures of the kinds that the training knew ("seen"), of all others ("unseen"), and of each
    kind; "shape" are shapes and textures of the unseen families."""
    groups: dict[str, list[ObjectResult]] = defaultdict(list)
    for result in results:
        new = result.kind in HELD_OUT_KINDS or result.kind == "shape"
        groups["unseen" if new else "seen"].append(result)
        groups[result.kind].append(result)
    return {name: figures(of, most) for name, of in sorted(groups.items())}


def main(arguments: list[str] | None = None) -> None:
    """Command line of the evaluation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=EMBEDDED / "segmenter")
    parser.add_argument("--seed", type=int, default=6001, help="world of the scenes")
    parser.add_argument("--scenes", type=int, default=200)
    o = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    model = speed_up(EdgeTamModel.from_pretrained(o.weights, dtype=torch.float32).eval())
    scenes = (render_unseen(o.seed, index) for index in range(o.scenes))
    print(json.dumps(by_novelty(list(results_of(model, scenes))), indent=1))


if __name__ == "__main__":
    main()
