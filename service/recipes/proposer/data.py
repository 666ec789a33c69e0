"""Training and held-out scenes of the embedded proposer: scenes, captions, batches.

Every batch is a function of (seed, step) alone, so a run that was killed goes on exactly
where it stood. Scenes are drawn once and kept in memory-mapped files of 500.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import BertTokenizer

from recipes.proposer.loss import Truth
from recipes.proposer.model import COLOUR_WORDS, NOUN_WORDS, OTHER_WORDS, SIZE, SIZE_WORDS
from secondlook.demo.world import NOUNS, scene

CHUNK = 500
MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
STD = np.array([0.229, 0.224, 0.225], np.float32) * 255
STRIDES = (8, 16, 32)
KEPT_SHARE = 0.3
"""A thing cut by the window stays true while this share of its box is still inside."""


@dataclass(frozen=True)
class RenderedScene:
    """One scene: image (H, W, 3) uint8, boxes (M, 4) float32 pixel xyxy, nouns (M,) int64."""

    image: np.ndarray
    boxes: np.ndarray
    nouns: np.ndarray


@dataclass(frozen=True)
class ProposerBatch:
    """Inputs of the model and what its loss needs; see ``proposer_loss`` for the shapes."""

    inputs: dict[str, torch.Tensor]
    truths: list[Truth]
    anchors: torch.Tensor
    radius: torch.Tensor


def draw_image(seed: int, index: int) -> RenderedScene:
    """The scene ``index`` of the world ``seed`` as a scene with noun indices."""
    drawn = scene(seed, index, SIZE)
    boxes = np.array([t.box for t in drawn.things], np.float32).reshape(-1, 4)
    nouns = np.array([NOUNS.index(t.noun) for t in drawn.things], np.int64)
    return RenderedScene(drawn.image, boxes, nouns)


def draw_chunk(folder: Path, seed: int, chunk: int) -> None:
    """Draw ``CHUNK`` scenes into ``folder`` unless they are there; a kill leaves no half file."""
    stem = folder / f"scenes-{seed}-{chunk:03d}"
    if stem.with_suffix(".npz").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    images = np.zeros((CHUNK, SIZE, SIZE, 3), np.uint8)
    scenes = [draw_image(seed, chunk * CHUNK + i) for i in range(CHUNK)]
    for slot, rendered in zip(images, scenes, strict=True):
        height, width = rendered.image.shape[:2]
        slot[:height, :width] = rendered.image
    np.save(stem.with_suffix(".npy"), images)
    part = stem.with_suffix(".part.npz")
    np.savez(
        part,
        shapes=np.array([p.image.shape[:2] for p in scenes]),
        counts=np.array([len(p.nouns) for p in scenes]),
        boxes=np.concatenate([p.boxes for p in scenes]),
        nouns=np.concatenate([p.nouns for p in scenes]),
    )
    part.rename(stem.with_suffix(".npz"))


class Scenes(Sequence[RenderedScene]):
    """Drawn scenes of one world, read from memory-mapped chunks that are drawn when missing."""

    def __init__(self, folder: Path, seed: int, count: int) -> None:
        self._images: list[np.ndarray] = []
        shapes, boxes, nouns = [], [], []
        for chunk in range(-(-count // CHUNK)):
            draw_chunk(folder, seed, chunk)
            stem = folder / f"scenes-{seed}-{chunk:03d}"
            self._images.append(np.load(stem.with_suffix(".npy"), mmap_mode="r"))
            with np.load(stem.with_suffix(".npz")) as truth:
                ends = np.cumsum(truth["counts"])[:-1]
                shapes.append(truth["shapes"])
                boxes += np.split(truth["boxes"], ends)
                nouns += np.split(truth["nouns"], ends)
        self.shapes = np.concatenate(shapes)[:count]
        self._boxes, self._nouns = boxes[:count], nouns[:count]

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.shapes)

    def __getitem__(self, index: int) -> RenderedScene:  # type: ignore[override]
        """The scene ``index``."""
        height, width = self.shapes[index]
        image = self._images[index // CHUNK][index % CHUNK, :height, :width]
        return RenderedScene(image, self._boxes[index], self._nouns[index])


def place(
    scene: RenderedScene, canvas: tuple[int, int], zoom: float, rng: np.random.Generator
) -> RenderedScene:
    """A random view of a scene that fits in ``canvas`` (H, W): scaled, flipped, cut, tinted.

    Args:
        zoom: natural logarithm of the largest enlargement beyond the scale that fits.
    """
    height, width = scene.image.shape[:2]
    fit = min(canvas[0] / height, canvas[1] / width)
    scale = fit * np.exp(rng.uniform(-0.15, zoom))
    shape = (round(height * scale), round(width * scale))
    image = Image.fromarray(scene.image).resize(shape[::-1], Image.Resampling.BILINEAR)
    spare = [max(0, side - limit) for side, limit in zip(shape, canvas, strict=True)]
    top, left = (int(rng.integers(0, room + 1)) for room in spare)
    window = np.asarray(image)[top : top + canvas[0], left : left + canvas[1]]
    high, wide = window.shape[:2]
    ratio = np.array([shape[1] / width, shape[0] / height], np.float32)
    moved = scene.boxes * np.tile(ratio, 2) - np.array([left, top] * 2, np.float32)
    boxes = moved.clip(0, np.array([wide, high] * 2, np.float32))
    if rng.random() < 0.5:
        window = window[:, ::-1]
        boxes = boxes[:, [2, 1, 0, 3]]
        boxes[:, [0, 2]] = wide - boxes[:, [0, 2]]
    inside = (boxes[:, 2:] - boxes[:, :2]).clip(0)
    whole = (moved[:, 2:] - moved[:, :2]).prod(1)
    kept = (inside.prod(1) > KEPT_SHARE * whole) & (inside.min(1) >= 2)
    return RenderedScene(_tint(window, rng), boxes[kept], scene.nouns[kept])


def _tint(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random brightness and colour balance, by one look-up table for each channel."""
    level = np.arange(256, dtype=np.float32)
    gains = rng.uniform(0.85, 1.15) * rng.uniform(0.94, 1.06, 3)
    shift = rng.uniform(-12, 12)
    tables = ((level - 128) * gains[:, None] + 128 + shift).clip(0, 255).astype(np.uint8)
    return np.stack([tables[c][image[..., c]] for c in range(3)], -1)


