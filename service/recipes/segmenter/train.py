"""Train the embedded segmenter: ``python -m recipes.segmenter.train --work DIR``.

The run is seeded and goes on where it was killed. What was tried and dropped is in
``recipes/LOG.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import Sam2ImageProcessor, Sam2Processor

from recipes.runs import draw_curve
from recipes.segmenter.data import MaskedScene, render_unseen
from recipes.segmenter.evaluate import by_novelty, results_of
from recipes.segmenter.model import MEAN, SIZE, STD, STRIDES, build_model
from recipes.segmenter.trainer import SegmenterPlan, SegmenterTraining
from secondlook.models.embedded import EMBEDDED

WEIGHTS = EMBEDDED / "segmenter"
HELD_OUT_SEED, FINAL_SEED = 6001, 7001
"""Worlds: of the curve, and of the scenes that only final figures see."""
HELD_OUT, FINAL = 16, 60
CURVE_CLICKS = 3
"""Clicks on an object in the figures of the curve."""
CURVES = ("box seen", "box unseen", "click1 seen", "click1 unseen")


def run(
    training: SegmenterTraining,
    every: int,
    out: Path | None,
    command: str,
    held_out: int = HELD_OUT,
) -> None:
    """Train to the end of the plan; evaluate on held-out scenes and export ``every`` steps."""
    scenes = [render_unseen(HELD_OUT_SEED, index) for index in range(held_out)]

    def milestone() -> None:
        training.curve.append(_row(training, scenes))
        print(" ".join(f"{k} {v}" for k, v in training.curve[-1].items()), flush=True)
        training.save()
        if out is not None:
            export(training, out, command, {})

    training.run(every, milestone)


def _row(training: SegmenterTraining, scenes: Sequence[MaskedScene]) -> dict[str, float]:
    results = list(results_of(training.average, scenes, CURVE_CLICKS))
    found = by_novelty(results, CURVE_CLICKS)
    row: dict[str, float] = {"step": training.step, "seconds": round(training.seconds)}
    for novelty in ("seen", "unseen"):
        for name in ("box", "click1", "noc90"):
            if novelty in found:
                row[f"{name} {novelty}"] = found[novelty][name]
    return row


def export(training: SegmenterTraining, folder: Path, command: str, final: dict[str, Any]) -> None:
    """Write the averaged model, processor, record and curve into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    # The trained model has faster modules in the places of others; the names are the same.
    model = build_model(training.plan.seed, training.plan.shape)
    model.load_state_dict(training.average.state_dict())
    model.save_pretrained(folder)
    processor().save_pretrained(folder)
    record = {
        "command": command,
        "plan": asdict(training.plan),
        "step": training.step,
        "training_seconds": round(training.seconds),
        "history": training.history,
        "final": final,
        "curve": training.curve,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    caption = "mean IoU of the true box and of the first click, held-out scenes"
    draw_curve(training.curve, CURVES, folder / "curve.png", caption, from_low=True)


def processor() -> Sam2Processor:
    """What turns images and prompts into the model's inputs."""
    side = {"height": SIZE, "width": SIZE}
    masks = {"height": SIZE // STRIDES[0], "width": SIZE // STRIDES[0]}
    images = Sam2ImageProcessor(
        size=side, mask_size=masks, image_mean=list(MEAN), image_std=list(STD)
    )
    return Sam2Processor(images, target_size=SIZE)


def final_figures(training: SegmenterTraining) -> dict[str, Any]:
    """Figures on FINAL scenes that nothing else has seen."""
    scenes = (render_unseen(FINAL_SEED, index) for index in range(FINAL))
    return {"scenes": FINAL, "figures": by_novelty(list(results_of(training.average, scenes)))}


def _print_scenes(done: int, count: int) -> None:
    print(f"rendered {done}/{count} scenes", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of scenes and checkpoint")
    parser.add_argument("--steps", type=int, default=SegmenterPlan.steps)
    parser.add_argument("--seed", type=int, default=SegmenterPlan.seed)
    parser.add_argument("--scenes", type=int, default=SegmenterPlan.scenes)
    parser.add_argument("--rate", type=float, default=SegmenterPlan.rate, help="peak rate of Muon")
    parser.add_argument("--small", type=float, default=SegmenterPlan.small)
    parser.add_argument("--start", default="", help="checkpoint folder to begin with")
    parser.add_argument("--every", type=int, default=200, help="steps between checkpoints")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    o = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    command = f"python -m recipes.segmenter.train {' '.join(arguments or sys.argv[1:])}"
    plan = SegmenterPlan(
        o.steps,
        o.seed,
        scenes=o.scenes,
        rate=o.rate,
        small=o.small,
        start=o.start,
        # A start knows boxes and clicks already.
        boxes_only=0 if o.start else SegmenterPlan.boxes_only,
    )
    training = SegmenterTraining(plan, o.work, _print_scenes)
    training.resume()
    run(training, o.every, o.out, command)
    export(training, o.out, command, final_figures(training))


if __name__ == "__main__":
    main()
