"""What is known of a judged box, as numbers."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secondlook.labeling import box_features as module
from secondlook.labeling.box_features import (
    FEATURES,
    VERIFIER_FEATURES,
    ScoredBoxes,
    box_features,
)
from secondlook_client.ontology import ClassSpec, Ontology

ONTOLOGY = Ontology(
    (
        ClassSpec("person"),
        ClassSpec("dog"),
        ClassSpec("hat on", ["person"], "Is the hat on?", group="hat"),
        ClassSpec("hat off", ["person"], "Is the hat off?", group="hat"),
    )
)
PERSON, DOG, ON, OFF = range(4)


def one_image(
    boxes: list[list[float]],
    scores: list[list[float]],
    p_yes: list[list[float]] | None = None,
    size: tuple[int, int] = (200, 100),
) -> ScoredBoxes:
    answers = p_yes or [[0.5] * 4] * len(boxes)
    return ScoredBoxes(
        np.array([0, len(boxes)]),
        np.array([size], np.float32),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32).reshape(-1, 4),
        np.array(answers, np.float64).reshape(-1, 4),
    )


def of(found: ScoredBoxes, box: int, class_: int) -> dict[str, float]:
    row = box_features(found, ONTOLOGY, np.array([box]), np.array([class_]))[0]
    return dict(zip(FEATURES, row.tolist(), strict=True))


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def random_images(seed: int, images: int = 3) -> ScoredBoxes:
    """Images of 0 to 7 boxes, many of which overlap, are equal, have no area, or no answer."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 8, images)
    total = int(counts.sum())
    corner = rng.integers(0, 6, (total, 2)) * 10
    boxes = np.concatenate([corner, corner + rng.integers(0, 6, (total, 2)) * 10], axis=1)
    p_yes = rng.random((total, 4)).round(2)
    p_yes[rng.random((total, 4)) < 0.3] = np.nan
    return ScoredBoxes(
        np.concatenate([[0], np.cumsum(counts)]),
        rng.integers(50, 200, (images, 2)).astype(np.float32),
        boxes.astype(np.float32),
        rng.random((total, 4)).round(1).astype(np.float32),
        p_yes,
    )


def every_pair(found: ScoredBoxes) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    boxes = np.repeat(np.arange(len(found.boxes)), 4)
    return boxes, np.tile(np.arange(4), len(found.boxes))


