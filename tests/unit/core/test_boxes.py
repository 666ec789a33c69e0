import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from secondlook.core import boxes

# On a coarse grid half of all boxes overlap; in the open few do.
SIDES = (st.integers(0, 5).map(float), st.floats(0, 2000, width=32))


@st.composite
def many_boxes(draw: st.DrawFn, most: int = 12) -> np.ndarray:
    count = draw(st.integers(0, most))
    side = draw(st.sampled_from(SIDES))
    corners = draw(hnp.arrays(np.float32, (count, 2, 2), elements=side))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def scores_for(found: np.ndarray, seed: int) -> np.ndarray:
    # Few distinct values, so that ties happen.
    return np.random.default_rng(seed).integers(0, 4, len(found)).astype(np.float32) / 4


@given(many_boxes(), many_boxes())
def test_iou_is_symmetric_and_a_share(a: np.ndarray, b: np.ndarray) -> None:
    overlap = boxes.iou(a, b)
    assert overlap.shape == (len(a), len(b))
    assert overlap.dtype == np.float32
    np.testing.assert_allclose(overlap, boxes.iou(b, a).T, atol=1e-6)
    assert ((overlap >= 0) & (overlap <= 1 + 1e-5)).all()


@given(many_boxes())
def test_a_box_with_area_is_itself(found: np.ndarray) -> None:
    overlap = np.diagonal(boxes.iou(found, found))
    np.testing.assert_allclose(overlap[boxes.area(found) > 1e-3], 1, atol=1e-5)


def test_iou_by_hand() -> None:
    a = np.array([[0, 0, 10, 10]], np.float32)
    b = np.array([[5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(boxes.iou(a, b), [[1 / 3, 0, 0]])


@given(many_boxes(), st.integers(0, 99), st.floats(0, 1))
def test_nms_is_idempotent_and_keeps_no_overlapping_pair(
    found: np.ndarray, seed: int, threshold: float
) -> None:
    scores = scores_for(found, seed)
    kept = boxes.nms(found, scores, threshold)
    again = boxes.nms(found[kept], scores[kept], threshold)
    assert again.tolist() == list(range(len(kept)))
    overlap = boxes.iou(found[kept], found[kept])
    np.fill_diagonal(overlap, 0)
    assert (overlap <= threshold).all()


@given(many_boxes(), st.integers(0, 99))
def test_nms_keeps_the_best_and_explains_every_loss(found: np.ndarray, seed: int) -> None:
    scores = scores_for(found, seed)
    kept = boxes.nms(found, scores, 0.5)
    assert (np.diff(scores[kept]) <= 0).all()
    if len(found):
        assert kept[0] == int(np.argmax(scores))
    for lost in set(range(len(found))) - set(kept.tolist()):
        better = [k for k in kept if scores[k] >= scores[lost]]
        assert (boxes.iou(found[[lost]], found[better]) > 0.5).any()


@given(many_boxes(), st.integers(0, 99), st.integers(1, 4))
def test_nms_in_groups_is_nms_of_each_group(found: np.ndarray, seed: int, groups: int) -> None:
    scores = scores_for(found, seed)
    group = np.random.default_rng(seed).integers(0, groups, len(found))
    apart = []
    for one in range(groups):
        rows = np.flatnonzero(group == one)
        apart += rows[boxes.nms(found[rows], scores[rows], 0.5)].tolist()
    together = boxes.nms(found, scores, 0.5, group).tolist()
    assert sorted(together) == sorted(apart)
    assert (np.diff(scores[together]) <= 0).all()


@given(many_boxes(), st.integers(1, 1500), st.integers(1, 1500))
def test_clip_stays_inside(found: np.ndarray, width: int, height: int) -> None:
    clipped = boxes.clip(found, width, height)
    assert (clipped >= 0).all()
    assert (clipped[:, [0, 2]] <= width).all()
    assert (clipped[:, [1, 3]] <= height).all()
    np.testing.assert_array_equal(boxes.clip(clipped, width, height), clipped)


COORDINATE = st.floats(-5000, 5000)


@given(
    st.tuples(COORDINATE, COORDINATE, COORDINATE, COORDINATE),
    st.floats(0, 3),
    st.integers(1, 3000),
    st.integers(1, 3000),
)
def test_padded_window_is_inside_and_never_empty(
    box: tuple[float, float, float, float], margin: float, width: int, height: int
) -> None:
    left, top, right, bottom = boxes.padded_window(box, margin, width, height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_padded_window_covers_the_box_with_its_margin() -> None:
    assert boxes.padded_window((20, 30, 40, 70), 0.1, 100, 100) == (18, 26, 42, 74)
    assert boxes.padded_window((0, 0, 100, 100), 0.5, 100, 100) == (0, 0, 100, 100)


def test_relative_boxes_become_pixels() -> None:
    relative = np.array([[0.5, 0.5, 0.2, 0.4]])
    np.testing.assert_allclose(boxes.from_cxcywh(relative, 100, 50), [[40, 15, 60, 35]], atol=1e-4)


@pytest.mark.parametrize("box", [(1.0, 2.0, 4.0, 8.0)])
def test_coco_box(box: tuple[float, float, float, float]) -> None:
    assert boxes.to_xywh(box) == (1.0, 2.0, 3.0, 6.0)
