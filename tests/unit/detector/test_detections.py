"""What is kept of all that a detector says of one image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.core.boxes import iou
from secondlook.detector.detections import MAX_DETECTIONS, NMS_IOU, select_detections

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
