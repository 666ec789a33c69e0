"""How a student is trained; each setting knows its range."""

from dataclasses import dataclass, fields
from typing import Any

from secondlook.config.settings import Rule, rules_of, setting
from secondlook.core.errors import BadSetting
from secondlook.detector.manifest import STUDENT_SIZES, USUAL_SIZE

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
EPOCHS = 24
"""Times that each image is learnt when the student begins from other weights."""
FROM_NOTHING = 3
"""How many times more steps a student takes that begins from nothing."""
LEAST_STEPS, MOST_STEPS = 300, 20_000


@dataclass(frozen=True)
class TrainingSettings:
    """One training; equal settings on equal data give equal students on one machine's CPU.

    Raises ``BadSetting`` for a value out of range.
    """

    size: str = setting(USUAL_SIZE, "Size of the student.", choices=STUDENT_SIZES)
    start: str = setting(
        "auto", "What it begins from: auto, demo (the embedded start), none, a folder, org/name."
    )
    steps: int = setting(
        0, "Batches to learn; 0: as many as the images ask for.", low=0, high=10**6
    )
    batch: int = setting(16, "Images a step, of all devices together.", low=1, high=1024)
    rate: float = setting(0.0, "Highest learning rate; 0: that of the start.", low=0, high=0.1)
    input_width: int = setting(0, "Pixels; 0: the size's own.", low=0, high=2048)
    input_height: int = setting(0, "Pixels; 0: as the width.", low=0, high=2048)
    seed: int = setting(0, "Of everything that is drawn by lot.", low=0, high=2**31 - 1)
    augment: bool = setting(True, "Show each image otherwise every time.")
    use_ignore: bool = setting(True, "Learn nothing from regions where nobody is sure.")
    hard_negative_weight: float = setting(
        2.0, "What a rejected box weighs against other background.", low=1, high=100
    )
    balance: float = setting(
        1.0, "How far rare classes weigh more: 0 not at all, 1 in proportion.", low=0, high=1
    )
    patience: int = setting(
        8, "Looks at the held-out images without progress until it ends.", low=1, high=10**6
    )
    look_every: int = setting(
        0, "Steps between looks at the held-out images; 0: a twelfth.", low=0, high=10**6
    )
    max_minutes: float = setting(
        0.0, "Minutes of training at most; 0: no bound.", low=0, high=100_000
    )
    device: str = setting("auto", "Where it is trained: auto, cpu, cuda, cuda:1, mps.")
    precision: str = setting("auto", "Of matrix products.", choices=PRECISIONS)
    workers: int = setting(
        -1, "Processes that prepare images; -1: as many as help here.", low=-1, high=64
    )

    def __post_init__(self) -> None:
        for name, rule in rules_of(self).items():
            rule.read(getattr(self, name), name)
        if self.input_height and not self.input_width:
            raise BadSetting("input_height: give input_width too")

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Width and height of the student's images; None: the size's own."""
        return (
            (self.input_width, self.input_height or self.input_width) if self.input_width else None
        )

    def shaping(self) -> dict[str, Any]:
        """What a training that was stopped must have in common with the one that goes on."""
        free = ("device", "precision", "workers", "max_minutes", "patience")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in free}

    def steps_for(self, images: int, *, from_nothing: bool) -> int:
        """Batches to learn from that many images."""
        if self.steps:
            return self.steps
        wanted = max(LEAST_STEPS, EPOCHS * images // self.batch)
        return min(MOST_STEPS, wanted * (FROM_NOTHING if from_nothing else 1))

    def look_after(self, steps: int) -> int:
        """Steps between two looks at the held-out images."""
        return self.look_every or max(1, round(steps / 12))


def training_rules() -> dict[str, Rule]:
    """The rule of every setting, by name."""
    return rules_of(TrainingSettings)