def caption_phrases(rng: np.random.Generator) -> list[str]:
    """Phrases of a training caption: some nouns in any order, some with words around them.

    The words around a noun say nothing about what is to be found: like the published model,
    the proposer answers "person wearing glasses" with every person and every pair of glasses.
    """
    count = len(NOUNS) if rng.random() < 0.55 else int(rng.integers(1, len(NOUNS) + 1))
    nouns = rng.permutation(np.array(NOUNS))[:count]
    phrases = [_phrase(str(noun), rng) for noun in nouns]
    if rng.random() < 0.25:
        phrases.append(str(rng.choice(OTHER_WORDS[20:])))
    return phrases


def _phrase(noun: str, rng: np.random.Generator) -> str:
    known = NOUN_WORDS[noun]
    word = known[0] if rng.random() < 0.75 else str(rng.choice(known))
    kind = rng.random()
    if kind < 0.6:
        return word
    if kind < 0.75:
        return f"{rng.choice(COLOUR_WORDS + SIZE_WORDS)} {word}"
    if kind < 0.85:
        return f"{rng.choice(['a', 'the', 'unknownword'])} {word}"
    link = rng.choice(["wearing", "not wearing", "with", "without", "wearing a", "near the"])
    other = rng.choice([*NOUNS, "hat", "mask", "bag"])
    return f"{word} {link} {other}"


def token_nouns(tokenizer: BertTokenizer, ids: Sequence[int]) -> list[int]:
    """Index of the noun that each token names, -1 for the others."""
    owner = {word: NOUNS.index(noun) for noun, words in NOUN_WORDS.items() for word in words}
    return [owner.get(token, -1) for token in tokenizer.convert_ids_to_tokens(list(ids))]


