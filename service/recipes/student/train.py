"""Train the embedded start of students: ``python -m recipes.student.train --work DIR``.

A start is to the synthetic world what COCO weights are to photos: it knows the nouns and nothing
of the attributes that a user asks for. A run is seeded and goes on where it was killed. The
shipped start is made by several: from scratch, then from that with ``--short-stem-of``. What was
tried and dropped is in ``recipes/LOG.md``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from recipes.proposer.data import RenderedScene, Scenes, place
from recipes.runs import WARMUP, RecipeRun
from recipes.student.short_stem import distill_stem, has_short_stem, with_short_stem
from secondlook.demo.world import NOUNS
from secondlook.detector.runtime import stretch
from secondlook.evaluation.matching import Quality, ScoredBox, TrueBox, evaluate
from secondlook.models.embedded import EMBEDDED
from secondlook.training.augment import AnnotatedImage
from secondlook.training.data import targets_of
from secondlook.training.loss import attach_loss
from secondlook.training.model import SIZES, build_student, load_student, save_student
from secondlook.training.predict import predict_images, to_pixel_values
from secondlook.training.trainer import EMA, optimiser_for, warmup_cosine

WEIGHTS = EMBEDDED
HELD_OUT_SEED, FINAL_SEED = 910_001, 910_002
"""Worlds: of the curve, and of the 500 scenes that only the final figures see."""
THRESHOLD = 0.4
"""Score from which a detection counts in the figures."""
CHECKPOINT, RECORD = "student.pt", "training.json"
STEM_STEPS = 600
"""In which a short stem learns what a longer one gave."""


@dataclass(frozen=True)
class StudentPlan:
    """One run; equal plans give equal runs on one machine. ``rate`` is AdamW's peak."""

    size: str
    steps: int
    seed: int
    batch: int
    scenes: int
    rate: float
    stem_steps: int = 0
    """In which a short stem learns what a longer one gave."""
    side: int = 0
    """Of the images, in pixels; 0: as the size has it."""


