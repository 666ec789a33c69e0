"""Calibration: how probable a score makes it that a student is right."""

import numpy as np
import pytest
from scored_samples import BOX, CLASSES, detections, judged, sample, world

from secondlook.evaluation.calibration import cross_fitted, fit_classes, probability
from secondlook.evaluation.detector_scores import score
from secondlook.evaluation.matching import judge_classes


def drawn(rng, count, slope, intercept):
    """Detections whose probability of being right is known."""
    scores = rng.uniform(0.05, 0.95, count)
    return judged(scores, rng.random(count) < probability(scores, (slope, intercept)))


def test_calibration_finds_what_the_world_is_like():
    rng = np.random.default_rng(5)
    ((slope, intercept),) = fit_classes([drawn(rng, 4000, 0.6, -1.2)])
    assert slope == pytest.approx(0.6, abs=0.08) and intercept == pytest.approx(-1.2, abs=0.12)


def test_few_examples_follow_the_other_classes():
    rng = np.random.default_rng(6)
    many = drawn(rng, 3000, 1.5, -2.0)
    fits = fit_classes([many, judged([0.6], [True]), judged([], [])])
    assert fits[2] == pytest.approx(fits[0], abs=0.05)
    assert fits[1] == pytest.approx(fits[0], abs=0.4)
    assert fits[1][1] > fits[0][1]  # drawn a little to its one right detection


def test_one_right_detection_makes_nobody_certain():
    ((slope, intercept),) = fit_classes([judged([0.9], [True])])
    assert probability(np.array([0.9]), (slope, intercept))[0] < 0.97


def test_a_better_score_is_never_less_probable():
    rng = np.random.default_rng(7)
    ((slope, _),) = fit_classes([drawn(rng, 500, -2.0, 0.0)])
    assert slope > 0


def test_probabilities_stay_finite_at_the_ends():
    ends = probability(np.array([0.0, 1.0], dtype=np.float32), (3.0, 1.0))
    assert np.isfinite(ends).all() and ends[0] < 1e-9 and ends[1] > 1 - 1e-9


def test_reliability_is_judged_on_images_that_the_fit_did_not_see():
    """Labels that no score explains: a fit judged on its own images would look better."""
    samples, found = world(21, 200)
    scores = score(samples, found, CLASSES)
    assert sum(b.count for b in scores.reliability.bins) == sum(
        b.count for b in scores.raw_reliability.bins
    )
    assert scores.reliability.error < scores.raw_reliability.error
    for b in scores.reliability.bins:
        assert b.count == 0 or b.low <= b.probability <= b.high


def test_each_half_is_calibrated_by_the_other():
    halves = [0] * 30 + [1] * 30
    one = judged([0.8] * 60, [h == 0 for h in halves], fold=halves)
    assert cross_fitted([one]).error > 0.8


def test_a_group_is_never_on_both_sides():
    samples = [sample([BOX], [0], group="a"), sample([BOX], [0], group="b")] * 2
    found = [detections([BOX], [0.9 - place / 10], [0]) for place in range(4)]
    (one,) = judge_classes(samples, found, 1)
    assert one.fold.tolist() == [0, 1, 0, 1]
