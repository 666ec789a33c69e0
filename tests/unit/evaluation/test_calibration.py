"""Calibration: how probable a score makes it that a student is right."""

import numpy as np
import pytest
from scored_samples import BOX, CLASSES, detections, judged, sample, world

from secondlook.evaluation.calibration import (
    auroc,
    cross_fitted,
    fit_classes,
    probability,
    reliability_of,
    risk_coverage,
)
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


def test_auroc_counts_equal_scores_half():
    right = np.array([True, True, False, False])
    assert auroc(np.array([0.9, 0.4, 0.4, 0.1]), right) == pytest.approx(0.875)
    assert auroc(-np.array([0.9, 0.4, 0.4, 0.1]), right) == pytest.approx(0.125)
    assert auroc(np.array([0.9, 0.4]), np.array([True, True])) == 1


def test_reliability_of_plain_probabilities():
    right = np.array([True, True, False, False])
    assert reliability_of(np.array([1.0, 1.0, 0.0, 0.0]), right).error == 0
    assert reliability_of(np.full(4, 0.95), right).error == pytest.approx(0.45)
    assert reliability_of(np.zeros(0), np.zeros(0, dtype=bool)).error is None


def test_risk_and_coverage():
    scores = np.array([0.2, 0.9, 0.5, 0.5, 0.7])
    right = np.array([True, True, True, False, False])
    curve = risk_coverage(scores, right)
    assert curve.coverage == pytest.approx([0.2, 0.4, 0.8, 1.0])  # the two of 0.5 together
    assert curve.risk == pytest.approx([0, 0.5, 0.5, 0.4])
    assert curve.kept == pytest.approx([1 / 3, 1 / 3, 2 / 3, 1])
    assert curve.area == pytest.approx(0.2 * 0 + 0.2 * 0.5 + 0.4 * 0.5 + 0.2 * 0.4)
    assert [curve.kept_at(p) for p in (1.0, 0.6, 0.5)] == pytest.approx([1 / 3, 1, 1])
    nothing = risk_coverage(np.zeros(0), np.zeros(0, dtype=bool))
    assert (nothing.area, nothing.kept_at(0.9)) == (0, 0)
    wrong = risk_coverage(np.array([0.9, 0.1]), np.array([False, False]))
    assert wrong.kept_at(0.5) == 0
