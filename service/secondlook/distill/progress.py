"""How far a distillation has come, for whoever watches."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

PHASES = ("train", "score", "export", "report")
"""In their order."""


@dataclass(frozen=True)
class Progress:
    """One moment of a distillation."""

    phase: str
    """One of ``PHASES``."""
    step: int
    """Steps, or pictures, that are done in this phase."""
    of: int
    """Of how many; a training may stop earlier."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """``loss`` is the sum of the others; empty outside of training."""
    rate: float | None = None
    """Of the optimiser's fastest group."""
    map50: float | None = None
    """On held-out pictures, [0, 1]; the last one measured."""
    best_map50: float | None = None
    steps_a_second: float | None = None
    seconds_left: float | None = None
    """At most."""
    note: str = ""
    """A sentence for a person: what was just decided."""

    def plain(self) -> dict[str, Any]:
        """For a line of ``progress.jsonl``; a figure that nobody knows is None."""
        return {
            "phase": self.phase,
            "step": self.step,
            "of": self.of,
            "loss": _rounded(self.losses.get("loss")),
            "map50": _rounded(self.map50),
            "best_map50": _rounded(self.best_map50),
            "seconds_left": _rounded(self.seconds_left),
            "note": self.note,
        }

    def line(self) -> str:
        """As JSON, with the newline."""
        return json.dumps(self.plain()) + "\n"


Tell = Callable[[Progress], None]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
