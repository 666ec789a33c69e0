"""What other views, other models and a student's own bins say of its detections."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.detector.detections import Detections
from secondlook.detector.views import DetectedAgain
from secondlook.evaluation.uncertainty import (
    committee_opinions,
    edge_uncertainty,
    expected_wrong,
    sightings,
)

HERE, HALF, ELSEWHERE = (0, 0, 10, 10), (0, 0, 10, 6), (50, 50, 60, 60)

Found = tuple[Sequence[float], float, int]
"""Box, score and class."""


def detections(*found: Found) -> Detections:
    boxes = np.array([box for box, _, _ in found], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score, _ in found], np.float32)
    return Detections(boxes, scores, np.array([place for _, _, place in found], np.int64))


def seen(first: Detections, *found: Found, shown: bool = True) -> DetectedAgain:
    return DetectedAgain(detections(*found), np.full(len(first), shown))


def test_a_view_confirms_with_score_and_overlap() -> None:
    first = detections((HERE, 0.8, 1))
    of = sightings(first, [seen(first, (HALF, 0.5, 1))])
    assert of.scores[:, 0].tolist() == pytest.approx([0.8, 0.5])
    assert of.overlaps[:, 0].tolist() == pytest.approx([1, 0.6])
    assert of.confidence.tolist() == pytest.approx([(0.8 + 0.5 * 0.6) / 2])
    assert of.box_spread.tolist() == pytest.approx([0.2])
    assert of.score_spread.tolist() == pytest.approx([0.15])


@pytest.mark.parametrize("other", [(HERE, 0.9, 2), (ELSEWHERE, 0.9, 1), ((0, 0, 10, 4), 0.9, 1)])
def test_another_class_another_place_and_a_loose_box_confirm_nothing(other: Found) -> None:
    first = detections((HERE, 0.8, 1))
    of = sightings(first, [seen(first, other)])
    assert of.scores[1].tolist() == of.overlaps[1].tolist() == [0]
    assert of.confidence.tolist() == pytest.approx([0.4])


def test_a_view_without_the_place_has_no_say() -> None:
    first = detections((HERE, 0.8, 1))
    of = sightings(first, [seen(first, shown=False), seen(first, (HERE, 0.6, 1))])
    assert np.isnan(of.scores[1]).all()
    assert of.confidence.tolist() == pytest.approx([0.7])


def test_the_better_of_two_that_confirm_counts() -> None:
    first = detections((HERE, 0.8, 1))
    of = sightings(first, [seen(first, (HERE, 0.5, 1), (HALF, 0.9, 1))])
    assert of.scores[1].tolist() == pytest.approx([0.9])
    assert of.overlaps[1].tolist() == pytest.approx([0.6])


def test_without_views_the_score_is_the_confidence_and_nothing_needs_none() -> None:
    assert sightings(detections((HERE, 0.8, 1)), []).confidence.tolist() == pytest.approx([0.8])
    none = detections()
    assert sightings(none, [seen(none, (HERE, 0.5, 1))]).confidence.shape == (0,)


def test_the_committee_is_asked_about_the_class_of_the_detection() -> None:
    boxes = np.array([HERE, HALF, ELSEWHERE], np.float32)
    scores = np.array([[0.9, 0.4], [0.1, 0.6], [0.9, 0.9]], np.float32)
    p_yes = np.array([[0.2, 0.3], [0.1, 0.7], [1.0, 1.0]])
    found = detections((HERE, 0.5, 1), (HERE, 0.6, 0))
    opinions = committee_opinions(found, boxes, scores, p_yes)
    # Of class 1 the exact box counts: 0.4 × 1 is more than 0.6 × 0.6.
    assert opinions[:, 0].tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert opinions[:, 1].tolist() == pytest.approx([0.6, 0.9, 0.2])


def test_who_saw_nothing_or_was_not_asked_is_against_it() -> None:
    found = detections((HERE, 0.5, 0))
    nothing = np.zeros((0, 1), np.float32)
    empty = committee_opinions(found, np.zeros((0, 4), np.float32), nothing, nothing)
    assert empty[:, 0].tolist() == pytest.approx([0.5, 0, 0])
    boxes, score = np.array([HERE], np.float32), np.array([[0.7]], np.float32)
    unasked = committee_opinions(found, boxes, score, np.array([[np.nan]]))
    assert unasked[:, 0].tolist() == pytest.approx([0.5, 0.7, 0])


def test_entropy_and_width_of_a_certain_and_of_an_even_edge() -> None:
    bins = np.array([[[0, 1, 0], [1 / 3] * 3, [0.5, 0, 0.5], [0.5, 0.5, 0]]])
    entropy, width = edge_uncertainty(bins, np.array([-1.0, 0.0, 1.0]))
    two = np.log(2) / np.log(3)
    assert entropy[0].tolist() == pytest.approx([0, 1, two, two])
    assert width[0].tolist() == pytest.approx([0, np.sqrt(2 / 3), 1, 0.5])


@given(st.integers(0, 10**6), st.integers(2, 33))
def test_entropy_is_a_share_and_the_width_at_most_half_the_range(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.random((5, 4, count)) ** 8 + 1e-300
    distances = np.sort(rng.normal(size=count))
    entropy, width = edge_uncertainty(p / p.sum(axis=2, keepdims=True), distances)
    assert (entropy >= -1e-12).all() and (entropy <= 1 + 1e-12).all()
    assert (width <= (distances[-1] - distances[0]) / 2 + 1e-9).all()


def test_an_image_is_as_uncertain_as_its_labels_together() -> None:
    assert expected_wrong(np.array([0.9, 0.5, 1.0])) == pytest.approx(0.6)
    assert expected_wrong(np.zeros(0)) == 0