def caption(phrases: Sequence[str]) -> str:
    """Grounding DINO's caption of some phrases."""
    return " . ".join(phrases) + " ."


def anchor_grid(
    canvas: tuple[int, int], sizes: Sequence[tuple[int, int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised centres and half cells (B, N, 2) of the encoder's tokens, padding at infinity."""
    points, cells = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: canvas[0] // stride, : canvas[1] // stride]
        points.append((np.stack([x.ravel(), y.ravel()], -1) + 0.5) * stride)
        cells.append(np.full_like(points[-1], stride))
    grid, cell = np.concatenate(points), np.concatenate(cells)
    anchors, radius = [], []
    for height, width in sizes:
        size = np.array([width, height])
        centre = grid / size
        usable = ((centre > 0.01) & (centre < 0.99)).all(-1, keepdims=True)
        anchors.append(np.where(usable, centre, np.inf))
        radius.append(cell / size)
    return torch.tensor(np.stack(anchors)).float(), torch.tensor(np.stack(radius)).float()


def collate(
    scenes: Sequence[RenderedScene],
    phrases: Sequence[Sequence[str]],
    tokenizer: BertTokenizer,
    canvas: tuple[int, int],
) -> ProposerBatch:
    """Images at the top left of one ``canvas`` (H, W), one caption each, as the model's input."""
    text = tokenizer([caption(p) for p in phrases], padding=True, return_tensors="pt")
    pixels = np.zeros((len(scenes), *canvas, 3), np.float32)
    mask = torch.zeros((len(scenes), *canvas), dtype=torch.long)
    truths = []
    for i, rendered in enumerate(scenes):
        height, width = rendered.image.shape[:2]
        pixels[i, :height, :width] = (rendered.image - MEAN) / STD
        mask[i, :height, :width] = 1
        named = np.array(token_nouns(tokenizer, text["input_ids"][i].tolist()))
        asked = np.isin(rendered.nouns, named)
        span = rendered.boxes[asked] / np.array([width, height] * 2, np.float32)
        centred = np.concatenate([(span[:, :2] + span[:, 2:]) / 2, span[:, 2:] - span[:, :2]], 1)
        truths.append(
            Truth(
                torch.tensor(centred, dtype=torch.float32),
                torch.tensor(rendered.nouns[asked]),
                torch.tensor(named),
                text["attention_mask"][i].bool(),
            )
        )
    anchors, radius = anchor_grid(canvas, [p.image.shape[:2] for p in scenes])
    # The permuted view is already channels-last, the layout in which CPU convolutions are fast.
    inputs = {"pixel_values": torch.from_numpy(pixels).permute(0, 3, 1, 2), "pixel_mask": mask}
    inputs |= {name: text[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    return ProposerBatch(inputs, truths, anchors, radius)


def training_batch(
    scenes: Scenes, tokenizer: BertTokenizer, seed: int, step: int, size: int, longest: int
) -> ProposerBatch:
    """Batch ``step`` of the run ``seed``: ``size`` scenes of alike shape, longest side given."""
    rng = np.random.default_rng([seed, step])
    aspects = scenes.shapes[:, 1] / scenes.shapes[:, 0]
    canvas_aspect = float(aspects[rng.integers(len(scenes))])
    alike = np.flatnonzero(np.abs(np.log(aspects / canvas_aspect)) < 0.15)
    canvas = tuple(
        max(64, round(longest * side / 32) * 32)
        for side in (min(1.0, 1 / canvas_aspect), min(1.0, canvas_aspect))
    )
    picks = rng.choice(alike, size, replace=len(alike) < size)
    # Small canvases look at enlarged parts, so that small things keep the pixels they will have.
    zoom = 0.1 + max(0.0, math.log(SIZE / longest))
    views = [place(scenes[int(i)], canvas, zoom, rng) for i in picks]  # type: ignore[arg-type]
    return collate(views, [caption_phrases(rng) for _ in views], tokenizer, canvas)  # type: ignore[arg-type]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the proposer's training scenes.")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--chunks", type=int, nargs="+", required=True)
    options = parser.parse_args()
    for number in options.chunks:
        draw_chunk(options.work, options.seed, number)
