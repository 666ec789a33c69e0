"""Train the embedded proposer: ``python -m recipes.proposer.train --work DIR``.

The run is seeded, goes on where it was killed, and may use a CPU or a GPU. What it learns from,
how it is scored and what was tried and dropped is in ``recipes/LOG.md``.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import GroundingDinoForObjectDetection

from recipes.proposer.data import Scenes, training_batch
from recipes.proposer.evaluate import detect, figures
from recipes.proposer.loss import proposer_loss
from recipes.proposer.model import SIZE, build_model, build_processor, save_pretrained
from recipes.runs import WARMUP, RecipeRun, draw_curve
from secondlook.models.embedded import EMBEDDED
from secondlook.training.trainer import EMA, warmup_cosine

WEIGHTS = EMBEDDED / "proposer"
HELD_OUT_SEED = 900_001
"""World of the images that are looked at during training."""
FINAL_SEED = 900_002
"""World of the 500 images that only the final figures see."""
SMALL = (192, 224, 256)
"""Longest sides, in turn, of the first steps, which cost half of those at ``SIZE``."""


@dataclass(frozen=True)
class ProposerPlan:
    """One training run; equal plans give equal runs on one machine.

    Attributes:
        small_share: share of the steps that see images of the sizes ``SMALL``.
        rate: peak learning rate of AdamW, reached after a warm-up of 4 %, then a cosine to 1 %.
    """

    steps: int
    seed: int
    batch: int
    scenes: int
    rate: float
    small_share: float

    def rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        return self.rate * warmup_cosine(step, self.steps, WARMUP)

    def longest_at(self, step: int) -> int:
        """Longest side in pixels of the images of a step."""
        small = step < self.small_share * self.steps
        return SMALL[step % len(SMALL)] if small else SIZE


class ProposerTraining(RecipeRun):
    """A run in progress: model, average of its weights, optimiser, step and curve."""

    values = (*RecipeRun.values, "history")

    def __init__(self, plan: ProposerPlan, work: Path, device: str) -> None:
        super().__init__(work / "checkpoint.pt", plan.steps)
        self.plan, self.work, self.device = plan, work, device
        self.scenes = Scenes(work / "scenes", plan.seed, plan.scenes)
        self.tokenizer = build_processor().tokenizer
        self.model = build_model(plan.seed).to(device, memory_format=torch.channels_last).train()
        self._ema = EMA(self.model)
        self.average: GroundingDinoForObjectDetection = self._ema.model
        self.optimiser = torch.optim.AdamW(_groups(self.model), lr=plan.rate, betas=(0.9, 0.99))
        self.history: list[dict[str, float]] = [{"from_step": 0, **asdict(plan)}]

    def save(self) -> None:
        """Write the checkpoint, and the curve beside it."""
        super().save()
        (self.work / "curve.json").write_text(json.dumps(self.curve, indent=1))

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one; batches need no state.

        A plan that differs from the one of the checkpoint is allowed, and told in the record.
        """
        plan = self.history[0]
        super().resume()
        now = plan | {"from_step": self.step}
        if self.history[-1] | {"from_step": self.step} != now:
            self.history.append(now)

    def one_step(self) -> dict[str, float]:
        """Learn one batch; returns the losses by head."""
        plan, step = self.plan, self.step
        batch = training_batch(
            self.scenes, self.tokenizer, plan.seed, step, plan.batch, plan.longest_at(step)
        )
        for group in self.optimiser.param_groups:
            group["lr"] = plan.rate_at(step) * group["scale"]
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            output = self.model(**{k: v.to(self.device) for k, v in batch.inputs.items()})
        truths = [t.to(self.device) for t in batch.truths]
        near = batch.anchors.to(self.device), batch.radius.to(self.device)
        losses = proposer_loss(self.model.bbox_embed, output, truths, *near)
        total = torch.stack(list(losses.values())).sum()
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        if torch.isfinite(norm):
            self.optimiser.step()
        self.step += 1
        self._ema.update(self.step)
        return {name: value.item() for name, value in losses.items()} | {"norm": norm.item()}

    def evaluate(self) -> None:
        """Add the figures of the averaged weights on held-out images to the curve, and save."""
        images = list(Scenes(self.work / "scenes", HELD_OUT_SEED, 200))
        at = figures(images, detect(self.average, self.tokenizer, images))["0.2"]
        row: dict[str, float] = {"step": self.step, "seconds": round(self.seconds)}
        row |= {f"recall {name}": of_noun["recall"] for name, of_noun in at.items()}
        row |= {name: at["all"][name] for name in ("precision", "false_per_true")}
        self.curve.append(row)
        print(" ".join(f"{k} {v}" for k, v in row.items()), flush=True)
        self.save()


def _groups(model: torch.nn.Module) -> list[dict[str, object]]:
    """Parameter groups: no decay on vectors; sampling offsets learn slowly, as published."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, value in model.named_parameters():
        key = (0.3 if "sampling_offsets" in name else 1.0, 0.0 if value.ndim < 2 else 0.01)
        groups.setdefault(key, []).append(value)
    return [{"params": v, "scale": s, "weight_decay": d} for (s, d), v in groups.items()]


def export(training: ProposerTraining, folder: Path, command: str) -> None:
    """Write the averaged model with its curve and figures on 500 unseen images."""
    save_pretrained(training.average.state_dict(), folder)
    model = GroundingDinoForObjectDetection.from_pretrained(folder, dtype=torch.float32).eval()
    images = list(Scenes(training.work / "scenes", FINAL_SEED, 500))
    final = figures(images, detect(model, training.tokenizer, images))
    record = {
        "command": command,
        "history": training.history,
        "step": training.step,
        "training_seconds": round(training.seconds),
        "images": len(images),
        "final": final,
        "curve": training.curve,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    measured = training.curve[0] if training.curve else {}
    names = [name for name in measured if name.startswith(("recall", "precision"))]
    caption = "held-out images, threshold 0.2, IoU 0.5"
    draw_curve(training.curve, names, folder / "curve.png", caption)
    print(json.dumps(final["0.2"], indent=1), flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of scenes and checkpoints")
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--scenes", type=int, default=12_000)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--small-share", type=float, default=0.25)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--export-only", action="store_true", help="export the checkpoint and stop")
    o = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    plan = ProposerPlan(o.steps, o.seed, o.batch, o.scenes, o.rate, o.small_share)
    training = ProposerTraining(plan, o.work, o.device)
    training.resume()
    if not o.export_only:
        training.run(o.every, training.evaluate, report=20)
    command = f"python -m recipes.proposer.train --work DIR --steps {o.steps} --seed {o.seed}"
    export(training, o.out, command)


if __name__ == "__main__":
    main()
