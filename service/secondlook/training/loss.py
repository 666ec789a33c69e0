"""The students' own loss, with four changes for verified labels.

* One object may have several classes ("person" and "person wearing glasses"): its classification
  target has a one for each, where the models' own loss would need a query for each.
* Where a region is to be *ignored* for a class, a query that lies in it learns nothing about that
  class: neither object nor background (the *ignore* regions of COCO's ``iscrowd``).
* A *hard negative*, a box that was proposed for a class and rejected, weighs more than other
  background.
* A *rare class* weighs more than others. What a user asks for is rare ("red car") beside what it is
  told from (cars): on the demo world, 400 steps without this left red cars at the AP50 of a guess
  among cars, 0.16, and with it made 0.51 of it.

Everything else is as the models' authors have it: DEIMv2's matching-aware loss (arXiv 2504.10612)
or D-FINE's varifocal one (arXiv 2410.13842), boxes, distributions, and denoising.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss
from transformers.image_transforms import center_to_corners_format
from transformers.loss.loss_d_fine import DFineLoss
from transformers.loss.loss_deimv2 import Deimv2Loss

Targets = list[dict[str, Tensor]]
"""Of each image, as ``data.targets_of`` makes them."""

INSIDE = 0.5
"""Share of a query's box inside an ignore region, or IoU with it, from which it is left out."""
NEGATIVE_IOU = 0.5
"""IoU with a hard negative from which a query is one."""
MAX_CLASS_WEIGHT = 10.0
"""What a class weighs at most: with more, the handful of boxes of a rare one is overfitted."""


class _VerifiedLabelLoss:
    """The classification losses over several classes an object, weighed query by query."""

    negative_weight = 1.0
    class_weights: Tensor | None = None
    """(C,) what each class weighs; None: all the same."""

    def loss_labels_mal(
        self, outputs: dict[str, Tensor], targets: Targets, indices: Any, num_boxes: float
    ) -> dict[str, Tensor]:
        """DEIMv2's: targets are IoU^gamma, background weighs score^gamma."""
        hot, score = self._class_targets(outputs, targets, indices)
        logits, gamma = outputs["logits"], self.gamma  # type: ignore[attr-defined]
        alpha = self.mal_alpha if self.mal_alpha is not None else 1.0  # type: ignore[attr-defined]
        background = alpha * logits.detach().sigmoid().pow(gamma) * (1 - hot)
        weight = background + hot
        return {"loss_mal": self._sum(outputs, targets, score.pow(gamma), weight, hot, num_boxes)}

    def loss_labels_vfl(
        self,
        outputs: dict[str, Tensor],
        targets: Targets,
        indices: Any,
        num_boxes: float,
        log: bool = True,
    ) -> dict[str, Tensor]:
        """D-FINE's: targets are the IoU, which also weighs them."""
        hot, score = self._class_targets(outputs, targets, indices)
        background = outputs["logits"].detach().sigmoid().pow(self.gamma)  # type: ignore[attr-defined]
        weight = self.alpha * background * (1 - hot) + score  # type: ignore[attr-defined]
        return {"loss_vfl": self._sum(outputs, targets, score, weight, hot, num_boxes)}

    def loss_boxes(
        self, outputs: dict[str, Tensor], targets: Targets, indices: Any, num_boxes: float
    ) -> dict[str, Tensor]:
        """L1 and GIoU, pair by pair: transformers computes all pairs and keeps their diagonal,
        which for denoising queries is most of a step's time on a CPU."""
        rows = self._get_source_permutation_idx(indices)  # type: ignore[attr-defined]
        found = outputs["pred_boxes"][rows]
        matched = zip(targets, indices, strict=True)
        true = torch.cat([target["boxes"][objects] for target, (_, objects) in matched])
        giou = generalized_box_iou_loss(
            center_to_corners_format(found), center_to_corners_format(true), reduction="sum"
        )
        distance = F.l1_loss(found, true, reduction="sum")
        return {"loss_bbox": distance / num_boxes, "loss_giou": giou / num_boxes}

    def _class_targets(
        self, outputs: dict[str, Tensor], targets: Targets, indices: Any
    ) -> tuple[Tensor, Tensor]:
        """Which classes each query stands for, and with what IoU; both (B, Q, classes)."""
        logits, boxes = outputs["logits"], outputs["pred_boxes"]
        hot = torch.zeros_like(logits)
        score = torch.zeros_like(logits)
        for image, (queries, objects) in enumerate(indices):
            if len(queries) == 0:
                continue
            of_objects = targets[image]["hot"][objects].to(logits.dtype)
            found = center_to_corners_format(boxes[image, queries].detach())
            true = center_to_corners_format(targets[image]["boxes"][objects])
            iou = _overlaps(found, true)[0].diagonal().to(logits.dtype)
            hot[image, queries] = of_objects
            score[image, queries] = of_objects * iou[:, None]
        return hot, score

    def _sum(
        self,
        outputs: dict[str, Tensor],
        targets: Targets,
        score: Tensor,
        weight: Tensor,
        hot: Tensor,
        num_boxes: float,
    ) -> Tensor:
        logits = outputs["logits"]
        weight = weight * self._query_weights(outputs["pred_boxes"].detach(), targets, hot)
        if self.class_weights is not None:
            weight = weight * self.class_weights.to(weight)
        losses = F.binary_cross_entropy_with_logits(logits, score, weight=weight, reduction="none")
        return losses.sum() / num_boxes

    def _query_weights(self, boxes: Tensor, targets: Targets, hot: Tensor) -> Tensor:
        """(B, Q, classes): 1, 0 where a query is ignored for a class, more on a hard negative."""
        weights = torch.ones_like(hot)
        for image, target in enumerate(targets):
            corners = center_to_corners_format(boxes[image])
            if len(target["ignore"]):
                iou, inside = _overlaps(corners, target["ignore"])
                touched = ((iou >= INSIDE) | (inside >= INSIDE)).to(hot.dtype)
                hidden = (touched @ target["ignore_hot"].to(hot.dtype)) > 0
                weights[image][hidden] = 0
            if len(target["negatives"]) and self.negative_weight != 1:
                alike = (_overlaps(corners, target["negatives"])[0] >= NEGATIVE_IOU).to(hot.dtype)
                shown = (alike @ target["negative_hot"].to(hot.dtype)) > 0
                weights[image][shown] = self.negative_weight
        return torch.where(hot > 0, torch.ones_like(weights), weights)


