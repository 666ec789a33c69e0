"""Train the embedded verifier: ``python -m recipes.verifier.train --work DIR``.

The run is seeded, goes on where it was killed, and may use a CPU or a GPU. What was tried and
dropped is in ``LOG.md`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from recipes.verifier.data import Samples
from recipes.verifier.evaluate import by_class, by_subject
from recipes.verifier.model import build_processor
from recipes.verifier.trainer import Plan, Training
from secondlook.models.embedded import EMBEDDED

WEIGHTS = EMBEDDED / "verifier"
HELD_OUT_SEED, FINAL_SEED = 2001, 3001
"""Worlds: of the curve, and of the 500 scenes that only final figures see."""
HELD_OUT, FINAL = 50, 500


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
    "in the image",
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
    draw_curve(training.curve, folder / "curve.png", from_chance=not training.plan.start)


def final_figures(training: Training) -> dict[str, Any]:
    """Figures on 500 scenes that nothing else has seen."""
    unseen = Samples(training.work / "views", FINAL_SEED, FINAL, _drawn)
    return {
        "scenes": FINAL,
        "views": len(unseen),
        "by_subject": by_subject(training.average, training.prompts, unseen),
        "by_class": by_class(training.average, training.prompts, unseen),
    }


def draw_curve(curve: list[dict[str, float]], path: Path, *, from_chance: bool = True) -> None:
    """Accuracy by subject over steps, from 0.5 to 1, as a PNG.

    ``from_chance`` draws step 0, which is not measured, at 0.5: right for random weights only.
    """
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
            pen.line([(50, 390), *points] if from_chance else points, colour, 2)
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
    parser.add_argument("--rate", type=float, default=Plan.rate, help="peak learning rate of Muon")
    parser.add_argument("--start", default="", help="checkpoint folder to begin with")
    parser.add_argument("--every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    o = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    command = f"python -m recipes.verifier.train {' '.join(arguments or sys.argv[1:])}"
    plan = Plan(
        o.steps,
        o.seed,
        views=o.views,
        scenes=o.scenes,
        rate=o.rate,
        silent=0.0 if o.start else Plan.silent,
        start=o.start,
    )
    training = Training(plan, o.work, o.device, _drawn)
    training.resume()
    run(training, o.every, o.out, command)
    export(training, o.out, command, final_figures(training))


if __name__ == "__main__":
    main()
