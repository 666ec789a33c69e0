"""What is kept of all that a detector says of one image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.core.boxes import iou
from secondlook.detector.detections import (
    CONTRAST_IOU,
    MAX_DETECTIONS,
    NMS_IOU,
    Detections,
    calibrated,
    resolve_contrasts,
    select_detections,
)

APART = np.array([[x / 40, 0, x / 40 + 0.02, 0.5] for x in range(40)], np.float32)
"""Boxes that share nothing."""


def test_boxes_are_cut_to_the_image_and_those_outside_left_out() -> None:
    boxes = np.array([[-0.5, 0.25, 0.5, 1.5], [1.2, 0, 1.4, 1]], np.float32)
    found = select_detections(np.array([[0.4], [0.9]], np.float32), boxes, 40, 20, 0.0)
    assert found.boxes.tolist() == [[0, 5, 20, 20]]
    assert found.scores.tolist() == [pytest.approx(0.4)]


def test_the_best_hundred_are_kept_best_first() -> None:
    scores = np.linspace(0.1, 0.9, 160, dtype=np.float32).reshape(40, 4)
    found = select_detections(scores, APART, 400, 20, 0.0)
    assert len(found) == MAX_DETECTIONS
    assert found.scores.tolist() == sorted(scores.ravel().tolist(), reverse=True)[:MAX_DETECTIONS]


def test_what_is_said_twice_is_one_object_and_its_classes_stay() -> None:
    boxes = np.array([[0, 0, 0.5, 1], [0.02, 0, 0.5, 1], [0.3, 0, 0.8, 1]], np.float32)
    scores = np.array([[0.6, 0.2], [0.8, 0.1], [0.7, 0.0]], np.float32)
    found = select_detections(scores, boxes, 100, 100, 0.05)
    kept = [(round(float(s), 1), int(c)) for s, c in zip(found.scores, found.classes, strict=True)]
    assert kept == [(0.8, 0), (0.7, 0), (0.2, 1)]
    assert found.boxes[:, 0].tolist() == pytest.approx([2, 30, 0])


@given(st.integers(0, 10**6), st.integers(0, 33), st.floats(0, 1))
def test_every_loss_has_a_better_one_in_its_place(seed: int, queries: int, floor: float) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.6, (queries, 2))
    boxes = np.concatenate([low, low + rng.choice([0.1, 0.3, 0.32], (queries, 2))], 1)
    scores = rng.random((queries, 3)).astype(np.float32)
    found = select_detections(scores, boxes.astype(np.float32), 64, 48, floor)
    pixel = (boxes * [64, 48, 64, 48]).astype(np.float32)
    overlaps = iou(pixel, found.boxes)
    for query, name in zip(*np.nonzero(scores >= floor), strict=True):
        as_good = (found.classes == name) & (found.scores >= scores[query, name])
        its_own = as_good & (overlaps[query] > 0.999)
        assert its_own.any() or (as_good & (overlaps[query] > NMS_IOU)).any()
    for name in range(3):
        same = found.boxes[found.classes == name]
        assert (np.triu(iou(same, same), 1) <= NMS_IOU).all()


def test_a_model_that_claims_everything_everywhere_fills_no_memory() -> None:
    count = 2_000
    boxes = np.tile(np.array([[0, 0, 1, 1]], np.float32), (count, 1))
    found = select_detections(np.full((count, 80), 0.5, np.float32), boxes, 10, 10, 0.0)
    assert len(found) == 80


EYEWEAR = ("eyewear", "eyewear", "")
"""Groups of "glasses on", "glasses off" and "person"."""


def test_of_a_contrast_the_more_probable_class_stays_whatever_its_score() -> None:
    found = select_detections(
        np.array([[0.7, 0.5, 0.9]], np.float32), APART[:1], 400, 20, floor=0.05
    )
    by_score = resolve_contrasts(found, found.scores, EYEWEAR)
    assert by_score.classes.tolist() == [2, 0]
    lenient = ((1.0, 0.0), (1.0, 2.0), (1.0, 0.0))  # 0.5 is much for the second class
    by_probability = resolve_contrasts(found, calibrated(found, lenient), EYEWEAR)
    assert by_probability.classes.tolist() == [2, 1], "and the order stays that of the scores"


def test_neighbours_of_a_contrast_both_stay() -> None:
    boxes = np.array([[0, 0, 0.6, 1], [0.2, 0, 0.8, 1], [0.15, 0, 0.75, 1]], np.float32)
    scores = np.array([[0.9, 0, 0], [0, 0.8, 0], [0.7, 0, 0.6]], np.float32)
    found = select_detections(scores, boxes, 80, 80, 0.05)
    overlaps = iou(found.boxes[:1], found.boxes[1:])[0]
    assert overlaps.tolist() == pytest.approx([0.5, 0.6, 0.6])
    one_group = resolve_contrasts(found, found.scores, ("g", "g", "g"))
    assert one_group.classes.tolist() == [0, 1], "an IoU of 0.5 is not above it"
    assert len(resolve_contrasts(found.take(found.classes == 0), np.ones(2), EYEWEAR)) == 2, (
        "two of one class, which were compared before"
    )


@given(st.integers(0, 10**6), st.integers(0, 25))
def test_no_two_of_a_contrast_are_left_on_one_object(seed: int, queries: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.6, (queries, 2))
    boxes = np.concatenate([low, low + rng.choice([0.2, 0.3, 0.32], (queries, 2))], 1)
    scores = rng.random((queries, 5)).astype(np.float32)
    found = select_detections(scores, boxes.astype(np.float32), 64, 48, 0.3)
    groups = ("a", "", "b", "a", "b")
    probabilities = calibrated(found, rng.uniform(0.1, 2, (5, 2)).tolist())
    kept = resolve_contrasts(found, probabilities, groups)
    rows = [_row(found, kept, place) for place in range(len(kept))]
    assert rows == sorted(rows), "best score first, as before"
    overlaps = iou(found.boxes, found.boxes) > CONTRAST_IOU
    for row in range(len(found)):
        group = groups[found.classes[row]]
        rivals = [r for r in rows if group and groups[found.classes[r]] == group]
        rivals = [r for r in rivals if found.classes[r] != found.classes[row]]
        better = [r for r in rivals if overlaps[row, r]]
        if row in rows:
            assert not better
        else:
            assert any(probabilities[r] >= probabilities[row] for r in better)


def _row(found: Detections, kept: Detections, place: int) -> int:
    """Which row of ``found`` is the one at ``place`` of ``kept``."""
    same = (found.boxes == kept.boxes[place]).all(1) & (found.classes == kept.classes[place])
    return int(np.flatnonzero(same & (found.scores == kept.scores[place]))[0])
