"""The student of the suite ``cascade``: distilled from labels of both stages, cached in ``.cache``.

It is trained on the first frames of its camera and on scenes of many places: a camera alone shows
the same few people for minutes, and a student that has seen nobody else overfits to them.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bench.labelled_scenes import labelled_scenes, verified
from secondlook.datasets.samples import TrainingSet
from secondlook.training.distill import distill
from secondlook.training.settings import TrainingSettings

STEPS = int(os.environ.get("SECONDLOOK_STEPS", "2600"))
ELSEWHERE = int(os.environ.get("SECONDLOOK_IMAGES", "3000"))
"""Scenes of other places."""
ELSEWHERE_SEED = 74


def stream_student(place: Path, render: Callable[[Path], None], seed: int) -> Path:
    """The folder of a student trained on the frames that ``render`` writes to a folder.

    ``seed`` is that of its training; everything is left in ``place``.
    """
    student = place / f"student-{ELSEWHERE}-{STEPS}"
    if not (student / "manifest.json").exists():
        distill(_training_set_of(place, render), _settings(seed), student, name="camera")
    return student


def _training_set_of(place: Path, render: Callable[[Path], None]) -> TrainingSet:
    world = place / "world"
    if not (world / "ontology.yaml").exists():
        render(world)
    _, street = verified(world, place, group_by="time")
    elsewhere = labelled_scenes(ELSEWHERE_SEED, ELSEWHERE).data
    return replace(
        elsewhere,
        train=(*elsewhere.train, *street.train),
        held_out=(*elsewhere.held_out, *street.held_out),
    )


def _settings(seed: int) -> TrainingSettings:
    """The input has the frames' aspect ratio: squeezed to a square, glasses would be too small."""
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
