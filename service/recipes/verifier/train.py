"""Train the embedded verifier: ``python -m recipes.verifier.train --work DIR``.

The run is seeded, goes on where it was killed, and may use a CPU or a GPU. What was tried and
dropped is in ``recipes/LOG.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from recipes.runs import draw_curve
from recipes.verifier.data import Samples
from recipes.verifier.evaluate import by_class, by_subject
from recipes.verifier.model import build_processor
from recipes.verifier.trainer import VerifierPlan, VerifierTraining
from secondlook.models.embedded import EMBEDDED

WEIGHTS = EMBEDDED / "verifier"
HELD_OUT_SEED, FINAL_SEED = 2001, 3001
"""Worlds: of the curve, and of the 500 scenes that only final figures see."""
HELD_OUT, FINAL = 50, 500


SUBJECTS = (
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


def run(training: VerifierTraining, every: int, out: Path | None, command: str = "") -> None:
    """Train to the end of the plan; evaluate on held-out views, save and export ``every`` steps."""
    held_out = Samples(training.work / "views", HELD_OUT_SEED, HELD_OUT, _print_scenes)

    def milestone() -> None:
        found = by_subject(training.average, training.prompts, held_out)
        row: dict[str, float] = {"step": training.step, "seconds": round(training.seconds)}
        row |= {name: of["accuracy"] for name, of in found.items() if name in SUBJECTS}
        training.curve.append(row)
        print(" ".join(f"{k} {v}" for k, v in row.items()), flush=True)
        training.save()
        if out is not None:
            export(training, out, command, {})

    training.run(every, milestone)


def export(training: VerifierTraining, folder: Path, command: str, final: dict[str, Any]) -> None:
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
    caption = "accuracy on held-out views, half yes"
    curve, path = training.curve, folder / "curve.png"
    # Step 0 is not measured; random weights answer by chance.
    draw_curve(curve, SUBJECTS, path, caption, low=0.5, from_low=not training.plan.start)


def final_figures(training: VerifierTraining) -> dict[str, Any]:
    """Figures on 500 scenes that nothing else has seen."""
    unseen = Samples(training.work / "views", FINAL_SEED, FINAL, _print_scenes)
    return {
        "scenes": FINAL,
        "views": len(unseen),
        "by_subject": by_subject(training.average, training.prompts, unseen),
        "by_class": by_class(training.average, training.prompts, unseen),
    }


def _print_scenes(done: int, count: int) -> None:
    print(f"drew {done}/{count} scenes", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of views and checkpoint")
    parser.add_argument("--steps", type=int, default=VerifierPlan.steps)
    parser.add_argument("--seed", type=int, default=VerifierPlan.seed)
    parser.add_argument("--scenes", type=int, default=VerifierPlan.scenes)
    parser.add_argument("--views", type=int, default=VerifierPlan.views, help="views in a step")
    parser.add_argument(
        "--rate", type=float, default=VerifierPlan.rate, help="peak learning rate of Muon"
    )
    parser.add_argument("--start", default="", help="checkpoint folder to begin with")
    parser.add_argument("--every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    o = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    command = f"python -m recipes.verifier.train {' '.join(arguments or sys.argv[1:])}"
    plan = VerifierPlan(
        o.steps,
        o.seed,
        views=o.views,
        scenes=o.scenes,
        rate=o.rate,
        silent=0.0 if o.start else VerifierPlan.silent,
        start=o.start,
    )
    training = VerifierTraining(plan, o.work, o.device, _print_scenes)
    training.resume()
    run(training, o.every, o.out, command)
    export(training, o.out, command, final_figures(training))


if __name__ == "__main__":
    main()
