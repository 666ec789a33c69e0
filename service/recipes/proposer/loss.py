"""Losses of the embedded proposer.

The class's own loss (one-to-one matching alone) does not leave zero recall within hundreds of
steps from scratch. Here one-to-many assignments do the early teaching: every encoder token
and the first decoder layer are supervised densely (TOOD, arXiv 2108.07755), and the later
decoder layers keep the one-to-one matching of DETR (arXiv 2005.12872), which is what makes
suppression of duplicates unnecessary.

Boxes are normalised ``cxcywh`` in this module, as the network emits them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.grounding_dino.modeling_grounding_dino import (
    GroundingDinoObjectDetectionOutput,
)

TOP_TOKENS = 6
"""Encoder tokens that learn each box."""
TOP_QUERIES = 3
"""Queries that learn each box in a decoder layer that learns one-to-many."""
MANY_LAYERS = 1
"""Decoder layers that learn one-to-many; the rest match one to one."""
SCORE_COST = 4.0
"""Weight of the score when boxes and queries are matched one to one."""
BOX_WEIGHT = 3.0
"""Weight of the box errors beside the classification."""
MIN_SIDE = 0.025
"""Shortest side, as a share of the image, by which coordinate errors are divided."""


@dataclass(frozen=True)
class Truth:
    """What one image holds, as far as its caption asks for it.

    Attributes:
        boxes: (M, 4) float32, normalised cxcywh relative to the image without padding.
        nouns: (M,) int64, index of each box's noun.
        token_nouns: (T,) int64, the noun that each caption token names, -1 for none.
        token_mask: (T,) bool, False on padding.
    """

    boxes: Tensor
    nouns: Tensor
    token_nouns: Tensor
    token_mask: Tensor

    def to(self, device: str) -> Truth:
        """The same truth on another device."""
        moved = (self.boxes, self.nouns, self.token_nouns, self.token_mask)
        return Truth(*(value.to(device) for value in moved))


@dataclass(frozen=True)
class Assignment:
    """Which predictions learn which boxes, as parallel (P,) tensors.

    Attributes:
        rows, columns: int64 indices of predictions and of true boxes.
        targets: scores to be learned, in [0, 1]: high where the predicted box is good already.
        shares: weights of the box errors, 1 for the best prediction of each true box, so that
            a thing that is hard to outline teaches as much as an easy one.
    """

    rows: Tensor
    columns: Tensor
    targets: Tensor
    shares: Tensor


def corners(boxes: Tensor) -> Tensor:
    """(..., 4) cxcywh -> (..., 4) xyxy."""
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def pair_iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (arXiv 1902.09630) of boxes in xyxy that broadcast: (..., 4)."""
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(0)
    overlap = inner.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - overlap
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    iou = overlap / union.clamp(min=1e-9)
    return iou, iou - (hull - union) / hull.clamp(min=1e-9)


def _relative_l1(predicted: Tensor, wanted: Tensor) -> Tensor:
    """(...,) mean error of the four coordinates in units of the wanted box's sides."""
    scale = wanted[..., 2:].clamp(min=MIN_SIDE).repeat(*[1] * (wanted.dim() - 1), 2)
    return ((predicted - wanted).abs() / scale).mean(-1)


def _scores(logits: Tensor, truth: Truth) -> Tensor:
    """(N, T) logits -> (N, M) score of each prediction for each box's noun (best token)."""
    named = truth.token_nouns[None] == truth.nouns[:, None]
    best = logits[:, None].masked_fill(~named[None], float("-inf")).amax(-1)
    return best.sigmoid()


@torch.no_grad()
def assign_many(
    logits: Tensor, boxes: Tensor, truth: Truth, top: int, allowed: Tensor | None = None
) -> Assignment:
    """Give each true box its ``top`` best predictions, with soft targets as in TOOD.

    Args:
        logits: (N, T); boxes: (N, 4) predicted cxcywh; allowed: (N, M) bool, all if None.
    """
    if not len(truth.boxes):
        none = truth.nouns.new_empty(0)
        return Assignment(none, none, *[truth.boxes.new_empty(0)] * 2)
    iou, _ = pair_iou(corners(boxes)[:, None], corners(truth.boxes)[None])
    fit = _scores(logits, truth).sqrt() * iou.square() + 1e-9
    if allowed is not None:
        fit = fit * allowed
    value, rows = fit.topk(min(top, len(fit)), dim=0)
    chosen = torch.zeros_like(fit).scatter_(0, rows, value)
    # A prediction wanted by several boxes learns the one that it overlaps most.
    chosen = chosen * functional.one_hot((iou * (chosen > 0)).argmax(1), iou.shape[1])
    taken = chosen > 0
    shares = chosen / chosen.amax(0).clamp(min=1e-9)
    targets = shares * (iou * taken).amax(0)
    index = taken.nonzero()
    return Assignment(index[:, 0], index[:, 1], targets[taken], shares[taken])


