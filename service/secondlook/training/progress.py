"""The progress of a distillation while it runs, and the record of a training that has ended."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from secondlook.core.files import replacing
from secondlook_client.errors import Damaged

PHASES = ("train", "score", "export", "report")
"""In their order."""
TORCH, CHECKPOINTS = "torch", "checkpoints"
"""Folders of a training: the weights of one that has ended, and the state of one that has not."""
RECORD = "training.json"
"""Beside the weights; read for the report, and by a second start of the same command."""
POINTS = 200
"""Of the curve of losses."""


@dataclass(frozen=True)
class Progress:
    """One moment of a distillation."""

    phase: str
    """One of ``PHASES``."""
    step: int
    """Steps, or images, that are done in this phase."""
    of: int
    """Of how many; a training may stop earlier."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """``loss`` is the sum of the others; empty outside of training."""
    rate: float | None = None
    """Of the optimiser's fastest group."""
    map50: float | None = None
    """On held-out images, [0, 1]; the last one measured."""
    best_map50: float | None = None
    steps_a_second: float | None = None
    seconds_left: float | None = None
    """At most."""
    note: str = ""
    """A sentence for the user: what was just decided."""

    def plain(self) -> dict[str, Any]:
        """For a line of ``progress.jsonl``; a figure that is not known is None."""
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


ProgressCallback = Callable[[Progress], None]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


@dataclass(frozen=True)
class CurvePoint:
    """One point of the training curves."""

    step: int
    loss: float | None = None
    """Mean since the point before; None at a validation."""
    map50: float | None = None
    """On the held-out images; None where they were not looked at."""


@dataclass(frozen=True)
class TrainingRecord:
    """A training that has ended."""

    identity: Mapping[str, Any]
    """What it has in common with the ones that may go on with it, see ``checkpoints``."""
    start: str
    """What it began from."""
    steps: int
    """Done."""
    of: int
    """Planned; more than ``steps`` where nothing got better any more or time was over."""
    seconds: float
    """Of training, without the validations."""
    device: str
    """Name and number of what it was trained on, and the precision."""
    best_map50: float
    """Of the weights that were kept, on the held-out images of the validations."""
    curve: Sequence[CurvePoint] = ()

    def progress(self) -> list[Progress]:
        """The curve as the moments it was made of."""
        return [
            Progress(
                "train",
                point.step,
                self.of,
                {} if point.loss is None else {"loss": point.loss},
                map50=point.map50,
            )
            for point in self.curve
        ]


def has_begun(out: Path) -> bool:
    """Whether ``out`` holds a training, under way or ended."""
    return (out / TORCH).exists() or (out / CHECKPOINTS).exists()


def write_record(folder: Path, record: TrainingRecord) -> None:
    """Write ``training.json``."""
    with replacing(folder / RECORD) as part:
        part.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")


def read_record(folder: Path) -> TrainingRecord | None:
    """The record in ``folder``; None where there is none. Raises ``Damaged``."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        curve = tuple(CurvePoint(**point) for point in plain.pop("curve"))
        return TrainingRecord(**plain, curve=curve)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as cause:
        raise Damaged(f"{path} cannot be read; remove its folder to train again") from cause
