"""How many things the embedded proposer finds, and how many of its boxes are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import BertTokenizer, GroundingDinoForObjectDetection

from recipes.proposer.data import RenderedScene, collate, token_nouns
from secondlook.core.boxes import from_cxcywh
from secondlook.demo.world import NOUNS
from secondlook.evaluation.matching import match_boxes

THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
MATCH_IOU = 0.5


@dataclass(frozen=True)
class ProposedBoxes:
    """Proposals of one noun in one image: boxes (N, 4) pixel xyxy, scores (N,), best first."""

    boxes: np.ndarray
    scores: np.ndarray


def canvas_of(image: RenderedScene) -> tuple[int, int]:
    """(H, W) of the smallest canvas in steps of 32 pixels that holds the image."""
    height, width = image.image.shape[:2]
    return -(-height // 32) * 32, -(-width // 32) * 32


@torch.inference_mode()
def detect(
    model: GroundingDinoForObjectDetection,
    tokenizer: BertTokenizer,
    images: Sequence[RenderedScene],
    batch: int = 8,
) -> list[list[ProposedBoxes]]:
    """Proposals down to the lowest of ``THRESHOLDS``, by image and noun, of one joint caption."""
    device = next(model.parameters()).device
    found: list[list[ProposedBoxes]] = [[] for _ in images]
    order = sorted(range(len(images)), key=lambda i: canvas_of(images[i]))
    while order:
        canvas = canvas_of(images[order[0]])
        group = [i for i in order[:batch] if canvas_of(images[i]) == canvas]
        order = order[len(group) :]
        members = [images[i] for i in group]
        inputs = collate(members, [NOUNS] * len(group), tokenizer, canvas).inputs
        output = model(**{name: value.to(device) for name, value in inputs.items()})
        named = np.array(token_nouns(tokenizer, inputs["input_ids"][0].tolist()))
        for i, logits, boxes in zip(group, output.logits, output.pred_boxes, strict=True):
            scores = logits[:, : len(named)].float().sigmoid().cpu().numpy()
            found[i] = _by_noun(scores, boxes.float().cpu().numpy(), named, images[i])
    return found


def _by_noun(
    scores: np.ndarray, boxes: np.ndarray, named: np.ndarray, of: RenderedScene
) -> list[ProposedBoxes]:
    height, width = of.image.shape[:2]
    pixels = from_cxcywh(boxes, width, height)
    kept = []
    for noun in range(len(NOUNS)):
        best = scores[:, named == noun].max(1)
        order = np.argsort(-best)
        order = order[best[order] >= THRESHOLDS[0]]
        kept.append(ProposedBoxes(pixels[order], best[order]))
    return kept


def _matches(found: ProposedBoxes, truth: np.ndarray) -> np.ndarray:
    """(N,) bool: the proposal is the best-scored one on a true box, greedily at ``MATCH_IOU``."""
    proposals = found.boxes, np.zeros(len(found.boxes), np.int64)
    real = truth, np.zeros(len(truth), np.int64)
    regions = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    return match_boxes(proposals, found.scores, real, regions, MATCH_IOU).truth >= 0


def figures(
    images: Sequence[RenderedScene], found: Sequence[Sequence[ProposedBoxes]]
) -> dict[str, dict[str, dict[str, float]]]:
    """Recall, precision and false boxes a true one, by threshold and noun (``all`` is pooled)."""
    rows = []
    truths = np.zeros(len(NOUNS), int)
    for image, by_noun in zip(images, found, strict=True):
        for noun, proposals in enumerate(by_noun):
            actual = image.boxes[image.nouns == noun]
            truths[noun] += len(actual)
            right = _matches(proposals, actual)
            rows += [(noun, s, r) for s, r in zip(proposals.scores, right, strict=True)]
    table = np.array(rows, np.float64).reshape(-1, 3)
    result = {}
    for threshold in THRESHOLDS:
        at = table[table[:, 1] >= threshold]
        names: list[tuple[str, np.ndarray, int]] = [("all", at, int(truths.sum()))]
        names += [(n, at[at[:, 0] == i], int(truths[i])) for i, n in enumerate(NOUNS)]
        result[f"{threshold:g}"] = {n: _figures_of(part, count) for n, part, count in names}
    return result


def _figures_of(rows: np.ndarray, count: int) -> dict[str, float]:
    right = float(rows[:, 2].sum())
    return {
        "recall": round(right / max(1, count), 4),
        "precision": round(right / max(1, len(rows)), 4),
        "false_per_true": round((len(rows) - right) / max(1.0, right), 3),
        "truths": count,
    }