class _VerifiedDeimv2Loss(_VerifiedLabelLoss, Deimv2Loss):
    pass


class _VerifiedDFineLoss(_VerifiedLabelLoss, DFineLoss):
    pass


def _overlaps(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """IoU, and the share of each of ``boxes`` that lies inside each of ``others``; (N, M)."""
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    area, other = ((b[:, 2:] - b[:, :2]).clamp(min=0).prod(-1) for b in (boxes, others))
    union = area[:, None] + other[None] - both
    return both / union.clamp(min=1e-9), both / area[:, None].clamp(min=1e-9)


def class_weights(labels: Iterable[NDArray[np.int64]], classes: int, balance: float) -> Tensor:
    """(classes,) float32: how much more each weighs than a usual one, in [1, ``MAX_CLASS_WEIGHT``].

    That is how many times rarer its boxes are than those of the median class, to the power of
    ``balance`` in [0, 1]. ``labels``: of each image the classes of its boxes, (N,).
    """
    numbers = np.concatenate([np.zeros(0, np.int64), *labels])
    counts = np.bincount(numbers, minlength=classes).clip(1)
    rarer = np.median(counts) / counts
    return torch.tensor((rarer**balance).clip(1, MAX_CLASS_WEIGHT), dtype=torch.float32)


def attach_loss(
    model: nn.Module, negative_weight: float = 2.0, weights: Tensor | None = None
) -> None:
    """Give a DEIMv2 or D-FINE of transformers this loss; ``model(…, labels=targets)`` uses it.

    ``negative_weight`` ≥ 1 is what a hard negative weighs against other background, ``weights``
    what ``class_weights`` gives.
    """
    config: Any = model.config
    kind = _VerifiedDeimv2Loss if config.model_type == "deimv2" else _VerifiedDFineLoss
    criterion = kind(config)
    criterion.negative_weight, criterion.class_weights = negative_weight, weights

    def loss(
        logits: Tensor,
        labels: Targets,
        device: Any,
        pred_boxes: Tensor,
        config: Any,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Tensor], None]:
        criterion.to(device)
        found = _criterion_inputs(*args, **kwargs)
        parts: dict[str, Tensor] = criterion(found, labels)
        return torch.stack(list(parts.values())).sum(), parts, None

    model.loss_function = loss  # type: ignore[assignment]


def _criterion_inputs(
    outputs_class: Tensor,
    outputs_coord: Tensor,
    enc_topk_logits: Tensor,
    enc_topk_bboxes: Tensor,
    denoising_meta_values: dict[str, Any] | None = None,
    predicted_corners: Tensor | None = None,
    initial_reference_points: Tensor | None = None,
    **_: Any,
) -> dict[str, Any]:
    """What the criterion takes: the last layer, the others, and the denoising queries apart."""
    layers = {"logits": outputs_class, "pred_boxes": outputs_coord.clamp(0, 1)}
    if predicted_corners is not None and initial_reference_points is not None:
        layers |= {"pred_corners": predicted_corners, "ref_points": initial_reference_points}
    denoising: dict[str, Any] = {}
    if denoising_meta_values is not None:
        cut = denoising_meta_values["dn_num_split"]
        noisy = {name: torch.split(part, cut, dim=2)[0] for name, part in layers.items()}
        layers = {name: torch.split(part, cut, dim=2)[1] for name, part in layers.items()}
        denoising["dn_auxiliary_outputs"] = _by_layer(noisy)
        denoising["denoising_meta_values"] = denoising_meta_values
    *earlier, last = _by_layer(layers)
    encoder = {"logits": enc_topk_logits, "pred_boxes": enc_topk_bboxes.clamp(0, 1)}
    return {**last, "auxiliary_outputs": [*earlier, encoder], **denoising}


def _by_layer(layers: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """One a layer, each learning from the last one's distributions.

    Scores and boxes come once more than distributions: the decoder's first guess has none.
    """
    teacher = {
        "teacher_corners": layers["pred_corners"][:, -1],
        "teacher_logits": layers["logits"][:, -1],
    }
    guesses, refined = layers["logits"].shape[1], layers["pred_corners"].shape[1]
    first = guesses - refined
    heads = [{n: layers[n][:, i] for n in ("logits", "pred_boxes")} for i in range(guesses)]
    for layer, head in enumerate(heads[first:]):
        head |= {n: layers[n][:, layer] for n in ("pred_corners", "ref_points")} | teacher
    return heads