class StudentTraining(RecipeRun):
    """A run in progress: model, average of its weights, optimiser, step and curve."""

    def __init__(self, plan: StudentPlan, work: Path, earlier: Path | None = None) -> None:
        """``earlier``: the folder of a start that gets a short stem; without one, from scratch."""
        super().__init__(work / CHECKPOINT, plan.steps)
        self.plan, self.work = plan, work
        self.scenes = Scenes(work / "scenes", plan.seed, plan.scenes)
        self.pixels = (plan.side, plan.side) if plan.side else SIZES[plan.size].input_size
        model = self._shortened(earlier) if earlier else self._new()
        self.model = model.to(memory_format=torch.channels_last).train()
        self._ema = EMA(self.model)
        self.average = self._ema.model
        attach_loss(self.model)
        self.optimiser = optimiser_for(self.model, plan.rate, backbone_share=1.0)

    def _new(self) -> nn.Module:
        return build_student(self.plan.size, NOUNS, "none", self.pixels, self.plan.seed).model

    def _shortened(self, earlier: Path) -> nn.Module:
        torch.manual_seed(self.plan.seed)
        given = load_student(earlier)
        short = with_short_stem(given, self.pixels)
        if not has_short_stem(given) and not self.checkpoint.exists():
            steps = self.plan.stem_steps
            distill_stem(short, given, lambda step: self._input(self._views(step)), steps, say)
        return short

    def _views(self, step: int) -> list[RenderedScene]:
        """A batch, a function of seed and step."""
        rng = np.random.default_rng([self.plan.seed, step])
        chosen = rng.choice(len(self.scenes), self.plan.batch, replace=False)
        return [place(p, p.image.shape[:2], 0.5, rng) for p in (self.scenes[i] for i in chosen)]

    def _input(self, views: Sequence[RenderedScene]) -> Tensor:
        images = np.stack([stretch(view.image, self.pixels) for view in views])
        return to_pixel_values(torch.from_numpy(images).permute(0, 3, 1, 2))

    def one_step(self) -> dict[str, float]:
        """Learn one batch; returns the loss."""
        plan = self.plan
        views = self._views(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = plan.rate * warmup_cosine(self.step, plan.steps, WARMUP)
        targets = [
            targets_of(AnnotatedImage(view.image, view.boxes, view.nouns), len(NOUNS))
            for view in views
        ]
        loss: Tensor = self.model(pixel_values=self._input(views), labels=targets).loss
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if torch.isfinite(norm):
            self.optimiser.step()
        self.step += 1
        self._ema.update(self.step)
        return {"loss": float(loss.detach())}

    def evaluate(self) -> None:
        """Add the figures on held-out scenes to the curve, and save."""
        row = figures_in_words(self.figures(HELD_OUT_SEED, 100))
        self.curve.append({"step": self.step, "seconds": round(self.seconds), **row})
        print(row, flush=True)
        self.save()

    def figures(self, seed: int, count: int) -> Quality:
        """Of the averaged weights on scenes of another world."""
        scenes = Scenes(self.work / "scenes", seed, count)
        found = (_detected(self.average, scene, self.pixels) for scene in scenes)
        pairs = ((f, _truth(scene)) for f, scene in zip(found, scenes, strict=True))
        return evaluate(pairs, NOUNS)


def _detected(
    model: torch.nn.Module, scene: RenderedScene, size: tuple[int, int]
) -> list[ScoredBox]:
    height, width = scene.image.shape[:2]
    (found,) = predict_images(model, [stretch(scene.image, size)], [(width, height)], THRESHOLD)
    return [
        ScoredBox(NOUNS[noun], tuple(box), float(score))
        for noun, box, score in zip(found.classes, found.boxes.tolist(), found.scores, strict=True)
    ]


def _truth(scene: RenderedScene) -> list[TrueBox]:
    named = zip(scene.nouns, scene.boxes.tolist(), strict=True)
    return [TrueBox(NOUNS[noun], tuple(box)) for noun, box in named]


def figures_in_words(quality: Quality) -> dict[str, float]:
    """Recall by noun, and recall and precision of all."""
    rows = {f"recall {name}": counts.recall or 0 for name, counts in quality.by_class.items()}
    total = quality.total()
    rows |= {"recall": total.recall or 0, "precision": total.precision or 0}
    return {name: round(value, 3) for name, value in rows.items()}


def say(step: int, error: float) -> None:
    """Print the progress of a stem."""
    if step % 50 == 0:
        print(f"stem, step {step}: error {error:.3f}", flush=True)


def export(training: StudentTraining, out: Path, command: str, earlier: Path | None = None) -> None:
    """Write the averaged weights with their curve and figures on 500 unseen scenes.

    What is known of the ``earlier`` start stands in the record, too.
    """
    save_student(training.average, out)
    record = {
        "command": command,
        "plan": asdict(training.plan),
        "seconds": round(training.seconds),
        "final": figures_in_words(training.figures(FINAL_SEED, 500)),
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
    parser.add_argument(
        "--short-stem-of", type=Path, help="folder of an earlier start to begin from"
    )
    parser.add_argument("--side", type=int, default=208, help="of its images, in pixels")
    parser.add_argument("--every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--out", type=Path, help="default: the package's weights")
    o = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    o.work.mkdir(parents=True, exist_ok=True)
    plan = StudentPlan(o.size, o.steps, o.seed, o.batch, o.scenes, o.rate)
    if o.short_stem_of:
        plan = replace(plan, stem_steps=STEM_STEPS, side=o.side)
    training = StudentTraining(plan, o.work, o.short_stem_of)
    training.resume()
    training.run(o.every, training.evaluate, report=20)
    command = (
        f"python -m recipes.student.train --work DIR --size {o.size} --steps {o.steps}"
        f" --rate {o.rate:g}{' --short-stem-of EARLIER' if o.short_stem_of else ''}"
    )
    export(training, o.out or WEIGHTS / f"student-{o.size}", command, o.short_stem_of)


if __name__ == "__main__":
    main()