@torch.no_grad()
def assign_one(logits: Tensor, boxes: Tensor, truth: Truth) -> Assignment:
    """Match each true box with one prediction at least cost.

    Targets are the roots of the pairs' IoU: with the IoU itself half of the doubtful things
    score below the thresholds of 0.25 to 0.35 that are usual for this class of model.
    """
    iou, giou = pair_iou(corners(boxes)[:, None], corners(truth.boxes)[None])
    wanted = truth.boxes[None].expand(len(boxes), -1, -1)
    distance = _relative_l1(boxes[:, None], wanted)
    # The score weighs most: whichever of several like queries leads keeps its lead, and the
    # others learn to be silent. With a light score the winner changes and all share the box.
    cost = distance - 2 * giou - SCORE_COST * _scores(logits, truth)
    rows, columns = linear_sum_assignment(cost.float().cpu().numpy())
    pairs = torch.as_tensor(np.stack([rows, columns]), device=logits.device)
    targets = iou[pairs[0], pairs[1]].sqrt()
    return Assignment(pairs[0], pairs[1], targets, torch.ones_like(targets))


def near_centres(anchors: Tensor, radius: Tensor, truth: Truth) -> Tensor:
    """(N, M) bool: the token's centre lies in the box, or within one cell of its centre.

    Args:
        anchors: (N, 2) normalised centres of the tokens, not finite where a token is invalid.
        radius: (N, 2) normalised half-width of the square around small boxes.
    """
    offset = (anchors[:, None] - truth.boxes[None, :, :2]).abs()
    reach = torch.maximum(truth.boxes[None, :, 2:] / 2, radius[:, None])
    return (offset < reach).all(-1)


def set_loss(
    logits: Tensor,
    boxes: Tensor,
    truths: Sequence[Truth],
    chosen: Sequence[Assignment],
    focus: float = 2.0,
) -> Tensor:
    """Varifocal classification (arXiv 2008.13367) plus size-relative L1 and GIoU of one head.

    Args:
        logits: (B, N, T); boxes: (B, N, 4) normalised cxcywh; one truth and one assignment
            for each image of the batch.
        focus: power of the score by which wrong answers are weighed; 0 weighs all alike.
    """
    wanted = torch.zeros_like(logits)
    for target, truth, a in zip(wanted, truths, chosen, strict=True):
        named = truth.token_nouns[None] == truth.nouns[a.columns, None]
        target[a.rows] = named.to(logits) * a.targets[:, None].to(logits)
    mask = torch.stack([t.token_mask for t in truths])[:, None].expand_as(logits)
    safe = logits.masked_fill(~mask, -20.0)
    weight = torch.where(wanted > 0, 1.0, 0.75 * safe.detach().sigmoid() ** focus) * mask
    error = functional.binary_cross_entropy_with_logits(safe, wanted, reduction="none")
    mass = torch.cat([a.targets for a in chosen]).clamp(min=0.1).sum().clamp(min=1.0)
    classes = (weight * error).sum() / mass
    predicted = torch.cat([b[a.rows] for b, a in zip(boxes, chosen, strict=True)])
    actual = torch.cat([t.boxes[a.columns] for t, a in zip(truths, chosen, strict=True)])
    if not len(actual):
        return classes + boxes.sum() * 0
    _, giou = pair_iou(corners(predicted), corners(actual))
    share = torch.cat([a.shares for a in chosen])
    place = BOX_WEIGHT * ((1 - giou) + _relative_l1(predicted, actual))
    return classes + (place * share).sum() / share.sum().clamp(min=1.0)


def decoder_heads(
    box_heads: Iterable[nn.Module], output: GroundingDinoObjectDetectionOutput
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (B, Q, T) and boxes (B, Q, 4) of each decoder layer, as the class computes them."""
    text = output.encoder_last_hidden_state_text
    reference = output.init_reference_points
    layers = output.intermediate_hidden_states.unbind(1)
    for level, (hidden, head) in enumerate(zip(layers, box_heads, strict=True)):
        start = torch.special.logit(reference, eps=1e-5)
        yield hidden @ text.transpose(1, 2), (head(hidden) + start).sigmoid()
        reference = output.intermediate_reference_points[:, level]


def proposer_loss(
    box_heads: Iterable[nn.Module],
    output: GroundingDinoObjectDetectionOutput,
    truths: Sequence[Truth],
    anchors: Tensor,
    radius: Tensor,
) -> dict[str, Tensor]:
    """Losses of one batch by head: ``encoder``, ``decoder0``, ...; their sum is minimised.

    Args:
        box_heads: the model's ``bbox_embed``.
        anchors, radius: (B, N, 2), see ``near_centres``.
    """
    length = truths[0].token_nouns.shape[0]
    logits = output.enc_outputs_class[..., :length].float()
    boxes = output.enc_outputs_coord_logits.float().sigmoid()
    chosen = [
        assign_many(x, b, t, TOP_TOKENS, near_centres(a, r, t))
        for x, b, t, a, r in zip(logits, boxes, truths, anchors, radius, strict=True)
    ]
    losses = {"encoder": set_loss(logits, boxes, truths, chosen)}
    for level, (layer_logits, layer_boxes) in enumerate(decoder_heads(box_heads, output)):
        x, b = layer_logits.float(), layer_boxes.float()
        pairs = zip(x, b, truths, strict=True)
        if level < MANY_LAYERS:
            chosen = [assign_many(*pair, TOP_QUERIES) for pair in pairs]
        else:
            chosen = [assign_one(*pair) for pair in pairs]
        losses[f"decoder{level}"] = set_loss(x, b, truths, chosen, focus=1.0)
    return losses
