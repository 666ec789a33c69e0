"""What the recipes of all embedded models share: the training loop, checkpoints and curves."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image, ImageDraw

WARMUP = 0.04
"""Share of the steps in which a learning rate rises."""
COLOURS = (
    "black",
    "crimson",
    "navy",
    "green",
    "purple",
    "brown",
    "hotpink",
    "teal",
    "gray",
    "orange",
)


class RecipeRun(ABC):
    """A training in progress, which is saved and goes on where it was killed."""

    modules: ClassVar[tuple[str, ...]] = ("model", "average", "optimiser")
    """Attributes whose ``state_dict`` is saved."""
    values: ClassVar[tuple[str, ...]] = ("step", "seconds", "curve")
    """Attributes that are saved as they are."""

    def __init__(self, checkpoint: Path, steps: int) -> None:
        """``checkpoint`` is the file of the state, ``steps`` those of the whole training."""
        self.checkpoint, self.steps = checkpoint, steps
        self.step, self.seconds = 0, 0.0
        self.curve: list[dict[str, float]] = []

    @abstractmethod
    def one_step(self) -> dict[str, float]:
        """Learn one batch; returns the losses by kind."""

    def save(self) -> None:
        """Write the checkpoint; a kill while writing leaves the previous one."""
        state = {name: getattr(self, name).state_dict() for name in self.modules}
        state |= {name: getattr(self, name) for name in self.values}
        part = self.checkpoint.with_suffix(".tmp")
        torch.save(state, part)
        part.replace(self.checkpoint)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        for name in self.modules:
            getattr(self, name).load_state_dict(state[name])
        for name in self.values:
            setattr(self, name, state[name])

    def run(self, every: int, milestone: Callable[[], None], report: int = 50) -> None:
        """Train to the end.

        ``milestone`` is called ``every`` steps and at the end; the mean losses are printed every
        ``report`` steps.
        """
        recent: list[Mapping[str, float]] = []
        while self.step < self.steps:
            began = time.monotonic()
            recent.append(self.one_step())
            self.seconds += time.monotonic() - began
            if self.step % report == 0:
                self._print(recent)
                recent = []
            if self.step % every == 0 or self.step == self.steps:
                milestone()

    def _print(self, recent: Sequence[Mapping[str, float]]) -> None:
        # Names may change on the way, and count where they are there.
        found = {name: [row[name] for row in recent if name in row] for name in recent[-1]}
        losses = " ".join(f"{name} {sum(of) / len(of):.3f}" for name, of in found.items())
        pace = self.seconds / self.step
        left = pace * (self.steps - self.step) / 60
        where = f"step {self.step}/{self.steps}"
        print(f"{where} {losses} · {pace:.2f} s/step · {left:.0f} min left", flush=True)


def draw_curve(
    curve: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    path: Path,
    caption: str,
    *,
    low: float = 0.0,
    from_low: bool = False,
) -> None:
    """The figures ``names`` over the steps, from ``low`` to 1, as a PNG.

    ``from_low`` draws step 0, which is not measured, at ``low``.
    """
    image = Image.new("RGB", (800, 420), "white")
    pen = ImageDraw.Draw(image)
    last = max((row["step"] for row in curve), default=1)
    tenths = round(10 * (1 - low))
    for tenth in range(tenths + 1):
        y = 390 - 360 * tenth / tenths
        pen.line([(50, y), (600, y)], "#e5e5e5")
        pen.text((20, y - 6), f"{low + tenth / 10:.1f}", "black")
    for place, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
        points = [
            (50 + 550 * row["step"] / last, 390 - 360 * (max(row[name], low) - low) / (1 - low))
            for row in curve
            if name in row
        ]
        if points:
            pen.line([(50, 390), *points] if from_low else points, colour, 2)
            pen.text((610, 30 + 20 * place), f"{name} {curve[-1].get(name, 0):.3f}", colour)
    pen.text((50, 398), f"0 to {last} steps: {caption}", "black")
    image.save(path)