def bits(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.ascontiguousarray(values).view(np.int64)


def test_scores_and_answers_are_log_odds() -> None:
    found = one_image(
        [[10, 10, 50, 60]], [[0.8, 0.3, 0.8, 0.8]], [[0.9, 0.2, 0.6, 0.7]], (200, 100)
    )
    of_person = of(found, 0, PERSON)
    assert of_person["score"] == pytest.approx(logit(0.8), rel=1e-6)
    assert of_person["p_yes"] == pytest.approx(logit(0.9))
    assert of_person["product"] == pytest.approx(logit(0.72), rel=1e-6)
    # Those with the phrase "person" have the same score and are no rivals; the dog is one.
    assert of_person["score_margin"] == pytest.approx(logit(0.8) - logit(0.3), rel=1e-6)
    assert of_person["other_class"] == pytest.approx(logit(0.3 * 0.2), rel=1e-6)
    assert of_person["other_side"] == 0.0
    assert of(found, 0, ON)["other_side"] == pytest.approx(logit(0.7))
    assert of(found, 0, OFF)["other_side"] == pytest.approx(logit(0.6))
    assert of(found, 0, DOG)["score_margin"] == pytest.approx(logit(0.3) - logit(0.8), rel=1e-6)


def test_size_and_place() -> None:
    found = of(one_image([[0, 50, 40, 100]], [[0.5] * 4]), 0, PERSON)
    assert found["size"] == pytest.approx(np.log(0.1))
    assert found["aspect"] == pytest.approx(np.log(0.8))
    assert (found["centre_x"], found["centre_y"]) == pytest.approx((0.1, 0.75))
    edges = [found[f"edge_{side}"] for side in ("left", "top", "right", "bottom")]
    assert edges == [1, 0, 0, 1]
    assert found["boxes"] == 0.0


def test_neighbours() -> None:
    small, large = [20.0, 20.0, 40.0, 40.0], [10.0, 10.0, 60.0, 60.0]
    huge, beside = [0.0, 0.0, 100.0, 90.0], [24.0, 20.0, 44.0, 40.0]
    scores = [[0.5, 0.1, 0, 0], [0.9, 0.1, 0, 0], [0.3, 0.9, 0, 0], [0.4, 0.1, 0, 0]]
    p_yes = [[0.9] * 4, [0.1] * 4, [0.5] * 4, [np.nan] * 4]
    image = one_image([small, large, huge, beside], scores, p_yes)
    found = of(image, 0, PERSON)
    assert found["contained"] == 1
    assert found["container"] == pytest.approx(np.log(2500 / 400))  # the smaller of two
    assert found["overlap_scored"] == pytest.approx(400 / 2500)
    assert found["covered"] == 1.0
    assert found["overlap_better"] == 0.0  # 0.5 × 0.9 is the best product of all
    assert found["overlap_other"] == pytest.approx(400 / 9000)
    assert found["near"] == pytest.approx(np.log(2))
    assert found["boxes"] == pytest.approx(np.log(4))
    lesser = of(image, 3, PERSON)
    assert lesser["overlap_scored"] == pytest.approx(320 / 480)
    assert np.isnan(lesser["overlap_better"])
    assert np.isnan(lesser["p_yes"])
    assert np.isnan(lesser["product"])


def test_of_two_equal_boxes_the_first_is_the_better_one() -> None:
    image = one_image([[0, 0, 10, 10]] * 2, [[0.5, 0.1, 0, 0]] * 2)
    assert of(image, 0, PERSON)["overlap_better"] == 0
    assert of(image, 1, PERSON)["overlap_better"] == 1


@given(st.integers(0, 10_000), st.sampled_from([1, 7, 40]))
@settings(max_examples=25)
def test_an_image_alone_has_the_same_bits(seed: int, at_once: int) -> None:
    found = random_images(seed)
    boxes, classes = every_pair(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PAIRS_AT_ONCE", at_once)
        together = box_features(found, ONTOLOGY, boxes, classes)
    for image, (start, end) in enumerate(pairwise(found.starts.tolist())):
        alone = ScoredBoxes(
            np.array([0, end - start]),
            found.sizes[image : image + 1],
            found.boxes[start:end],
            found.scores[start:end],
            found.p_yes[start:end],
        )
        own = (boxes >= start) & (boxes < end)
        rows = box_features(alone, ONTOLOGY, boxes[own] - start, classes[own])
        assert np.array_equal(bits(rows), bits(together[own]))


@given(st.integers(0, 10_000))
def test_the_order_of_the_judged_boxes_does_not_matter(seed: int) -> None:
    found = random_images(seed)
    boxes, classes = every_pair(found)
    order = np.random.default_rng(seed).permutation(len(boxes))[: len(boxes) // 2 + 1]
    whole = box_features(found, ONTOLOGY, boxes, classes)
    part = box_features(found, ONTOLOGY, boxes[order], classes[order])
    assert np.array_equal(bits(whole[order]), bits(part))


@given(st.integers(0, 10_000))
def test_the_order_of_distinct_boxes_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.random((6, 4)).astype(np.float32) * 100
    boxes = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)
    scores, p_yes = rng.random((6, 4)), rng.random((6, 4))
    order = rng.permutation(6)
    first = one_image(boxes.tolist(), scores.tolist(), p_yes.tolist())
    second = one_image(boxes[order].tolist(), scores[order].tolist(), p_yes[order].tolist())
    where, classes = every_pair(first)
    rows = box_features(first, ONTOLOGY, where, classes)
    moved = box_features(second, ONTOLOGY, np.argsort(order)[where], classes)
    assert np.array_equal(bits(rows), bits(moved))


@given(st.integers(0, 10_000))
def test_numbers_are_finite_unless_there_is_no_answer(seed: int) -> None:
    found = random_images(seed)
    boxes, classes = every_pair(found)
    rows = box_features(found, ONTOLOGY, boxes, classes)
    unanswered = np.isnan(found.p_yes[boxes, classes])
    for column, name in enumerate(FEATURES):
        expected = unanswered if name in ("p_yes", "product", "overlap_better") else False
        assert np.array_equal(~np.isfinite(rows[:, column]), expected & np.ones(len(rows), bool))


@given(st.integers(0, 10_000))
def test_without_a_verifier_only_its_own_features_change(seed: int) -> None:
    found = random_images(seed)
    silent = ScoredBoxes(
        found.starts, found.sizes, found.boxes, found.scores, np.full_like(found.p_yes, np.nan)
    )
    boxes, classes = every_pair(found)
    kept = [place for place, name in enumerate(FEATURES) if name not in VERIFIER_FEATURES]
    told, untold = (box_features(one, ONTOLOGY, boxes, classes)[:, kept] for one in (found, silent))
    assert np.array_equal(bits(told), bits(untold))


def test_other_classes_are_refused() -> None:
    found = one_image([[0, 0, 1, 1]], [[0.5] * 4])
    with pytest.raises(ValueError, match="4 scores a box for 1 classes"):
        box_features(found, Ontology((ClassSpec("cat"),)), np.array([0]), np.array([0]))


def test_nothing_judged() -> None:
    found = one_image([], [])
    nothing = np.zeros(0, dtype=np.intp)
    assert box_features(found, ONTOLOGY, nothing, nothing).shape == (0, len(FEATURES))
