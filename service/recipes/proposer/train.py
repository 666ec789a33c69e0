"""Train the embedded proposer: ``python -m recipes.proposer.train --work DIR``.

The run is seeded, goes on where it was killed, and may use a CPU or a GPU. What it learns from,
how it is scored and what was tried and dropped is written in ``LOG.md`` beside this file.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from transformers import GroundingDinoForObjectDetection

from recipes.proposer.data import Scenes, training_batch
from recipes.proposer.evaluate import detect, figures
from recipes.proposer.loss import proposer_loss
from recipes.proposer.model import SIZE, build_model, build_processor, save_pretrained
from secondlook.models.embedded import EMBEDDED
from secondlook.training.trainer import warmed_cosine

WEIGHTS = EMBEDDED / "proposer"
HELD_OUT_SEED = 900_001
"""World of the images that are looked at during training."""
FINAL_SEED = 900_002
"""World of the 500 images that only the final figures see."""
SMALL = (192, 224, 256)
"""Longest sides, in turn, of the first steps, which cost half of those at ``SIZE``."""


COLOURS = ("black", "crimson", "navy", "green", "purple", "brown", "hotpink", "teal", "gray")


@dataclass(frozen=True)
class Plan:
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
        return self.rate * warmed_cosine(step, self.steps, 0.04)

    def longest_at(self, step: int) -> int:
        """Longest side in pixels of the images of a step."""
        small = step < self.small_share * self.steps
        return SMALL[step % len(SMALL)] if small else SIZE


class Training:
    """A run in progress: model, average of its weights, optimiser, step and curve."""

    def __init__(self, plan: Plan, work: Path, device: str) -> None:
        self.plan, self.work, self.device = plan, work, device
        self.scenes = Scenes(work / "scenes", plan.seed, plan.scenes)
        self.tokenizer = build_processor().tokenizer
        self.model = build_model(plan.seed).to(device, memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(_groups(self.model), lr=plan.rate, betas=(0.9, 0.99))
        self.step, self.seconds = 0, 0.0
        self.curve: list[dict[str, float]] = []
        self.history: list[dict[str, float]] = [{"from_step": 0, **asdict(plan)}]

    @property
    def checkpoint(self) -> Path:
        """Where the run saves itself."""
        return self.work / "checkpoint.pt"

    def save(self) -> None:
        """Write the checkpoint; a kill while writing leaves the previous one."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
            "history": self.history,
        }
        part = self.checkpoint.with_suffix(".tmp")
        torch.save(state, part)
        part.replace(self.checkpoint)
        (self.work / "curve.json").write_text(json.dumps(self.curve, indent=1))

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one; batches need no state.

        A plan that differs from the one of the checkpoint is allowed, and told in the record.
        """
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds, self.curve = state["step"], state["seconds"], state["curve"]
        now = self.history[0] | {"from_step": self.step}
        same = state["history"][-1] | {"from_step": self.step} == now
        self.history = state["history"] + ([] if same else [now])

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
        self._average()
        return {name: value.item() for name, value in losses.items()} | {"norm": norm.item()}

    @torch.no_grad()
    def _average(self) -> None:
        """Exponential average of the weights; batch statistics are averages already."""
        keep = min(0.998, (1 + self.step) / (10 + self.step))
        for mean, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(now, 1 - keep)
        for mean, now in zip(self.average.buffers(), self.model.buffers(), strict=True):
            mean.copy_(now)

    def evaluate(self) -> dict[str, dict[str, dict[str, float]]]:
        """Figures of the averaged weights on the held-out images."""
        images = list(Scenes(self.work / "scenes", HELD_OUT_SEED, 200))
        return figures(images, detect(self.average, self.tokenizer, images))


def _groups(model: torch.nn.Module) -> list[dict[str, object]]:
    """Parameter groups: no decay on vectors; sampling offsets learn slowly, as published."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, value in model.named_parameters():
        key = (0.3 if "sampling_offsets" in name else 1.0, 0.0 if value.ndim < 2 else 0.01)
        groups.setdefault(key, []).append(value)
    return [{"params": v, "scale": s, "weight_decay": d} for (s, d), v in groups.items()]


def run(training: Training, every: int, report: int = 20) -> None:
    """Train to the end of the plan; evaluate, save and export ``every`` steps."""
    plan, recent = training.plan, []
    while training.step < plan.steps:
        began = time.monotonic()
        recent.append(training.one_step())
        training.seconds += time.monotonic() - began
        if training.step % report == 0:
            means = {k: sum(r[k] for r in recent) / len(recent) for k in recent[0]}
            recent = []
            pace = training.seconds / training.step
            left = pace * (plan.steps - training.step) / 60
            text = " ".join(f"{k} {v:.3f}" for k, v in means.items())
            where = f"step {training.step}/{plan.steps}"
            print(f"{where} {text} · {pace:.2f} s/step · {left:.0f} min left", flush=True)
        if training.step % every == 0 or training.step == plan.steps:
            _milestone(training)


def _milestone(training: Training) -> None:
    at = training.evaluate()
    row: dict[str, float] = {"step": training.step, "seconds": round(training.seconds)}
    for name, value in at["0.2"].items():
        row[f"recall {name}"] = value["recall"]
    row["precision"] = at["0.2"]["all"]["precision"]
    row["false_per_true"] = at["0.2"]["all"]["false_per_true"]
    training.curve.append(row)
    print(" ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    training.save()


def export(training: Training, folder: Path, command: str) -> None:
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
    draw_curve(training.curve, folder / "curve.png")
    print(json.dumps(final["0.2"], indent=1), flush=True)


def draw_curve(curve: list[dict[str, float]], path: Path) -> None:
    """Recall by noun and precision over steps, as a PNG."""
    names = [n for n in (curve[0] if curve else {}) if n.startswith(("recall", "precision"))]
    image = Image.new("RGB", (760, 420), "white")
    draw = ImageDraw.Draw(image)
    last = max((row["step"] for row in curve), default=1)
    for tenth in range(11):
        y = 390 - 36 * tenth
        draw.line([(50, y), (600, y)], "#e5e5e5")
        draw.text((20, y - 6), f"{tenth / 10:.1f}", "black")
    for i, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
        points = [(50 + 550 * row["step"] / last, 390 - 360 * row[name]) for row in curve]
        draw.line(points, colour, 2)
        draw.text((610, 30 + 20 * i), f"{name} {curve[-1][name]:.3f}", colour)
    draw.text((50, 398), f"0 to {last} steps, held-out images, threshold 0.2, IoU 0.5", "black")
    image.save(path)


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
    plan = Plan(o.steps, o.seed, o.batch, o.scenes, o.rate, o.small_share)
    training = Training(plan, o.work, o.device)
    training.resume()
    if not o.export_only:
        run(training, o.every)
    command = f"python -m recipes.proposer.train --work DIR --steps {o.steps} --seed {o.seed}"
    export(training, o.out, command)


if __name__ == "__main__":
    main()
