"""Every setting of a training; the only place with their defaults.

They are flags of ``secondlook distill``; a variable is ``SECONDLOOK_DISTILL_`` and the name in
capitals, a file is TOML with the names as keys and named by ``SECONDLOOK_DISTILL_CONFIG``.
"""

from dataclasses import dataclass, fields
from typing import Any

from secondlook.config.spec import SettingGroup, SettingSources, setting
from secondlook.detector.manifest import DEFAULT_SIZE, STUDENT_SIZES
from secondlook_client.errors import BadSetting

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
EPOCHS = 24
"""Passes over the images when the student starts from trained weights."""
FROM_NOTHING = 3
"""How many times more steps a student takes that starts from random weights."""
LEAST_STEPS, MOST_STEPS = 300, 20_000


@dataclass(frozen=True)
class TrainingSettings(SettingGroup):
    """One training; equal settings on equal data give equal students on one machine's CPU.

    Raises ``BadSetting`` for a value out of range.
    """

    title = "Training"

    size: str = setting(DEFAULT_SIZE, "Size of the student.", choices=STUDENT_SIZES, common=True)
    start: str = setting(
        "auto",
        "Initial weights: auto, demo (embedded), none (random), a folder, or org/name.",
        unit="weights",
    )
    steps: int = setting(
        0,
        "Training steps (batches); 0: chosen by the number of images.",
        low=0,
        high=10**6,
        common=True,
    )
    batch: int = setting(16, "Batch size over all devices.", unit="images", low=1, high=1024)
    learning_rate: float = setting(
        0.0, "Peak learning rate; 0: chosen by the initial weights.", low=0, high=0.1
    )
    input_width: int = setting(
        0, "Input width; 0: that of the size.", unit="pixels", low=0, high=2048
    )
    input_height: int = setting(
        0, "Input height; 0: as the width.", unit="pixels", low=0, high=2048
    )
    seed: int = setting(0, "Random seed.", low=0, high=2**31 - 1)
    augment: bool = setting(True, "Augment the images.")
    use_ignore: bool = setting(True, "Leave ignore regions (unsure boxes) out of the loss.")
    hard_negative_weight: float = setting(
        2.0, "Weight of a rejected box in the loss, relative to other background.", low=1, high=100
    )
    balance: float = setting(
        1.0,
        "Exponent of the class weights: 0 weighs all classes alike, 1 by inverse frequency.",
        low=0,
        high=1,
    )
    patience: int = setting(
        8,
        "Validations without improvement before training stops early.",
        low=1,
        high=10**6,
    )
    validate_every: int = setting(
        0, "Steps between two validations; 0: a twelfth of all steps.", low=0, high=10**6
    )
    max_minutes: float = setting(
        0.0,
        "Maximum training time; 0: no limit.",
        unit="minutes",
        low=0,
        high=100_000,
        common=True,
    )
    device: str = setting(
        "auto", "Device: auto, cpu, cuda, cuda:1 or mps.", unit="device", common=True
    )
    precision: str = setting("auto", "Numeric precision of training.", choices=PRECISIONS)
    max_bad_images: float = setting(
        0.05,
        "Maximum share of the images that may be missing or unreadable; they are left out and "
        "listed.",
        low=0,
        high=1,
    )
    workers: int = setting(
        -1, "Processes that load images; -1: chosen for this machine.", low=-1, high=64
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input_height and not self.input_width:
            raise BadSetting("input_height: give input_width too")

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(width, height) of the student's input; None: that of its size."""
        if not self.input_width:
            return None
        return self.input_width, self.input_height or self.input_width

    def shaping(self) -> dict[str, Any]:
        """The settings that a training that is resumed must share with its earlier part."""
        free = ("device", "precision", "workers", "max_minutes", "patience", "max_bad_images")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in free}

    def steps_for(self, images: int, *, from_nothing: bool) -> int:
        """Training steps on that many images."""
        if self.steps:
            return self.steps
        wanted = max(LEAST_STEPS, EPOCHS * images // self.batch)
        return min(MOST_STEPS, wanted * (FROM_NOTHING if from_nothing else 1))

    def validation_interval(self, steps: int) -> int:
        """Steps between two validations."""
        return self.validate_every or max(1, round(steps / 12))


RENAMED = {"rate": "learning_rate", "look_every": "validate_every"}
"""Settings that earlier checkpoints have by other names."""

load_settings = SettingSources(TrainingSettings, "SECONDLOOK_DISTILL_").load
"""Settings from all sources; arguments and errors are those of ``SettingSources.load``."""
