"""The training of the embedded segmenter, step by step: prompts, rounds of correction, rates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import EdgeTamModel

from recipes.runs import RecipeRun
from recipes.segmenter.data import LEAST_PIXELS, MaskedScenes, SegmenterBatch
from recipes.segmenter.loss import DenseHead, ious, mask_losses
from recipes.segmenter.model import (
    SIZE,
    STRIDES,
    WINDOW,
    EncodedImages,
    Prompt,
    SegmenterShape,
    build_model,
    decode,
    encode,
    speed_up,
)
from recipes.segmenter.muon import FloatMuon
from recipes.segmenter.prompts import at_click_size, boxes_of, first_clicks, next_clicks, noisy
from secondlook.training.trainer import EMA, warmup_cosine

TRAIN_SEED = 5001
"""World of the training."""


@dataclass(frozen=True)
class SegmenterPlan:
    """One training run; equal plans give equal runs on one machine.

    Attributes:
        images: in a step, and ``objects`` at most of each.
        rate: peak learning rate of Muon; that of AdamW, for all that is no matrix inside a tower,
            is a third.
        encoder_only: the first steps, of twice as many images; the dense head alone counts.
        boxes_only: the steps after them, in which every prompt is a box of a large object.
        small: share of the steps in which only one in four learns from whole images, half as many
            of them, and the others from windows of WINDOW pixels; all later ones do.
        helped: share of the other steps in which the dense head counts, less and less.
        start: checkpoint folder whose weights the run begins with; "" for random ones.
    """

    steps: int = 2700
    seed: int = 1
    images: int = 8
    objects: int = 4
    scenes: int = 3000
    rate: float = 5e-3
    encoder_only: int = 700
    boxes_only: int = 100
    small: float = 0.72
    helped: float = 0.5
    shape: SegmenterShape = field(default_factory=SegmenterShape)
    start: str = ""

    def rate_at(self, step: int) -> float:
        """Learning rate of Muon at a step."""
        return self.rate * warmup_cosine(step, self.steps, 0.02)

    def side_at(self, step: int) -> int:
        """Pixels of the sides of a step's images."""
        # Windows alone, tried first, leave boxes that are larger than one unlearnt.
        return WINDOW if step < self.small * self.steps and step % 4 != 1 else SIZE

    def least_at(self, step: int) -> int:
        """Pixels of the smallest objects of a step: large ones first."""
        return 600 if 0 <= step - self.encoder_only < self.boxes_only else LEAST_PIXELS

    def everywhere_at(self, step: int) -> float:
        """Weight of the cells' loss, which comes slowly."""
        rising = max(1, 2 * self.boxes_only)
        return min(1.0, 0.05 + (step - self.encoder_only) / rising)

    def rounds_at(self, step: int) -> int:
        """Rounds of prompting in a step: one or two, later up to three."""
        if step - self.encoder_only < 2 * self.boxes_only:
            return 1
        return 1 + (step % 2) + (step > 0.6 * self.steps and step % 4 == 3)

    def ways_at(self, step: int) -> tuple[str, ...]:
        """How the objects of a step are first told: not at all, by boxes, and by clicks too."""
        if step < self.encoder_only:
            return ()
        return ("box",) if step - self.encoder_only < self.boxes_only else ("box", "click")

    def help_at(self, step: int) -> float:
        """Weight of the dense head's loss."""
        done = (step - self.encoder_only) / (self.helped * (self.steps - self.encoder_only))
        return min(1.0, max(0.0, 1 - done))


