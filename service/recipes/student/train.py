"""Train the embedded start of students: ``python -m recipes.student.train --work DIR``.

A start is to the drawn world what COCO weights are to photos: it knows the nouns and nothing of
the attributes that a user asks for. A run is seeded and goes on where it was killed. The shipped
start is made by several: from nothing, then from that with ``--quicken``. What was tried and
dropped is in ``LOG.md`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from recipes.proposer.data import RenderedScene, Scenes, place
from recipes.student.short_stem import has_short_stem, imitate, quickened
from secondlook.demo.world import NOUNS
from secondlook.detector.runtime import stretch
from secondlook.evaluation.matching import Detection, Quality, TrueBox, evaluate
from secondlook.models.embedded import EMBEDDED
from secondlook.training.data import targets_of
from secondlook.training.loss import attach_loss
from secondlook.training.model import SIZES, build_student, load_student, save_student
from secondlook.training.predict import as_input, found_on
from secondlook.training.trainer import Average, optimiser_for, warmed_cosine

WEIGHTS = EMBEDDED
HELD_OUT_SEED, FINAL_SEED = 910_001, 910_002
"""Worlds: of the curve, and of the 500 scenes that only the final figures see."""
NO_BOXES, NO_CLASSES = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
AT = 0.4
"""Score from which a detection counts in the figures."""
CHECKPOINT, RECORD = "student.pt", "training.json"
IMITATED = 600
"""Steps of a new stem."""


@dataclass(frozen=True)
class Plan:
    """One run; equal plans give equal runs on one machine. ``rate`` is AdamW's peak."""

    size: str
    steps: int
    seed: int
    batch: int
    scenes: int
    rate: float
    imitate: int = 0
    """Steps in which a short stem learns what a longer one gave."""
    side: int = 0
    """Of the images, in pixels; 0: as the size has it."""


