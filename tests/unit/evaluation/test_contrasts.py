"""Which class of a contrast is kept, and how probable the kept one is."""

import numpy as np
import pytest
from scored_samples import detections, sample

from secondlook.detector.detections import Detections, calibrated
from secondlook.evaluation.calibration import fit_classes
from secondlook.evaluation.contrasts import group_calibration, without_contradictions
from secondlook.evaluation.matching import judge_classes

BOX, GROUPS = (10, 10, 60, 60), ("on", "on")


def scene(rng: np.random.Generator) -> tuple[int, Detections]:
    """An image of one object: its class, and what a student says of both, mostly right. What it
    says of the second class is always low."""
    true = int(rng.random() < 0.5)
    towards = (1 - 2 * true) * 1.5 + rng.normal(0, 1)
    logits = np.array([towards, -towards]) + rng.normal(0, 0.5, 2) - [0, 2]
    return true, detections([BOX, BOX], 1 / (1 + np.exp(-logits)), [0, 1])


def test_classes_are_compared_on_one_scale_and_the_winner_is_calibrated() -> None:
    rng = np.random.default_rng(0)
    scenes = [scene(rng) for _ in range(600)]
    samples = [sample([BOX], [true]) for true, _ in scenes]
    found = [one for _, one in scenes]
    fits = group_calibration(samples, found, GROUPS)
    kept = without_contradictions(found, GROUPS, fits)
    assert {len(one) for one in kept} == {1}
    right = np.array([one.classes[0] == true for (true, _), one in zip(scenes, kept, strict=True)])
    by_score = np.mean([one.classes[0] == true for true, one in scenes])
    assert right.mean() > by_score + 0.05, "the second class needs a scale of its own"
    of_winners = fit_classes(judge_classes(samples, kept, 2))
    told = np.mean([calibrated(one, of_winners)[0] for one in kept])
    before = np.mean([calibrated(one, fits)[0] for one in kept])
    assert told == pytest.approx(right.mean(), abs=0.02)
    assert before < told - 0.03, "their rivals have lost: they are right more often"