class SegmenterTraining(RecipeRun):
    """A run in progress: model, average of its weights, optimisers, step and curve."""

    modules = ("model", "head", "average", "muon", "adamw")
    values = (*RecipeRun.values, "history")

    def __init__(
        self,
        plan: SegmenterPlan,
        work: Path,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """``work`` keeps scenes and checkpoint; ``progress`` as that of ``MaskedScenes``."""
        super().__init__(work / "checkpoint.pt", plan.steps)
        self.plan, self.work = plan, work
        work.mkdir(parents=True, exist_ok=True)
        self.scenes = MaskedScenes(work / "scenes", TRAIN_SEED, plan.scenes, progress)
        self.model = speed_up(_initial_model(plan)).train()
        self.head = DenseHead(plan.shape.hidden)
        self._ema = EMA(self.model)
        self.average: EdgeTamModel = self._ema.model
        self.muon, self.adamw = optimisers(self.model, self.head)
        self.history: list[dict[str, int]] = []

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one; the plan may have another length now."""
        super().resume()
        planned = {"from_step": self.step, "steps": self.plan.steps, "scenes": self.plan.scenes}
        last = {"from_step": self.step, **self.history[-1]} if self.history else {}
        if any(planned[name] != last.get(name) for name in ("steps", "scenes")):
            self.history.append(planned)

    def one_step(self) -> dict[str, float]:
        """Learn one batch; returns the losses."""
        plan, step = self.plan, self.step
        random = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        side = plan.side_at(step)
        images = plan.images if plan.ways_at(step) else 2 * plan.images
        images = images if side < SIZE else max(1, images // 2)
        batch = self.scenes.batch(plan.seed, step, images, plan.objects, side, plan.least_at(step))
        encoded = encode(self.model, batch.pixels, batch.corners)
        weight = plan.help_at(step)
        dense = self.head(encoded.finest, batch, random) if weight else torch.zeros(())
        loss, losses = weight * dense, {"dense": dense}
        for way in plan.ways_at(step):
            mask, quality, reached = self._rounds(encoded, batch, way == "click", random)
            loss = loss + mask + 0.5 * quality
            losses |= {way: mask, f"{way}_iou": reached, f"{way}_quality": quality}
        self._learn(loss)
        return {name: float(value.detach()) for name, value in losses.items()}

    def _rounds(
        self, encoded: EncodedImages, batch: SegmenterBatch, click: bool, random: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean loss of masks and of predicted IoUs over the rounds, and the first round's IoU."""
        truth = at_click_size(batch.masks)
        corner = (STRIDES[-1] * batch.corners[batch.image]).float()
        if click:
            points, labels = first_clicks(batch.masks, random)
            prompt = Prompt().clicked(points + corner, labels)
        else:
            prompt = Prompt(noisy(boxes_of(batch.masks), random) + corner.repeat(1, 2))
        rounds, everywhere = self.plan.rounds_at(self.step), self.plan.everywhere_at(self.step)
        previous, found = None, []
        for turn in range(rounds):
            logits, quality = decode(
                self.model, encoded, batch.image, prompt, previous, several=click and not turn
            )
            losses = mask_losses(logits, batch.masks, random, everywhere)
            reached = ious(logits, truth)
            best = quality.argmax(1)
            # The best of several masks learns; the others a little, so that none is lost.
            found.append(
                torch.stack(
                    [
                        (losses.amin(1) + 0.05 * losses.mean(1)).mean(),
                        (quality - reached).square().mean(),
                        reached.gather(1, best[:, None]).mean(),
                    ]
                )
            )
            previous = logits.gather(1, best[:, None, None, None].expand(-1, 1, *logits.shape[2:]))
            previous = previous.detach()
            points, labels = next_clicks(previous, truth, random)
            prompt = prompt.clicked(points + corner, labels)
        mask, error, _ = torch.stack(found).mean(0)
        return mask, error, found[0][2]

    def _learn(self, loss: Tensor) -> None:
        rate = self.plan.rate_at(self.step)
        for optimiser, share in ((self.muon, 1.0), (self.adamw, 1 / 3)):
            optimiser.param_groups[0]["lr"] = rate * share
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.muon.step()
        self.adamw.step()
        self.step += 1
        self._ema.update(self.step)


def _initial_model(plan: SegmenterPlan) -> EdgeTamModel:
    model = build_model(plan.seed, plan.shape)
    if plan.start:
        known = EdgeTamModel.from_pretrained(plan.start, dtype=torch.float32)
        model.load_state_dict(known.state_dict())
    return model


def optimisers(model: nn.Module, head: nn.Module) -> tuple[FloatMuon, torch.optim.AdamW]:
    """Muon for the matrices inside the towers, AdamW for everything else."""
    towers = (".transformer.", "hypernetworks", "prediction_head")
    inside = [
        value
        for name, value in model.named_parameters()
        if value.ndim == 2 and any(tower in name for tower in towers)
    ]
    known = {id(value) for value in inside}
    others = [v for v in (*model.parameters(), *head.parameters()) if id(v) not in known]
    return (
        FloatMuon(inside, weight_decay=0.02),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01),
    )
