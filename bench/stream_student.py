"""The student of the suite ``cascade``: labelled by both stages, distilled, kept in ``.cache``.

It learns from the first frames of its camera and from scenes of many places: a camera alone shows
the same few people for minutes, and a student that saw nobody else learns these by heart.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bench.lessons import lessons, verified
from secondlook.datasets.samples import TrainingSet
from secondlook.training.distill import distill
from secondlook.training.settings import TrainingSettings

STEPS = int(os.environ.get("SECONDLOOK_STEPS", "2600"))
ELSEWHERE = int(os.environ.get("SECONDLOOK_IMAGES", "3000"))
"""Scenes of other places."""
ELSEWHERE_SEED = 74


def stream_student(place: Path, draw: Callable[[Path], None], seed: int) -> Path:
    """The folder of a student that learnt from the frames that ``draw`` leaves in ``place``.

    ``seed`` is that of its training.
    """
    student = place / f"student-{ELSEWHERE}-{STEPS}"
    if not (student / "manifest.json").exists():
        distill(_lessons_of(place, draw), _settings(seed), student, name="camera")
    return student


def _lessons_of(place: Path, draw: Callable[[Path], None]) -> TrainingSet:
    world = place / "world"
    if not (world / "ontology.yaml").exists():
        draw(world)
    _, street = verified(world, place, group_by="time")
    elsewhere = lessons(ELSEWHERE_SEED, ELSEWHERE).data
    return replace(
        elsewhere,
        train=(*elsewhere.train, *street.train),
        held_out=(*elsewhere.held_out, *street.held_out),
    )


def _settings(seed: int) -> TrainingSettings:
    """Frames are shown as they are: stretched to a square, glasses would be too small."""
    return TrainingSettings(
        size="pico",
        start="demo",
        steps=STEPS,
        seed=seed,
        input_width=320,
        input_height=240,
        workers=0,
        device="cpu",
    )
