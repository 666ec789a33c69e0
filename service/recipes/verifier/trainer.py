"""The training of the embedded verifier, step by step: what is learnt, how fast, and from what.

The answers alone teach the image encoder slowly, so two heads that are thrown away ask it where
things are and what they are like: alone at first, then beside the questions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import FastVlmForConditionalGeneration

from recipes.runs import RecipeRun
from recipes.verifier.data import NAMES, Samples, VerifierBatch, batch_of
from recipes.verifier.model import (
    GRID,
    EncodedViews,
    PromptTokens,
    VerifierShape,
    build_model,
    encode_views,
    question_states,
)
from recipes.verifier.views import CELLS, LAYERS
from secondlook.config.settings import ModelSettings
from secondlook.models.embedded import load_proposer
from secondlook.training.trainer import EMA, warmup_cosine

TRAIN_SEED = 1001
"""World of the training."""


@dataclass(frozen=True)
class VerifierPlan:
    """One training run; equal plans give equal runs on one machine.

    Attributes:
        views: in a step.
        questions: on each view; none in the first steps, when the image encoder knows nothing.
        rate: peak learning rate of Muon, after a warm-up of 2 %, then a cosine to 1 %; that of
            AdamW, for all that is no matrix inside a tower, is a third.
        silent: share of the steps without questions.
        helped: share of the steps in which the extra heads count fully; they then fade out.
        start: checkpoint folder whose weights the run begins with; "" for random ones.
    """

    steps: int = 4000
    seed: int = 1
    views: int = 48
    questions: int = 4
    scenes: int = 6000
    rate: float = 4e-3
    silent: float = 0.05
    helped: float = 0.5
    shape: VerifierShape = field(default_factory=VerifierShape)
    start: str = ""

    def rate_at(self, step: int) -> float:
        """Learning rate of Muon at a step."""
        return self.rate * warmup_cosine(step, self.steps, 0.02)

    def questions_at(self, step: int) -> int:
        """Questions on each view of a step."""
        return 0 if step < self.silent * self.steps else self.questions

    def help_at(self, step: int) -> float:
        """Weight of the losses of the extra heads."""
        done = step / self.steps
        return 1.0 if done < self.helped else max(0.1, 1 - 2 * (done - self.helped))


class Heads(nn.Module):
    """What is asked of the image encoder while it learns: LAYERS of each patch, NAMES of all."""

    cells: Tensor

    def __init__(self, shape: VerifierShape) -> None:
        super().__init__()
        self.layout = nn.Linear(shape.vision_widths[-1], len(LAYERS))
        self.names = nn.Linear(shape.text_width, len(NAMES))
        self.register_buffer("cells", ((torch.arange(GRID) + 0.5) * CELLS / GRID).long())

    def losses(self, seen: EncodedViews, batch: VerifierBatch) -> tuple[Tensor, Tensor]:
        """Mean binary cross-entropy of layouts and of names."""
        layout = self.layout(seen.patches).float().transpose(1, 2).unflatten(2, (GRID, GRID))
        names = self.names(seen.features.mean(1)).float()
        loss = functional.binary_cross_entropy_with_logits
        truth = batch.layouts[:, :, self.cells][:, :, :, self.cells]
        return loss(layout, truth), loss(names, batch.names)


class VerifierTraining(RecipeRun):
    """A run in progress: model, average of its weights, optimisers, step and curve."""

    modules = ("model", "heads", "average", "muon", "adamw")
    values = (*RecipeRun.values, "random")

    def __init__(
        self,
        plan: VerifierPlan,
        work: Path,
        device: str = "cpu",
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """``work`` keeps views and checkpoint; ``progress`` as that of ``Samples``."""
        super().__init__(work / "checkpoint.pt", plan.steps)
        self.plan, self.work, self.device = plan, work, device
        work.mkdir(parents=True, exist_ok=True)
        proposer = load_proposer("", ModelSettings(device=device))
        self.samples = Samples(work / "views", TRAIN_SEED, plan.scenes, progress, proposer)
        self.prompts = PromptTokens()
        # Channels last: convolutions take a fifth less time on a CPU.
        self.model = _initial_model(plan).to(device, memory_format=torch.channels_last).train()
        self.heads = Heads(plan.shape).to(device)
        self._ema = EMA(self.model)
        self.average: FastVlmForConditionalGeneration = self._ema.model
        self.muon, self.adamw = _optimisers(self.model, self.heads)
        self.random = torch.get_rng_state()

    def save(self) -> None:
        """Write the checkpoint; a kill while writing leaves the previous one."""
        self.random = torch.get_rng_state()
        super().save()

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        super().resume()
        torch.set_rng_state(self.random)

    def one_step(self) -> dict[str, float]:
        """Learn one batch; returns the losses."""
        plan, step = self.plan, self.step
        encode, answers = self.prompts.tail, self.prompts.answers
        batch = batch_of(
            self.samples, encode, answers, plan.seed, step, plan.views, plan.questions_at(step)
        ).to(self.device)
        # On a CPU, bfloat16 gained nothing at this width: copies and norms cost as much as matmuls.
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device != "cpu"):
            seen = encode_views(self.model, batch.pixels)
            layout, names = self.heads.losses(seen, batch)
            answer = self._answer_loss(seen, batch)
        self._learn(2 * answer + plan.help_at(step) * (2 * layout + names))
        losses = {"answer": 2 * answer, "layout": layout, "names": names}
        return {name: float(value.detach()) for name, value in losses.items()}

    def _answer_loss(self, seen: EncodedViews, batch: VerifierBatch) -> Tensor:
        """Mean cross-entropy; half of the targets are the end of an answer, soon known."""
        if not batch.tokens.shape[1]:
            return seen.features.new_zeros(())
        words = (batch.tokens, batch.part, batch.place)
        hidden = question_states(self.model, self.prompts.head, seen.features, *words)
        targets = batch.target[batch.target >= 0]
        logits = self.model.lm_head(hidden[batch.target >= 0])
        return functional.cross_entropy(logits.float(), targets)

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


def _initial_model(plan: VerifierPlan) -> FastVlmForConditionalGeneration:
    model = build_model(plan.seed, plan.shape)
    if plan.start:
        known = FastVlmForConditionalGeneration.from_pretrained(plan.start, dtype=torch.float32)
        model.load_state_dict(known.state_dict())
    return model


def _optimisers(model: nn.Module, heads: nn.Module) -> tuple[torch.optim.Muon, torch.optim.AdamW]:
    """Muon for the matrices inside the towers, AdamW for everything else."""
    inside = [
        value
        for name, value in model.named_parameters()
        if value.ndim == 2 and (".layers." in name or ".multi_modal_projector." in name)
    ]
    known = {id(value) for value in inside}
    others = [v for v in (*model.parameters(), *heads.parameters()) if id(v) not in known]
    return (
        torch.optim.Muon(inside, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01),
    )