class Training:
    """A run in progress: model, average of its weights, optimiser, step and curve."""

    def __init__(self, plan: Plan, work: Path, earlier: Path | None = None) -> None:
        """``earlier`` is the folder of a start that is made quicker; without one, from nothing."""
        self.plan, self.work = plan, work
        self.scenes = Scenes(work / "scenes", plan.seed, plan.scenes)
        self.pixels = (plan.side, plan.side) if plan.side else SIZES[plan.size].input_size
        model = self._quickened(earlier) if earlier else self._new()
        self.model = model.to(memory_format=torch.channels_last).train()
        self._mean = Average(self.model)
        self.average = self._mean.model
        attach_loss(self.model)
        self.optimiser = optimiser_for(self.model, plan.rate, backbone_share=1.0)
        self.step, self.seconds = 0, 0.0
        self.curve: list[dict[str, float]] = []

    def _new(self) -> nn.Module:
        return build_student(self.plan.size, NOUNS, "none", self.pixels, self.plan.seed).model

    def _quickened(self, earlier: Path) -> nn.Module:
        torch.manual_seed(self.plan.seed)
        given = load_student(earlier)
        quick = quickened(given, self.pixels)
        if not has_short_stem(given) and not (self.work / CHECKPOINT).exists():
            steps = self.plan.imitate
            imitate(quick, given, lambda step: self._seen(self._views(step)), steps, say)
        return quick

    def _views(self, step: int) -> list[RenderedScene]:
        """A batch, a function of seed and step."""
        rng = np.random.default_rng([self.plan.seed, step])
        chosen = rng.choice(len(self.scenes), self.plan.batch, replace=False)
        return [place(p, p.image.shape[:2], 0.5, rng) for p in (self.scenes[i] for i in chosen)]

    def _seen(self, views: Sequence[RenderedScene]) -> Tensor:
        images = np.stack([stretch(view.image, self.pixels) for view in views])
        return as_input(torch.from_numpy(images).permute(0, 3, 1, 2))

    def one_step(self) -> float:
        """Learn one batch; returns the loss."""
        plan = self.plan
        views = self._views(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = plan.rate * warmed_cosine(self.step, plan.steps, 0.04)
        targets = [_targets(view) for view in views]
        loss: Tensor = self.model(pixel_values=self._seen(views), labels=targets).loss
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if torch.isfinite(norm):
            self.optimiser.step()
        self.step += 1
        self._mean.follow(self.step)
        return float(loss.detach())

    def save(self) -> None:
        """Write the checkpoint; a kill while writing leaves the previous one."""
        state = {
            name: getattr(self, name).state_dict() for name in ("model", "average", "optimiser")
        }
        state |= {"step": self.step, "seconds": self.seconds, "curve": self.curve}
        part = self.work / "student.part"
        torch.save(state, part)
        part.replace(self.work / CHECKPOINT)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one; batches need no state."""
        path = self.work / CHECKPOINT
        if path.exists():
            state = torch.load(path, weights_only=True)
            for name in ("model", "average", "optimiser"):
                getattr(self, name).load_state_dict(state[name])
            self.step, self.seconds, self.curve = state["step"], state["seconds"], state["curve"]

    def figures(self, seed: int, count: int) -> Quality:
        """Of the averaged weights on scenes of another world."""
        scenes = Scenes(self.work / "scenes", seed, count)
        found = (_detected(self.average, scene, self.pixels) for scene in scenes)
        pairs = ((f, _truth(scene)) for f, scene in zip(found, scenes, strict=True))
        return evaluate(pairs, NOUNS)


def _targets(view: RenderedScene) -> dict[str, Tensor]:
    height, width = view.image.shape[:2]
    none = (NO_BOXES, NO_CLASSES)
    return targets_of((width, height), view.boxes, view.nouns, *none, *none, len(NOUNS))


def _detected(
    model: torch.nn.Module, scene: RenderedScene, size: tuple[int, int]
) -> list[Detection]:
    height, width = scene.image.shape[:2]
    (found,) = found_on(model, [stretch(scene.image, size)], [(width, height)], AT)
    return [
        Detection(NOUNS[noun], tuple(box), float(score))
        for noun, box, score in zip(found.classes, found.boxes.tolist(), found.scores, strict=True)
    ]


def _truth(scene: RenderedScene) -> list[TrueBox]:
    named = zip(scene.nouns, scene.boxes.tolist(), strict=True)
    return [TrueBox(NOUNS[noun], tuple(box)) for noun, box in named]


def told(quality: Quality) -> dict[str, float]:
    """Recall by noun, and recall and precision of all."""
    rows = {f"recall {name}": counts.recall or 0 for name, counts in quality.by_class.items()}
    total = quality.total()
    rows |= {"recall": total.recall or 0, "precision": total.precision or 0}
    return {name: round(value, 3) for name, value in rows.items()}


def say(step: int, error: float) -> None:
    """How the stem comes on."""
    if step % 50 == 0:
        print(f"stem, step {step}: error {error:.3f}", flush=True)


def run(training: Training, every: int, report: int = 20) -> None:
    """Train to the end of the plan; look and save ``every`` steps."""
    plan, recent = training.plan, []
    while training.step < plan.steps:
        began = time.monotonic()
        recent.append(training.one_step())
        training.seconds += time.monotonic() - began
        if training.step % report == 0:
            pace = training.seconds / training.step
            left = pace * (plan.steps - training.step) / 60
            loss = sum(recent) / len(recent)
            where = f"step {training.step}/{plan.steps} loss {loss:.3f}"
            print(f"{where} · {pace:.2f} s/step · {left:.0f} min left", flush=True)
            recent = []
        if training.step % every == 0 or training.step == plan.steps:
            row = told(training.figures(HELD_OUT_SEED, 100))
            training.curve.append(
                {"step": training.step, "seconds": round(training.seconds), **row}
            )
            print(row, flush=True)
            training.save()


def export(training: Training, out: Path, command: str, earlier: Path | None = None) -> None:
    """Write the averaged weights with their curve and figures on 500 unseen scenes.

    What is known of the ``earlier`` start stands in the record, too.
    """
    save_student(training.average, out)
    record = {
        "command": command,
        "plan": asdict(training.plan),
        "seconds": round(training.seconds),
        "final": told(training.figures(FINAL_SEED, 500)),
        "curve": training.curve,
    }
    if earlier and (earlier / RECORD).exists():
        record["begun_from"] = json.loads((earlier / RECORD).read_text())
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["final"], indent=1), flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of scenes and checkpoints")
    parser.add_argument("--size", default="pico")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--scenes", type=int, default=6000)
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--quicken", type=Path, help="folder of an earlier start to begin from")
    parser.add_argument("--side", type=int, default=208, help="of its images, in pixels")
    parser.add_argument("--every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--out", type=Path, help="default: the package's weights")
    o = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    o.work.mkdir(parents=True, exist_ok=True)
    plan = Plan(o.size, o.steps, o.seed, o.batch, o.scenes, o.rate)
    if o.quicken:
        plan = replace(plan, imitate=IMITATED, side=o.side)
    training = Training(plan, o.work, o.quicken)
    training.resume()
    run(training, o.every)
    command = (
        f"python -m recipes.student.train --work DIR --size {o.size} --steps {o.steps}"
        f" --rate {o.rate:g}{' --quicken EARLIER' if o.quicken else ''}"
    )
    export(training, o.out or WEIGHTS / f"student-{o.size}", command, o.quicken)


if __name__ == "__main__":
    main()
