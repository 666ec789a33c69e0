"""Train the embedded verifier: ``python -m secondlook.demo.verifier_recipe --work DIR``.

The run is seeded, goes on where it was killed, and may use a CPU or a GPU. The answers alone teach
the image encoder slowly, so for the greater part of the run two heads that are thrown away ask it
where things are and what they are like. What was tried and dropped is in ``LOG.md``.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional

from secondlook.demo.verifier_data import NAMES, Batch, Samples, batch_of
from secondlook.demo.verifier_eval import by_class, by_subject
from secondlook.demo.verifier_model import (
    Prompts,
    Seen,
    Shape,
    build_model,
    build_processor,
    read,
    see,
)
from secondlook.demo.verifier_views import GRID, LAYERS

WEIGHTS = Path(__file__).parent / "weights" / "verifier"
TRAIN_SEED, HELD_OUT_SEED, FINAL_SEED = 1001, 2001, 3001
"""Worlds: of the training, of the curve, and of the 500 scenes that only final figures see."""
HELD_OUT, FINAL = 50, 500


@dataclass(frozen=True)
class Plan:
    """One training run; equal plans give equal runs on one machine.

    Attributes:
        views: in a step.
        questions: on each view; only two in the first fifth, when the image encoder knows nothing.
        rate: peak learning rate of AdamW, after a warm-up of 4 %, then a cosine to 1 %.
        helped: share of the steps in which the extra heads count fully; they then fade out.
    """

    steps: int = 3000
    seed: int = 1
    views: int = 32
    questions: int = 5
    scenes: int = 6000
    rate: float = 1.5e-3
    helped: float = 0.5
    shape: Shape = field(default_factory=Shape)

    def rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        warm = max(1, round(0.04 * self.steps))
        if step < warm:
            return self.rate * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        return self.rate * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)

    def questions_at(self, step: int) -> int:
        """Questions on each view of a step."""
        return min(2, self.questions) if step < 0.2 * self.steps else self.questions

    def help_at(self, step: int) -> float:
        """Weight of the losses of the extra heads."""
        done = step / self.steps
        return 1.0 if done < self.helped else max(0.1, 1 - 2 * (done - self.helped))


class Heads(nn.Module):
    """What is asked of the image encoder while it learns: LAYERS of each patch, NAMES of all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layout = nn.Linear(width, len(LAYERS))
        self.names = nn.Linear(width, len(NAMES))

    def losses(self, seen: Seen, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean binary cross-entropy of layouts and of names."""
        layout = self.layout(seen.patches).float().transpose(1, 2).unflatten(2, (GRID, GRID))
        names = self.names(seen.features.mean(1)).float()
        loss = functional.binary_cross_entropy_with_logits
        return loss(layout, batch.layouts), loss(names, batch.names)


class Training:
    """A run in progress: model, average of its weights, optimiser, step and curve."""

    def __init__(self, plan: Plan, work: Path, device: str = "cpu") -> None:
        self.plan, self.work, self.device = plan, work, device
        work.mkdir(parents=True, exist_ok=True)
        self.samples = Samples(work / "views", TRAIN_SEED, plan.scenes, _drawn)
        self.prompts = Prompts()
        self.model = build_model(plan.seed, plan.shape).to(device).train()
        self.heads = Heads(plan.shape.width).to(device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        learnt = [*self.model.parameters(), *self.heads.parameters()]
        groups = [
            {"params": [p for p in learnt if p.ndim >= 2], "weight_decay": 0.05},
            {"params": [p for p in learnt if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.98))
        self.step, self.seconds = 0, 0.0
        self.curve: list[dict[str, float]] = []

    @property
    def checkpoint(self) -> Path:
        """Where the run saves itself."""
        return self.work / "checkpoint.pt"

    def save(self) -> None:
        """Write the checkpoint; a kill while writing leaves the previous one."""
        state = {name: getattr(self, name).state_dict() for name in _LEARNT}
        state |= {name: getattr(self, name) for name in ("step", "seconds", "curve")}
        state["random"] = torch.get_rng_state()
        part = self.checkpoint.with_suffix(".tmp")
        torch.save(state, part)
        part.replace(self.checkpoint)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        for name in _LEARNT:
            getattr(self, name).load_state_dict(state[name])
        self.step, self.seconds, self.curve = state["step"], state["seconds"], state["curve"]
        torch.set_rng_state(state["random"])

    def one_step(self) -> dict[str, float]:
        """Learn one batch; returns the losses."""
        plan, step = self.plan, self.step
        encode, answers = self.prompts.tail, self.prompts.answers
        batch = batch_of(
            self.samples, encode, answers, plan.seed, step, plan.views, plan.questions_at(step)
        ).to(self.device)
        for group in self.optimiser.param_groups:
            group["lr"] = plan.rate_at(step)
        # On a CPU, bfloat16 gained nothing at this width: copies and norms cost as much as matmuls.
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device != "cpu"):
            seen = see(self.model, batch.pixels)
            words = (batch.tokens, batch.part, batch.place)
            hidden = read(self.model, self.prompts.head, seen.features, *words)
            logits = self.model.lm_head(hidden[batch.target >= 0])
        layout, names = self.heads.losses(seen, batch)
        answer = functional.cross_entropy(logits.float(), batch.target[batch.target >= 0])
        # Half of the targets are the end of an answer and soon cost nothing.
        total = 2 * answer + plan.help_at(step) * (2 * layout + names)
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        self._average()
        losses = {"answer": 2 * answer, "layout": layout, "names": names}
        return {name: float(value.detach()) for name, value in losses.items()}

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(0.998, (1 + self.step) / (10 + self.step))
        for mean, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(now, 1 - keep)


_LEARNT = ("model", "heads", "average", "optimiser")


def _drawn(done: int, count: int) -> None:
    print(f"drew {done}/{count} scenes", flush=True)


def run(training: Training, every: int, out: Path | None, command: str = "") -> None:
    """Train to the end of the plan; look at held-out views, save and export ``every`` steps."""
    plan = training.plan
    held_out = Samples(training.work / "views", HELD_OUT_SEED, HELD_OUT, _drawn)
    recent: list[dict[str, float]] = []
    while training.step < plan.steps:
        began = time.monotonic()
        recent.append(training.one_step())
        training.seconds += time.monotonic() - began
        if training.step % 50 == 0:
            means = {k: sum(row[k] for row in recent) / len(recent) for k in recent[0]}
            recent = []
            pace = training.seconds / training.step
            left = pace * (plan.steps - training.step) / 60
            losses = " ".join(f"{name} {value:.3f}" for name, value in means.items())
            print(
                f"step {training.step}/{plan.steps} {losses} · {pace:.2f} s/step "
                f"· {left:.0f} min left",
                flush=True,
            )
        if training.step % every == 0 or training.step == plan.steps:
            _look(training, held_out)
            training.save()
            if out is not None:
                export(training, out, command, {})


def _look(training: Training, held_out: Samples) -> None:
    found = by_subject(training.average, training.prompts, held_out)
    row: dict[str, float] = {"step": training.step, "seconds": round(training.seconds)}
    row |= {name: of["accuracy"] for name, of in found.items() if name in SHOWN}
    training.curve.append(row)
    print(" ".join(f"{k} {v}" for k, v in row.items()), flush=True)


SHOWN = (
    "all",
    "wearing glasses",
    "not wearing glasses",
    "glasses on the head",
    "wearing helmet",
    "colour of car",
    "colour of ball",
    "person",
    "glasses",
    "in the picture",
)
"""Subjects of the curve."""


def export(training: Training, folder: Path, command: str, final: dict[str, Any]) -> None:
    """Write the averaged model, processor, record and curve into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    training.average.save_pretrained(folder)
    build_processor().save_pretrained(folder)
    record = {
        "command": command,
        "plan": asdict(training.plan),
        "step": training.step,
        "training_seconds": round(training.seconds),
        "final": final,
        "curve": training.curve,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    draw_curve(training.curve, folder / "curve.png")


def final_figures(training: Training) -> dict[str, Any]:
    """Figures on 500 scenes that nothing else has seen."""
    unseen = Samples(training.work / "views", FINAL_SEED, FINAL, _drawn)
    return {
        "scenes": FINAL,
        "views": len(unseen),
        "by_subject": by_subject(training.average, training.prompts, unseen),
        "by_class": by_class(training.average, training.prompts, unseen),
    }


def draw_curve(curve: list[dict[str, float]], path: Path) -> None:
    """Accuracy by subject over steps, from 0.5 to 1, as a PNG."""
    colours = ("#000000", "#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2",
               "#17becf", "#bcbd22", "#7f7f7f")  # fmt: skip
    image = Image.new("RGB", (800, 420), "white")
    pen = ImageDraw.Draw(image)
    last = max((row["step"] for row in curve), default=1)
    for tenth in range(6):
        y = 390 - 72 * tenth
        pen.line([(50, y), (600, y)], "#e5e5e5")
        pen.text((20, y - 6), f"{0.5 + tenth / 10:.1f}", "black")
    for place, (name, colour) in enumerate(zip(SHOWN, colours, strict=True)):
        points = [
            (50 + 550 * row["step"] / last, 390 - 720 * (max(row[name], 0.5) - 0.5))
            for row in curve
            if name in row
        ]
        if points:
            pen.line([(50, 390), *points], colour, 2)
            pen.text((610, 30 + 20 * place), f"{name} {curve[-1].get(name, 0):.3f}", colour)
    pen.text((50, 398), f"0 to {last} steps: accuracy on held-out views, half yes", "black")
    image.save(path)


def main(arguments: list[str] | None = None) -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of views and checkpoint")
    parser.add_argument("--steps", type=int, default=Plan.steps)
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--scenes", type=int, default=Plan.scenes)
    parser.add_argument("--views", type=int, default=Plan.views, help="views in a step")
    parser.add_argument("--rate", type=float, default=Plan.rate, help="peak learning rate")
    parser.add_argument("--every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    o = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    command = f"python -m secondlook.demo.verifier_recipe {' '.join(arguments or sys.argv[1:])}"
    plan = Plan(o.steps, o.seed, views=o.views, scenes=o.scenes, rate=o.rate)
    training = Training(plan, o.work, o.device)
    training.resume()
    run(training, o.every, o.out, command)
    export(training, o.out, command, final_figures(training))


if __name__ == "__main__":
    main()
